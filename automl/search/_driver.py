"""What both ways of running a search share: giving out trials, taking in outcomes, knowing when to end."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from automl.candidate import Candidate
from automl.records import INTERRUPTED, WORKER_DIED, Outcome, Progress, TrialSpec
from automl.search._session import outcome_of, request_stop
from automl.search.proposer import Proposer
from automl.search.store import mark_lost, read_outcome, write_outcome, write_spec

MakeSpec = Callable[[Candidate, float], TrialSpec]
Violations = Callable[[TrialSpec, Outcome], Mapping[str, float]]

_POLL_SECONDS = 0.2


class Listener(Protocol):
    """Hears what happens in a search, in the driver's thread."""

    def started(self, spec: TrialSpec) -> None:
        """A trial was given out."""

    def progressed(self, spec: TrialSpec, progress: Progress) -> None:
        """A trial reported."""

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial ended."""

    def tick(self) -> None:
        """Some tenths of a second went by."""


@dataclasses.dataclass
class Running:
    """A trial that was given out.

    Attributes:
        spec: its specification.
        since: when its work started on the driver's clock, None while it waits for a worker.
        curve: what it reported.
        stopping: since when it has been asked to stop, None where it has not.
        killed: why its worker was killed, None where it was not.
    """

    spec: TrialSpec
    given: float
    since: float | None = None
    curve: list[list[float]] = dataclasses.field(default_factory=list)
    stopping: float | None = None
    killed: str | None = None


class Driver:
    """State of a search in the process that leads it.

    Errors of the callbacks end the search and are raised by :meth:`raise_errors`.

    Args:
        clock: seconds; the deadline and all times here are on it. Where trials are only recorded ones, it is theirs.
        keep: called with each specification before its trial is given out; by default it goes to disk.
        machines_go: trials run on other machines, which may go: a trial that is lost with its worker is given out again,
            once, and nobody but its folder knows.
    """

    def __init__(
        self,
        proposer: Proposer,
        make_spec: MakeSpec,
        *,
        deadline: float | Callable[[], float],
        on_result: Callable[[TrialSpec, Outcome], None],
        should_stop: Callable[[], bool],
        violations: Violations | None,
        listener: Listener | None,
        clock: Callable[[], float] = time.monotonic,
        keep: Callable[[TrialSpec], None] = write_spec,
        machines_go: bool = False,
    ) -> None:
        self._deadline = deadline
        self._clock = clock
        self._keep = keep
        self.machines_go = machines_go
        self._again: list[TrialSpec] = []
        self._lost: set[str] = set()
        self.running: dict[str, Running] = {}
        self.interrupted = False
        self.ending_since: float | None = None
        self._proposer = proposer
        self._make_spec = make_spec
        self._on_result = on_result
        self._should_stop = should_stop
        self._violations = violations or _violations_of_outcome
        self._listener = listener
        self._errors: list[BaseException] = []
        self._polled = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray Tune pickles whatever hangs on its hooks for snapshots that nobody reads: give it nothing.
        return (type(None), ())

    @property
    def deadline(self) -> float:
        """On the driver's clock, which is ``time.monotonic`` by default."""
        return self._deadline() if callable(self._deadline) else self._deadline

    @property
    def ending(self) -> bool:
        """Whether no more trials are given out."""
        return self.ending_since is not None

    def next_trial(self) -> TrialSpec | None:
        """Give out a trial; None while there is none to give (then see :attr:`over`)."""
        self.poll()
        if self.ending:
            return None
        left = self.deadline - self._clock()
        try:
            spec = self._lost_one(left) or self._new_one(left)
            if spec is None:
                return None
            self._keep(spec)
            self.running[spec.trial_id] = Running(spec, self._clock())
            if self._listener is not None:
                self._listener.started(spec)
        except Exception as error:
            self._give_up(error)
            return None
        return spec

    def _new_one(self, left: float) -> TrialSpec | None:
        busy = [item.spec.candidate for item in self.running.values()]
        candidate = self._proposer.propose(busy, left)
        return None if candidate is None else self._make_spec(candidate, left)

    def _lost_one(self, left: float) -> TrialSpec | None:
        if not self._again:
            return None
        spec = self._again.pop(0)
        return spec if spec.seconds is None else dataclasses.replace(spec, seconds=min(spec.seconds, left))

    @property
    def over(self) -> bool:
        """Whether the search ends once :meth:`next_trial` returned None: nothing runs, so nothing will change."""
        return self.ending or not (self.running or self._again)

    def began(self, trial_id: str) -> None:
        """A worker took up the trial."""
        item = self.running.get(trial_id)
        if item is not None and item.since is None:
            item.since = self._clock()

    def progressed(self, trial_id: str, progress: Progress) -> None:
        """Take in a report."""
        item = self.running.get(trial_id)
        if item is None:
            return
        item.curve.append([progress.epoch, progress.score, progress.seconds])
        if self._listener is not None:
            try:
                self._listener.progressed(item.spec, progress)
            except Exception as error:
                self._give_up(error)

    def finished(self, trial_id: str, outcome: Outcome | None, error: str | None = None) -> None:
        """Take in the end of a trial; only its first end counts.

        Args:
            trial_id: which.
            outcome: how it ended; None where the worker could not say, then the outcome on disk
                counts, and without one the trial failed with ``error``.
            error: one line.
        """
        item = self.running.pop(trial_id, None)
        if item is None:
            return
        spec = item.spec
        folder = Path(spec.folder)
        if outcome is None:
            outcome = read_outcome(folder)
        if self._is_lost(item, outcome):
            self._lost.add(trial_id)
            mark_lost(folder)
            self._again.append(spec)
            return
        if outcome is None:
            outcome = self._made_up(item, error)
            write_outcome(folder, outcome)
        elif (
            self.ending
            and outcome.status == "stopped"
            and outcome.error is None
            and item.stopping is not None
            and item.stopping >= (self.ending_since or 0.0)
        ):
            outcome = dataclasses.replace(outcome, error=INTERRUPTED)
            write_outcome(folder, outcome)
        try:
            self._proposer.observe(
                spec.candidate,
                outcome.usable_score,
                self._violations(spec, outcome),
                outcome.status,
                error=outcome.error,
                epochs=outcome.epochs,
            )
            self._on_result(spec, outcome)
            if self._listener is not None:
                self._listener.finished(spec, outcome)
        except Exception as raised:
            self._give_up(raised)

    def _is_lost(self, item: Running, outcome: Outcome | None) -> bool:
        """Whether its worker went without being told to, for the first time."""
        if not self.machines_go or self.ending or item.spec.trial_id in self._lost:
            return False
        if item.killed is not None or item.stopping is not None:
            return False
        return outcome is None or (outcome.status == "stopped" and outcome.error == INTERRUPTED)

    def poll(self) -> None:
        """Look at the clock and at ``should_stop`` (five times a second); when it is time, end the search."""
        now = self._clock()
        if now - self._polled < _POLL_SECONDS:
            return
        self._polled = now
        try:
            if self._listener is not None:
                self._listener.tick()
            if not self.ending and (self.interrupted or now >= self.deadline or self._should_stop()):
                self.end()
        except Exception as error:
            self._give_up(error)

    def end(self) -> None:
        """Give out no more trials and ask the running ones to stop."""
        if self.ending_since is None:
            self.ending_since = self._clock()
        for trial_id in list(self.running):
            self.stop(trial_id)

    def stop(self, trial_id: str) -> None:
        """Ask a running trial to end at its next report."""
        item = self.running.get(trial_id)
        if item is not None and item.stopping is None:
            item.stopping = self._clock()
            request_stop(item.spec)

    def raise_errors(self) -> None:
        """Raise the first error of a callback, if there was one."""
        if self._errors:
            raise self._errors[0]

    @contextmanager
    def catching_interrupts(self) -> Iterator[None]:
        """Let the first SIGINT end the search in order and the second abort it with ``KeyboardInterrupt``.

        Outside the main thread signals are somebody else's.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def note(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _give_up(self, error: BaseException) -> None:
        self._errors.append(error)
        self.end()

    def _made_up(self, item: Running, error: str | None) -> Outcome:
        seconds = self._clock() - item.since if item.since is not None else 0.0
        if item.killed is None:
            status, text = "failed", error or WORKER_DIED
        elif self.ending:
            status, text = "stopped", INTERRUPTED
        else:
            status, text = "timeout", item.killed
        # Its last report has no model behind it, so it does not count as a score.
        return outcome_of(item.spec, status, text, item.curve, seconds, scored=False)


def _violations_of_outcome(spec: TrialSpec, outcome: Outcome) -> Mapping[str, float]:
    found = outcome.metrics.get("violations", {})
    return found if isinstance(found, Mapping) else {}
