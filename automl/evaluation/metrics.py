"""Classification metrics with 95 % intervals.

Shares of images (accuracy, recall, precision) get the exact binomial interval (Clopper & Pearson 1934) while
images are independent; other metrics, and grouped images, get the percentile bootstrap over groups (Efron 1979;
groups as in Field & Welsh 2007).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

DRAWS = 1000


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % interval and how many images it rests on.

    Attributes:
        value: point estimate, NaN where it is undefined (no image of the class).
        low, high: 95 % interval.
        n: images; of the class for a recall, of those predicted so for a precision.
    """

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def compute(
    name: str,
    class_name: str | None,
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
) -> float:
    """Return one metric; NaN where it is undefined.

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
    if len(labels) == 0:
        return math.nan
    if name == "accuracy":
        return float((labels == predicted).mean())
    if name in ("balanced_accuracy", "macro_f1"):
        counts = _counts(labels, predicted, len(class_names), np.ones((1, len(labels))))
        return float(_from_counts(name, *counts)[0])
    if class_name is None or class_name not in class_names:
        raise ValueError(f"metric {name!r} needs one of the classes {', '.join(class_names)}; got {class_name!r}")
    position = list(class_names).index(class_name)
    positive = labels == position
    if name == "recall":
        return float((predicted[positive] == position).mean()) if positive.any() else math.nan
    if name == "precision":
        chosen = predicted == position
        return float(positive[chosen].mean()) if chosen.any() else math.nan
    if name == "auroc":
        return _auroc(positive, probabilities[:, position])
    if name == "average_precision":
        return _average_precision(positive, probabilities[:, position])
    raise ValueError(f"unknown metric {name!r}")


def evaluate_all(
    labels: np.ndarray,
    probabilities: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Metric]:
    """Every metric that a constraint or objective can name, with intervals.

    Args:
        labels, predicted: class indices ``[n]``.
        probabilities: ``[n, C]``.
        class_names: of the classes.
        groups: images with the same number are not independent; None for all independent.
        seed: of the bootstrap.

    Returns:
        ``accuracy``, ``recall[CLASS]`` … → :class:`Metric`.
    """
    classes, n = len(class_names), len(labels)
    found: dict[str, Metric] = {}
    names = ("accuracy", "balanced_accuracy", "macro_f1")
    if n == 0:
        keys = [*names, *(f"{k}[{c}]" for c in class_names for k in ("recall", "precision", "auroc", "average_precision"))]
        return {key: Metric(math.nan, math.nan, math.nan, 0) for key in keys}
    members = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    independent = int(members.max()) + 1 == n
    weights = _draws(members, seed)
    counts = _counts(labels, predicted, classes, weights)
    drawn = {name: _from_counts(name, *counts) for name in names}
    hits, actual, chosen = counts
    for name in names:
        value = compute(name, None, labels, probabilities, predicted, class_names)
        if name == "accuracy" and independent:
            found[name] = _binomial(round(value * n), n)
        else:
            found[name] = _bootstrapped(value, drawn[name], n)
    for position, class_name in enumerate(class_names):
        positive, picked = labels == position, predicted == position
        for name, whole, per_draw in (("recall", positive, actual), ("precision", picked, chosen)):
            k, m = int((positive & picked).sum()), int(whole.sum())
            if independent or m == 0 or k in (0, m):
                found[f"{name}[{class_name}]"] = _binomial(k, m)
            else:
                with np.errstate(invalid="ignore", divide="ignore"):
                    values = hits[:, position] / per_draw[:, position]
                found[f"{name}[{class_name}]"] = _bootstrapped(k / m, values, m)
        for name, function in (("auroc", _auroc), ("average_precision", _average_precision)):
            value = function(positive, probabilities[:, position])
            values = np.array([function(positive, probabilities[:, position], w) for w in weights[:200]])
            found[f"{name}[{class_name}]"] = _bootstrapped(value, values, n)
    return found


def binomial_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper–Pearson interval of ``k`` successes in ``n``; (0, 1) without trials."""
    from scipy.stats import beta

    if n == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    return low, high


def _binomial(k: int, n: int) -> Metric:
    low, high = binomial_interval(k, n)
    return Metric(k / n if n else math.nan, low, high, n)


def _bootstrapped(value: float, draws: np.ndarray, n: int) -> Metric:
    draws = draws[np.isfinite(draws)]
    if not len(draws) or not math.isfinite(value):
        return Metric(value, math.nan, math.nan, n)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Metric(value, float(min(low, value)), float(max(high, value)), n)


def _draws(members: np.ndarray, seed: int) -> np.ndarray:
    """How often each image occurs in each bootstrap draw of whole groups: ``[DRAWS, n]``."""
    count = int(members.max()) + 1
    chosen = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return chosen[:, members].astype(np.float32)


def _counts(
    labels: np.ndarray, predicted: np.ndarray, classes: int, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted hits, actual and predicted images per class, each ``[draws, C]``."""
    actual = np.eye(classes, dtype=weights.dtype)[labels]
    chosen = np.eye(classes, dtype=weights.dtype)[predicted]
    return weights @ (actual * chosen), weights @ actual, weights @ chosen


def _from_counts(name: str, hits: np.ndarray, actual: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """A metric per draw; classes that do not occur are left out, as in scikit-learn's balanced accuracy."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "accuracy":
            return np.asarray(hits.sum(1) / actual.sum(1))
        if name == "balanced_accuracy":
            per_class = np.where(actual > 0, hits / actual, np.nan)
        else:
            per_class = np.where(actual + chosen > 0, 2 * hits / (actual + chosen), np.nan)
    known = np.isfinite(per_class)
    return np.asarray(np.where(known, per_class, 0).sum(1) / np.maximum(known.sum(1), 1))


def _auroc(positive: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve as the probability that a positive outranks a negative, ties counting half."""
    w = np.ones(len(scores)) if weight is None else weight.astype(np.float64)
    wins, losses = (w * positive).sum(), (w * ~positive).sum()
    if wins == 0 or losses == 0:
        return math.nan
    order = np.argsort(scores, kind="stable")
    s, p, w = scores[order], positive[order], w[order]
    new = np.r_[True, s[1:] != s[:-1]]
    block = np.cumsum(new) - 1
    negatives = np.bincount(block, w * ~p)
    positives = np.bincount(block, w * p)
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (wins * losses))


def _average_precision(positive: np.ndarray, scores: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Mean precision over the steps of recall, without interpolation."""
    w = np.ones(len(scores)) if weight is None else weight.astype(np.float64)
    total = (w * positive).sum()
    if total == 0:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    s, gained, seen = scores[order], np.cumsum((w * positive)[order]), np.cumsum(w[order])
    last = np.r_[s[1:] != s[:-1], True]
    gained, seen = gained[last], seen[last]
    precision = gained / np.maximum(seen, 1e-12)
    return float((np.diff(np.r_[0.0, gained]) / total * precision).sum())
