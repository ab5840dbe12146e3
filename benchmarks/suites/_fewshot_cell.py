"""One (dataset, shots, draw, method) of the fewshot suite, run in a process of its own.

``python -m benchmarks.suites._fewshot_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.errors import AutomlError
from benchmarks import child
from benchmarks.child import Spec
from benchmarks.drawing import draw, write_manifest
from benchmarks.images import pack
from benchmarks.references import Answer

if TYPE_CHECKING:
    from automl.data import Dataset
    from benchmarks.few_references import Few


@dataclass(frozen=True)
class Drawn:
    """A dataset with the images of one draw."""

    dataset: Dataset
    development: np.ndarray
    test: np.ndarray


def engine(spec: Spec, drawn: Drawn) -> tuple[Answer, float]:
    """Submit a table that names the drawn images ``train`` and the others ``test``, and no ``validation``."""
    identity, dataset = spec["identity"], drawn.dataset
    table, rows = write_manifest(
        dataset,
        drawn.development,
        drawn.test,
        Path(spec["shared"]) / "drawn" / identity["dataset"],
        f"{identity['shots']}-{identity['draw']}",
    )
    began = time.monotonic()
    index, predicted, names, details = child.submit_alone(
        spec, str(table), seed=identity["draw"], columns=None
    )
    seconds = time.monotonic() - began
    child.check_same(rows[index], drawn.test)
    if sorted(names) != sorted(dataset.class_names):
        raise AutomlError("the run's classes are not those of the dataset")
    code = np.array([dataset.class_names.index(name) for name in names])
    return Answer(code[predicted], details), seconds


def logreg(spec: Spec, drawn: Drawn) -> tuple[Answer, float]:
    """Logistic regression on frozen features, chosen by cross-validation on the drawn images."""
    from benchmarks.few_references import logistic_by_folds

    return _reference(logistic_by_folds, spec, drawn)


def knn(spec: Spec, drawn: Drawn) -> tuple[Answer, float]:
    """Nearest neighbours on frozen features, chosen by cross-validation on the drawn images."""
    from benchmarks.few_references import neighbours_by_folds

    return _reference(neighbours_by_folds, spec, drawn)


METHODS: dict[str, Callable[[Spec, Drawn], tuple[Answer, float]]] = {
    "engine": engine,
    "logreg": logreg,
    "knn": knn,
}


def run_cell(spec: Spec) -> dict[str, Any]:
    """Draw the images and run the method; returns predictions of the test images, details and seconds."""
    from automl.data import load_dataset

    identity = spec["identity"]
    # The whole dataset is the suite's own business: the engine's home folder stays empty until it starts.
    dataset = load_dataset(
        spec["source"],
        seed=0,
        columns=spec["settings"]["columns"] or None,
        cache_dir=Path(spec["shared"]) / "home",
    )
    labels, groups = np.array(dataset.labels), np.array(dataset.groups)
    development, test = draw(labels, groups, identity["shots"], identity["draw"])
    answer, seconds = METHODS[identity["method"]](spec, Drawn(dataset, development, test))
    return {
        "development_images": len(development),
        "seconds": round(seconds, 2),
        **pack(
            Path(spec["target"]).parent,
            labels=labels,
            groups=groups,
            classes=list(dataset.class_names),
            fingerprint=dataset.fingerprint,
            test=test,
            predicted=answer.predicted,
        ),
        "details": answer.details,
    }


def _reference(method: Callable[[Few], Answer], spec: Spec, drawn: Drawn) -> tuple[Answer, float]:
    from benchmarks.few_references import Few
    from benchmarks.references import probe_features

    began = time.monotonic()
    dataset = drawn.dataset
    folder = child.features_folder(spec, dataset)
    few = Few(
        {b.name: probe_features(dataset, b, folder) for b in child.pretrained(spec)},
        np.array(dataset.labels),
        np.array(dataset.groups),
        drawn.development,
        drawn.test,
        spec["identity"]["draw"],
    )
    answer = method(few)
    return answer, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1], run_cell))
