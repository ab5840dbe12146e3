"""How much better the engine's answers are than those of another method, over all data sets of a suite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.comparison import Difference, over_datasets
from benchmarks.tables import ENGINE, interval, method_difference

if TYPE_CHECKING:
    import pandas as pd

Cell = Mapping[str, Any]
#: Class that a run without a model says of every image.
_NOTHING = -1


def gaps(
    by_task: Mapping[str, Mapping[str, Mapping[int, Cell]]],
    data: Mapping[str, str],
    resamples: int,
    runs: pd.DataFrame | None = None,
) -> dict[str, dict[str, float]]:
    """Balanced accuracy of the engine minus that of each other method: mean over data sets with a 95 % interval.

    Tasks of the same pictures are averaged first. A run without a model is wrong on every image.

    Args:
        by_task: task → method → split → cell.
        data: task → what its pictures are.
        resamples: of the bootstrap, which draws groups of images.
        runs: of :func:`benchmarks.frames.runs_frame`; where they are given, the engine's answer is the one that it would have
            given when the other method's last model was trained.

    Returns:
        method → ``mean``, ``low``, ``high`` and ``tasks`` (count).
    """
    took: dict[tuple[str, str, int], float] = {}
    if runs is not None:
        keys = zip(runs["task"], runs["method"], runs["seed"], strict=True)
        took = dict(zip(keys, runs["trained"].astype(float), strict=True))
    found: dict[str, dict[str, list[Difference]]] = defaultdict(lambda: defaultdict(list))
    for task, methods in by_task.items():
        complete = _complete(methods)
        for other in complete:
            if other == ENGINE or ENGINE not in complete:
                continue
            own = complete[ENGINE]
            if runs is not None:
                own = {split: _then(cell, took.get((task, other, split))) for split, cell in own.items()}
            gap = method_difference({ENGINE: own, other: complete[other]}, other, resamples=resamples)
            if gap is not None:
                found[other][data.get(task, task)].append(gap)
    return {
        other: {
            **interval(over_datasets([over_datasets(gaps) for gaps in by_data.values()])),
            "tasks": sum(len(gaps) for gaps in by_data.values()),
        }
        for other, by_data in found.items()
    }


def _complete(methods: Mapping[str, Mapping[int, Cell]]) -> dict[str, dict[int, Cell]]:
    """The cells, those of runs without a model with the images of another method's."""
    judged = {
        split: cell for found in methods.values() for split, cell in found.items() if "failed" not in cell
    }
    return {
        method: {
            split: cell if "failed" not in cell else _wrong(judged[split])
            for split, cell in found.items()
            if split in judged
        }
        for method, found in methods.items()
    }


def _wrong(cell: Cell) -> Cell:
    return {**cell, "predicted": np.full(len(cell["labels"]), _NOTHING), "details": {}}


def _then(cell: Cell, seconds: float | None) -> Cell:
    """A cell with what its run would have answered after some seconds; as it is where it was over by then."""
    run = cell["details"].get("run")
    ended = max((one["ended"] for one in run["trials"]), default=0.0) if run else 0.0
    if seconds is None or run is None or not seconds < ended:
        return cell
    before = [
        predicted
        for (when, *_), predicted in zip(run["curve"], run["predicted"], strict=False)
        if when <= seconds
    ]
    return {**cell, "predicted": np.asarray(before[-1])} if before else _wrong(cell)
