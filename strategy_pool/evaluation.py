"""Judging rankers on tasks that they have not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from strategy_pool.baselines import HistoryAverage, Learner, RandomOrder
from strategy_pool.learners import Regression
from strategy_pool.left_out import predictions
from strategy_pool.ranker import Ranker
from strategy_pool.ranking_metrics import METRICS, mean_and_se, order_of, paired_bootstrap, ranking_scores
from strategy_pool.replay import Courses, regret_over_time, time_grid
from strategy_pool.trial_table import TableError, TrialTable

#: Up to so many tasks or groups each is left out by itself, above in ten parts.
LEAVE_ONE_OUT = 30
FOLDS = 10

Makers = Mapping[str, Callable[[], Learner]]

#: What ``automl rerank evaluate`` compares.
METHODS: Makers = {
    "ranker": Ranker,
    "random": RandomOrder,
    "history_average": HistoryAverage,
    "lightgbm_regression": Regression,
}


@dataclass(frozen=True)
class Fold:
    """One fit and the tasks that it is judged on.

    Attributes:
        past: tasks that are learned from.
        judged: tasks whose order is predicted.
        seed: of the fit and of the random order of ties.
    """

    past: tuple[str, ...]
    judged: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """Figures of several rankers on the same tasks.

    Attributes:
        by: ``task`` or ``group``, what was left out together.
        seeds: how many.
        figures: one row per method, task and fold, with the :data:`METRICS`.
        times: seconds at which regret was read in the replay, float [times]; empty without one.
        regrets: method → task → regret at these times, float [folds, times].
    """

    by: str
    seeds: int
    figures: pd.DataFrame
    times: np.ndarray = field(default_factory=lambda: np.array([]))
    regrets: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def per_task(self, method: str) -> pd.DataFrame:
        """Mean over seeds and draws: one row per task, the metrics as columns."""
        rows = self.figures[self.figures["method"] == method]
        return rows.groupby("task", observed=True)[list(METRICS)].mean()

    def paired(self, first: str, second: str) -> dict[str, dict[str, float]]:
        """Metric → mean of ``first − second`` over the tasks, with its 95 % interval."""
        one, other = self.per_task(first), self.per_task(second)
        return {m: paired_bootstrap(one[m].to_dict(), other[m].to_dict()) for m in METRICS}

    def replay(self, method: str) -> list[dict[str, float | None]]:
        """``seconds``, mean ``regret`` over the tasks and its standard error ``se``, for each time."""
        tasks = self.regrets.get(method, {})
        if not tasks:
            return []
        each = np.stack([tasks[task].mean(axis=0) for task in sorted(tasks)])
        found = []
        for seconds, regrets in zip(self.times, each.T, strict=True):
            of = mean_and_se(regrets)
            found.append({"seconds": float(seconds), "regret": of["mean"], "se": of["se"]})
        return found

    def to_dict(self, ranker: str = "ranker") -> dict[str, Any]:
        """As ``automl rerank evaluate --json`` prints it; ``replay`` only where there was one."""
        methods = list(dict.fromkeys(self.figures["method"]))
        tables = {method: self.per_task(method) for method in methods}
        others = [method for method in methods if method not in (ranker, "random")]
        return {
            "tasks": int(self.figures["task"].nunique()),
            "by": self.by,
            "seeds": self.seeds,
            "methods": {
                method: {m: mean_and_se(table[m].to_numpy()) for m in METRICS}
                for method, table in tables.items()
            },
            "paired": {f"{ranker} - {other}": self.paired(ranker, other) for other in others},
            **({"replay": {method: self.replay(method) for method in methods}} if self.regrets else {}),
        }


def folds(
    table: TrialTable,
    by: str = "task",
    *,
    seeds: int = 1,
    past: int | None = None,
    draws: int = 20,
    most_judged: int | None = None,
) -> list[Fold]:
    """Who is learned from and who is judged.

    Args:
        table: all trials.
        by: ``task``, or ``group`` to leave out the tasks of one group together; none is then judged by what was learned
            from another one of its group.
        seeds: how often everything is done.
        past: learn from so many tasks, drawn at random, and judge on all others; by default from all but those left out.
        draws: how often they are drawn, per seed.
        most_judged: tasks that are judged; of more so many are drawn, and the others only learned from.

    Raises:
        TableError: there are too few tasks or groups.
    """
    tasks = table.told().tasks
    if len(tasks) < 2:
        raise TableError(
            f"there {'is 1 task' if tasks else 'is no task'} with different scores; two are needed"
        )
    group = table.groups()
    units = {task: task if by == "task" else group[task] for task in tasks}
    if past is not None:
        if not 1 <= past < len(tasks):
            raise TableError(
                f"--past is {past}; of {len(tasks)} tasks 1 to {len(tasks) - 1} can be learned from"
            )
        found = list(_drawn(tasks, units, seeds, past, draws))
        if not found:
            raise TableError(f"with --past {past} no group is left to judge on; give a smaller number")
        return found
    names = sorted(set(units.values()))
    if len(names) < 2:
        raise TableError("all tasks are of one group; two are needed to leave one out")
    found = []
    for seed in range(seeds):
        chosen = set(tasks)
        if most_judged is not None and len(tasks) > most_judged:
            chosen = set(np.random.default_rng(seed).choice(tasks, most_judged, replace=False).tolist())
        for part in _parts(names, seed):
            judged = tuple(task for task in tasks if units[task] in part and task in chosen)
            if judged:
                found.append(Fold(tuple(task for task in tasks if units[task] not in part), judged, seed))
    return found


def _drawn(
    tasks: Sequence[str], units: Mapping[str, str], seeds: int, past: int, draws: int
) -> Iterator[Fold]:
    for seed in range(seeds):
        for draw in range(draws):
            generator = np.random.default_rng([seed, draw])
            chosen = set(generator.choice(tasks, past, replace=False).tolist())
            known = {units[task] for task in chosen}
            judged = tuple(task for task in tasks if units[task] not in known)
            if judged:
                yield Fold(tuple(sorted(chosen)), judged, seed * draws + draw)


def _parts(names: Sequence[str], seed: int) -> list[set[str]]:
    if len(names) <= LEAVE_ONE_OUT:
        return [{name} for name in names]
    shuffled = np.random.default_rng(seed).permutation(list(names))
    return [set(part.tolist()) for part in np.array_split(shuffled, FOLDS)]


def evaluate(
    table: TrialTable,
    makers: Makers,
    plan: Sequence[Fold],
    *,
    by: str = "task",
    seeds: int = 1,
    courses: Courses | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Fit and judge each ranker on each fold.

    Args:
        table: all trials.
        makers: name → what makes an unfitted ranker.
        plan: as :func:`folds` gives it.
        by, seeds: of the plan, for the record.
        courses: what trials gave in the course of their time, for the replay; those that it lacks are not run there.
        progress: called with folds done and folds in all.
    """
    told = table.told()
    rows: list[dict[str, Any]] = []
    times = time_grid(courses or {})
    regrets: dict[str, dict[str, list[np.ndarray]]] = {}
    for done, fold in enumerate(plan):
        learned = told.of(fold.past)
        judged = told.of(fold.judged)
        for method, make in makers.items():
            fitted = make().fit(learned, fold.seed)
            for left in predictions(fitted, judged):
                generator = np.random.default_rng([fold.seed, _number(left.task)])
                order = order_of(left.predicted, generator)
                rows.append({"method": method, "task": left.task, **ranking_scores(order, left.values)})
                if of := (courses or {}).get(left.task):
                    if isinstance(fitted, Ranker):
                        order = fitted.order(left.shown, generator)
                    run = [of[name] for name in left.shown["strategy"].to_numpy()[order] if name in of]
                    of_task = regrets.setdefault(method, {}).setdefault(left.task, [])
                    of_task.append(regret_over_time(run, times))
        if progress is not None:
            progress(done + 1, len(plan))
    stacked = {
        method: {task: np.stack(parts) for task, parts in of.items()} for method, of in regrets.items()
    }
    return Evaluation(by, seeds, pd.DataFrame(rows), times, stacked)


def _number(task: str) -> int:
    """The same for the same name, on every machine."""
    return int.from_bytes(task.encode()[:64], "little")
