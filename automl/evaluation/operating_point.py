"""Operating points: one number per class that is added to its log-probability before the label is taken.

For two classes this is a threshold. Points are chosen on validation or out-of-fold scores only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from automl.evaluation import metrics
from automl.evaluation._adjust import adjusted, clearly_better
from automl.evaluation._sweep import Steps, Wanted, sweep
from automl.task import Constraint, Objective

_ROUNDS = 4
_PRESSURES = (1.0, 4.0, 16.0)
_RESTARTS = 24
_MOST_RESTARTED = 4
_MANY = 12
_EQUAL = 1e-9
_THRESHOLDED = ("recall", "precision")
_ORDERED = ("auroc", "average_precision")


@dataclass(frozen=True)
class OperatingPoint:
    """A choice of biases.

    Attributes:
        bias: added to log-probabilities, float64 ``[C]``.
        objective: value of the objective on the scores it was chosen on; NaN without images.
        satisfied: whether all quality constraints hold there.
        violations: constraint → how far it is missed, at most 0 where it holds; always finite: a metric that is
            undefined there counts as 0.
        note: what was done, one sentence.
    """

    bias: np.ndarray
    objective: float
    satisfied: bool
    violations: dict[str, float] = field(default_factory=dict)
    note: str = ""


def apply(probabilities: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Labels int64 ``[n]`` of probabilities ``[n, C]`` at an operating point."""
    return np.asarray((_logs(probabilities) + bias).argmax(axis=1), dtype=np.int64)


def choose(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    objective: Objective,
    constraints: Sequence[Constraint],
) -> OperatingPoint:
    """Choose biases that meet the quality constraints and then maximise the objective.

    The bias of each class that a recall or precision is asked of is swept over all thresholds at which a label
    changes; each is placed midway between the two images it separates. One such class is solved exactly, several by
    coordinate ascent from more than one start. Where several thresholds do equally well, one that would keep the
    limits with one hit fewer is preferred, then the smallest bias.

    Where the goal is an average (accuracy, balanced accuracy, macro F1) and the most probable class keeps the limits,
    biases stay zero unless moving them gains more than one standard error on images they were not chosen on.

    A recall and the precision of the same class trade off without end. An objective ``precision[c]`` without a limit
    on ``recall[c]`` therefore keeps at least the recall of the most probable class, and the other way round; where
    class ``c`` is not found at all that way, the recall (precision) of the threshold with the best F1 score is kept.
    Limits given by the user come before this.

    Args:
        probabilities: ``[n, C]``.
        labels: ``[n]``.
        class_names: of the ``C`` classes.
        objective: what is maximised.
        constraints: quality constraints; cost constraints are ignored.
    """
    quality = [c for c in constraints if not c.is_cost]
    classes = len(class_names)
    if len(labels) == 0:
        missed = {c.expression: c.violation(0.0) for c in quality}
        return OperatingPoint(
            np.zeros(classes), math.nan, not quality, missed, "there are no scores to choose on"
        )
    problem = _Problem(probabilities, np.asarray(labels, dtype=np.int64), class_names, objective, quality)
    zero = np.zeros(classes)
    start = problem.rank(zero)
    bias, note = zero, "the most probable class is the label"
    if classes > 1 and problem.movable:
        averaged = objective.name not in (*_THRESHOLDED, *_ORDERED)
        if start[0] == 0.0 and averaged and not problem.positions:
            found = adjusted(problem.logs, problem.labels, objective.name)
            if found is not None and problem.rank(found) > start:
                bias, note = found, f"biases moved for {objective.expression}, a clear gain on unseen images"
        elif start[0] < 0.0 or problem.positions:
            found = problem.search()
            rank = problem.rank(found)
            wanted = rank > start
            if wanted and start[0] == 0.0 and averaged and rank[3] <= start[3]:
                before, after = problem.predicted(zero), problem.predicted(found)
                wanted = clearly_better(objective.name, problem.labels, before, after, classes)
            if wanted:
                bias, note = found, problem.told(rank[0] == 0.0)
    goal, missed = problem.outcome(bias)
    satisfied = all(value <= 0 for value in missed.values()) and problem.defined()
    if not satisfied:
        note = "no threshold keeps all limits on the validation scores; this one is closest to them"
    return OperatingPoint(bias, goal, satisfied, missed, note)


