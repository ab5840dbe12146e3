"""Trial table: what a ranker learns from, one row per candidate and task."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from strategy_pool._names import did_you_mean

#: What a column's name begins with if it is a feature.
FEATURE_PREFIXES = ("task.", "strategy.", "device.")
_NEEDED = ("task", "strategy", "score")
_NUMBERS = ("score", "seconds", "epochs")
_TRUE, _FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no", "", "nan", "none", "<na>")


class TableError(ValueError):
    """A trial table does not follow its contract; the message is one line."""


@dataclass(frozen=True)
class TrialTable:
    """Trials, grouped by task.

    Attributes:
        frame: one row per task and strategy, sorted by both, with ``task``, ``strategy``, ``score``, ``value`` (the
            score min–max normalised within the task; NaN where all scores of it are equal), ``failed``, and
            ``seconds`` (NaN where unknown), ``group`` (the task itself where there is none) and the features.
        notes: what was mended, one line each.
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, sorted."""
        return sorted(self.frame["task"].unique())

    @property
    def features(self) -> list[str]:
        """Names of the columns that are features."""
        return [name for name in self.frame.columns if name.startswith(FEATURE_PREFIXES)]

    @property
    def has_seconds(self) -> bool:
        """Whether it is known of most trials how long they took."""
        return bool(self.frame["seconds"].notna().mean() > 0.5)

    def groups(self) -> dict[str, str]:
        """Task → its group."""
        first = self.frame.groupby("task", observed=True)["group"].first()
        return {str(task): str(group) for task, group in first.items()}

    def of(self, tasks: Iterable[str]) -> TrialTable:
        """The trials of some tasks."""
        return TrialTable(self.frame[self.frame["task"].isin(set(tasks))].reset_index(drop=True), self.notes)

    def told(self) -> TrialTable:
        """Without the tasks whose scores are all equal: they tell nothing about any order."""
        return TrialTable(self.frame[self.frame["value"].notna()].reset_index(drop=True), self.notes)

    def drawn(self, most: int, seed: int) -> TrialTable:
        """With at most so many tasks, drawn at random."""
        tasks = self.tasks
        if len(tasks) <= most:
            return self
        return self.of(np.random.default_rng(seed).choice(tasks, most, replace=False).tolist())

    def subsampled(self, most: int, seed: int) -> TrialTable:
        """With at most so many trials of each task, drawn at random, its best one among them."""
        sizes = self.frame["task"].value_counts()
        if sizes.empty or int(sizes.iloc[0]) <= most:
            return self
        generator = np.random.default_rng(seed)
        kept = []
        for _, rows in self.frame.groupby("task", observed=True, sort=True):
            if len(rows) <= most:
                kept.append(rows.index.to_numpy())
                continue
            best = rows["score"].to_numpy().argmax()
            others = np.delete(rows.index.to_numpy(), best)
            drawn = generator.choice(others, most - 1, replace=False)
            kept.append(np.sort(np.append(drawn, rows.index[best])))
        return TrialTable(self.frame.loc[np.concatenate(kept)].reset_index(drop=True), self.notes)


def read_trial_table(path: str | os.PathLike[str]) -> TrialTable:
    """Read a Parquet or CSV file.

    Raises:
        TableError: it cannot be read, or does not follow the contract (see :func:`trial_table`).
    """
    return trial_table(read_frame(path, "trial table"), str(path))


def read_frame(path: str | os.PathLike[str], what: str) -> pd.DataFrame:
    """Read a Parquet or CSV file as it is.

    Args:
        path: of the file; ``.csv``, ``.parquet`` or ``.pq``.
        what: it is, for the error.

    Raises:
        TableError: it cannot be read.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet", ".pq"):
        raise TableError(f"{what} {path} ends in '{path.suffix}'; it has to be .parquet or .csv")
    try:
        if kind == ".csv":
            return pd.read_csv(path, dtype={"task": str, "strategy": str, "group": str})
        return pd.read_parquet(path)
    except OSError as error:
        raise TableError(f"{what} {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError) as error:  # pyarrow's and the CSV parser's errors are ValueErrors
        raise TableError(f"{what} {path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def trial_table(frame: pd.DataFrame, name: str = "the trial table") -> TrialTable:
    """Check a table and bring it into its form.

    A trial without a score failed: it gets the lowest score of its task. Several trials of a strategy on a task count
    as one, with their mean score and seconds.

    Args:
        frame: one row per trial: ``task``, ``strategy``, ``score`` (higher is better), optionally ``seconds``,
            ``epochs``, ``failed``, ``group``, and features ``task.*``, ``strategy.*``, ``device.*``.
        name: for errors.

    Raises:
        TableError: a column is missing or holds what it cannot, or a task lies in two groups.
    """
    for column in _NEEDED:
        if column not in frame.columns:
            known = did_you_mean(column, [str(c) for c in frame.columns])
            raise TableError(f"{name} has no column '{column}'{known}; it needs task, strategy and score")
    if frame.empty:
        raise TableError(f"{name} holds no trial")
    frame = frame.reset_index(drop=True).copy()
    for column in _NUMBERS:
        if column in frame.columns:
            frame[column] = _numbers(frame[column], name)
    for column in ("task", "strategy"):
        if frame[column].isna().any():
            raise TableError(f"{name}: row {int(frame[column].isna().idxmax())} has no {column}")
        frame[column] = frame[column].astype(str)
    notes: list[str] = []
    frame["failed"] = _truth(frame["failed"], name) if "failed" in frame.columns else False
    if "seconds" not in frame.columns:
        frame["seconds"] = np.nan
    negative = frame["seconds"] < 0
    if negative.any():
        raise TableError(
            f"{name}: row {int(negative.idxmax())} took {frame['seconds'][negative].iloc[0]} seconds"
        )
    frame["group"] = _groups(frame, name)
    frame["score"] = _scores(frame, notes)
    frame = _merged(frame, notes)
    low = frame.groupby("task", observed=True)["score"].transform("min")
    high = frame.groupby("task", observed=True)["score"].transform("max")
    span = (high - low).where(high > low)
    frame["value"] = (frame["score"] - low) / span
    equal = int(frame.loc[frame["value"].isna(), "task"].nunique())
    if equal:
        notes.append(f"{_many(equal, 'task')} whose scores are all equal cannot be ranked")
    return TrialTable(frame, tuple(notes))


def _numbers(values: pd.Series, name: str) -> pd.Series:
    """As float64, gaps and what is not finite as NaN."""
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    wrong = numbers.isna() & values.notna()
    if wrong.any():
        given = values[wrong].iloc[0]
        if not (isinstance(given, float) or str(given).strip().lower() in _FALSE):
            raise TableError(
                f"{name}: {values.name} of row {int(wrong.idxmax())} is {given!r}; it has to be a number"
            )
    return numbers.where(np.isfinite(numbers))


def _truth(values: pd.Series, name: str) -> pd.Series:
    if values.dtype == bool:
        return values
    text = values.astype(object).where(values.notna(), "").astype(str).str.strip().str.lower()
    wrong = ~text.isin([*_TRUE, *_FALSE])
    if wrong.any():
        raise TableError(
            f"{name}: failed of row {int(wrong.idxmax())} is {values[wrong].iloc[0]!r}; true or false"
        )
    return text.isin(_TRUE)


def _groups(frame: pd.DataFrame, name: str) -> pd.Series:
    if "group" not in frame.columns:
        return frame["task"]
    group = frame["group"].astype("str").where(frame["group"].notna())
    count = group.groupby(frame["task"]).nunique()
    if (count > 1).any():
        task = count.index[count > 1][0]
        raise TableError(f"{name}: task '{task}' lies in {int(count[task])} groups; it can be in one only")
    known = group.groupby(frame["task"]).transform("first")
    return known.where(known.notna(), frame["task"])


def _scores(frame: pd.DataFrame, notes: list[str]) -> pd.Series:
    """The scores, gaps filled with the lowest of the task; a task without any score gets 0 for all."""
    missing = frame["score"].isna()
    if not missing.any():
        return frame["score"]
    notes.append(f"{_many(int(missing.sum()), 'trial')} without a score count as the worst of their task")
    lowest = frame.groupby("task", observed=True)["score"].transform("min").fillna(0.0)
    return frame["score"].where(~missing, lowest)


def _merged(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    keys = ["task", "strategy"]
    twice = frame.duplicated(keys)
    if twice.any():
        notes.append(
            f"{_many(int(twice.sum()), 'trial')} of strategies that were tried before on a task are averaged"
        )
        rules: dict[str, Any] = {name: "first" for name in frame.columns if name not in keys}
        rules |= {name: "mean" for name in _NUMBERS if name in frame.columns} | {"failed": "all"}
        frame = frame.groupby(keys, sort=True, observed=True).agg(rules).reset_index()
    return frame.sort_values(keys, ignore_index=True, kind="stable")


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
