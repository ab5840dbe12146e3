"""Statistics over the runs of a benchmark suite: ranks, scores over time, times to a reference, Pareto fronts."""

from __future__ import annotations

import bisect
import functools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.wording import known
from benchmarks.tables import ENGINE

if TYPE_CHECKING:
    import pandas as pd

Run = Mapping[str, Any]

#: Digits after which two scores are the same.
_DIGITS = 9


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, with task and method as text."""
    return [
        {**row, "task": str(row["task"]), "method": str(row["method"])} for row in frame.to_dict("records")
    ]


def mean_scores(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean score over seeds, task → method → balanced accuracy; both in alphabetical order.

    A run without a score counts as 0, for it left no model (a failure that was dropped would be an advantage).

    Args:
        runs: with ``task``, ``method`` and ``score``.
    """
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in records(runs):
        cells[run["task"]][run["method"]].append(float(run["score"]) if known(run["score"]) else 0.0)
    return {
        task: {m: round(math.fsum(v) / len(v), _DIGITS) for m, v in sorted(methods.items())}
        for task, methods in sorted(cells.items())
    }


def critical_difference(methods: int, tasks: int, alpha: float = 0.05) -> float | None:
    """Average ranks that lie so far apart differ significantly by the Nemenyi test.

    ``q_alpha * sqrt(k (k + 1) / (6 N))`` with the quantile of the studentized range divided by the root of 2:
    Demšar 2006, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, section 3.2.2.

    Args:
        methods: k.
        tasks: N.
        alpha: level of the test over all pairs together.

    Returns:
        a difference of ranks; None below two methods or two tasks.
    """
    if methods < 2 or tasks < 2:
        return None
    return _range_quantile(methods, alpha) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * tasks))


@functools.lru_cache
def _range_quantile(methods: int, alpha: float) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - alpha, methods, np.inf))


