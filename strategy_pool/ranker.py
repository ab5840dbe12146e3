"""The ranker: the history average and what LightGBM learns beyond it, mixed as past tasks say."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from strategy_pool._encoding import Encoder
from strategy_pool.baselines import HistoryAverage, Learner, model_column, models_of
from strategy_pool.learners import Failure, LambdaRank, Regression, Trees
from strategy_pool.left_out import predictions
from strategy_pool.portfolio import Spread, greedy
from strategy_pool.ranking_metrics import ndcg, order_of, tau
from strategy_pool.trial_table import TrialTable

#: Members of the mixture; the first one is the floor.
FLOOR = "history_average"
MEMBERS: Mapping[str, Callable[[], Learner]] = {
    FLOOR: HistoryAverage,
    "lambdarank": lambda: LambdaRank(trees=500),
    "regression": lambda: Regression(trees=300, bags=2),
}
#: With fewer groups of past tasks than this there is nothing to validate a learned member on.
LEAST_TASKS = 3
#: Groups of past tasks are left out in so many parts to find the shares of the members.
INNER_FOLDS = 5
#: Shares are multiples of one in so many.
_STEPS = 4
#: Quantiles of the t distribution of the paired difference beyond which a mixture has to beat the floor: surely in
#: NDCG@10, which is what counts; or, as it differs much between few tasks, likely in it, and surely in Kendall's tau,
#: which is of all candidates and steadier. As the best of many mixtures is tested, surely is far out.
_LIKELY, _SURE = 0.8, 0.99
#: A few differences may agree by chance: their variance is held to be that of a deviation of so much, as if so many more
#: of them had shown it.
_USUAL, _WORTH = 0.1, 4
#: Tasks with more trials are learned from a sample of them.
MOST_TRIALS = 10_000
#: What is learned by trees is learned from about so many rows, and from at least so many of each task; where tasks are
#: too many for that, some are drawn.
MOST_ROWS, LEAST_ROWS = 15_000, 50
#: Candidates whose values are drawn: the best expected ones, and the best expected ones per second.
_DRAWN = 250
#: Of more candidates than this a share of the trees is asked first; and how many are looked at closely then.
_LARGE, _ROUGH, _LOOKED = 3000, 0.05, 250
#: What a standard deviation of the prediction is worth between candidates that expect the same.
_TIE = 1e-3
#: Failed trials from which it is learned which ones fail, and the probability from which a candidate comes last.
LEAST_FAILED, _RISKY = 20, 0.5


@dataclass(frozen=True)
class View:
    """What is expected of the candidates of one task, each of [n].

    Attributes:
        predicted: higher is better.
        outlook: normalised scores to expect, ``expected`` and the middle 95 % from ``low`` to ``high``; None where
            there were too few past tasks to say.
        worth: the expected scores with what is known besides, −∞ for those that are likely to fail; None without
            an outlook.
        seconds: that they are expected to take, at most what a trial may; None where past trials do not say.
        failing: probability that each fails; None where too few past trials failed to say.
    """

    predicted: np.ndarray
    outlook: dict[str, np.ndarray] | None
    worth: np.ndarray | None
    seconds: np.ndarray | None
    failing: np.ndarray | None

    def with_rows(self, rows: np.ndarray, other: View) -> View:
        """This view, with what another says of some of the candidates."""

        def put(old: np.ndarray | None, new: np.ndarray | None) -> np.ndarray | None:
            if old is None or new is None:
                return None
            changed = old.copy()
            changed[rows] = new
            return changed

        predicted = self.predicted.copy()
        predicted[rows] = other.predicted
        outlook = None
        if self.outlook is not None and other.outlook is not None:
            outlook = {name: values.copy() for name, values in self.outlook.items()}
            for name, values in outlook.items():
                values[rows] = other.outlook[name]
        return View(
            predicted,
            outlook,
            put(self.worth, other.worth),
            put(self.seconds, other.seconds),
            put(self.failing, other.failing),
        )


@dataclass
class Ranker:
    """Predicts by a weighted sum of its members' predictions, each standardised within the task.

    The shares are those with the highest mean NDCG@10 on past tasks that the members had not seen. Where no mixture beats
    the history average there by more than the noise, or where there are no features or too few past tasks, the ranker
    is the history average.

    The order in which candidates are tried comes from the same predictions and from what trials took, see
    :mod:`strategy_pool.portfolio`.

    Attributes:
        members: name → what makes an unfitted one.
        shares: name → weight, of those that are used; adds up to 1.
        gain: mean gain of NDCG@10 over the floor on left-out past tasks, and its standard error.
        fitted: the members that are used.
        spread: which values candidates had that were predicted as high; None with too few past tasks.
        pace: predicts the logarithm of the seconds; None where it is not known how long trials took.
        risk: predicts the probability of failing; None where too few trials failed to learn it.
        model: the column that names a candidate's model, if there is one.
    """

    members: Mapping[str, Callable[[], Learner]] = field(default_factory=lambda: MEMBERS)
    shares: dict[str, float] = field(default_factory=lambda: {FLOOR: 1.0})
    gain: tuple[float, float] = (0.0, 0.0)
    fitted: dict[str, Learner] = field(default_factory=dict, init=False, repr=False)
    spread: Spread | None = field(default=None, init=False, repr=False)
    pace: Learner | None = field(default=None, init=False, repr=False)
    risk: Learner | None = field(default=None, init=False, repr=False)
    model: str | None = field(default=None, init=False, repr=False)

    def fit(self, table: TrialTable, seed: int) -> Ranker:
        """Learn from the trials of past tasks."""
        told = table.told().subsampled(MOST_TRIALS, seed)
        drawn = told.drawn(MOST_ROWS // LEAST_ROWS, seed)
        sample = drawn.subsampled(max(LEAST_ROWS, MOST_ROWS // max(1, len(drawn.tasks))), seed)
        self.shares, self.gain = {FLOOR: 1.0}, (0.0, 0.0)
        self.spread = None
        self.pace, self.risk = None, None
        self.model = model_column(told.features)
        if len(set(sample.groups().values())) >= LEAST_TASKS:
            left_out = self._left_out(told, sample, seed)
            if told.features:
                self.shares, self.gain = choose_shares(
                    [(left.predicted, left.values) for left in left_out],
                    seed,
                    [left.group for left in left_out],
                )
            self.spread = self._spread_of(left_out)
        if (told.frame["seconds"] > 0).mean() > 0.5:
            self.pace = learn_pace(sample, seed)
        failed = int(sample.frame["failed"].sum())
        if sample.features and LEAST_FAILED <= failed < len(sample.frame):
            self.risk = Failure(trees=100).fit(sample, seed)
        self.fitted = {
            name: self.members[name]().fit(told if name == FLOOR else sample, seed) for name in self.shares
        }
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float [rows], higher is better within a task."""
        return self._mixed(_Asked(frame))

    def view(
        self, frame: pd.DataFrame, *, shift: np.ndarray | None = None, most_seconds: float = math.inf
    ) -> View:
        """What is expected of the candidates of one task.

        Of a large pool a share of what was learned is asked about every candidate, and all of it about those that this
        puts ahead.

        Args:
            frame: as for :meth:`predict`.
            shift: what is known of this task besides, to add to the normalised scores, float [rows].
            most_seconds: that a trial may take.
        """
        asked = _Asked(frame)
        large = self.spread is not None and len(frame) > _LARGE
        rough = self._view(asked, shift, most_seconds, share=_ROUGH if large else 1.0)
        if not large or rough.worth is None:
            return rough
        ahead = _near(rough.worth, rough.seconds, _LOOKED)
        return rough.with_rows(
            ahead, self._view(asked, shift, most_seconds, rows=ahead, like=rough.predicted[ahead])
        )

    def order(
        self, frame: pd.DataFrame, generator: np.random.Generator, view: View | None = None
    ) -> np.ndarray:
        """In which order to try the candidates of one task; positions, int [rows].

        Args:
            frame: as for :meth:`predict`.
            generator: breaks ties, and makes the draws.
            view: what is expected of them, by default what :meth:`view` says of the frame alone.
        """
        view = view or self.view(frame)
        worth = view.worth
        if self.spread is None or worth is None:
            return order_of(view.predicted, generator)
        near = _near(worth, view.seconds, _DRAWN)
        models = np.unique(models_of(frame.iloc[near], self.model).astype(str), return_inverse=True)[1]
        draws = self.spread.draw(view.predicted[near], models, generator)
        # A few draws miss the mean by more than it differs between good candidates, and all that are predicted above
        # the highest level expect the same: so means are set right, and the prediction decides between equals.
        mean = worth[near] + _TIE * view.predicted[near]
        draws += (mean - draws.mean(axis=1)).astype(draws.dtype)[:, None]
        seconds = np.ones(len(near)) if view.seconds is None else view.seconds[near]
        head = near[greedy(draws, seconds)]
        rest = np.lexsort((generator.random(len(frame)), -view.predicted, -worth))
        return np.concatenate([head, rest[~np.isin(rest, head)]])

    def reasons(self, frame: pd.DataFrame, count: int = 3) -> list[str]:
        """Why the ranker expects what it does of each candidate, in a few words: the features that weigh most.

        Args:
            frame: as for :meth:`predict`; a few rows, as this takes longer.
            count: features that are named.
        """
        total = pd.DataFrame(0.0, index=frame.index, columns=[])
        for name, share in self.shares.items():
            member = self.fitted[name]
            if isinstance(member, Trees):
                total = total.add(share * member.contributions(frame), fill_value=0.0)
        average = self.fitted.get(FLOOR)
        known = average.means if isinstance(average, HistoryAverage) else pd.Series(dtype=float)
        found = []
        for at, strategy in zip(frame.index, frame["strategy"].astype(str), strict=True):
            weight = total.loc[at]
            named = weight.abs().sort_values(ascending=False, kind="stable").index[:count]
            parts = [
                f"{_short(frame.at[at, name])} as {name.split('.', 1)[1]} {weight[name]:+.2f}"
                for name in named
                if name in frame.columns
            ]
            if strategy in known.index:
                parts.insert(0, f"scored {known[strategy]:.2f} on past tasks")
            found.append(", ".join(parts) or "like its nearest that were tried")
        return found

    def _mixed(self, asked: _Asked, rows: np.ndarray | None = None, share: float = 1.0) -> np.ndarray:
        return mix({name: asked(of, rows, share) for name, of in self.fitted.items()}, self.shares)

    def _view(
        self,
        asked: _Asked,
        shift: np.ndarray | None,
        most_seconds: float,
        *,
        share: float = 1.0,
        rows: np.ndarray | None = None,
        like: np.ndarray | None = None,
    ) -> View:
        """What a share of the trees says of these rows; predictions get the mean and the deviation of ``like``.

        A few trees and all of them predict on scales of their own. A closer look at some candidates changes who is
        where among them, not where they are together.
        """
        predicted = self._mixed(asked, rows, share)
        if like is not None:
            predicted = like.mean() + like.std() * (predicted - predicted.mean()) / max(
                predicted.std(), 1e-12
            )
        seconds = None if self.pace is None else np.exp(asked(self.pace, rows, share))
        failing = None if self.risk is None else asked(self.risk, rows, share)
        outlook = worth = None
        if self.spread is not None:
            outlook = self.spread.outlook(predicted)
            worth = outlook["expected"]
            if shift is not None:
                worth = worth + (shift if rows is None else shift[rows])
            if failing is not None:
                worth = np.where(failing >= _RISKY, -np.inf, worth)
        return View(
            predicted,
            outlook,
            worth,
            None if seconds is None else np.minimum(seconds, most_seconds),
            failing,
        )

    def _left_out(self, told: TrialTable, sample: TrialTable, seed: int) -> list[_Past]:
        """What each member says of the past tasks, each group of them left out of what it learned from."""
        tasks, group = told.tasks, told.groups()
        groups = sorted(set(sample.groups().values()))
        shuffled = np.random.default_rng(seed).permutation(groups)
        members = self.members if told.features else {FLOOR: self.members[FLOOR]}

        def of_part(part: np.ndarray) -> list[_Past]:
            away = set(part.tolist())
            judged = [task for task in sample.tasks if group[task] in away]
            learned = [task for task in tasks if group[task] not in away]
            by_task: dict[str, _Past] = {}
            for name, make in members.items():
                fitted = make().fit((told if name == FLOOR else sample).of(learned), seed)
                for left in predictions(fitted, sample.of(judged)):
                    models = models_of(left.shown, self.model)
                    past = by_task.setdefault(left.task, _Past({}, left.values, models, group[left.task]))
                    past.predicted[name] = left.predicted
            return [by_task[task] for task in sorted(by_task)]

        parts = np.array_split(shuffled, min(INNER_FOLDS, len(groups)))
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:  # LightGBM lets go of the interpreter's lock
            return [past for found in threads.map(of_part, parts) for past in found]

    def _spread_of(self, left_out: Sequence[_Past]) -> Spread:
        predicted = [
            mix({name: past.predicted[name] for name in self.shares}, self.shares) for past in left_out
        ]
        together = [
            f"{number}/{model}" if model else f"{number}/{place}/"
            for number, past in enumerate(left_out)
            for place, model in enumerate(past.models)
        ]
        groups = np.unique(together, return_inverse=True)[1]
        return Spread.fit(np.concatenate(predicted), np.concatenate([p.values for p in left_out]), groups)


