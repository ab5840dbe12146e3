"""What a run would have answered at any time: the model of the trials that had ended by then, and its test score.

The scores are computed after the run and cost it nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.remeasure import remeasure

if TYPE_CHECKING:
    import numpy as np

    from automl.choose import Chooser
    from automl.data import Dataset
    from automl.ensemble import Selection
    from automl.evaluation.operating_point import OperatingPoint
    from automl.records import Outcome, TrialSpec
    from automl.task import Constraint

    #: How a run chooses what it delivers, of trials that ended, within limits.
    Choose = Callable[[Chooser, Sequence[tuple[TrialSpec, Outcome]], Sequence[Constraint]], Selection | None]

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


def first_choice(
    chooser: Chooser, _finished: Sequence[tuple[TrialSpec, Outcome]], limits: Sequence[Constraint]
) -> Selection | None:
    """What a submit would export of the trials that ended; None of none."""
    choices = chooser.choices(limits)
    return choices[0] if choices else None


def curve(
    run_folder: Path,
    dataset: Dataset,
    ended: Sequence[Mapping[str, Any]],
    choose: Choose = first_choice,
) -> tuple[list[list[float | None]], list[list[int]]]:
    """``[seconds, validation score, test score]`` of each model that a run would have delivered, and its answers.

    When a trial ends a model is chosen, by the code that chooses at the end, among all that had ended by then; where that is
    another one than before, it is tested at its operating point. Scores are balanced accuracies on test images and the
    objective on validation images, answers the class of each test image. What is quantised at the end is tested as it was
    trained, and what networks cost is taken as it was known at the end.

    Args:
        run_folder: of a submit.
        dataset: the same images and split.
        ended: of :func:`trials`.
        choose: how the run chooses.
    """
    import numpy as np
    import pandas as pd

    from automl.choose import Chooser
    from automl.networks import cost_table
    from automl.plan import most_macs
    from automl.search import TrialStore
    from automl.task import Task
    from benchmarks.comparison import balanced_accuracy

    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    task = Task.from_dict(result["task"])
    index = np.asarray(dataset.indices("test"))
    labels = np.asarray(dataset.labels)[index]
    costs = cost_table(pd.read_parquet(run_folder / "search" / "feasibility.parquet"), cautious=True)
    most = most_macs(task.budget.seconds, len(index), workers=result["seconds"]["workers"])
    stored = {spec.trial_id: (spec, outcome) for spec, outcome in TrialStore(run_folder).finished()}
    finished: list[tuple[TrialSpec, Outcome]] = []
    found: list[list[float | None]] = []
    answers: list[list[int]] = []
    last = None
    for trial in ended:
        if trial["purpose"] != "search" or trial["trial_id"] not in stored:
            continue
        finished.append(stored[trial["trial_id"]])
        chooser = Chooser(finished, dataset, task.objective, costs, most)
        selection = choose(chooser, finished, task.constraints)
        if selection is None:
            continue
        point = chooser.point(selection, task.constraints)
        factors = {name: w / chooser.members[name].temperature for name, w in selection.weights.items()}
        if last == (factors, point.bias.tolist()):
            continue
        last = factors, point.bias.tolist()
        predicted = _predicted([(stored[name][0], f) for name, f in factors.items()], point, dataset, index)
        found.append([trial["ended"], float(point.objective), balanced_accuracy(labels, predicted)])
        answers.append(predicted.tolist())
    return found, answers


def _predicted(
    members: Sequence[tuple[TrialSpec, float]], point: OperatingPoint, dataset: Dataset, index: np.ndarray
) -> np.ndarray:
    import numpy as np
    import torch

    from automl.ensemble import build_ensemble
    from automl.evaluation import operating_point
    from automl.training import load_model

    side = max(spec.candidate.resolution for spec, _ in members)
    parts = [(load_model(Path(spec.folder)), spec.candidate.resolution, factor) for spec, factor in members]
    model, level, found = build_ensemble(parts, side), dataset.images(side), []
    with torch.inference_mode():
        for begin in range(0, len(index), _BATCH):
            pixels = torch.from_numpy(np.ascontiguousarray(level[index[begin : begin + _BATCH]]))
            found.append(model(pixels.permute(0, 3, 1, 2).float()).softmax(1).numpy())
    return operating_point.apply(np.concatenate(found), point.bias)


def again(model: Path) -> dict[str, float]:
    """``latency_ms`` and ``size_mb`` of a file as :mod:`benchmarks.remeasure` measures them."""
    found = remeasure([str(model)], _ROUNDS, _SECONDS)["files"][str(model)]
    return {"latency_ms": found["median_ms"], "size_mb": found["bytes"] / 1e6}


def told(
    run_folder: Path,
    dataset: Dataset,
    began: float,
    result: Mapping[str, Any],
    seconds: float,
    choose: Choose = first_choice,
) -> dict[str, Any]:
    """All of a run that a suite keeps: ``status``, ``costs``, ``again``, ``curve``, ``predicted``, ``trials``.

    The curve ends with the result; ``predicted`` are the answers of the others (:func:`curve`). ``again`` is what :mod:`benchmarks.remeasure` says of the exported file, ``latency_ms`` and ``size_mb``.

    Args:
        run_folder: of a submit.
        dataset: the same images and split.
        began: when the run began, on ``time.time()``.
        result: the whole of ``result.json``.
        seconds: that the run took.
        choose: how the run chooses.
    """
    test = result["metrics"]["test"].get("balanced_accuracy", {})
    ended = trials(run_folder, began)
    points, answers = curve(run_folder, dataset, ended, choose)
    return {
        "status": result["status"],
        "costs": result["costs"],
        "again": again(run_folder / result["model"]),
        "curve": [*points, [round(seconds, 2), None, test.get("value")]],
        "predicted": answers,
        "trials": ended,
    }


def judge_again(spec: Mapping[str, Any], choose: Choose = first_choice) -> bool:
    """Write the curve of a cell anew, from its run below the folder of work; nothing is trained.

    Args:
        spec: of the cell.
        choose: how the run chooses.

    Returns:
        whether there are a cell with a curve and its run.
    """
    from benchmarks.cells import write_text
    from benchmarks.environment import environment
    from benchmarks.methods import dataset_of

    target, run_folder = Path(spec["target"]), Path(spec["work"]) / "run"
    if not (target.is_file() and (run_folder / "result.json").is_file()):
        return False
    cell = json.loads(target.read_text(encoding="utf-8"))
    run = cell.get("details", {}).get("run")
    if not run:
        return False
    points, run["predicted"] = curve(run_folder, dataset_of(spec), run["trials"], choose)
    run["curve"] = [*points, run["curve"][-1]]
    cell["judged"] = environment()["commit"]
    write_text(target, json.dumps(cell, ensure_ascii=False, separators=(",", ":")) + "\n")
    return True
