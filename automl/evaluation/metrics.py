"""Classification metrics with 95 % intervals.

Shares of images (accuracy, recall, precision) get an exact binomial interval, at the effective number of images where
images come in groups; balanced accuracy and macro F1 the more cautious one of it and of a percentile bootstrap of whole
groups; AUROC and average precision an interval from influence functions. Sources stand in the two modules that compute them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl.evaluation import _intervals, _ranking
from automl.evaluation._intervals import binomial_interval

__all__ = ["DRAWS", "Metric", "binomial_interval", "compute", "evaluate_all", "interval"]

#: Bootstrap draws behind the intervals of balanced accuracy and macro F1.
DRAWS = 1000
_AVERAGES = ("accuracy", "balanced_accuracy", "macro_f1")
_OF_LABELS, _OF_ORDER = ("recall", "precision"), ("auroc", "average_precision")
_PER_CLASS = (*_OF_LABELS, *_OF_ORDER)


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % interval and how many images it rests on.

    Attributes:
        value: point estimate, NaN where it is undefined (no image of the class).
        low, high: two-sided 95 % interval; 0 and 1 where nothing is known.
        n: images; of the class for a recall, of those predicted so for a precision.
        best_low: lower bound that a flawless score on the same images would have had; None if not known.
    """

    value: float
    low: float
    high: float
    n: int
    best_low: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return ``value``, ``low``, ``high`` and ``n`` as plain numbers."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def compute(
    name: str,
    class_name: str | None,
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
) -> float:
    """Return one metric; NaN where it is undefined, that is without images, or without images of the class.

    Balanced accuracy averages over the classes among the labels, macro F1 over those among labels or predictions,
    both as scikit-learn does. A class that occurs but is never predicted has precision 0.

    Args:
        name: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``recall``, ``precision``, ``auroc`` or
            ``average_precision``.
        class_name: of the last four.
        labels, predicted: class indices ``[n]``.
        probabilities: ``[n, C]``.
        class_names: of the ``C`` classes.

    Raises:
        ValueError: an unknown metric or class.
    """
    if name not in _AVERAGES and name not in _PER_CLASS:
        raise ValueError(f"unknown metric {name!r}; known: {', '.join((*_AVERAGES, *_PER_CLASS))}")
    position = _position(name, class_name, class_names) if name in _PER_CLASS else -1
    if len(labels) == 0:
        return math.nan
    if name == "accuracy":
        return float(np.count_nonzero(labels == predicted) / len(labels))
    if name in _AVERAGES:
        hits, actual, chosen = _counts(labels, predicted, len(class_names))
        return float(average(name, hits, actual, chosen))
    positive = labels == position
    if name == "auroc":
        return _ranking.auroc(positive, probabilities[:, position])
    if name == "average_precision":
        return _ranking.average_precision(positive, probabilities[:, position])
    picked = predicted == position
    hit, occurs = int(np.count_nonzero(positive & picked)), int(np.count_nonzero(positive))
    if name == "recall":
        return hit / occurs if occurs else math.nan
    return hit / int(np.count_nonzero(picked)) if picked.any() else (0.0 if occurs else math.nan)


