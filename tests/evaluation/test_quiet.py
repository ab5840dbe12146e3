"""Trials and measurements exclude each other, within a process, between processes, and when one of them dies."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from automl.evaluation import quiet as module
from automl.evaluation.quiet import quiet_machine, working

FORK = multiprocessing.get_context("fork")
PATIENCE = 30.0


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lock files of this test alone: other programs on this machine must not disturb it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "_locks", module._Locks())
    assert module._locks.open()
    opened = module._locks.gate, module._locks.lock
    yield
    for handle in opened:
        os.close(handle)


def is_quiet() -> bool:
    with quiet_machine(timeout=0.05) as quiet:
        return quiet


def test_nobody_works_so_the_machine_is_quiet() -> None:
    assert is_quiet()
    assert is_quiet()


def test_a_step_keeps_the_machine_from_being_quiet() -> None:
    with working():
        assert not is_quiet()
    assert is_quiet()


def test_steps_nest() -> None:
    with working():
        with working():
            pass
        assert not is_quiet()
    assert is_quiet()


def test_an_error_in_a_step_frees_the_machine() -> None:
    with pytest.raises(ZeroDivisionError), working():
        raise ZeroDivisionError
    assert is_quiet()


def test_an_error_in_a_measurement_frees_the_trials() -> None:
    with pytest.raises(ZeroDivisionError), quiet_machine():
        raise ZeroDivisionError
    with working():
        assert not is_quiet()


def test_two_measurements_take_turns() -> None:
    with quiet_machine() as first:
        assert first
        assert not is_quiet()
    assert is_quiet()


def test_a_step_waits_for_the_end_of_a_measurement() -> None:
    seen: list[str] = []

    def step() -> None:
        with working():
            seen.append("worked")

    with quiet_machine() as quiet:
        assert quiet
        thread = threading.Thread(target=step)
        thread.start()
        thread.join(0.3)
        assert seen == [] and thread.is_alive()
    thread.join(PATIENCE)
    assert seen == ["worked"]


def test_two_threads_work_at_the_same_time() -> None:
    inside = threading.Barrier(2)

    def step() -> None:
        with working():
            inside.wait(PATIENCE)

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not inside.broken
    assert is_quiet()


def _hold(started: Event, stop: Event) -> None:
    with working():
        started.set()
        stop.wait(PATIENCE)


def test_the_step_of_another_process_counts() -> None:
    started, stop = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_hold, args=(started, stop))
    process.start()
    assert started.wait(PATIENCE)
    assert not is_quiet()
    stop.set()
    process.join(PATIENCE)
    assert is_quiet()


def test_a_process_that_dies_in_a_step_holds_nothing() -> None:
    started, stop = FORK.Event(), FORK.Event()
    process = FORK.Process(target=_hold, args=(started, stop))
    process.start()
    assert started.wait(PATIENCE)
    process.kill()
    process.join(PATIENCE)
    assert is_quiet()


def test_a_child_of_a_working_process_has_its_own_share() -> None:
    started, stop = FORK.Event(), FORK.Event()
    with working():
        process = FORK.Process(target=_hold, args=(started, stop))
        process.start()
        assert started.wait(PATIENCE)
    assert not is_quiet()
    stop.set()
    process.join(PATIENCE)
    assert is_quiet()


def _stream(started: Event, stop: Event) -> None:
    """One step after the other, as a trial makes them."""
    while not stop.is_set():
        with working():
            started.set()
            stop.wait(0.01)


def test_a_stream_of_steps_does_not_starve_a_measurement() -> None:
    started, stop = FORK.Event(), FORK.Event()
    streams = [FORK.Process(target=_stream, args=(started, stop)) for _ in range(3)]
    for stream in streams:
        stream.start()
    try:
        assert started.wait(PATIENCE)
        with quiet_machine(timeout=PATIENCE) as quiet:
            assert quiet
    finally:
        stop.set()
        for stream in streams:
            stream.join(PATIENCE)


def test_without_a_place_for_locks_everything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
    monkeypatch.setattr(module, "_locks", module._Locks())
    with working(), quiet_machine(timeout=0.05) as quiet:
        assert not quiet
