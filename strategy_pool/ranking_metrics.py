"""How good an order of strategies is on a task whose scores are all known, and whether one ranker beats another.

Scores are min–max normalised within the task, so 1 is the best strategy of it and 0 the worst.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import kendalltau

#: What :func:`ranking_scores` computes.
METRICS = ("regret@1", "regret@5", "regret@10", "ndcg@10", "kendall_tau")
#: Resamples of a bootstrap over tasks.
RESAMPLES = 10_000


def order_of(predicted: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the positions, highest prediction first, ties in random order; NaN comes last.

    What differs by less than a billionth of the range is a tie: it is rounding that tells such predictions apart.

    Args:
        predicted: float [n].
        generator: breaks ties.
    """
    keys = np.where(np.isnan(predicted), -np.inf, predicted)
    finite = np.isfinite(keys)
    if finite.any():
        low, high = keys[finite].min(), keys[finite].max()
        if high > low:
            keys[finite] = np.round((keys[finite] - low) / (high - low), 9)
    return np.lexsort((generator.random(len(keys)), -keys))


def regret(values: np.ndarray, k: int) -> float:
    """``1 −`` the best of the first k.

    Args:
        values: normalised scores in the order in which the strategies are tried, float [n].
        k: at least 1.
    """
    return float(1.0 - values[:k].max())


def ndcg(values: np.ndarray, k: int) -> float:
    """Normalised discounted cumulative gain with linear gain (Järvelin & Kekäläinen 2002).

    Args:
        values: as for :func:`regret`.
        k: how many of the first count.
    """
    discount = 1.0 / np.log2(np.arange(2, min(k, len(values)) + 2))
    ideal = np.sort(values)[::-1][:k] @ discount
    return float(values[:k] @ discount / ideal) if ideal > 0 else 1.0


def tau(order: np.ndarray, values: np.ndarray) -> float:
    """Kendall's tau-b between an order and the scores; 0 where either side is constant.

    Args:
        order: positions, the first to be tried first, int [n].
        values: normalised scores, float [n].
    """
    if len(values) < 2:
        return 0.0
    place = np.empty(len(order))
    place[order] = -np.arange(len(order))
    found = float(kendalltau(place, values).statistic)
    return found if np.isfinite(found) else 0.0


def ranking_scores(order: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """Judge an order for one task.

    Args:
        order: positions, the first to be tried first, int [n].
        values: normalised scores, float [n].

    Returns:
        The :data:`METRICS`.
    """
    found = values[order]
    scores = {f"regret@{k}": regret(found, k) for k in (1, 5, 10)}
    scores["ndcg@10"] = ndcg(found, 10)
    scores["kendall_tau"] = tau(order, values)
    return scores


def mean_and_se(per_task: np.ndarray) -> dict[str, float | None]:
    """Mean over the tasks and its standard error; None for one task.

    Args:
        per_task: float [tasks].
    """
    count = len(per_task)
    se = float(per_task.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    return {"mean": float(per_task.mean()), "se": se}


def paired_bootstrap(
    first: Mapping[str, float], second: Mapping[str, float], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Mean of ``first − second`` over the tasks with its 95 % percentile interval (Efron & Tibshirani 1993, ch. 13).

    Args:
        first, second: task → figure, of the same tasks.
        seed: of the resampling.
        resamples: of the tasks.

    Raises:
        ValueError: the tasks differ, or there is none.
    """
    if not first or set(first) != set(second):
        raise ValueError("a paired bootstrap needs the figures of the same tasks on both sides")
    difference = np.array([first[task] - second[task] for task in sorted(first)])
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for begin in range(0, resamples, 1000):
        part = generator.integers(0, len(difference), (min(1000, resamples - begin), len(difference)))
        means[begin : begin + len(part)] = difference[part].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}
