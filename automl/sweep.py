"""Many candidates of the pool on one dataset, each to its end: what a ranker learns from.

Nothing stops a trial early, nothing is chosen and no test image is looked at; every trial goes into the history.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from automl.candidate import Candidate
from automl.engine import prepared
from automl.machine import trial_resources
from automl.plan import LANDMARK_SHARE
from automl.records import INTERRUPTED, WORKER_DIED, Outcome, TrialSpec
from automl.run import Run
from automl.run_folder import brought_folders
from automl.task import Task
from strategy_pool.features import LANDMARK_METHOD
from strategy_pool.strategy import Strategy

#: Seconds of the submit whose first trials are run here too.
_USUAL_BUDGET = 240.0

#: Candidates of a pool, its strategies by name and how many are wanted → those that are tried.
Choose = Callable[[Sequence[Candidate], Mapping[str, Strategy], int], list[Candidate]]


def sweep(
    task: Task,
    *,
    out: str | os.PathLike[str],
    candidates: int,
    seconds: float,
    history_url: str,
    workers: int | None = None,
    ray_address: str | None = None,
    in_process: bool = False,
    columns: dict[str, str] | None = None,
    quiet: bool = False,
    choose: Choose | None = None,
) -> str:
    """Run the first trials of a submit, then candidates of the rest of the pool.

    What an earlier call in the same folder finished is not repeated.

    Args:
        task: the dataset and what is maximised on it.
        out: run folder, new or of a sweep that was broken off.
        candidates: how many besides the first ones.
        seconds: that each may take.
        history_url: database of the trials.
        workers: trials at a time, by default one per core.
        ray_address: of an existing Ray cluster. A trial that is lost with its machine is run again, once.
        in_process: run trials one after another in this process, without Ray.
        columns: names of a manifest's columns.
        quiet: print nothing.
        choose: takes them from the pool; by default :func:`spread`.

    Returns:
        The task's id in the history.

    Raises:
        InputError: the input is wrong; nothing was started.
    """
    folder = Path(out).expanduser().resolve()
    begun = (folder / "search" / "task.json").exists()
    run = _Sweep(task, folder, begun, (), quiet)
    with prepared(run, workers, history_url, ray_address, False, in_process, columns):
        run.run_all(candidates, seconds, in_process, ray_address, choose or spread)
    return run.task_id


def spread(pool: Sequence[Candidate], catalog: Mapping[str, Strategy], count: int) -> list[Candidate]:
    """Candidates spread evenly over networks and methods, the same ones for every dataset that admits them.

    Args:
        pool: to choose from.
        catalog: strategies by name.
        count: how many at most.
    """
    kinds: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in sorted(pool, key=_scrambled):
        kinds[candidate.architecture, catalog[candidate.strategy].method].append(candidate)
    rounds = itertools.zip_longest(*sorted(kinds.values(), key=lambda of: _scrambled(of[0])))
    return [c for one in rounds for c in one if c is not None][:count]


def _scrambled(candidate: Candidate) -> str:
    return hashlib.sha256(candidate.id.encode()).hexdigest()


@dataclass
class _Given:
    """Gives out a list; has the interface of :class:`automl.search.Proposer`."""

    waiting: list[Candidate]
    current: None = field(default=None, init=False)

    @property
    def done(self) -> bool:
        return not self.waiting

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        return self.waiting.pop(0) if self.waiting else None

    def observe(self, candidate: Candidate, *_told: object, **_more: object) -> None:
        """Nothing follows from what a trial found."""


class _Sweep(Run):
    """A run that is only trials."""

    def run_all(
        self, count: int, seconds: float, in_process: bool, ray_address: str | None, choose: Choose
    ) -> None:
        from automl.ranking import landmark_candidates
        from automl.search import SearchDisplay, run_search

        first = landmark_candidates(
            self.backbones,
            self.catalog,
            self.table,
            images=len(self.dataset.indices("development")),
            classes=len(self.dataset.class_names),
            core_seconds=LANDMARK_SHARE * _USUAL_BUDGET * self.workers,
        )
        self.all_landmarks = first
        others = [c for c in self.pool if self.catalog[c.strategy].method != LANDMARK_METHOD]
        chosen = [*first, *choose(others, self.catalog, count)]
        finished = set()
        for spec, outcome in self.store.finished():
            if outcome.error not in (INTERRUPTED, WORKER_DIED):
                self._record(spec, outcome)
                self.finished.append((spec, outcome))
                finished.add(spec.candidate.id)
        self.store.clean_orphans()
        self.each = seconds
        given = _Given([c for c in chosen if c.id not in finished])
        if given.done:
            return
        self.phases = given  # type: ignore[assignment]
        with SearchDisplay(None, trials=len(given.waiting), quiet=self.quiet) as display:
            end = run_search(
                given,  # type: ignore[arg-type]
                self._make_spec,
                deadline=math.inf,
                concurrency=self.workers,
                on_result=self._on_result,
                mode="inprocess" if in_process else "ray",
                ray_address=ray_address,
                folders=brought_folders(self) if ray_address else None,
                resources=trial_resources(self.workers),
                listener=display,
            )
        if end.interrupted:
            raise KeyboardInterrupt

    def _search_seconds(self, method: str) -> float | None:
        return self.each

    def _on_result(self, spec: TrialSpec, outcome: Outcome) -> None:
        self._record(spec, outcome)
        self.finished.append((spec, outcome))
        (Path(spec.folder) / "model.safetensors").unlink(missing_ok=True)  # nobody will choose it
