"""Trials and measurements take turns on a machine: a timing is only taken while nothing trains.

Every training step holds a shared file lock; whoever measures takes it exclusively, so trials pause at
their next step. A second lock, the turnstile, is held by a waiting measurer, so that a stream of short
shared holds cannot starve it. The kernel frees both when a process dies.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_opening = threading.Lock()


class _Locks:
    """The two lock files, opened once per process."""

    def __init__(self) -> None:
        self.pid = -1
        self.gate = self.lock = -1
        self.guard = threading.Lock()
        self.depth = threading.local()
        self.holders = 0

    def open(self) -> bool:
        if self.pid == os.getpid():
            return self.lock >= 0
        with _opening:
            return self._open()

    def _open(self) -> bool:
        if self.pid == os.getpid():  # another thread was first
            return self.lock >= 0
        self.guard = threading.Lock()
        self.holders, self.depth = 0, threading.local()
        try:
            folder = Path(tempfile.gettempdir()) / f"automl-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(folder)
            self.gate = os.open(folder / "turnstile.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.lock = os.open(folder / "machine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            self.gate = self.lock = -1  # no place for a lock: measure without one
        self.pid = os.getpid()
        return self.lock >= 0


_locks = _Locks()
os.register_at_fork(
    before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release
)


@contextmanager
def working() -> Iterator[None]:
    """Hold this around each training step; waits while somebody measures."""
    if not _locks.open():
        yield
        return
    depth = getattr(_locks.depth, "value", 0)
    if depth == 0:
        fcntl.flock(_locks.gate, fcntl.LOCK_SH)  # stops here while a measurer waits
        fcntl.flock(_locks.gate, fcntl.LOCK_UN)
        with _locks.guard:
            if _locks.holders == 0:
                fcntl.flock(_locks.lock, fcntl.LOCK_SH)
            _locks.holders += 1
    _locks.depth.value = depth + 1
    try:
        yield
    finally:
        _locks.depth.value -= 1
        if _locks.depth.value == 0:
            with _locks.guard:
                _locks.holders -= 1
                if _locks.holders == 0:
                    fcntl.flock(_locks.lock, fcntl.LOCK_UN)


@contextmanager
def quiet_machine(timeout: float = 30.0) -> Iterator[bool]:
    """Hold this around a measurement: all trials of this user pause.

    Args:
        timeout: seconds to wait for them.

    Yields:
        whether the machine is quiet; False where somebody did not pause in time or no lock can be made.
    """
    if not _locks.open():
        yield False
        return
    until = time.monotonic() + timeout
    folder = Path(tempfile.gettempdir()) / f"automl-{os.getuid()}"
    # Own descriptors: a process that trains in one thread and measures in another must exclude itself too.
    gate = os.open(folder / "turnstile.lock", os.O_RDWR | os.O_CLOEXEC)
    lock = os.open(folder / "machine.lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        quiet = _take(gate, until) and _take(lock, until)
        yield quiet
    finally:
        os.close(lock)
        os.close(gate)


def _take(handle: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.002)
