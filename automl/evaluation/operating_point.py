"""Operating points: one number per class that is added to its log-probability before the label is taken.

For two classes this is a threshold. Points are chosen on validation or out-of-fold scores only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automl.evaluation import metrics
from automl.task import Constraint, Objective

_SWEEPS = 3
_MOST_STEPS = 400


@dataclass(frozen=True)
class OperatingPoint:
    """A choice of biases.

    Attributes:
        bias: added to log-probabilities, float64 ``[C]``.
        objective: value of the objective on the scores it was chosen on.
        satisfied: whether all quality constraints hold there.
        violations: constraint → how far it is missed, at most 0 where it holds.
        note: what was done, one sentence.
    """

    bias: np.ndarray
    objective: float
    satisfied: bool
    violations: dict[str, float] = field(default_factory=dict)
    note: str = ""


def apply(probabilities: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Labels int64 ``[n]`` at an operating point."""
    return np.asarray((_logs(probabilities) + bias).argmax(axis=1), dtype=np.int64)


def choose(
    probabilities: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    objective: Objective,
    constraints: Sequence[Constraint],
) -> OperatingPoint:
    """Choose biases that meet the quality constraints and then maximise the objective.

    Biases stay zero unless a constraint is missed there, or the objective is the recall or precision of one
    class. The bias of each class concerned is swept over all values at which a label changes, each placed midway
    between two images' scores, so that neither lies on the edge; several classes are swept in turn. Recall and
    precision of one class trade off without end, so a bare objective of that kind is taken together with the
    class's F1 score: the sum of both is maximised.

    Args:
        probabilities: ``[n, C]``.
        labels: ``[n]``.
        class_names: of the classes.
        objective: what is maximised.
        constraints: quality constraints; cost constraints are ignored.
    """
    classes = len(class_names)
    quality = [c for c in constraints if not c.is_cost]
    zero = np.zeros(classes)
    if len(labels) == 0 or classes < 2:
        return OperatingPoint(zero, math.nan, not quality, {c.expression: math.inf for c in quality}, "no scores")
    logs = _logs(probabilities)

    def values(bias: np.ndarray) -> tuple[tuple[float, float, float], float, dict[str, float]]:
        predicted = (logs + bias).argmax(1)
        missed = {
            c.expression: c.violation(
                _defined(metrics.compute(c.name, c.class_name, labels, probabilities, predicted, class_names))
            )
            for c in quality
        }
        goal = metrics.compute(objective.name, objective.class_name, labels, probabilities, predicted, class_names)
        goal = _defined(goal)
        rank = goal
        if objective.name in ("recall", "precision") and not quality:
            rank = 0.5 * goal + 0.5 * _f1(labels, predicted, list(class_names).index(objective.class_name or ""))
        gap = sum(max(0.0, v) for v in missed.values())
        return (-gap, rank, -float(np.abs(bias).sum())), goal, missed

    best, goal, missed = values(zero)
    single = objective.name in ("recall", "precision")
    if best[0] == 0.0 and not (single or any(c.class_name for c in quality)):
        return OperatingPoint(zero, goal, True, missed, "the most probable class is the label")
    concerned = {c.class_name for c in quality if c.name in ("recall", "precision")}
    if single:
        concerned.add(objective.class_name)
    positions = [i for i, name in enumerate(class_names) if name in concerned] or list(range(classes))
    bias = zero
    for _ in range(_SWEEPS if len(positions) > 1 else 1):
        before = best
        for position in positions:
            for step in _steps(logs, bias, position):
                trial = bias.copy()
                trial[position] = step
                rank, value, gaps = values(trial)
                if rank > best:
                    best, goal, missed, bias = rank, value, gaps, trial
        if best == before:
            break
    bias = _with_margin(bias, positions, values, quality)
    best, goal, missed = values(bias)
    note = "the label's threshold was moved to meet the limits" if np.any(bias) else "the most probable class is the label"
    return OperatingPoint(bias, goal, best[0] == 0.0, missed, note)


def _with_margin(bias: np.ndarray, positions: list[int], values: Any, quality: Sequence[Constraint]) -> np.ndarray:
    """Move each bias a little further to the safe side of a recall limit as long as nothing gets worse."""
    recalls = {c.class_name for c in quality if c.name == "recall"}
    if not recalls:
        return bias
    best = values(bias)[0]
    for position in positions:
        for extra in (0.5, 0.25, 0.1):
            trial = bias.copy()
            trial[position] += extra
            if values(trial)[0][:2] >= best[:2]:
                bias = trial
                break
    return bias


def _steps(logs: np.ndarray, bias: np.ndarray, position: int) -> np.ndarray:
    """Biases of one class between which the labels differ, midway between images."""
    others = logs + bias
    own = logs[:, position]
    others[:, position] = -np.inf
    edges = np.unique(others.max(axis=1) - own)
    if len(edges) > _MOST_STEPS:
        edges = np.quantile(edges, np.linspace(0, 1, _MOST_STEPS))
    middle = (edges[1:] + edges[:-1]) / 2
    return np.concatenate([[edges[0] - 0.5], middle, [edges[-1] + 0.5]])


def _f1(labels: np.ndarray, predicted: np.ndarray, position: int) -> float:
    hits = int(((labels == position) & (predicted == position)).sum())
    whole = int((labels == position).sum() + (predicted == position).sum())
    return 2 * hits / whole if whole else 0.0


def _defined(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1.0))
