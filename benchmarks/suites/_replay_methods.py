"""What the replay compares, and what its processes are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Share of the proposals that the model makes up beside a ranked pool, as in a submit.
_EXPLORED = 0.5


@dataclass(frozen=True)
class Method:
    """One way to search.

    Attributes:
        title: what it is, for the table.
        learner: key of what orders the candidates (:data:`strategy_pool.evaluation.METHODS`).
        searcher: ``pool`` tries them in that order; ``tpe`` and ``hyperband`` search.
        explored: share of the proposals that the model makes.
        pool_first: proposals that are the pool's without question.
        halving: whether weak trials are stopped early, as a submit does it.
    """

    title: str
    learner: str = "random"
    searcher: str = "pool"
    explored: float = 0.0
    pool_first: int = 0
    halving: bool = False


METHODS: Mapping[str, Method] = {
    "ranker": Method("order of the ranker", "ranker"),
    "ranker_halving": Method("the same with asynchronous successive halving", "ranker", halving=True),
    "ranker_tpe_halving": Method(
        "the ranker's first six, then every other proposal from TPE, with halving, as a submit tunes networks",
        "ranker", "tpe", _EXPLORED, 6, halving=True,
    ),
    "lightgbm_regression": Method("order of a LightGBM regression", "lightgbm_regression"),
    "history_average": Method("order of the history average", "history_average"),
    "random": Method("random search"),
    "random_halving": Method("random search with asynchronous successive halving", halving=True),
    "hyperband": Method("Hyperband over a random order, in epochs", searcher="hyperband"),
    "tpe": Method("Optuna's TPE, which runs the nearest recorded candidate", searcher="tpe", explored=1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a process is told.

    Attributes:
        table, curves: files.
        methods: keys of :data:`METHODS`.
        by: what is left out together, ``task`` or ``group``.
        workers: trials at a time.
        seed: of the fits; searches have this and the next ones.
        seeds: searches per method and task.
        hours: at which regret is read, ascending; the last is the deadline.
        first_rung: seconds of training after which a weak trial may be stopped.
    """

    table: str
    curves: str
    methods: tuple[str, ...]
    by: str
    workers: int
    seed: int
    seeds: int
    hours: tuple[float, ...]
    first_rung: float
