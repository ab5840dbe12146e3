"""Past trials as if they were run again, one after another by one worker, in the order that a ranker gives them.

With learning curves the best score so far counts from the end of the epoch in which it was reached, else from the end
of the trial.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from strategy_pool.trial_table import TableError, TrialTable, read_frame

_NEEDED = ("task", "strategy", "epoch", "score", "seconds")
#: Times per decade at which regret is read.
_PER_DECADE = 10


@dataclass(frozen=True)
class Course:
    """What one trial gives in the course of its time.

    Attributes:
        seconds: since its start, float [steps], ascending.
        values: best normalised score by then, float [steps], ascending.
    """

    seconds: np.ndarray
    values: np.ndarray


#: Task → strategy → its course.
Courses = Mapping[str, Mapping[str, Course]]


def read_curves(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read learning curves: ``task``, ``strategy``, ``epoch``, ``score`` after it, ``seconds`` of that epoch.

    Raises:
        TableError: it cannot be read, a column is missing, or an epoch took less than no time.
    """
    frame = read_frame(path, "table of learning curves")
    for column in _NEEDED:
        if column not in frame.columns:
            raise TableError(
                f"table of learning curves {path} has no column '{column}'; it needs {', '.join(_NEEDED)}"
            )
    frame = frame[list(_NEEDED)].astype({"task": str, "strategy": str})
    for column in ("epoch", "score", "seconds"):
        frame[column] = pd.to_numeric(frame[column], errors="coerce")
    if (frame["seconds"] < 0).any():
        raise TableError(f"table of learning curves {path}: an epoch took {frame['seconds'].min()} seconds")
    return frame.dropna(subset=["epoch", "seconds"]).sort_values(
        ["task", "strategy", "epoch"], kind="stable", ignore_index=True
    )


def courses(table: TrialTable, curves: pd.DataFrame | None = None) -> dict[str, dict[str, Course]]:
    """The course of every trial whose length is known.

    A trial with a curve takes as long as its epochs together; one without takes its ``seconds``, and its score is there
    at the end. A trial that failed takes its time and leaves nothing. Of several trials of a strategy on a task the curve
    is their mean, epoch by epoch.

    Args:
        table: all trials.
        curves: as :func:`read_curves` gives them; those of trials that the table lacks are left out.
    """
    frame = table.told().frame
    scale = frame.groupby("task", observed=True)["score"].agg(["min", "max"])
    known = set(zip(frame["task"].astype(str), frame["strategy"].astype(str), strict=True))
    lost = frame[frame["failed"]]
    failed = set(zip(lost["task"].astype(str), lost["strategy"].astype(str), strict=True))
    found: dict[str, dict[str, Course]] = {str(task): {} for task in scale.index}
    for row in frame[frame["seconds"].notna()].itertuples():
        found[str(row.task)][str(row.strategy)] = Course(
            np.array([row.seconds]), np.array([0.0 if row.failed else row.value])
        )
    if curves is None:
        return found
    for (task, strategy), rows in curves.groupby(["task", "strategy"], sort=False):
        if (task, strategy) not in known:
            continue
        rows = rows.groupby("epoch", sort=True)[["score", "seconds"]].mean()
        low, high = scale.loc[task, "min"], scale.loc[task, "max"]
        values = ((rows["score"].to_numpy(dtype=float) - low) / (high - low)).clip(0.0, 1.0)
        values = np.maximum.accumulate(np.nan_to_num(values, nan=0.0))
        if (task, strategy) in failed:
            values = np.zeros_like(values)
        found[task][strategy] = Course(rows["seconds"].to_numpy(dtype=float).cumsum(), values)
    return found


def regret_over_time(order: Sequence[Course], times: np.ndarray) -> np.ndarray:
    """Return ``1 −`` the best value so far at each time, float [times]; 1 before there is any.

    Args:
        order: the trials in the order in which one worker runs them, each to its end.
        times: seconds, ascending.
    """
    best = np.zeros(len(times))
    began = 0.0
    for course in order:
        if began > times[-1]:
            break
        at = np.searchsorted(began + course.seconds, times, side="right") - 1
        best = np.maximum(best, np.where(at >= 0, course.values[np.maximum(at, 0)], 0.0))
        began += float(course.seconds[-1])
    return 1.0 - best


def time_grid(found: Courses) -> np.ndarray:
    """Times at which regret is read: round numbers, ten per decade, float [times].

    From the length of a short trial to a quarter of what all trials of a median task take together; empty where no
    length is known.
    """
    lengths = [np.array([course.seconds[-1] for course in of.values()]) for of in found.values() if of]
    if not lengths:
        return np.array([])
    low = max(1e-3, min(float(np.quantile(of, 0.1)) for of in lengths))
    high = max(10 * low, float(np.median([of.sum() for of in lengths])) / 4)
    first, last = np.floor(_PER_DECADE * np.log10(low)), np.ceil(_PER_DECADE * np.log10(high))
    steps = np.arange(first, last + 1)
    return np.unique([float(f"{10 ** (step / _PER_DECADE):.2g}") for step in steps])
