"""One trial, advanced step by step, in whatever process it runs; every ending becomes an outcome on disk."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import math
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from automl.records import INTERRUPTED, Outcome, Progress, TrialSpec
from automl.search.store import read_outcome, write_outcome

TrialFunction = Callable[[TrialSpec], Generator[Progress, Any, Outcome]]

#: A file of this name in a trial's folder asks the trial to end at its next report.
STOP_FILE = "stop"

_MEMORY_WORDS = (
    "memoryerror",
    "out of memory",
    "cannot allocate memory",
    "defaultcpuallocator: can't allocate",
)


def import_trial_function(name: str) -> TrialFunction:
    """Import ``package.module:function``.

    Raises:
        ValueError: the name has no colon, or the module or the function does not exist.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"trial function is {name!r}; it has the form package.module:function")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"trial function {name!r} cannot be imported: {error}") from error


class TrialSession:
    """Runs one trial's generator and turns whatever happens into an :class:`Outcome`.

    A stop is sent into the generator as ``GeneratorExit`` at its ``yield``. A trial that catches it may
    save what it has and ``return`` its own outcome (or write it); one that does not gets an outcome with
    status ``stopped`` and the score it reported last.

    Args:
        spec: the trial.
        function: :func:`automl.trial.iterate_trial` or alike.
    """

    def __init__(self, spec: TrialSpec, function: TrialFunction) -> None:
        self.spec = spec
        self.folder = Path(spec.folder)
        self.curve: list[list[float]] = []
        self.outcome: Outcome | None = None
        self.memory_error = False
        self._function = function
        self._generator: Generator[Progress, Any, Outcome] | None = None
        self._started = time.monotonic()

    def advance(self, at_least: float = 0.0) -> Progress | Outcome:
        """Run to the next report and on until ``at_least`` seconds went by, or to the end.

        Returns:
            the last report, or the outcome where the trial is over. Never raises what the trial raised.
        """
        begin = time.monotonic()
        while True:
            if self.outcome is not None:
                return self.outcome
            if (self.folder / STOP_FILE).exists():
                return self.stop()
            try:
                if self._generator is None:
                    self._generator = self._function(self.spec)
                progress = next(self._generator)
                self.curve.append([progress.epoch, progress.score, progress.seconds])
            except StopIteration as end:
                return self._finish(end.value)
            except (Exception, SystemExit) as error:
                return self._fail(error)
            if time.monotonic() - begin >= at_least:
                return progress

    def stop(self) -> Outcome:
        """End the trial now; see the class for what its outcome is."""
        if self.outcome is not None:
            return self.outcome
        value: Any = None
        if self._generator is not None:
            try:
                self._generator.throw(GeneratorExit())
            except StopIteration as end:
                value = end.value
            except GeneratorExit:
                pass
            except (Exception, SystemExit) as error:
                return self._fail(error)
            else:
                with suppress(Exception):
                    self._generator.close()
        return self._finish(value, stopped=True)

    def abort(self) -> None:
        """End a trial that still runs because its process does; a resumed search runs it again."""
        if self.outcome is not None:
            return
        outcome = self.stop()
        if outcome.status == "stopped" and outcome.error is None:
            self.outcome = dataclasses.replace(outcome, error=INTERRUPTED)
            write_outcome(self.folder, self.outcome)

    def _finish(self, value: Any, stopped: bool = False) -> Outcome:
        written = read_outcome(self.folder)
        if written is not None:  # what a resumed run reads is what counts
            outcome = written
        elif isinstance(value, Outcome):
            outcome = value
        elif stopped:
            outcome = self._own_outcome("stopped")
        else:
            outcome = self._own_outcome(
                "failed", f"the trial returned {type(value).__name__} instead of an outcome"
            )
        return self._keep(outcome, written)

    def _fail(self, error: BaseException) -> Outcome:
        written = read_outcome(self.folder)
        outcome = written if written is not None else self._own_outcome("failed", one_line(error))
        return self._keep(outcome, written)

    def _keep(self, outcome: Outcome, written: Outcome | None) -> Outcome:
        if written is None:
            write_outcome(self.folder, outcome)
        with suppress(Exception):
            if self._generator is not None:
                self._generator.close()
        self._generator = None
        self.memory_error = outcome.status == "failed" and any(
            word in (outcome.error or "").lower() for word in _MEMORY_WORDS
        )
        self.outcome = outcome
        return outcome

    def _own_outcome(self, status: str, error: str | None = None) -> Outcome:
        return outcome_of(self.spec, status, error, self.curve, time.monotonic() - self._started)


def outcome_of(
    spec: TrialSpec,
    status: str,
    error: str | None,
    curve: list[list[float]],
    seconds: float,
    *,
    scored: bool = True,
) -> Outcome:
    """Make the outcome of a trial that could not make its own.

    Args:
        spec: the trial.
        status: one of :data:`automl.records.STATUSES`.
        error: one line.
        curve: ``[epoch, score, seconds]`` of its reports.
        seconds: how long it ran.
        scored: whether the last reported score counts; a failed trial never has one.
    """
    score: float | None = None
    if scored and status != "failed" and curve and math.isfinite(curve[-1][1]):
        score = float(curve[-1][1])
    epochs = int(curve[-1][0]) if curve else 0
    return Outcome(
        spec.trial_id, spec.candidate.id, status, score, {}, round(seconds, 3), epochs, list(curve), error
    )


def request_stop(spec: TrialSpec) -> None:
    """Ask a running trial, in this process or another, to end at its next report."""
    with suppress(OSError):
        (Path(spec.folder) / STOP_FILE).touch()


def one_line(error: BaseException) -> str:
    """Return type and message of an error as one line of at most 300 characters."""
    message = " ".join(str(error).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def free_memory() -> None:
    """Give back what a finished trial left behind: reference cycles and cached GPU blocks."""
    gc.collect()
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
