"""What of this machine trials may use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: Environment of processes that work on large blocks. glibc gives such blocks back to the kernel at once, and each
#: next one is paid for with fresh, zeroed pages; with this they keep them.
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}


def gpus() -> int:
    """How many NVIDIA devices this machine has, without loading a driver."""
    return len([p for p in Path("/dev").glob("nvidia[0-9]*")]) if sys.platform == "linux" else 0


def trial_resources(workers: int) -> dict[str, float]:
    """What Ray sets aside for one of so many trials at a time: cores, and a share of a GPU where there is one."""
    cores = os.cpu_count() or 1
    found = gpus()
    share: dict[str, float] = {"cpu": max(1, cores // workers)}
    return {**share, "gpu": min(1.0, found / workers)} if found else share
