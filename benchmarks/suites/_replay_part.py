"""The searches over one part of the recorded tasks, after learning from the others."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from automl.candidate import Candidate
from automl.search import Proposer
from benchmarks.simulated import Recorded, Replayed, simulate
from benchmarks.suites._replay_methods import METHODS, Method, Settings
from benchmarks.suites._replay_searchers import Hyperband, TableProposer, TableTpe, parameters
from strategy_pool.baselines import Learner, RandomOrder, model_column, models_of
from strategy_pool.evaluation import METHODS as LEARNERS
from strategy_pool.evaluation import folds
from strategy_pool.left_out import predictions
from strategy_pool.ranker import Ranker
from strategy_pool.ranking_metrics import order_of
from strategy_pool.replay import courses, read_curves
from strategy_pool.trial_table import TableError, TrialTable, read_trial_table


@dataclass(frozen=True)
class Tables:
    """What was recorded.

    Attributes:
        table: trials of tasks that tell anything.
        tasks: task → strategy → its trial; those of which it is not known how long they took are left out.
        model: the column that names a trial's network, None where there is none.
    """

    table: TrialTable
    tasks: Mapping[str, Mapping[str, Recorded]]
    model: str | None

    @classmethod
    def read(cls, table: str, curves: str) -> Tables:
        """Read the files.

        Raises:
            TableError: they do not follow the contract, or nothing in them has a length.
        """
        told = read_trial_table(table).told()
        found = courses(told, read_curves(curves))
        column = told.frame.get("strategy.method")
        methods = [None] * len(told.frame) if column is None else column
        tasks: dict[str, dict[str, Recorded]] = {task: {} for task in told.tasks if found[task]}
        names = told.frame[["task", "strategy", "failed"]].astype({"task": str, "strategy": str})
        for row, method in zip(names.itertuples(), methods, strict=True):
            if course := found[row.task].get(row.strategy):
                tasks[row.task][row.strategy] = Recorded(course, bool(row.failed), method)
        if not tasks:
            raise TableError(f"trial table {table}: it is not known how long any trial took")
        return cls(told, tasks, model_column(told.features))

    def reasons(self, methods: Sequence[str]) -> dict[str, str]:
        """Method → why it cannot be compared on these tables."""
        steps = max(len(one.course.seconds) for of in self.tasks.values() for one in of.values())
        varied = [name for name in parameters(self.table.frame) if name != self.model]
        found = {}
        for name in methods:
            method = METHODS[name]
            if method.searcher == "tpe" and not varied:
                found[name] = "the table has no strategy.* column that differs and is no network's name"
            elif method.learner == "lightgbm_regression" and not self.table.features:
                found[name] = "the table has no features"
            elif (method.halving or method.searcher == "hyperband") and steps < 2:
                found[name] = "no curve has two epochs"
        return found


#: What this process works on.
_opened: tuple[Settings, Tables] | None = None


def open_tables(settings: Settings, tables: Tables | None = None) -> None:
    """Read what :func:`search_part` needs, once per process; ``tables`` where they are read already."""
    global _opened
    _opened = settings, tables or Tables.read(settings.table, settings.curves)
    if any(METHODS[name].halving for name in settings.methods):
        import automl.search._ray_runner  # noqa: F401 - its seconds are no search's


def search_part(number: int) -> tuple[list[dict[str, Any]], float]:
    """Learn from the tasks that one part leaves, and search those that it judges.

    Args:
        number: of the part, in :func:`strategy_pool.evaluation.folds`.

    Returns:
        one row per search, with ``method``, ``task``, ``seed`` and what :meth:`Shown.search` says; and the processor's
        seconds of learning and ordering.
    """
    if _opened is None:
        raise RuntimeError("no tables were opened")
    settings, tables = _opened
    fold = folds(tables.table, settings.by)[number]
    past = tables.table.of(fold.past)
    began = time.process_time()
    learners = {METHODS[name].learner for name in settings.methods}
    fitted = {name: LEARNERS[name]().fit(past, settings.seed) for name in sorted(learners)}
    learning = time.process_time() - began
    rows = []
    for task in fold.judged:
        if task not in tables.tasks:
            continue
        began = time.process_time()
        shown = Shown.of(tables, task)
        opinions = {name: shown.opinion(learner) for name, learner in fitted.items()}
        learning += time.process_time() - began
        for seed in range(settings.seed, settings.seed + settings.seeds):
            began = time.process_time()
            orders = {name: opinion(seed) for name, opinion in opinions.items()}
            learning += time.process_time() - began
            for name in settings.methods:
                found = shown.search(METHODS[name], orders, settings, seed)
                rows.append({"method": name, "task": task, "seed": seed, **found})
    return rows, learning


@dataclass(frozen=True)
class Shown:
    """One task.

    Attributes:
        task: its name.
        frame: what a ranker may see of the candidates, [n] rows.
        candidates: [n].
        trials: candidate's id → how it ran.
        model: the column that names a network.
    """

    task: str
    frame: pd.DataFrame
    candidates: list[Candidate]
    trials: dict[str, Recorded]
    model: str | None

    @classmethod
    def of(cls, tables: Tables, task: str) -> Shown:
        """The trials of one task whose length is known."""
        known = tables.tasks[task]
        (left,) = predictions(RandomOrder(), tables.table.of([task]))
        rows = left.shown[left.shown["strategy"].astype(str).isin(known)].reset_index(drop=True)
        candidates = [
            Candidate(str(model) or "unknown", 1, "fp32", str(strategy))
            for model, strategy in zip(models_of(rows, tables.model), rows["strategy"], strict=True)
        ]
        return cls(task, rows, candidates, {c.id: known[c.strategy] for c in candidates}, tables.model)

    def opinion(self, learner: Learner) -> Callable[[int], np.ndarray]:
        """What a fitted learner says of this task: seed → positions in the order of trying, int [n]."""

        def generator(seed: int) -> np.random.Generator:
            return np.random.default_rng([seed, zlib.crc32(self.task.encode())])

        if isinstance(learner, Ranker):
            view = learner.view(self.frame)
            return lambda seed: learner.order(self.frame, generator(seed), view)
        predicted = np.asarray(learner.predict(self.frame), dtype=float)
        return lambda seed: order_of(predicted, generator(seed))

    def search(
        self, method: Method, orders: Mapping[str, np.ndarray], settings: Settings, seed: int
    ) -> dict[str, Any]:
        """Run one search.

        Args:
            method: how.
            orders: learner → positions in the order of trying, int [n].
            settings: of all searches.
            seed: of this one.

        Returns:
            ``regret`` at the hours, how many different candidates were ``tried``, how many trials were ``stopped`` early,
            and the processor's ``seconds``.
        """
        began = time.process_time()
        done = self._run(method, orders[method.learner], settings, seed)
        seconds = time.process_time() - began
        regret = 1.0 - done.best_at(3600 * np.array(settings.hours))
        return {
            "regret": regret.tolist(),
            "tried": len({candidate.id for candidate in done.given}),
            "stopped": sum(one.status == "stopped" and one.error is None for one in done.trials),
            "seconds": seconds,
        }

    def _run(self, method: Method, order: np.ndarray, settings: Settings, seed: int) -> Replayed:
        pool = [self.candidates[at] for at in order]
        searcher: Any
        most_epochs: Callable[[Candidate], int | None] = _all_epochs
        if method.searcher == "hyperband":
            searcher = Hyperband(pool, max(len(one.course.seconds) for one in self.trials.values()))
            most_epochs = searcher.epochs
        elif method.searcher == "tpe":
            model = TableTpe(self.frame, self.candidates, self.model, seed)
            searcher = TableProposer(
                pool, model, seed=seed, explore_share=method.explored, pool_first=method.pool_first
            )
        else:
            searcher = Proposer(pool, seed=seed, explore_share=0.0)
        return simulate(
            searcher,
            lambda candidate: self.trials[candidate.id],
            deadline=3600 * settings.hours[-1],
            workers=settings.workers,
            first_rung=settings.first_rung if method.halving else None,
            most_epochs=most_epochs,
            seed=seed,
        )


def _all_epochs(candidate: Candidate) -> int | None:
    return None