class _Problem:
    """Scores, limits and objective of one choice."""

    def __init__(
        self,
        probabilities: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        objective: Objective,
        quality: Sequence[Constraint],
    ) -> None:
        self.probabilities, self.labels, self.names = probabilities, labels, list(class_names)
        self.logs = _logs(probabilities)
        self.objective, self.quality = objective, list(quality)
        self.present = np.bincount(labels, minlength=len(self.names)) > 0
        # Metrics that no threshold changes: of the order of scores, or of a class without images.
        self.limits = [(c, self._wanted(c)) for c in quality if self._moves(c)]
        self.goal = self._wanted(objective) if self._moves(objective) else None
        self.movable = bool(self.limits) or self.goal is not None
        asked = [w for _, w in self.limits] + ([self.goal] if self.goal else [])
        concerned = sorted({position for name, position in asked if name in _THRESHOLDED})
        if len(self.names) == 2:  # one threshold: both biases say the same
            first = next((position for name, position in reversed(asked) if name in _THRESHOLDED), None)
            concerned = [] if first is None else [first]
        self.positions = concerned
        self.floor = self._floor()

    def _wanted(self, metric: Constraint | Objective) -> Wanted:
        return metric.name, -1 if metric.class_name is None else self.names.index(metric.class_name)

    def _moves(self, metric: Constraint | Objective) -> bool:
        if metric.name in _ORDERED:
            return False
        return metric.class_name is None or bool(self.present[self.names.index(metric.class_name)])

    def _floor(self) -> tuple[Wanted, float] | None:
        """What is kept of the metric that the objective trades against, where no limit says so."""
        if self.goal is None or self.goal[0] not in _THRESHOLDED:
            return None
        other: Wanted = ("precision" if self.goal[0] == "recall" else "recall", self.goal[1])
        if any(wanted == other for _, wanted in self.limits) or len(self.names) < 2:
            return None
        predicted, position = self.logs.argmax(1), self.goal[1]
        if not ((predicted == position) & (self.labels == position)).any():
            both = [("recall", position), ("precision", position)]
            steps = sweep(self.logs, self.labels, np.zeros(len(self.names)), position, both)
            recall, precision = steps.values["recall", position], steps.values["precision", position]
            f1 = 2 * recall * precision / np.maximum(recall + precision, 1e-12)
            return other, float(steps.values[other][int(f1.argmax())])
        return other, self._value(other, predicted)

    def _value(self, wanted: Wanted, predicted: np.ndarray) -> float:
        name = None if wanted[1] < 0 else self.names[wanted[1]]
        return _defined(
            metrics.compute(wanted[0], name, self.labels, self.probabilities, predicted, self.names)
        )

    def predicted(self, bias: np.ndarray) -> np.ndarray:
        """Labels at these biases."""
        return np.asarray((self.logs + bias).argmax(1))

    def outcome(self, bias: np.ndarray) -> tuple[float, dict[str, float]]:
        """The objective and how far each constraint is missed."""
        predicted = self.predicted(bias)
        missed = {c.expression: c.violation(self._value(self._wanted(c), predicted)) for c in self.quality}
        return self._value(self._wanted(self.objective), predicted), missed

    def defined(self) -> bool:
        """Whether each constraint's metric exists on these images."""
        return all(c.class_name is None or self.present[self.names.index(c.class_name)] for c in self.quality)

    def rank(self, bias: np.ndarray) -> tuple[float, float, float, int, float]:
        """Minus violation, minus shortfall of the floor, objective, limits with an image to spare, minus size."""
        predicted = self.predicted(bias)
        missed = sum(max(0.0, c.violation(self._value(w, predicted))) for c, w in self.limits)
        short = max(0.0, self.floor[1] - self._value(self.floor[0], predicted)) if self.floor else 0.0
        goal = self._value(self.goal, predicted) if self.goal else 0.0
        spare = sum(self._spares(c, w, predicted) for c, w in self.limits)
        size = float(np.abs(bias).sum())
        return -_rounded(missed), -_rounded(short), _rounded(goal), spare, -_rounded(size)

    def _spares(self, constraint: Constraint, wanted: Wanted, predicted: np.ndarray) -> bool:
        if wanted[0] not in _THRESHOLDED:
            return False
        mine = self.labels == wanted[1] if wanted[0] == "recall" else predicted == wanted[1]
        hits = int(((self.labels == wanted[1]) & (predicted == wanted[1])).sum())
        return constraint.satisfied((hits - 1) / max(int(mine.sum()), 1))

    # --- search -------------------------------------------------------------------------------------

    def search(self) -> np.ndarray:
        """Biases of the best rank that is found."""
        classes = len(self.names)
        positions = self.positions or list(range(classes if classes > 2 else 1))
        zero = np.zeros(classes)
        found = self._step(zero, positions[0], self.limits)  # exact where one class is all that may move
        if len(positions) > 1:
            many = len(positions) > _MANY
            starts = [zero] if many else [found, zero, self._each_alone(positions)]
            found = max((self._ascend(start, positions) for start in starts), key=self.rank)
        if self.rank(found)[0] < 0.0 and classes > 2 and len(positions) < classes:
            # A limit that needs the other classes too: rare, and with many classes a single pass.
            everything = [*positions, *(p for p in range(classes) if p not in positions)]
            found = max((self._ascend(start, everything) for start in (found, zero)), key=self.rank)
        if self.rank(found)[0] < 0.0 and 1 < len(positions) <= _MOST_RESTARTED:
            found = self._restart(found, positions)
        return found

    def _each_alone(self, positions: Sequence[int]) -> np.ndarray:
        """Each class moved for its own limits only; a start at which no limit has been bought with another class."""
        bias = np.zeros(len(self.names))
        for _ in range(2):
            for position in positions:
                own = [(c, w) for c, w in self.limits if w[1] == position]
                if own:
                    bias = self._step(bias, position, own)
        return bias

    def _ascend(self, bias: np.ndarray, positions: Sequence[int]) -> np.ndarray:
        """Coordinate ascent: limits first as a growing penalty, so that the path is smooth, then as limits.

        With many classes it is one pass, whose time grows with their number already.
        """
        start, many = bias, len(positions) > _MANY
        for pressure in () if many else _PRESSURES:
            for position in positions:
                bias = self._step(bias, position, self.limits, pressure)
        bias = max((start, bias), key=self.rank)
        best = self.rank(bias)
        for _ in range(1 if many else _ROUNDS):
            before = best
            for position in positions:
                trial = self._step(bias, position, self.limits)
                rank = self.rank(trial)
                if rank > best:
                    bias, best = trial, rank
            if best == before:
                break
        return bias

    def _restart(self, best: np.ndarray, positions: Sequence[int]) -> np.ndarray:
        """From a grid over the bias of one class, where no ascent kept the limits."""
        for position in positions:
            grid = sweep(self.logs, self.labels, np.zeros(len(self.names)), position, []).biases
            for value in np.unique(np.quantile(grid, np.linspace(0, 1, _RESTARTS), method="nearest")):
                bias = np.zeros(len(self.names))
                bias[position] = value
                for other in positions:
                    if other != position:
                        bias = self._step(bias, other, self.limits)
                if self.rank(bias) > self.rank(best):
                    best = bias
        return best

    def _step(
        self,
        bias: np.ndarray,
        position: int,
        limits: Sequence[tuple[Constraint, Wanted]],
        pressure: float | None = None,
    ) -> np.ndarray:
        """Biases with the best threshold of one class; with ``pressure``, limits weigh that much of the objective."""
        wanted = {w for _, w in limits}
        wanted |= {self.goal} if self.goal else set()
        wanted |= {self.floor[0]} if self.floor else set()
        steps = sweep(self.logs, self.labels, bias, position, sorted(wanted))
        moved = bias.copy()
        moved[position] = steps.biases[self._best_step(steps, limits, pressure)]
        return moved

    def _best_step(
        self, steps: Steps, limits: Sequence[tuple[Constraint, Wanted]], pressure: float | None
    ) -> int:
        zeros = np.zeros(len(steps.biases))
        missed, spare = zeros.copy(), zeros.copy()
        for constraint, wanted in limits:
            missed += np.maximum(_violation(constraint, steps.values[wanted]), 0)
            if wanted in steps.spare:
                spare += _violation(constraint, steps.spare[wanted]) <= 0
        short = np.maximum(self.floor[1] - steps.values[self.floor[0]], 0) if self.floor else zeros
        goal = steps.values[self.goal] if self.goal else zeros
        if pressure is not None:
            keys = [goal - pressure * (missed + short), -np.abs(steps.biases)]
        else:
            keys = [-missed, -short, goal, spare, -np.abs(steps.biases)]
        left = np.arange(len(steps.biases))
        for key in keys:
            left = left[key[left] >= key[left].max() - _EQUAL]
        return int(left[0])

    def told(self, kept: bool) -> str:
        """What was done, one sentence."""
        moved = ", ".join(self.names[p] for p in self.positions) or "several classes"
        if self.floor is not None:
            other = f"{self.floor[0][0]}[{self.names[self.floor[0][1]]}]"
            return f"the threshold of {moved} was moved; {other} was kept at {self.floor[1]:.3f} or above"
        reason = "to keep the limits" if self.limits else f"for {self.objective.expression}"
        return f"the threshold of {moved} was moved {reason}"


def _violation(constraint: Constraint, values: np.ndarray) -> np.ndarray:
    """:meth:`Constraint.violation` of many values."""
    gap = values - constraint.limit if constraint.op == "<=" else constraint.limit - values
    return np.asarray(gap / max(abs(constraint.limit), 1e-9))


def _defined(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _rounded(value: float) -> float:
    return round(value, 9) + 0.0


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1.0))