def ranks(runs: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Average ranks of the methods over the tasks that all of them have run; 1 is the best.

    Ranks are those of :func:`mean_scores`; equal scores share the mean of their ranks. Tasks of the same pictures are
    averaged first, for they are no independent witnesses. The intervals are those of a percentile bootstrap over pictures. The test of Friedman is the variant of Iman and Davenport (Demšar 2006,
    section 3.2.1), without a correction for ties.

    Args:
        runs: with ``task``, ``method`` and ``score``, and ``data`` where tasks may have the same pictures; the order of
            the rows does not matter.
        resamples: draws of as many data sets with replacement.
        seed: of the draws.

    Returns:
        ``methods``, ``tasks`` and ``data`` (alphabetical), ``left_out`` (tasks that lack a method), ``average``, ``low``
        and ``high`` (method → rank; empty without a task), ``critical_difference`` (see there), ``groups``
        (lists of methods from the best on that lie less than it apart, only the longest) and ``p`` (of the test
        of Friedman; None where there is no critical difference).
    """
    from scipy.stats import rankdata

    scores = mean_scores(runs)
    methods = sorted({method for found in scores.values() for method in found})
    tasks = [task for task, found in scores.items() if len(found) == len(methods)]
    of = dict(zip(runs["task"].astype(str), runs["data"].astype(str), strict=True)) if "data" in runs else {}
    data = sorted({of.get(task, task) for task in tasks})
    result: dict[str, Any] = {
        "methods": methods,
        "tasks": tasks,
        "data": data,
        "left_out": [task for task in scores if task not in tasks],
        "average": {},
        "low": {},
        "high": {},
        "critical_difference": critical_difference(len(methods), len(data)),
        "groups": [],
        "p": None,
    }
    if not tasks:
        return result
    ranked = {task: rankdata([-scores[task][m] for m in methods]) for task in tasks}
    table = np.stack([np.mean([ranked[t] for t in tasks if of.get(t, t) == one], axis=0) for one in data])
    drawn = np.random.default_rng(seed).multinomial(len(data), np.full(len(data), 1 / len(data)), resamples)
    low, high = np.percentile(drawn @ table / len(data), [2.5, 97.5], axis=0)
    for key, values in (("average", table.mean(0)), ("low", low), ("high", high)):
        result[key] = {m: float(v) for m, v in zip(methods, values, strict=True)}
    if result["critical_difference"] is not None:
        result["groups"] = _groups(result["average"], result["critical_difference"])
        result["p"] = _friedman(table)
    return result


def _groups(average: Mapping[str, float], critical: float) -> list[list[str]]:
    order = sorted(average, key=lambda m: (average[m], m))
    groups: list[list[str]] = []
    for at, first in enumerate(order):
        group = [m for m in order[at:] if average[m] - average[first] < critical]
        if len(group) > 1 and not (groups and set(group) <= set(groups[-1])):
            groups.append(group)
    return groups


def _friedman(table: np.ndarray) -> float:
    from scipy.stats import f

    n, k = table.shape
    chi = 12 * n / (k * (k + 1)) * (float((table.mean(0) ** 2).sum()) - k * (k + 1) ** 2 / 4)
    rest = n * (k - 1) - chi
    return float(f.sf((n - 1) * chi / rest, k - 1, (k - 1) * (n - 1))) if rest > 1e-9 else 0.0


def incumbents(run: Run, end: str = "seconds") -> list[tuple[float, float]]:
    """The test scores of what a run would have delivered, as (seconds, score) by rising seconds.

    They are those points of its ``curve`` whose test score is known and, last, the file that it delivered: its
    ``score`` at its ``end``. A run without a score delivered nothing, so it has none.

    Args:
        run: with ``curve``, ``score`` and ``end``.
        end: name of the seconds after which the last one is there.
    """
    text = run.get("curve")
    if not known(run.get("score")):
        return []
    found = json.loads(text) if isinstance(text, str) and text else []
    points = sorted(((float(s), float(t)) for s, _, t in found if known(s) and known(t)), key=lambda p: p[0])
    if known(run.get(end)):
        last = float(run[end])
        points = [point for point in points if point[0] <= last]
        points.append((last, float(run["score"])))
    return points


def lasting(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    """Seconds from which on what a run would deliver never scores less again; None where its last one does.

    Args:
        points: of :func:`incumbents`.
        wanted: score.
    """
    found = None
    for seconds, score in reversed(points):
        if score < wanted:
            break
        found = seconds
    return found


def anytime(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float, float, float]]:
    """Median, lowest and highest score of runs over time.

    A run without a model counts as worse than every other in the median, so that a curve begins where more than
    half of the runs have one; the lowest and the highest are of those that have one.

    Args:
        curves: one per run, as of :func:`incumbents`; empty for a run that never had a model.

    Returns:
        (seconds, median, low, high) at every time at which a run improves or changes.
    """
    out = []
    times = [[s for s, _ in curve] for curve in curves]
    for time in sorted({s for found in times for s in found}):
        passed = [bisect.bisect_right(found, time) for found in times]
        now = [curve[n - 1][1] if n else -math.inf for curve, n in zip(curves, passed, strict=True)]
        having = [v for v in now if v > -math.inf]
        middle = statistics.median(now)
        if math.isfinite(middle):
            out.append((time, middle, min(having), max(having)))
    return out


def times_to_reference(
    runs: pd.DataFrame, engine: str = ENGINE, *, resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Share of another method's time after which the engine has that method's final test score for good.

    Runs are paired by task and seed (of several engine runs the one with the same budget, else the one with the
    largest). Both times are those of :func:`lasting`, so that neither a lucky score that is lost again nor the time after a
    method's last improvement counts, and both end when the last model is trained, before it is exported and measured.
    Scores must not be rounded.

    Args:
        runs: with ``task``, ``method``, ``seed``, ``budget``, ``trained``, ``score`` and ``curve``, and ``data`` where tasks
            may have the same pictures.
        engine: method that is timed.
        resamples, seed: of the intervals, for which data sets are drawn.

    Returns:
        method → ``pairs`` (count), ``never`` (pairs in which the score is never reached, also because the engine
        failed), ``median`` (share over all pairs, a pair without success counting as infinitely long; None where
        that makes it infinite, or without pairs) with its 95 % interval ``low`` and ``high`` (None likewise), ``shares``
        ([task, seed, share or None], sorted), ``unpaired`` (runs without an engine run) and ``unscored`` (paired runs
        without a score or time, so nothing to reach).
    """
    rows = records(runs)
    data = {run["task"]: str(run.get("data") or run["task"]) for run in rows}
    own: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in rows:
        if run["method"] == engine:
            own[run["task"], run["seed"]].append(run)
    out = {}
    for method in sorted({run["method"] for run in rows} - {engine}):
        shares, unpaired, unscored = [], 0, 0
        for run in (r for r in rows if r["method"] == method):
            found = own.get((run["task"], run["seed"]))
            wanted = run["score"] - 10.0**-_DIGITS if known(run["score"]) else math.inf
            took = lasting(incumbents(run, "trained"), wanted)
            if not found:
                unpaired += 1
            elif not took:
                unscored += 1
            else:
                budget = run.get("budget")
                best = max(found, key=lambda r: (r.get("budget") == budget, r.get("budget") or 0.0))
                reached = lasting(incumbents(best, "trained"), wanted)
                shares.append([run["task"], run["seed"], None if reached is None else reached / took])
        shares.sort(key=lambda row: (row[0], row[1], math.inf if row[2] is None else row[2]))
        by_data: dict[str, list[float]] = defaultdict(list)
        for task, _, share in shares:
            by_data[data[task]].append(math.inf if share is None else share)
        middle, low, high = _median(list(by_data.values()), resamples, seed)
        out[method] = {
            "pairs": len(shares),
            "never": sum(share is None for _, _, share in shares),
            "median": middle,
            "low": low,
            "high": high,
            "shares": shares,
            "unpaired": unpaired,
            "unscored": unscored,
        }
    return out


def _median(groups: Sequence[Sequence[float]], resamples: int, seed: int) -> tuple[float | None, ...]:
    """Median of all values and its 95 % percentile interval, for which groups are drawn; None for what is infinite."""
    if not groups:
        return None, None, None
    rng = np.random.default_rng(seed)
    drawn = [
        statistics.median(value for at in rng.integers(len(groups), size=len(groups)) for value in groups[at])
        for _ in range(resamples)
    ]
    # No value between two of the drawn ones is taken, as one of them may be infinite.
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    middle = statistics.median(value for group in groups for value in group)
    return tuple(float(value) if math.isfinite(value) else None for value in (middle, low, high))


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, score) pairs that no other beats in both (lower cost, higher score), by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front