class _Asked:
    """Asks learners about candidates; features are encoded once for all learners that encode them in the same way."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame
        self._known: list[tuple[Encoder, np.ndarray]] = []

    def __call__(self, learner: Learner, rows: np.ndarray | None = None, share: float = 1.0) -> np.ndarray:
        """What it predicts, float [rows].

        Args:
            learner: to ask.
            rows: positions of candidates, int; None for all.
            share: of its trees, or of what it has seen.
        """
        if not isinstance(learner, Trees):
            frame = self.frame if rows is None else self.frame.iloc[rows]
            return (
                learner.predict(frame, share)
                if isinstance(learner, HistoryAverage)
                else learner.predict(frame)
            )
        encoded = self._encoded(learner.encoder)
        return learner.predict_encoded(encoded if rows is None else encoded[rows], share)

    def _encoded(self, encoder: Encoder) -> np.ndarray:
        for other, rows in self._known:
            if other == encoder:
                return rows
        self._known.append((encoder, encoder.transform(self.frame)))
        return self._known[-1][1]


def _near(expected: np.ndarray, seconds: np.ndarray | None, count: int) -> np.ndarray:
    """Positions of the candidates that may come first, ascending; those that are not to come first expect −∞.

    Args:
        expected: float [n].
        seconds: float [n]; None where all take the same.
        count: of those that expect most, and of those that expect most per second.
    """
    possible = np.flatnonzero(np.isfinite(expected))
    if len(possible) <= count:
        return possible
    paid = np.maximum(expected, 0.0) / (1.0 if seconds is None else np.maximum(seconds, 1e-9))
    kept = [np.argpartition(-worth[possible], count - 1)[:count] for worth in (expected, paid)]
    return possible[np.unique(np.concatenate(kept))]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class _Past:
    """A past task that was left out: predictions of each member, normalised scores, models, each of [n] candidates."""

    predicted: dict[str, np.ndarray]
    values: np.ndarray
    models: np.ndarray
    group: str


def learn_pace(table: TrialTable, seed: int) -> Learner:
    """Learn the logarithm of the seconds that trials took, from those of which it is known."""
    frame = table.frame[table.frame["seconds"] > 0]
    timed = TrialTable(frame.assign(value=np.log(frame["seconds"])).reset_index(drop=True))
    learner: Learner = Regression(trees=200) if timed.features else HistoryAverage()
    return learner.fit(timed, seed)


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
    left_out: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
    seed: int,
    groups: Sequence[str] | None = None,
) -> tuple[dict[str, float], tuple[float, float]]:
    """Find the weights with the highest mean NDCG@10; the floor alone, unless they are clearly better.

    Of few tasks NDCG@10 says little: a test of it alone that does not let chance through hides what helps, and Kendall's
    tau tells them apart.

    Args:
        left_out: per task the predictions of each member, float [n], and the normalised scores, float [n].
        seed: of the order of ties.
        groups: of each task; tasks of one group are one witness. By default each is its own.

    Returns:
        The weights that are not 0, and the gain in NDCG@10 over the floor with its moderated standard error.
    """
    names = list(left_out[0][0])
    floor = {FLOOR: 1.0}
    best, best_scores = floor, _scores(left_out, floor, seed, _head)
    of_floor = best_scores
    for parts in itertools.product(range(_STEPS + 1), repeat=len(names)):
        if sum(parts) != _STEPS:
            continue
        shares = {name: part / _STEPS for name, part in zip(names, parts, strict=True) if part}
        scores = _scores(left_out, shares, seed, _head)
        if scores.mean() > best_scores.mean():
            best, best_scores = shares, scores
    witnesses = list(groups) if groups is not None else list(range(len(left_out)))
    gain = _Gain.of(best_scores - of_floor, witnesses)
    if not gain.beyond(_LIKELY):
        return floor, (0.0, 0.0)
    if not gain.beyond(_SURE):
        in_tau = _scores(left_out, best, seed, tau) - _scores(left_out, floor, seed, tau)
        if not _Gain.of(in_tau, witnesses).beyond(_SURE):
            return floor, (0.0, 0.0)
    return best, (gain.mean, gain.error)


@dataclass(frozen=True)
class _Gain:
    """A mean over groups, its moderated standard error, and the degrees of freedom of that.

    The t statistic is moderated (Smyth 2004, *Linear models and empirical Bayes methods*, section 4): the variance of few
    differences is drawn to a usual one. Of a single group nothing is sure.
    """

    mean: float = 0.0
    error: float = 0.0
    freedom: int = 1

    @classmethod
    def of(cls, each: np.ndarray, groups: Sequence[Any]) -> _Gain:
        means = pd.Series(each).groupby(list(groups)).mean().to_numpy()
        if len(means) < 2:
            return cls()
        freedom = _WORTH + len(means) - 1
        variance = (_WORTH * _USUAL**2 + ((means - means.mean()) ** 2).sum()) / freedom
        return cls(float(means.mean()), float(np.sqrt(variance / len(means))), freedom)

    def beyond(self, quantile: float) -> bool:
        return self.mean > float(t.ppf(quantile, self.freedom)) * self.error


def _head(order: np.ndarray, values: np.ndarray) -> float:
    return ndcg(values[order], 10)


def _scores(
    left_out: Sequence[tuple[Mapping[str, np.ndarray], np.ndarray]],
    shares: Mapping[str, float],
    seed: int,
    judge: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.array(
        [judge(order_of(mix(predicted, shares), generator), values) for predicted, values in left_out]
    )
