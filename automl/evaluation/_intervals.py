"""Intervals at 95 %: exact ones for shares, of images that may come in groups; bootstrap; influence functions.

No interval here is narrower than what a flawless score on the same images could show. Without that rule a
bootstrap of a flawless score is a single point, and would "prove" any limit with any handful of images.
"""

from __future__ import annotations

import math

import numpy as np

LEVEL = 0.95
_CELLS = 4_000_000


def binomial_interval(k: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of ``k`` successes in ``n`` (Clopper & Pearson 1934); (0, 1) without trials.

    ``k`` and ``n`` may be fractions, as an effective sample size is.
    """
    from scipy.special import betaincinv

    if n <= 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    low = 0.0 if k <= 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k >= n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def perfect_low(n: float, level: float = LEVEL) -> float:
    """Lower bound of a share that was 1 on all of ``n`` independent images; 0 without images."""
    return binomial_interval(n, n, level)[0]


def units_of(members: np.ndarray, chosen: np.ndarray) -> int:
    """How many groups have an image among the chosen (bool ``[n]``)."""
    return int(np.count_nonzero(np.bincount(members[chosen])))


def share_interval(
    hits: np.ndarray, whole: np.ndarray, members: np.ndarray, independent: bool
) -> tuple[float, float, float]:
    """Interval of the share of ``hits`` among ``whole``, and the lower bound that a flawless score would have had.

    Images of one group say less than as many independent ones. The exact interval is then taken at the effective
    number of images that the variance between groups tells (Korn & Graubard 1998); where that variance cannot be
    seen, at a share of 0 or 1, each group counts as one image.

    Args:
        hits: bool ``[n]``, a subset of ``whole``.
        whole: bool ``[n]``.
        members: group of each image, ``0 … G-1``.
        independent: whether each image is a group of its own.
    """
    k, n = int(hits.sum()), int(whole.sum())
    if n == 0:
        return 0.0, 1.0, 0.0
    if independent:
        return *binomial_interval(k, n), perfect_low(n)
    groups = units_of(members, whole)
    best = perfect_low(groups)
    if k in (0, n):
        return *binomial_interval(groups * (k // n), groups), best
    value = k / n
    per_group = np.bincount(members, weights=(hits - value * whole) / n)
    variance = groups / max(groups - 1, 1) * float((per_group**2).sum())
    low, high = effective_interval(value, variance, n, groups, n)
    return *no_better_than_flawless(value, low, high, best), best


def effective_interval(
    value: float, variance: float, images: int, groups: int, most: float
) -> tuple[float, float]:
    """Exact interval of a value in 0 … 1 at the number of images that its variance tells (Korn & Graubard 1998).

    Args:
        value: a share, or a mean of shares.
        variance: of the value; 0 where it cannot be seen.
        images, groups: that it rests on; with few groups the variance itself is uncertain, which Student's t allows for.
        most: images that it counts as at most.
    """
    effective = most if variance == 0 else min(most, value * (1 - value) / variance)
    if groups > 1:
        effective *= (_student(images - 1) / _student(groups - 1)) ** 2
    effective = max(min(effective, most), 1.0)
    return binomial_interval(value * effective, effective)


def _student(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - (1 - LEVEL) / 2))


def no_better_than_flawless(value: float, low: float, high: float, best_low: float) -> tuple[float, float]:
    """Widen an interval so that it holds the value and claims no more than a flawless (or hopeless) score could."""
    return max(0.0, min(low, best_low, value)), min(1.0, max(high, 1 - best_low, value))


def influence_interval(value: float, influence: np.ndarray, members: np.ndarray) -> tuple[float, float]:
    """Normal interval from the summed influences of each group, on the logit scale, which keeps it within 0 … 1.

    The logit interval covers better than a percentile bootstrap when positives are few (Boyd, Eng & Page 2013).
    """
    per_group = np.bincount(members, weights=influence)
    groups = len(per_group)
    deviation = math.sqrt(groups / max(groups - 1, 1) * float((per_group**2).sum()))
    if deviation == 0 or not 0 < value < 1:
        return value, value
    centre, spread = math.log(value / (1 - value)), 1.959964 * deviation / (value * (1 - value))
    return _logistic(centre - spread), _logistic(centre + spread)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(max(x, -700.0)) / (1 + math.exp(max(x, -700.0)))


def confusion_draws(
    labels: np.ndarray, predicted: np.ndarray, classes: int, members: np.ndarray, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bootstrap of whole groups (Efron 1979; Field & Welsh 2007 for groups).

    Independent images are drawn as cells of the confusion table, which is the same distribution and cheaper.

    Returns:
        Hits, true and predicted images per class, float64 ``[draws, C]`` each.
    """
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(seed)
    cells, cell = np.unique(labels * classes + predicted, return_inverse=True)
    rows, columns = cells // classes, cells % classes
    groups = int(members.max()) + 1
    if groups == len(labels):
        units, size = rng.multinomial(groups, np.bincount(cell) / groups, size=draws), len(cells)
        counted = units.astype(np.float64)
    else:
        size = len(cells)
        table = csr_matrix((np.ones(len(cell)), (members, cell)), shape=(groups, size))
        counted = np.empty((draws, size))
        step = max(1, _CELLS // groups)
        for start in range(0, draws, step):
            stop = min(draws, start + step)
            picked = rng.integers(0, groups, size=(stop - start, groups))
            picked += groups * np.arange(stop - start)[:, None]
            times = np.bincount(picked.ravel(), minlength=groups * (stop - start))
            counted[start:stop] = (table.T @ times.reshape(stop - start, groups).T.astype(np.float64)).T
    ones = np.ones(size)
    place = np.arange(size)
    right = rows == columns
    actual = counted @ csr_matrix((ones, (place, rows)), shape=(size, classes))
    chosen = counted @ csr_matrix((ones, (place, columns)), shape=(size, classes))
    hits = counted[:, right] @ csr_matrix(
        (ones[right], (np.arange(int(right.sum())), rows[right])), shape=(int(right.sum()), classes)
    )
    return np.asarray(hits), np.asarray(actual), np.asarray(chosen)
