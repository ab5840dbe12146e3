"""One (dataset, split, method) of the quality, ablation, supernet and carried suites, run in a process of its own.

``python -m benchmarks.suites._quality_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import child
from benchmarks.child import Spec
from benchmarks.images import pack
from benchmarks.references import Answer

if TYPE_CHECKING:
    from automl.data import Dataset


def engine(spec: Spec, *, full: bool = True, supernet: bool = True, backbones: Sequence[str] = ()) -> Answer:
    """Submit as a user does, to an empty home folder, and read what the exported model said."""
    columns = spec["settings"]["columns"] or None
    index, predicted, _names, details = child.submit_alone(
        spec,
        spec["source"],
        seed=spec["identity"]["split"],
        columns=columns,
        full=full,
        supernet=supernet,
        backbones=backbones,
    )
    child.check_same(index, _dataset(spec).indices("test"))
    return Answer(predicted, details)


def no_pool(spec: Spec) -> Answer:
    """The same without history, ranking and search: the catalog in its own order."""
    return engine(spec, full=False)


def no_supernet(spec: Spec) -> Answer:
    """The same without a supernet."""
    return engine(spec, supernet=False)


def scratch(spec: Spec) -> Answer:
    """The same with the networks for training from scratch alone."""
    from search_spaces import families

    return engine(spec, backbones=families.architectures())


def logreg(spec: Spec) -> Answer:
    """Logistic regression on frozen features of the best backbone."""
    from benchmarks.references import logistic_reference

    dataset = _dataset(spec)
    return logistic_reference(dataset, child.pretrained(spec), child.features_folder(spec, dataset))


def plain(spec: Spec) -> Answer:
    """Plain fine-tuning of the backbone whose logistic regression is the best on validation images."""
    from benchmarks.references import choose_probe, plain_reference

    dataset, backbones = _dataset(spec), child.pretrained(spec)
    name = choose_probe(dataset, backbones, child.features_folder(spec, dataset))["backbone"]
    backbone = next(b for b in backbones if b.name == name)
    return plain_reference(dataset, backbone, spec["settings"]["budget"], seed=spec["identity"]["split"])


METHODS: dict[str, Callable[[Spec], Answer]] = {
    "engine": engine,
    "no-pool": no_pool,
    "no-supernet": no_supernet,
    "scratch": scratch,
    "logreg": logreg,
    "plain": plain,
}


def run_cell(spec: Spec) -> dict[str, Any]:
    """Run the method; returns predictions of the test images, details and seconds."""
    began = time.monotonic()
    answer = METHODS[spec["identity"]["method"]](spec)
    seconds = time.monotonic() - began
    dataset = _dataset(spec)
    return {
        "development_images": len(dataset.indices("development")),
        "seconds": round(seconds, 2),
        **pack(
            Path(spec["target"]).parent,
            labels=np.asarray(dataset.labels),
            groups=np.asarray(dataset.groups),
            classes=list(dataset.class_names),
            fingerprint=dataset.fingerprint,
            test=dataset.indices("test"),
            predicted=answer.predicted,
        ),
        "details": answer.details,
    }


def _dataset(spec: Spec) -> Dataset:
    from automl.data import load_dataset

    return load_dataset(
        spec["source"], seed=spec["identity"]["split"], columns=spec["settings"]["columns"] or None
    )


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1], run_cell))
