"""One (dataset, split, method) of the quality suite, run in a process of its own.

``python -m benchmarks.suites._quality_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.errors import AutomlError, InputError
from benchmarks.references import Answer

if TYPE_CHECKING:
    from automl.data import Dataset
    from search_spaces.backbones import Backbone

Spec = Mapping[str, Any]


def engine(spec: Spec) -> Answer:
    """Submit as a user does, to an empty home folder, and read what the exported model said."""
    from automl.engine import submit
    from automl.task import Task

    folder = Path(spec["work"]) / "run"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    task = Task.make(
        spec["source"],
        budget=spec["settings"]["budget"],
        seed=spec["split"],
        weights_dirs=spec["weights_dirs"],
        backbones=spec["settings"]["backbones"],
    )
    result = submit(task, out=folder, columns=spec["settings"]["columns"] or None)
    with np.load(folder / "search" / "test_scores.npz", allow_pickle=False) as scores:
        index, predicted = scores["index"], scores["predicted"]
    order = np.argsort(index)
    test = _dataset(spec).indices("test")
    if not np.array_equal(index[order], test):
        raise AutomlError("the run's test images are not those of the split")
    told = result.to_dict()
    return Answer(
        predicted[order], {key: told.get(key) for key in ("winner", "members", "trials", "seconds")}
    )


def logreg(spec: Spec) -> Answer:
    """Logistic regression on frozen features of the best backbone."""
    from benchmarks.references import logistic_reference

    dataset = _dataset(spec)
    return logistic_reference(dataset, _pretrained(spec), _features(spec, dataset))


def plain(spec: Spec) -> Answer:
    """Plain fine-tuning of the backbone whose logistic regression is the best on validation images."""
    from benchmarks.references import choose_probe, plain_reference

    dataset, backbones = _dataset(spec), _pretrained(spec)
    name = choose_probe(dataset, backbones, _features(spec, dataset))["backbone"]
    backbone = next(b for b in backbones if b.name == name)
    return plain_reference(dataset, backbone, spec["settings"]["budget"], seed=spec["split"])


METHODS: dict[str, Callable[[Spec], Answer]] = {"engine": engine, "logreg": logreg, "plain": plain}


def run_cell(spec: Spec) -> dict[str, Any]:
    """Run the method and return the cell: labels, groups and predictions of the test images, settings, seconds."""
    from benchmarks.environment import environment

    began = time.monotonic()
    answer = METHODS[spec["method"]](spec)
    seconds = time.monotonic() - began
    dataset = _dataset(spec)
    test = dataset.indices("test")
    return {
        "schema_version": 1,
        **{key: spec[key] for key in ("dataset", "split", "method", "settings")},
        "classes": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
        "images": len(dataset),
        "development_images": len(dataset.indices("development")),
        "seconds": round(seconds, 2),
        "index": test.tolist(),
        "labels": np.asarray(dataset.labels)[test].tolist(),
        "groups": np.asarray(dataset.groups)[test].tolist(),
        "predicted": answer.predicted.tolist(),
        "details": answer.details,
        "environment": environment(),
    }


def _dataset(spec: Spec) -> Dataset:
    from automl.data import load_dataset

    return load_dataset(spec["source"], seed=spec["split"], columns=spec["settings"]["columns"] or None)


def _features(spec: Spec, dataset: Dataset) -> Path:
    return Path(spec["shared"]) / "features" / dataset.fingerprint[:16]


def _pretrained(spec: Spec) -> list[Backbone]:
    from search_spaces.backbones import find_backbones

    found, skipped = find_backbones(spec["weights_dirs"], spec["settings"]["backbones"])
    pretrained = [backbone for backbone in found if backbone.pretrained]
    if not pretrained:
        reasons = "; ".join(skipped) or "none were found"
        raise InputError(f"the references need pretrained backbones ({reasons}); give --weights-dir FOLDER")
    return pretrained


def main(path: str) -> int:
    """Run the cell that the file describes; a wrong input ends with 2."""
    spec = json.loads(Path(path).read_text())
    try:
        cell = run_cell(spec)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    target = Path(spec["target"])
    temporary = target.with_suffix(".part")
    temporary.write_text(json.dumps(cell))
    os.replace(temporary, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
