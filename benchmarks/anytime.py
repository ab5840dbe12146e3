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


def curve(run_folder: Path, dataset: Dataset, began: float) -> list[list[float | None]]:
    """``[seconds, validation score, test score]`` of each trial that was the best so far when it ended.

    Scores are balanced accuracies. A trial that is quantised at the end is tested as it was trained.

    Args:
        run_folder: of a submit.
        dataset: the same images and split.
        began: when the run began, on ``time.time()``.
    """
    from automl.search import TrialStore

    specs = {spec.trial_id: spec for spec, _ in TrialStore(run_folder).finished()}
    found: list[list[float | None]] = []
    best = float("-inf")
    for trial in trials(run_folder, began):
        score, folder = trial["score"], run_folder / "search" / "trials" / trial["trial_id"]
        if trial["purpose"] != "search" or score is None or score <= best:
            continue
        if not (folder / "model.safetensors").exists():
            continue
        best = score
        test = test_score(folder, dataset, specs[trial["trial_id"]].candidate.resolution)
        found.append([trial["ended"], score, test])
    return found


def test_score(folder: Path, dataset: Dataset, side: int) -> float:
    """Balanced accuracy of a trial's model on the test images."""
    import numpy as np

    from automl.training import load_model
    from benchmarks.comparison import balanced_accuracy

    index = dataset.indices("test")
    predicted = _predicted(load_model(folder), dataset.images(side), index)
    return balanced_accuracy(np.asarray(dataset.labels)[index], predicted)


def _predicted(model: Any, level: Any, index: np.ndarray) -> np.ndarray:
    import numpy as np
    import torch

    parts = []
    with torch.inference_mode():
        for begin in range(0, len(index), _BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(level[index[begin : begin + _BATCH]]))
            parts.append(model(pixels.permute(0, 3, 1, 2).float()).argmax(1).numpy())
    return np.concatenate(parts)


def told(
    run_folder: Path, dataset: Dataset, began: float, result: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """All of a run that a suite keeps: ``status``, ``costs``, ``again``, ``curve``, ``trials``; the curve ends with the result.

    ``again`` is what :mod:`benchmarks.remeasure` says of the exported file, ``latency_ms`` and ``size_mb``.

    Args:
        run_folder: of a submit.
        dataset: the same images and split.
        began: when the run began, on ``time.time()``.
        result: the whole of ``result.json``.
        seconds: that the run took.
    """
    test = result["metrics"]["test"].get("balanced_accuracy", {})
    points = curve(run_folder, dataset, began)
    model = str(run_folder / result["model"])
    again = remeasure([model], _ROUNDS, _SECONDS)["files"][model]
    return {
        "status": result["status"],
        "costs": result["costs"],
        "again": {"latency_ms": again["median_ms"], "size_mb": again["bytes"] / 1e6},
        "curve": [*points, [round(seconds, 2), None, test.get("value")]],
        "trials": trials(run_folder, began),
    }
