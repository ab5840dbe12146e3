"""The ranker: the history average and what LightGBM learns beyond it, mixed as past tasks say."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from strategy_pool.baselines import HistoryAverage, Learner
from strategy_pool.learners import LambdaRank, Regression
from strategy_pool.left_out import predictions
from strategy_pool.ranking_metrics import ndcg, order_of
from strategy_pool.trial_table import TrialTable

#: Members of the mixture; the first one is the floor.
FLOOR = "history_average"
MEMBERS: Mapping[str, Callable[[], Learner]] = {
    FLOOR: HistoryAverage,
    "lambdarank": lambda: LambdaRank(trees=300),
    "regression": lambda: Regression(trees=300, bags=2),
}
#: With fewer past tasks than this there is nothing to validate a learned member on.
LEAST_TASKS = 3
#: Past tasks are left out in so many parts to find the shares of the members.
INNER_FOLDS = 5
#: Shares are multiples of one in so many.
_STEPS = 4
#: A mixture has to beat the floor by so many standard errors of the paired difference.
_STANDARD_ERRORS = 1.0
#: Tasks with more trials are learned from a sample of them.
MOST_TRIALS = 10_000


@dataclass
class Ranker:
    """Orders candidates by a weighted sum of its members' predictions, each standardised within the task.

    The shares are those with the highest mean NDCG@10 on past tasks that the members had not seen. Where no mixture beats
    the history average there by more than the noise, or where there are no features or too few past tasks, the ranker
    is the history average.

    Attributes:
        members: name → what makes an unfitted one.
        shares: name → weight, of those that are used; adds up to 1.
        gain: mean gain of NDCG@10 over the floor on left-out past tasks, and its standard error.
    """

    members: Mapping[str, Callable[[], Learner]] = field(default_factory=lambda: MEMBERS)
    shares: dict[str, float] = field(default_factory=lambda: {FLOOR: 1.0})
    gain: tuple[float, float] = (0.0, 0.0)

    def fit(self, table: TrialTable, seed: int) -> Ranker:
        """Learn from the trials of past tasks."""
        told = table.told().subsampled(MOST_TRIALS, seed)
        self.shares, self.gain = {FLOOR: 1.0}, (0.0, 0.0)
        if told.features and len(told.tasks) >= LEAST_TASKS:
            self.shares, self.gain = choose_shares(self._left_out(told, seed), seed)
        self._fitted = {name: self.members[name]().fit(told, seed) for name in self.shares}
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float [rows], higher is better within a task."""
        return mix({name: member.predict(frame) for name, member in self._fitted.items()}, self.shares)

    def _left_out(self, told: TrialTable, seed: int) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
        """Predictions of each member and the scores, for each past task that was left out of the fit."""
        tasks = told.tasks
        shuffled = np.random.default_rng(seed).permutation(tasks)
        found: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
        for part in np.array_split(shuffled, min(INNER_FOLDS, len(tasks))):
            left = set(part.tolist())
            past, judged = told.of(task for task in tasks if task not in left), told.of(left)
            by_task: dict[str, tuple[dict[str, np.ndarray], np.ndarray]] = {}
            for name, make in self.members.items():
                for task, predicted, values in predictions(make().fit(past, seed), judged):
                    by_task.setdefault(task, ({}, values))[0][name] = predicted
            found.extend(by_task[task] for task in sorted(by_task))
        return found


def mix(predicted: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> np.ndarray:
    """Weighted sum of standardised predictions of one task, float [n]; a member that cannot tell adds nothing."""
    total = np.zeros(len(next(iter(predicted.values()))))
    for name, share in shares.items():
        values = np.asarray(predicted[name], dtype=float)
        filled = np.where(np.isnan(values), np.nanmean(values) if not np.isnan(values).all() else 0.0, values)
        spread = filled.std()
        if spread > 1e-12:
            total += share * (filled - filled.mean()) / spread
    return total


def choose_shares(
    left_out: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]], seed: int
) -> tuple[dict[str, float], tuple[float, float]]:
    """Find the weights with the highest mean NDCG@10; the floor alone, unless they are clearly better.

    Args:
        left_out: per task the predictions of each member, float [n], and the normalised scores, float [n].
        seed: of the order of ties.

    Returns:
        The weights that are not 0, and the gain over the floor with its standard error.
    """
    names = list(left_out[0][0])
    best, best_scores = {FLOOR: 1.0}, _scores(left_out, {FLOOR: 1.0}, seed)
    floor = best_scores
    for parts in itertools.product(range(_STEPS + 1), repeat=len(names)):
        if sum(parts) != _STEPS:
            continue
        shares = {name: part / _STEPS for name, part in zip(names, parts, strict=True) if part}
        scores = _scores(left_out, shares, seed)
        if scores.mean() > best_scores.mean():
            best, best_scores = shares, scores
    difference = best_scores - floor
    gain, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
    if gain <= _STANDARD_ERRORS * error:
        return {FLOOR: 1.0}, (0.0, 0.0)
    return best, (gain, error)


def _scores(
    left_out: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]], shares: Mapping[str, float], seed: int
) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array(
        [ndcg(values[order_of(mix(predicted, shares), generator)], 10) for predicted, values in left_out]
    )
