"""Searchers of other people's engines that learn from earlier tasks, in the place of the engine's own.

They are asked in an environment of their own (:mod:`benchmarks.peers`), line by line. What they learn from is the history that
the package carries, without tasks of the same images, as the engine's own search does; what they may propose are the engine's
candidates. Trials, early stopping, the training of the best one on all images and the export are those of
:mod:`benchmarks.searchers`.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from automl.candidate import Candidate
from automl.errors import AutomlError
from benchmarks import peers

if TYPE_CHECKING:
    import pandas as pd

    from automl.run import Run
    from strategy_pool.strategy import Strategy

#: Of a recipe what says nothing of the training.
_WORDS = frozenset({"name", "summary", "source", "version", "order", "resolution"})


@dataclass(frozen=True)
class TransferSearcher:
    """One searcher.

    Attributes:
        title: what it is, for tables.
        peer: in whose environment it is asked.
        method: what its script calls it.
        brackets: of asynchronous successive halving; 0 lets every trial end.
        listens: whether it is told how trials end; others learn from earlier tasks alone.
    """

    title: str
    peer: str
    method: str
    brackets: int = 0
    listens: bool = False

    @contextmanager
    def proposing(self, run: Run) -> Iterator[Asked]:
        """What proposes the trials of a run, until the end of the context.

        Raises:
            InputError: the peer is not installed.
        """
        from strategy_pool.shipped import shipped

        learned = history(*shipped(run.dataset.sketch), run.catalog)
        # Of a precision that was never tried nothing can be learned, not even that it takes longer.
        tried = {seen["precision"] for of_task in learned.values() for seen, _score in of_task["tried"]}
        pool = [c for c in run.pool if c.precision in tried] or list(run.pool)
        told = {
            "method": self.method,
            "seed": run.task.seed,
            "configurations": [configuration(c, run.catalog[c.strategy]) for c in pool],
            "features": {name: float(value) for name, value in run.features.items() if value is not None},
            "history": learned,
        }
        with peers.talking(self.peer, run.folder / "search" / f"{self.peer}.txt") as process:
            _say(process, told)
            yield Asked(process, pool, self.listens)


TRANSFER: Mapping[str, TransferSearcher] = {
    "syne-zero-shot": TransferSearcher(
        "Syne Tune's zero-shot transfer from the history that the package carries", "syne-tune", "zero-shot"
    ),
    "syne-asha-transfer": TransferSearcher(
        "Syne Tune's quantile-based transfer from that history with asynchronous successive halving",
        "syne-tune",
        "quantiles",
        brackets=1,
    ),
    "quick-tune": TransferSearcher(
        "Quick-Tune-Tool's optimizer, its predictor trained on that history, asked for whole trainings",
        "quick-tune",
        "quick-tune",
        listens=True,
    ),
}


def configuration(candidate: Candidate, recipe: Strategy) -> dict[str, Any]:
    """What a surrogate sees of a candidate: network, side, precision, and the recipe by its name and its settings."""
    settings = {key: value for key, value in recipe.to_dict().items() if key not in _WORDS}
    for name in ("lr", "weight_decay", "strength"):  # of many sizes
        settings[name] = math.log10(max(float(settings[name]), 1e-6))
    return {
        "network": candidate.architecture, "side": candidate.resolution, "precision": candidate.precision,
        "recipe": candidate.strategy, **settings,
    }  # fmt: skip


def history(
    trials: pd.DataFrame, tasks: pd.DataFrame, catalog: Mapping[str, Strategy]
) -> dict[str, dict[str, Any]]:
    """Per task its ``features``, and what was ``tried`` of the catalog without changes: pairs of configuration and score."""
    found: dict[str, dict[str, Any]] = {
        task.task_id: {"features": json.loads(task.features), "tried": []} for task in tasks.itertuples()
    }
    for row in trials.itertuples():
        if row.status != "completed" or row.strategy not in catalog or json.loads(row.overrides or "{}"):
            continue
        if row.score is None or not math.isfinite(row.score):
            continue
        candidate = Candidate(row.architecture, int(row.resolution), row.precision, row.strategy)
        told = configuration(candidate, catalog[row.strategy])
        found[row.task_id]["tried"].append([told, float(row.score)])
    return {task: told for task, told in found.items() if told["tried"]}


@dataclass
class Asked:
    """Asks a process for candidates; has the interface of :class:`automl.search.Proposer`.

    Args:
        process: that was told all there is.
        pool: candidates, in the order in which it knows them.
        listens: whether it is told how trials end.
    """

    process: subprocess.Popen[str]
    pool: Sequence[Candidate]
    listens: bool = False
    done: bool = field(default=False, init=False)

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        """Give out a candidate; None when all were given out.

        Raises:
            AutomlError: the process ended.
        """
        if self.done:
            return None
        _say(self.process, "next")
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AutomlError("the searcher ended; its log lies beside the trials")
        place = json.loads(line)
        self.done = place is None
        return None if place is None else self.pool[place]

    def observe(self, candidate: Candidate, score: float | None, *_told: object, **_more: object) -> None:
        """Take in how a trial ended."""
        if not self.listens or candidate not in self.pool:
            return
        known = score is not None and math.isfinite(score)
        _say(self.process, {"place": self.pool.index(candidate), "score": score if known else None})


def _say(process: subprocess.Popen[str], what: Any) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        raise AutomlError("the searcher ended; its log lies beside the trials") from None
