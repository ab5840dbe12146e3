"""What a process of the extraction suite does: train a supernet, or judge many subnets and files on test images.

``python -m benchmarks.suites._extraction_probe SPEC.json`` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def _opened(spec: Mapping[str, Any]) -> Any:
    from automl.data import load_dataset

    return load_dataset(spec["data"], seed=spec["seed"], columns=spec["columns"] or None)


def train(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Train a supernet of a backbone with the training images, as a submit does, and store it."""
    import torch

    from automl.task import Objective
    from automl.training import supernet_of
    from search_spaces.backbones import find_backbones

    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    found, _skipped = find_backbones(spec["weights_dirs"])
    backbone = next(b for b in found if b.name.startswith(spec["backbone"]))
    dataset = _opened(spec)
    began = time.monotonic()
    steps = supernet_of(
        dataset,
        np.asarray(dataset.indices("train")),
        np.asarray(dataset.indices("validation")),
        backbone,
        resolutions=spec["resolutions"],
        objective=Objective(),
        seconds=spec["seconds"],
        seed=spec["seed"],
        shared=Path(spec["out"]).parent / "shared",
        threads=threads,
    )
    while True:
        try:
            next(steps)
        except StopIteration as end:
            stored = end.value
            break
    stored.save(Path(spec["out"]))
    judged = [known.score for known in stored.known if known.score is not None]
    return {
        "backbone": backbone.name, "seconds": time.monotonic() - began, "judged": len(judged),
        "validation_images": len(dataset.indices("validation")), "best_validation": max(judged),
        "threads": threads,
    }  # fmt: skip


def brute(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Measure and judge subnets that are drawn without any forecast, on the validation and the test images."""
    from automl._subnets import Subnets, missed
    from automl.device import Device
    from automl.task import Constraint
    from automl.training import subnet_probabilities
    from benchmarks.comparison import balanced_accuracy
    from search_spaces.propose import spread
    from search_spaces.stored import load

    dataset, stored = _opened(spec), load(Path(spec["supernet"]))
    labels = np.asarray(dataset.labels)
    rows = {part: np.asarray(dataset.indices(part)) for part in ("validation", "test")}
    subnets = spread(stored.space, spec["count"], spec["seed"] + 1000)
    scores: list[dict[str, float]] = []
    with Subnets(stored, Device()) as measured:
        for number, subnet in enumerate(subnets):
            measured.look(subnet)
            found = {}
            for part, index in rows.items():
                probabilities = subnet_probabilities(stored, subnet, dataset, index)
                found[part] = balanced_accuracy(labels[index], probabilities.argmax(1))
            scores.append(found)
            if number % 20 == 0:
                print(f"{number} of {len(subnets)} subnets", file=sys.stderr, flush=True)
        costs = dict((measured.code(subnet), cost) for subnet, cost in measured.measured())
        codes = [measured.code(subnet) for subnet in subnets]
    best: list[dict[str, float] | None] = []
    for texts in spec["sets"]:
        limits = [Constraint.parse(text) for text in texts]
        kept = [at for at, code in enumerate(codes) if not missed(limits, costs[code])]
        if not kept:
            best.append(None)
            continue
        chosen = max(kept, key=lambda at: scores[at]["validation"])
        best.append(
            {
                "kept": len(kept), "validation": scores[chosen]["validation"], "test": scores[chosen]["test"],
                "highest_test": max(scores[at]["test"] for at in kept),
            }
        )  # fmt: skip
    latencies = [costs[code]["latency_ms"] for code in codes]
    return {"best": best, "count": len(subnets), "latency_ms": [min(latencies), max(latencies)]}


def score(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Judge exported files on the validation and the test images, which go the way from the original that users' go."""
    from automl.predict import Predictor
    from benchmarks.comparison import balanced_accuracy

    dataset = _opened(spec)
    labels, originals = np.asarray(dataset.labels), _originals(dataset)
    number = {name: at for at, name in enumerate(dataset.class_names)}
    found: dict[str, dict[str, float]] = {}
    for file in spec["files"]:
        found[file] = {}
        predictor = Predictor(Path(file).parent, threads=os.cpu_count() or 1)
        for part in ("validation", "test"):
            index = np.asarray(dataset.indices(part))
            frame = predictor.predict(originals[at] for at in index)
            label = frame["label"].map(number).fillna(-1).to_numpy(int)
            found[file][part] = balanced_accuracy(labels[index], label)
    return {"files": found, "test_images": len(dataset.indices("test"))}


def _originals(dataset: Any) -> Sequence[Any]:
    """Files of the images, or, of an npz file, their pixels."""
    if len(dataset.source_paths):
        return dataset.source_paths  # type: ignore[no-any-return]
    with np.load(dataset.source, allow_pickle=False) as stored:
        pixels = stored["images"]
    return [pixels[int(name.rpartition("[")[2][:-1])] for name in dataset.source_names]


def main() -> int:
    """Do what the file says."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps({"train": train, "brute": brute, "score": score}[spec["do"]](spec)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
