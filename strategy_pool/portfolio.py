"""In which order to try candidates: the one that is expected to gain most per second comes next.

A prediction says what values the candidates had that were predicted as high on past tasks (:class:`Spread`). From
draws of these values a greedy order is made: each next candidate has the highest expected improvement over the best of
those before it, per second that it takes (Streeter & Golovin 2008, *An Online Algorithm for Maximizing Submodular
Functions*, section 2). Twins of what comes earlier improve little, so the head is diverse by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

#: Joint draws of all values.
DRAWS = 128
#: Candidates that are placed by their gain.
FIRST = 100
#: Candidates whose gain is computed anew at a time; of the others an upper bound is known.
_LOOK = 64
#: Levels of prediction that are told apart, and quantiles of the values that are kept of each.
_LEVELS, _QUANTILES = 20, 33
#: Largest correlation between candidates of one model.
_MOST_SHARED = 0.9


@dataclass(frozen=True)
class Spread:
    """Which values candidates had, by how high they were predicted.

    Attributes:
        at: middle of each level of prediction, float [levels], ascending.
        quantiles: of the values at each level, float [levels, quantiles], ascending.
        shared: correlation of what predictions miss between candidates of one model on one task, 0 to 0.9.
    """

    at: np.ndarray
    quantiles: np.ndarray
    shared: float

    @classmethod
    def fit(cls, predicted: np.ndarray, values: np.ndarray, models: np.ndarray) -> Spread:
        """Learn from candidates of past tasks that the prediction had not seen.

        Args:
            predicted: float [n].
            values: normalised scores, float [n].
            models: number of the model and task together, int [n].
        """
        order = np.argsort(predicted, kind="stable")
        parts = np.array_split(order, min(_LEVELS, max(1, len(order) // 10)))
        share = np.linspace(0.0, 1.0, _QUANTILES)
        at = np.array([np.median(predicted[part]) for part in parts])
        quantiles = np.stack([np.quantile(values[part], share) for part in parts])
        missed = np.empty(len(order))
        for part in parts:
            place = np.empty(len(part))
            place[np.lexsort((part, values[part]))] = np.arange(len(part))
            missed[part] = ndtri((place + 0.5) / len(part))
        return cls(at, quantiles, _shared(missed, models))

    def draw(
        self, predicted: np.ndarray, models: np.ndarray, generator: np.random.Generator, count: int = DRAWS
    ) -> np.ndarray:
        """Joint draws of the values of a task's candidates, float32 [n, count].

        Args:
            predicted: float [n].
            models: number of each candidate's model, int [n].
            generator: of the draws.
            count: how many.
        """
        shape = (len(predicted), count)
        common = generator.standard_normal((int(models.max(initial=0)) + 1, count), np.float32)
        own = generator.standard_normal(shape, np.float32)
        place = ndtr(np.sqrt(self.shared) * common[models] + np.sqrt(1.0 - self.shared) * own)
        level = np.interp(predicted, self.at, np.arange(len(self.at)))
        below = np.floor(level).astype(int)
        above = np.minimum(below + 1, len(self.at) - 1)
        part = (level - below).astype(np.float32)[:, None]
        step = place * (_QUANTILES - 1)
        left = np.minimum(step.astype(int), _QUANTILES - 2)
        share = (step - left).astype(np.float32)
        table = self.quantiles.astype(np.float32)

        def value(rows: np.ndarray) -> np.ndarray:
            low, high = table[rows[:, None], left], table[rows[:, None], left + 1]
            drawn: np.ndarray = low + share * (high - low)
            return drawn

        drawn: np.ndarray = (1 - part) * value(below) + part * value(above)
        return drawn

    def outlook(self, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Mean (``expected``) and middle 95 % (``low``, ``high``) of the values, each float [n].

        Args:
            predicted: float [n].
        """
        share = np.linspace(0.0, 1.0, _QUANTILES)
        edges = np.stack([np.interp((0.025, 0.975), share, row) for row in self.quantiles])
        columns = {"expected": self.quantiles.mean(axis=1), "low": edges[:, 0], "high": edges[:, 1]}
        return {name: np.interp(predicted, self.at, values) for name, values in columns.items()}


def _shared(missed: np.ndarray, groups: np.ndarray) -> float:
    """Intraclass correlation of what was missed, over pairs within groups."""
    _, number, count = np.unique(groups, return_inverse=True, return_counts=True)
    total = np.bincount(number, missed)
    squares = np.bincount(number, missed**2)
    pairs = float((count * (count - 1)).sum())
    if not pairs:
        return 0.0
    return float(
        np.clip((total**2 - squares).sum() / pairs / max(float(np.mean(missed**2)), 1e-9), 0.0, _MOST_SHARED)
    )


def greedy(draws: np.ndarray, seconds: np.ndarray | None, first: int = FIRST) -> np.ndarray:
    """Place the first candidates by expected gain per second, given those before.

    Args:
        draws: joint draws of the values, float [n, draws].
        seconds: what each candidate takes, float [n]; None where all take the same.
        first: candidates that are placed; fewer where nothing more is gained.

    Returns:
        positions, int [at most first].
    """
    cost = np.ones(len(draws)) if seconds is None else np.maximum(seconds, 1e-9)
    bound = np.maximum(draws, 0.0).mean(axis=1) / cost  # gains only fall: an old one is an upper bound
    best = np.zeros(draws.shape[1], dtype=draws.dtype)
    chosen: list[int] = []
    while len(chosen) < min(first, len(draws)):
        looked = np.argpartition(-bound, min(_LOOK, len(bound) - 1))[:_LOOK]
        fresh = np.maximum(draws[looked] - best, 0.0).mean(axis=1) / cost[looked]
        open_ = np.isfinite(bound[looked])
        bound[looked] = np.where(open_, fresh, -np.inf)
        top = int(looked[np.argmax(bound[looked])])
        if bound[top] <= 0.0:
            break
        if bound[top] < bound.max():
            continue
        chosen.append(top)
        bound[top] = -np.inf
        best = np.maximum(best, draws[top])
    return np.array(chosen, dtype=int)