def interval(
    name: str,
    class_name: str | None,
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Metric:
    """Return one metric with its interval; arguments as in :func:`compute` and :func:`evaluate_all`.

    Raises:
        ValueError: an unknown metric or class.
    """
    if len(labels) and name in _OF_ORDER:
        position = _position(name, class_name, class_names)
        return _ordered((name,), labels == position, probabilities[:, position], _members(labels, groups))[
            name
        ]
    value = compute(name, class_name, labels, probabilities, predicted, class_names)
    if len(labels) == 0:
        return Metric(value, 0.0, 1.0, 0, 0.0)
    members = _members(labels, groups)
    if name in ("balanced_accuracy", "macro_f1"):
        drawn = _intervals.confusion_draws(labels, predicted, len(class_names), members, DRAWS, seed)
        return _averaged(name, value, drawn, labels, members)
    if name == "accuracy":
        return _share(value, labels == predicted, np.ones(len(labels), dtype=bool), members)
    position = _position(name, class_name, class_names)
    positive, picked = labels == position, predicted == position
    return _share(value, positive & picked, positive if name == "recall" else picked, members)


def evaluate_all(
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every metric that a constraint or objective can name, with its interval.

    Args:
        labels, predicted: class indices ``[n]``.
        probabilities: ``[n, C]``.
        class_names: of the ``C`` classes.
        groups: ``[n]``; images with the same number are not independent. None if all are.
        seed: of the bootstrap.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``recall[CLASS]`` … → :class:`Metric`.
    """
    wanted: list[tuple[str, str | None]] = [(name, None) for name in _AVERAGES]
    wanted += [(name, class_name) for class_name in class_names for name in _PER_CLASS]
    values = (labels, probabilities, predicted, class_names)
    members = _members(labels, groups) if len(labels) else None
    drawn = (
        _intervals.confusion_draws(labels, predicted, len(class_names), members, DRAWS, seed)
        if members is not None
        else None
    )
    found = {}
    for name, class_name in wanted:
        key = name if class_name is None else f"{name}[{class_name}]"
        if key in found:
            continue
        if members is not None and name in _OF_ORDER:
            position = _position(name, class_name, class_names)
            both = _ordered(_OF_ORDER, labels == position, probabilities[:, position], members)
            found.update({f"{which}[{class_name}]": metric for which, metric in both.items()})
        elif drawn is not None and members is not None and name in ("balanced_accuracy", "macro_f1"):
            found[key] = _averaged(name, compute(name, None, *values), drawn, labels, members)
        else:
            found[key] = interval(name, class_name, *values, groups=members, seed=seed)
    return found


def _position(name: str, class_name: str | None, class_names: Sequence[str]) -> int:
    if class_name is None or class_name not in class_names:
        raise ValueError(
            f"metric {name!r} needs one of the classes {', '.join(class_names)}; got {class_name!r}"
        )
    return list(class_names).index(class_name)


def _members(labels: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Group of each image as ``0 … G-1``."""
    if groups is None:
        return np.arange(len(labels))
    return np.asarray(np.unique(groups, return_inverse=True)[1]).reshape(-1)


def _counts(
    labels: np.ndarray, predicted: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, true and predicted images per class, ``[C]`` each."""
    return (
        np.bincount(labels[labels == predicted], minlength=classes),
        np.bincount(labels, minlength=classes),
        np.bincount(predicted, minlength=classes),
    )


def average(name: str, hits: np.ndarray, actual: np.ndarray, chosen: np.ndarray) -> Any:
    """Balanced accuracy or macro F1 along the last axis."""
    if name == "balanced_accuracy":
        top, bottom = hits, actual
    else:
        top, bottom = 2 * hits, actual + chosen
    known = bottom > 0
    return (top / np.maximum(bottom, 1)).sum(-1) / np.maximum(known.sum(-1), 1)


def _share(value: float, hits: np.ndarray, whole: np.ndarray, members: np.ndarray) -> Metric:
    independent = int(members.max()) + 1 == len(members)
    low, high, best = _intervals.share_interval(hits, whole, members, independent)
    return Metric(value, low, high, int(whole.sum()), best)


def _averaged(
    name: str,
    value: float,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
    labels: np.ndarray,
    members: np.ndarray,
) -> Metric:
    """Percentile bootstrap, or where that is wider the exact interval at the effective number of images.

    With few images the percentile bootstrap's lower bound lies above the truth more often than it says. The binomial
    interval whose variance is the bootstrap's has the skewness that it lacks (Korn & Graubard 1998, as for shares of
    images in groups). A mean over classes counts as at most so many images
    as would tell as much if all classes had equally many and were equally hard, which holds where the bootstrap
    happens to see no error of a class.

    No error on all images still has a chance of 2.5 % when each of ``n`` independent images is right with probability
    ``0.025 ** (1 / n)``, or, where one class has fewer images than the others, when those alone go wrong; the interval
    claims no more than such a score could. A group counts as one image.
    """
    averages = average(name, *drawn)
    low, high = (float(bound) for bound in np.percentile(averages, [2.5, 97.5]))
    groups = int(members.max()) + 1
    images, units = np.bincount(labels), _groups_of_classes(labels, members)
    most = _balanced(images[images > 0])
    exact = _intervals.effective_interval(value, float(averages.var()), len(labels), groups, most)
    alone = 1 - (1 - _intervals.perfect_low(units.min())) / len(units)
    best = min(_intervals.perfect_low(min(groups, _balanced(units))), alone)
    low, high = _intervals.no_better_than_flawless(value, min(low, exact[0]), max(high, exact[1]), best)
    return Metric(value, low, high, len(labels), best)


def _groups_of_classes(labels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Groups that have an image of it, for each class that occurs."""
    pairs = np.unique(labels.astype(np.int64) * (int(members.max()) + 1) + members)
    per_class = np.bincount(pairs // (int(members.max()) + 1))
    return np.asarray(per_class[per_class > 0])


def _balanced(counts: np.ndarray) -> float:
    """Images of equally large classes whose mean share would have the variance that classes of these sizes give."""
    return float(len(counts) ** 2 / (1 / counts).sum())


def _ordered(
    names: Sequence[str], positive: np.ndarray, scores: np.ndarray, members: np.ndarray
) -> dict[str, Metric]:
    """AUROC and average precision from one sorting, with intervals that claim no more than a flawless one could."""
    n, scores = len(positive), np.ascontiguousarray(scores)
    blocks = _ranking.blocks_of(scores)
    found = {}
    for name in names:
        of, by = (
            (_ranking.auroc, _ranking.auroc_influence)
            if name == "auroc"
            else (_ranking.average_precision, _ranking.average_precision_influence)
        )
        value = of(positive, scores, blocks)
        if not math.isfinite(value):
            found[name] = Metric(value, 0.0, 1.0, n, 0.0)
            continue
        units = _intervals.units_of(members, positive)
        if name == "auroc":
            units = min(units, _intervals.units_of(members, ~positive))
        low, high = _intervals.influence_interval(value, by(positive, scores, blocks), members)
        best = _intervals.perfect_low(units)
        low, high = _intervals.no_better_than_flawless(value, low, high, best)
        found[name] = Metric(value, low, high, n, best)
    return found
