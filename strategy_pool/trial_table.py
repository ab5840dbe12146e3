"""The table that rankers learn from and are judged on: one row per trial, from our own history or from elsewhere.

Columns ``task``, ``strategy`` and ``score`` (higher is better); optionally ``seconds``, ``epochs``, ``failed``,
``group`` (tasks that must not be split between training and test), and features called ``task.*``, ``strategy.*``
and ``device.*``, numbers or categories, gaps allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

#: What the names of features begin with.
KINDS = ("task.", "strategy.", "device.")


class TableError(ValueError):
    """A trial table cannot be used; the message says what to do."""


@dataclass(frozen=True)
class TrialTable:
    """Trials that can be ranked.

    Attributes:
        frame: one row per task and strategy, tasks in the order of their first trial, with ``task``, ``strategy``,
            ``group`` (its task where none is given), ``score``, ``value`` (the score, min–max normalised within the
            task; 0 for a trial that failed without one), ``failed``, ``seconds`` where given, and the features.
        features: names of the feature columns, numbers as float64 and all else as category.
        left_out: tasks that tell nothing, because all their scores are equal or only one is there.
    """

    frame: pd.DataFrame
    features: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(self.frame["task"]))

    def some(self, tasks: Sequence[str]) -> TrialTable:
        """The trials of these tasks only."""
        frame = self.frame[self.frame["task"].isin(set(tasks))].reset_index(drop=True)
        return TrialTable(frame, self.features, self.left_out)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a trial table or a table of learning curves, CSV or Parquet.

    Raises:
        TableError: it is not there or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path} does not exist or is not a file")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype={"task": str, "strategy": str, "group": str})
    except Exception as error:  # pandas and pyarrow raise many kinds for a damaged table
        text = " ".join(str(error).split())[:160]
        raise TableError(f"{path} cannot be read as a table: {text or type(error).__name__}") from None


def trial_table(frame: pd.DataFrame) -> TrialTable:
    """Check a table and bring it into the form that rankers read.

    Several trials of a strategy on a task become one, with the mean of their scores and seconds.

    Raises:
        TableError: a column is missing, or no task can be ranked.
    """
    for column in ("task", "strategy", "score"):
        if column not in frame.columns:
            raise TableError(
                f"the trial table has no column '{column}'; it needs task, strategy and score, and has "
                f"{', '.join(map(str, frame.columns[:12]))}"
            )
    named = frame["task"].notna() & frame["strategy"].notna()
    frame = frame[named].reset_index(drop=True)
    score = pd.to_numeric(frame["score"], errors="coerce").astype("float64")
    score = score.where(np.isfinite(score))
    failed = _flags(frame["failed"]) if "failed" in frame.columns else pd.Series(False, index=frame.index)
    whole = pd.DataFrame(
        {
            "task": frame["task"].astype(str).astype(object),
            "strategy": frame["strategy"].astype(str).astype(object),
            "score": score,
            "failed": failed | score.isna(),
        }
    )
    group = frame["group"].astype(object) if "group" in frame.columns else pd.Series(None, index=frame.index)
    whole["group"] = group.where(group.notna(), whole["task"]).astype(str).astype(object)
    for column in ("seconds", "epochs"):
        if column in frame.columns:
            numbers = pd.to_numeric(frame[column], errors="coerce").astype("float64")
            whole[column] = numbers.where(np.isfinite(numbers) & (numbers >= 0))
    features = tuple(str(c) for c in frame.columns if str(c).startswith(KINDS))
    kept = pd.concat([whole, *(_feature(frame[name]).rename(name) for name in features)], axis=1)
    kept = _once(kept)
    low = kept.groupby("task", sort=False)["score"].transform("min")
    high = kept.groupby("task", sort=False)["score"].transform("max")
    kept["value"] = ((kept["score"] - low) / (high - low)).where(kept["score"].notna(), 0.0)
    good = high > low
    left_out = tuple(dict.fromkeys(kept.loc[~good, "task"]))
    kept = kept[good].reset_index(drop=True)
    if kept.empty:
        raise TableError("no task of the trial table has two trials with different scores")
    return TrialTable(kept, features, left_out)


def _flags(column: pd.Series) -> pd.Series:
    """Truth values from booleans, numbers or words; a gap is False."""
    if column.dtype.kind in "biuf":
        return column.fillna(0).astype(bool)
    return column.astype(str).str.strip().str.lower().isin(("true", "1", "1.0", "yes"))


def _feature(column: pd.Series) -> pd.Series:
    """Numbers as float64 (gaps and infinities NaN), all else as category."""
    if column.dtype.kind in "iuf":
        numbers = column.astype("float64")
        return numbers.where(np.isfinite(numbers))
    if column.dtype.kind == "b" or str(column.dtype) == "boolean":
        return column.astype("float64")
    return column.astype(object).where(column.notna(), None).map(_word, na_action="ignore").astype("category")


def _word(value: object) -> str:
    return str(value)


def _once(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per task and strategy, where it first stood."""
    key = ["task", "strategy"]
    again = frame.duplicated(key)
    if not again.any():
        return frame
    first = frame[~again].copy()
    rows = pd.MultiIndex.from_frame(first[key])
    for column in ("score", "seconds", "epochs"):
        if column in frame.columns:
            first[column] = frame.groupby(key, sort=False)[column].mean().reindex(rows).to_numpy()
    first["failed"] = frame.groupby(key, sort=False)["failed"].all().reindex(rows).to_numpy()
    return first.reset_index(drop=True)
