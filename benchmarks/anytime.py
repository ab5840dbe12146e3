"""What a run would have answered at any time: its best trial so far, by validation images, and that one's test score.

The scores are computed after the run and cost it nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.remeasure import remeasure

if TYPE_CHECKING:
    import numpy as np

    from automl.data import Dataset

_BATCH = 64
#: Rounds of measuring a file again, and seconds of each.
_ROUNDS, _SECONDS = 5, 0.3


def trials(run_folder: Path, began: float) -> list[dict[str, Any]]:
    """Every trial that ended, in the order of their ends.

    Args:
        run_folder: of a submit.
        began: when it began, on ``time.time()``.

    Returns:
        ``trial_id``, ``candidate``, ``status``, ``score`` (on validation images, None where there is none), ``began`` and
        ``ended`` (seconds from the start of the run), ``purpose``.
    """
    from automl.search import TrialStore
    from benchmarks.processes import trial_times

    times = {one.name: one for one in trial_times(run_folder)}
    found = [
        {
            "trial_id": spec.trial_id, "candidate": spec.candidate.id, "status": outcome.status,
            "score": outcome.usable_score, "began": round(times[spec.trial_id].began - began, 2),
            "ended": round(times[spec.trial_id].ended - began, 2), "purpose": spec.purpose,
        }
        for spec, outcome in TrialStore(run_folder).finished()
    ]  # fmt: skip
    return sorted(found, key=lambda one: one["ended"])


def curve(
    run_folder: Path, dataset: Dataset, began: float
) -> tuple[list[list[float | None]], list[list[int]]]:
    """``[seconds, validation score, test score]`` of each trial that was the best so far when it ended, and its answers.

    Scores are balanced accuracies, answers the class of each test image. A trial that is quantised at the end is tested as
    it was trained.

    Args:
        run_folder: of a submit.
        dataset: the same images and split.
        began: when the run began, on ``time.time()``.
    """
    import numpy as np

    from automl.search import TrialStore
    from automl.training import load_model
    from benchmarks.comparison import balanced_accuracy

    specs = {spec.trial_id: spec for spec, _ in TrialStore(run_folder).finished()}
    index = dataset.indices("test")
    labels = np.asarray(dataset.labels)[index]
    found: list[list[float | None]] = []
    answers: list[list[int]] = []
    best = float("-inf")
    for trial in trials(run_folder, began):
        score, folder = trial["score"], run_folder / "search" / "trials" / trial["trial_id"]
        if trial["purpose"] != "search" or score is None or score <= best:
            continue
        if not (folder / "model.safetensors").exists():
            continue
        best = score
        side = specs[trial["trial_id"]].candidate.resolution
        predicted = _predicted(load_model(folder), dataset.images(side), index)
        found.append([trial["ended"], score, balanced_accuracy(labels, predicted)])
        answers.append(predicted.tolist())
    return found, answers


def _predicted(model: Any, level: Any, index: np.ndarray) -> np.ndarray:
    import numpy as np
    import torch

    parts = []
    with torch.inference_mode():
        for begin in range(0, len(index), _BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(level[index[begin : begin + _BATCH]]))
            parts.append(model(pixels.permute(0, 3, 1, 2).float()).argmax(1).numpy())
    return np.concatenate(parts)


def again(model: Path) -> dict[str, float]:
    """``latency_ms`` and ``size_mb`` of a file as :mod:`benchmarks.remeasure` measures them."""
    found = remeasure([str(model)], _ROUNDS, _SECONDS)["files"][str(model)]
    return {"latency_ms": found["median_ms"], "size_mb": found["bytes"] / 1e6}


def told(
    run_folder: Path, dataset: Dataset, began: float, result: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """All of a run that a suite keeps: ``status``, ``costs``, ``again``, ``curve``, ``predicted``, ``trials``.

    The curve ends with the result; ``predicted`` are the answers of the others (:func:`curve`). ``again`` is what :mod:`benchmarks.remeasure` says of the exported file, ``latency_ms`` and ``size_mb``.

    Args:
        run_folder: of a submit.
        dataset: the same images and split.
        began: when the run began, on ``time.time()``.
        result: the whole of ``result.json``.
        seconds: that the run took.
    """
    test = result["metrics"]["test"].get("balanced_accuracy", {})
    points, answers = curve(run_folder, dataset, began)
    return {
        "status": result["status"],
        "costs": result["costs"],
        "again": again(run_folder / result["model"]),
        "curve": [*points, [round(seconds, 2), None, test.get("value")]],
        "predicted": answers,
        "trials": trials(run_folder, began),
    }
