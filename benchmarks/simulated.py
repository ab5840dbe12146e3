"""Searches over recorded trials in simulated time: the engine's own driver, proposer and early stopping, and no waiting.

A recorded trial takes the seconds that its epochs took. The clock jumps from one report to the next, so a search of
sixteen hours is over in milliseconds and is the same at every run.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np

from automl.candidate import Candidate
from automl.records import INTERRUPTED, Outcome, Progress, TrialSpec
from automl.search import Halving, Proposer
from automl.search._driver import Driver
from strategy_pool.replay import Course

#: Reports are sent to the driver at most this often, as :mod:`automl.search._ray_trainable` does it.
REPORT_SECONDS = 0.25
#: What the error of a recorded failure is; the same for all, as a loss that diverges says the same each time.
FAILED = "it failed when it was recorded"
#: Seconds after the deadline at which the driver looks at the clock once more, should it have looked just before.
_AGAIN = 1.0


class Searcher(Protocol):
    """What gives out candidates and learns from them: the part of :class:`automl.search.Proposer` that a driver asks."""

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        """Give out the next candidate, None while there is none."""

    def observe(
        self,
        candidate: Candidate,
        score: float | None,
        violations: Mapping[str, float] | None = None,
        status: str = "completed",
        *,
        error: str | None = None,
        epochs: int = 0,
    ) -> None:
        """Learn how a candidate did."""


@dataclass(frozen=True)
class Recorded:
    """A trial as it once ran.

    Attributes:
        course: best score by the end of each epoch, and seconds until then.
        failed: whether it ended in a failure, which leaves no score to learn from.
        method: of its strategy, where the table names it; models on frozen features are never stopped early.
    """

    course: Course
    failed: bool = False
    method: str | None = None


@dataclass(frozen=True)
class Ran:
    """A trial of a simulated search.

    Attributes:
        candidate: what was tried.
        began, ended: seconds of simulated time.
        status: one of :data:`automl.records.STATUSES`; ``stopped`` with an ``error`` where the search ended.
        epochs: that are finished.
        error: one line, None where there is none.
    """

    candidate: Candidate
    began: float
    ended: float
    status: str
    epochs: int
    error: str | None = None


@dataclass(frozen=True)
class Replayed:
    """A simulated search.

    Attributes:
        given: what was tried, in the order in which it was given out; more than once where it was trained on.
        trials: in the order in which they ended.
        seconds: of the reports, float [reports], ascending.
        best: best score by then, float [reports].
    """

    given: tuple[Candidate, ...]
    trials: tuple[Ran, ...]
    seconds: np.ndarray
    best: np.ndarray

    def best_at(self, times: np.ndarray) -> np.ndarray:
        """Best score so far at each time, float [times]; 0 before there is any.

        Args:
            times: seconds, float [times].
        """
        at = np.searchsorted(self.seconds, times, side="right")
        return np.append(0.0, self.best)[at]


def simulate(
    searcher: Searcher,
    recorded: Callable[[Candidate], Recorded],
    *,
    deadline: float,
    workers: int = 1,
    first_rung: float | None = None,
    halving: Halving = Halving(),
    most_epochs: Callable[[Candidate], int | None] = lambda candidate: None,
    seed: int = 0,
) -> Replayed:
    """Run a search over recorded trials, from time 0 on.

    What a submit does with Ray happens here in the same order, but for what takes no recorded time: a worker takes up a
    trial at once, a trial that is to stop does so at its report, and what runs at the deadline ends there.

    Args:
        searcher: gives out candidates; one that is given out again goes on from where its training stopped.
        recorded: how a candidate once ran.
        deadline: seconds, finite.
        workers: trials at a time.
        first_rung: as for :func:`automl.search.run_search`; None never stops a trial.
        halving: its other settings.
        most_epochs: up to which a candidate is trained now, None for all of them.
        seed: of the bracket that a trial gets, where there are several.

    Raises:
        Exception: whatever the searcher raised.
    """
    return _Simulation(searcher, recorded, deadline, workers, first_rung, halving, most_epochs, seed).run()


@dataclass
class _Active:
    """A trial under way.

    Attributes:
        spec: its specification.
        record: how it once ran.
        trial: what it is for Ray Tune.
        began: when it was taken up.
        done: epochs that it has reported.
        until: epochs that it is trained for now.
        before: seconds of training before it was taken up.
        next: epochs that are done at its next report.
    """

    spec: TrialSpec
    record: Recorded
    trial: SimpleNamespace
    began: float
    done: int
    until: int
    before: float = field(init=False)
    next: int = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.used

    @property
    def used(self) -> float:
        """Seconds of training up to the epochs that are done."""
        return float(self.record.course.seconds[self.done - 1]) if self.done else 0.0

    @property
    def score(self) -> float | None:
        """Best score so far."""
        return float(self.record.course.values[self.done - 1]) if self.done else None

    def plan(self) -> float:
        """Look ahead to the next report, or to the end where nothing is left to do; return when that is."""
        seconds = self.record.course.seconds
        at = int(np.searchsorted(seconds, self.used + REPORT_SECONDS))
        self.next = max(self.done, min(at + 1, self.until))
        return self.began + (float(seconds[self.next - 1]) if self.next else 0.0) - self.before


class _Simulation:
    def __init__(
        self,
        searcher: Searcher,
        recorded: Callable[[Candidate], Recorded],
        deadline: float,
        workers: int,
        first_rung: float | None,
        halving: Halving,
        most_epochs: Callable[[Candidate], int | None],
        seed: int,
    ) -> None:
        self._now = 0.0
        self._recorded, self._most_epochs = recorded, most_epochs
        self._workers = workers
        self._active: dict[str, _Active] = {}
        self._reached: dict[str, int] = {}
        self._given: list[Candidate] = []
        self._ended: list[Ran] = []
        self._reports: list[tuple[float, float]] = []
        self._number = itertools.count()
        # A report at the deadline still counts, so the deadline comes last among what happens then.
        self._events: list[tuple[float, float, str]] = [
            (deadline, math.inf, ""),
            (deadline + _AGAIN, math.inf, ""),
        ]
        self._driver = Driver(
            cast(Proposer, searcher),
            self._make_spec,
            deadline=deadline,
            on_result=lambda spec, outcome: None,
            should_stop=lambda: False,
            violations=None,
            listener=None,
            clock=lambda: self._now,
            keep=lambda spec: None,
        )
        self._halving = None if first_rung is None else self._scheduler(first_rung, halving, deadline)
        if halving.brackets > 1:
            np.random.seed(seed)

    def _scheduler(self, first_rung: float, halving: Halving, deadline: float) -> Any:
        """The engine's own, with the settings that :func:`automl.search._ray_runner.run` gives it."""
        from automl.search._ray_runner import _Halving

        longest = math.ceil(max(deadline, 1.0))
        return _Halving(self._driver, _Same(), max(1, round(first_rung)), longest, halving)

    def run(self) -> Replayed:
        while True:
            while len(self._driver.running) < self._workers:
                spec = self._driver.next_trial()
                if spec is None:
                    break
                self._start(spec)
            if self._driver.over:
                break
            self._now, _, trial_id = heapq.heappop(self._events)
            if trial_id:
                self._report(self._active[trial_id])
            self._driver.poll()
        for active in list(self._active.values()):
            self._finish(active, "stopped", INTERRUPTED)
        self._driver.raise_errors()
        seconds, values = np.array(self._reports).reshape(-1, 2).T
        return Replayed(tuple(self._given), tuple(self._ended), seconds, np.maximum.accumulate(values))

    def _make_spec(self, candidate: Candidate, left: float) -> TrialSpec:
        trial_id = f"t{len(self._given) + 1:04d}"
        self._given.append(candidate)
        return TrialSpec(
            trial_id, candidate, dataset_folder="", backbone={},
            # A place where no file can be: nothing of a simulated trial is written.
            folder=f"{os.devnull}/{trial_id}",
            seconds=None, max_epochs=self._most_epochs(candidate), seed=0, threads=1, device="cpu:1",
            objective="", constraints=[], shared_folder="",
            strategy={"method": self._recorded(candidate).method},
        )  # fmt: skip

    def _start(self, spec: TrialSpec) -> None:
        record = self._recorded(spec.candidate)
        done = self._reached.get(spec.candidate.id, 0)
        every = len(record.course.seconds)
        until = every if spec.max_epochs is None else min(every, spec.max_epochs)
        trial = SimpleNamespace(trial_id=spec.trial_id)
        active = _Active(spec, record, trial, self._now, done, until)
        self._active[spec.trial_id] = active
        if self._halving is not None:
            self._halving.on_trial_add(None, trial)
        self._driver.began(spec.trial_id)
        self._await(active)

    def _await(self, active: _Active) -> None:
        heapq.heappush(self._events, (active.plan(), float(next(self._number)), active.spec.trial_id))

    def _report(self, active: _Active) -> None:
        name, before = active.spec.trial_id, active.done
        active.done = active.next
        score = active.score
        if score is not None and active.done > before:
            self._reports.append((self._now, score))
            fraction = active.done / len(active.record.course.seconds)
            report = Progress(active.done, fraction, score, active.used)
            if self._halving is not None:
                told = {"report": report, "used": report.seconds, "score": score}
                self._halving.on_trial_result(None, active.trial, told)
            self._driver.progressed(name, report)
        if self._driver.running[name].stopping is not None:
            self._finish(active, "stopped")
        elif active.done < active.until:
            self._await(active)
        elif active.record.failed and active.done == len(active.record.course.seconds):
            self._finish(active, "failed", FAILED)
        else:
            self._finish(active, "completed")

    def _finish(self, active: _Active, status: str, error: str | None = None) -> None:
        spec, curve = active.spec, self._driver.running[active.spec.trial_id].curve
        del self._active[spec.trial_id]
        self._reached[spec.candidate.id] = active.done
        self._ended.append(Ran(spec.candidate, active.began, self._now, status, active.done, error))
        if self._halving is not None:
            self._halving.on_trial_complete(None, active.trial, {})
        score = None if status == "failed" else active.score
        seconds = self._now - active.began
        self._driver.finished(
            spec.trial_id,
            Outcome(spec.trial_id, spec.candidate.id, status, score, {}, seconds, active.done, curve, error),
        )


class _Same(dict[str, str]):
    """Tune's names of trials, which are the driver's here."""

    def __missing__(self, name: str) -> str:
        return name
