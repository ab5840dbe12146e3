"""Rankers without learning: random order, and the history average, which is the floor of every other one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd

from strategy_pool._encoding import Encoder, Neighbours
from strategy_pool.trial_table import TrialTable

#: A strategy that was never seen takes the mean of so many of its nearest.
NEIGHBOURS = 10
#: Columns within whose values neighbours are looked for.
_MODEL_COLUMNS = ("strategy.backbone", "strategy.model")


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
        self._model = next((name for name in _MODEL_COLUMNS if name in columns), None)
        described = frame.drop_duplicates("strategy").sort_values("strategy")
        self._encoder = Encoder().fit(described, columns)
        self._values = self.means.to_numpy(dtype=float)
        self._models = self._models_of(described)
        self._near: Neighbours | None = None
        if self._encoder.columns:
            self._near = Neighbours(self._encoder.transform(described), self._encoder.categorical)
        return self

    def _models_of(self, frame: pd.DataFrame) -> np.ndarray:
        if self._model is None or self._model not in frame.columns:
            return np.full(len(frame), "", dtype=object)
        values = frame[self._model]
        return values.astype(str).where(values.notna(), "").to_numpy(dtype=object)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the expected normalised scores, float [rows]."""
        known = self.means.reindex(frame["strategy"].astype(str)).to_numpy(dtype=float, copy=True)
        new = np.flatnonzero(np.isnan(known))
        if len(new):
            known[new] = self._of_neighbours(frame.iloc[new])
        return known

    def _of_neighbours(self, frame: pd.DataFrame) -> np.ndarray:
        expected = np.full(len(frame), self.overall)
        if self._near is None:
            return expected
        encoded, models = self._encoder.transform(frame), self._models_of(frame)
        for model in np.unique(models.astype(str)):
            rows = np.flatnonzero(models == model)
            same = np.flatnonzero(self._models == model)
            same = same if len(same) else np.arange(len(self._values))
            distances = self._near.distances(encoded[rows], same)
            count = min(NEIGHBOURS, len(same))
            nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
            expected[rows] = self._values[same][nearest].mean(axis=1)
        return expected
