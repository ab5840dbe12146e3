"""What a container lets its processes use: the limits of Linux's control groups, version 1 and 2.

A limit holds for a group and all below it, so those of every group above this process count too. Inside a container the
groups above its own are mostly hidden, and its own lies where the uppermost one would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def processors() -> float:
    """Processors' worth of time that this process may use; infinite without a limit."""
    least = math.inf
    for group in _groups("cpu"):
        quota, period = _numbers(group / "cpu.max", 2)
        if quota is None:
            quota, period = (_numbers(group / f"cpu.cfs_{name}_us", 1)[0] for name in ("quota", "period"))
        if quota and period:
            least = min(least, quota / period)
    return least


def memory() -> float:
    """Bytes of memory that this process and those in its group may use; infinite without a limit."""
    names = ("memory.max", "memory.limit_in_bytes")
    found = (_numbers(group / name, 1)[0] for group in _groups("memory") for name in names)
    return min((limit for limit in found if limit), default=math.inf)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the group that this process is in and of all above, where there are any."""
    try:
        lines = (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    mounts = _ROOT / "sys/fs/cgroup"
    for line in lines:
        _number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for top in tops:
            yield from (top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _numbers(path: Path, count: int) -> list[int | None]:
    """The first words of a file as whole numbers above 0; None for ``max``, for -1 and for what is not there."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        words = []
    return [int(word) if word.isdigit() and int(word) else None for word in (words + [""] * count)[:count]]
