"""Trials that behave in all the ways a real one can, without training anything. Workers import this file."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from automl.records import Outcome, Progress, TrialSpec


def value_of(spec: TrialSpec) -> float:
    """Return the made-up score of a candidate: a smooth function of what it consists of."""
    score = 0.5 + 0.001 * spec.candidate.resolution
    score += {"a": 0.0, "b": 0.1, "c": 0.2}.get(spec.candidate.architecture, 0.0)
    lr = dict(spec.candidate.overrides).get("lr", 0.01)
    return score - 0.05 * abs(float(lr) - 0.03)


def _done(
    spec: TrialSpec, score: float | None, curve: list[list[float]], status: str = "completed"
) -> Outcome:
    seconds = curve[-1][2] if curve else 0.0
    return Outcome(
        spec.trial_id, spec.candidate.id, status, score, {"pid": os.getpid()}, seconds, len(curve), curve
    )


def empty(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """End at once."""
    return _done(spec, value_of(spec), [])
    yield  # makes this a generator


def jitter(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Take a random time, so that trials end in another order at every run."""
    time.sleep(random.uniform(0.0, 0.15))
    return _done(spec, value_of(spec), [])
    yield


def steady(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Report ten times a second until the trial's own time is over, or twenty times."""
    begin = time.monotonic()
    curve: list[list[float]] = []
    for epoch in range(1, 21):
        time.sleep(0.1)
        used = time.monotonic() - begin
        curve.append([epoch, value_of(spec) * epoch / 20, used])
        if spec.seconds is not None and used > spec.seconds:
            return _done(spec, curve[-1][1], curve, "timeout")
        yield Progress(epoch, epoch / 20, curve[-1][1], used)
    return _done(spec, value_of(spec), curve)


def saving(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Report for ever; when told to stop, save and return an own outcome."""
    epoch = 0
    while True:
        try:
            time.sleep(0.05)
            epoch += 1
            yield Progress(epoch, 0.5, 0.7, epoch * 0.05)
        except GeneratorExit:
            (Path(spec.folder) / "saved").touch()
            return _done(spec, 0.7, [[epoch, 0.7, epoch * 0.05]], "stopped")


def endless(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Report for ever, blind to any deadline."""
    epoch = 0
    while True:
        time.sleep(0.05)
        epoch += 1
        yield Progress(epoch, 0.5, 0.6, epoch * 0.05)


def hanging(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Report once, then neither report nor end."""
    yield Progress(1, 0.1, 0.5, 0.01)
    time.sleep(3600)
    return _done(spec, 0.5, [])


def hanging_once(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Hang where the candidate's strategy is ``hangs``, and end at once elsewhere."""
    if spec.candidate.strategy == "hangs":
        yield from hanging(spec)
    return _done(spec, value_of(spec), [])


def mixed(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Fail in the way that the candidate's strategy names."""
    yield Progress(1, 0.5, 0.1, 0.0)
    kind = spec.candidate.strategy
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raises":
        raise ValueError(f"bad\nvalue {spec.trial_id}")
    if kind == "memory":
        raise MemoryError("out of memory")
    if kind == "exits":
        sys.exit(3)
    if kind == "nan":
        return _done(spec, float("nan"), [])
    if kind == "nothing":
        return None  # type: ignore[return-value]
    return _done(spec, value_of(spec), [])


def late_bloomers(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """Report by the second, with scores in the order of the resolution; used for early stopping."""
    curve: list[list[float]] = []
    for epoch in range(1, 13):
        time.sleep(0.03)
        curve.append([epoch, spec.candidate.resolution / 1000, float(epoch)])
        yield Progress(epoch, epoch / 12, curve[-1][1], float(epoch))
        time.sleep(0.25)
    return _done(spec, curve[-1][1], curve)
