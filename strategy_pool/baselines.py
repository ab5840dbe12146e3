"""Rankers without learning: random order, and the history average, which is the floor of every other one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import pandas as pd

from strategy_pool._encoding import Encoder, Neighbours
from strategy_pool.strategy import Strategy
from strategy_pool.trial_table import TrialTable

#: A strategy that was never seen takes the mean of so many of its nearest.
NEIGHBOURS = 10
#: Distances that are computed at a time.
_PAIRS = 4_000_000
#: A rough answer looks for neighbours among a share of what was seen, but among so many at least.
_LEAST_SEEN = 32
#: Columns within whose values neighbours are looked for.
_MODEL_COLUMNS = ("strategy.backbone", "strategy.model")


def model_column(columns: Iterable[str]) -> str | None:
    """The column that names a candidate's model, if there is one."""
    known = set(columns)
    return next((name for name in _MODEL_COLUMNS if name in known), None)


def models_of(frame: pd.DataFrame, column: str | None) -> np.ndarray:
    """Names of the models, object [rows]; empty where they are unknown."""
    if column is None or column not in frame.columns:
        return np.full(len(frame), "", dtype=object)
    values = frame[column]
    number, names = pd.factorize(values)
    return np.append(pd.Index(names).astype(str).to_numpy(dtype=object), "")[number]  # a gap's number is −1


def _places(names: np.ndarray) -> dict[str, np.ndarray]:
    """Name → its positions, ascending."""
    number, unique = pd.factorize(names)
    ordered = np.argsort(number, kind="stable")
    parts = np.split(ordered, np.cumsum(np.bincount(number))[:-1])
    return dict(zip(unique.tolist(), parts, strict=False))


class Learner(Protocol):
    """What learns an order from trials."""

    def fit(self, table: TrialTable, seed: int) -> Learner:
        """Learn from the trials of past tasks; returns itself."""
        ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float [rows], higher is better, comparable within a task; ties and NaN mean that it cannot tell.

        Args:
            frame: ``strategy`` and the features of the candidates of one or more tasks; scores in it are not read.
        """
        ...


class RandomOrder:
    """Tells nothing: all ties."""

    def fit(self, table: TrialTable, seed: int) -> RandomOrder:
        """Learn nothing."""
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(frame))


class CatalogOrder:
    """The order of the catalog, the first recipe best; ties between networks and sides are random.

    Args:
        catalog: recipes by name; those that it does not hold come last.
    """

    def __init__(self, catalog: Mapping[str, Strategy]) -> None:
        self._order = {name: float(strategy.order) for name, strategy in catalog.items()}

    def fit(self, table: TrialTable, seed: int) -> CatalogOrder:
        """Learn nothing."""
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return how early each recipe comes, float [rows]; ``strategy.recipe`` names it."""
        return -frame["strategy.recipe"].map(self._order).to_numpy(dtype=float)


class HistoryAverage:
    """Mean normalised score of a strategy over the past tasks.

    One that was never seen takes the mean of its 10 nearest seen ones (Gower distance over ``strategy.*``, within the
    same ``strategy.backbone`` or ``strategy.model`` where there is such a column and the value is known there), or the
    overall mean where there are no features.
    """

    def fit(self, table: TrialTable, seed: int) -> HistoryAverage:
        """Learn from the trials of past tasks; ``seed`` has no effect."""
        frame = table.told().frame
        grouped = frame.groupby("strategy", observed=True, sort=True)
        self.means = grouped["value"].mean()
        self.overall = float(self.means.mean()) if len(self.means) else 0.5
        columns = [name for name in table.features if name.startswith("strategy.")]
        self.model = model_column(columns)
        described = frame.drop_duplicates("strategy").sort_values("strategy")
        self.encoder = Encoder().fit(described, columns)
        self.models = models_of(described, self.model)
        self.encoded = self.encoder.transform(described)
        self.near: Neighbours | None = None
        if self.encoder.columns:
            self.near = Neighbours(self.encoded, self.encoder.categorical)
        return self

    def predict(self, frame: pd.DataFrame, share: float = 1.0) -> np.ndarray:
        """Return the expected normalised scores, float [rows].

        Args:
            frame: as in :class:`Learner`.
            share: of the seen strategies among which neighbours are looked for.
        """
        known = self.means.reindex(frame["strategy"].astype(str)).to_numpy(dtype=float, copy=True)
        new = np.flatnonzero(np.isnan(known))
        if len(new):
            known[new] = self._of_neighbours(frame.iloc[new], share)
        return known

    def _of_neighbours(self, frame: pd.DataFrame, share: float) -> np.ndarray:
        expected = np.full(len(frame), self.overall)
        if self.near is None:
            return expected
        values = self.means.to_numpy(dtype=float)
        asked, seen = self.near.ask(self.encoder.transform(frame)), _places(self.models)
        for model, rows in _places(models_of(frame, self.model)).items():
            same = seen.get(model, np.arange(len(values)))
            every = max(1, min(round(1 / share), len(same) // _LEAST_SEEN))
            same = same[::every]
            count = min(max(1, round(NEIGHBOURS / every)), len(same))
            step = max(1, _PAIRS // len(same))
            for begin in range(0, len(rows), step):
                part = rows[begin : begin + step]
                distances = self.near.distances(asked, part, same)
                nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
                expected[part] = values[same][nearest].mean(axis=1)
        return expected
