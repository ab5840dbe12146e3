"""What of this machine trials may use."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from automl.device import cores
from automl.errors import InputError

if TYPE_CHECKING:
    from automl.device import Device

#: Environment of processes that work on large blocks. glibc gives such blocks back to the kernel at once, and each
#: next one is paid for with fresh, zeroed pages; with this they keep them.
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}


def take_space(file: int, size: int) -> None:
    """Give an open file that is new so many bytes of the disk.

    What is memory-mapped needs that: where a file has holes, a full disk is only met when they are written to, and then
    the process is killed (SIGBUS). A file system that cannot do it is left alone.

    Raises:
        OSError: the disk has no room for them.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
    os.truncate(file, size)


def gpus() -> int:
    """How many NVIDIA devices this process may use (``CUDA_VISIBLE_DEVICES``), without loading a driver."""
    if sys.platform != "linux":
        return 0
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [name.strip() for name in visible.split(",")]
    ends = next((at for at, name in enumerate(named) if name in ("", "-1")), len(named))
    return min(present, ends)


def seen(device: Device) -> Device:
    """A device as this process sees it: a worker sees only the GPUs that it was given, numbered from 0."""
    return replace(device, number=0) if device.kind == "cuda" and 0 < gpus() <= device.number else device


def require_runtime(device: Device) -> None:
    """Refuse a device that cannot be measured, or predicted from what is measured here, before anything is trained for it.

    Raises:
        InputError: the installed ONNX Runtime has no CUDA, or a profile starts from another machine.
    """
    if device.profile:
        from automl.device import read_profile
        from automl.evaluation.latency import device_name

        if read_profile(device.profile).machine != device_name(replace(device, profile="")):
            raise InputError(
                f"device profile {device.profile} starts from another machine, processor or ONNX Runtime than this; "
                "'automl latency measure --kit KIT' measures its kit here anew, then run measure.py there again"
            )
    if device.kind != "cuda":
        return
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise InputError(
            f"device '{device}': the installed ONNX Runtime has no CUDA, so nothing can be measured there; "
            "'pip uninstall onnxruntime', then 'pip install onnxruntime-gpu', or use --device cpu:1"
        )


def trial_resources(
    workers: int, processors: int | None = None, found: int | None = None
) -> dict[str, float]:
    """What Ray sets aside for one of so many trials at a time: cores, and a share of a GPU where there is one.

    Args:
        workers: trials at a time.
        processors: how many, by default those of this machine that may be used.
        found: GPUs, by default this machine's.
    """
    found = found if found is not None else gpus()
    share: dict[str, float] = {"cpu": max(1, (processors if processors is not None else cores()) // workers)}
    if not found:
        return share
    # So many trials share one GPU; Ray counts in ten-thousandths.
    each = math.ceil(workers / found)
    return {**share, "gpu": math.floor(1e4 / each) / 1e4}


def fitting(
    resources: Mapping[str, float], machines: Sequence[Mapping[str, float]], workers: int
) -> dict[str, float]:
    """The resources of a trial, cut down to what a cluster has: a trial that asks for more would wait for ever.

    Args:
        resources: of one trial, ``cpu`` and ``gpu``.
        machines: of each machine of the cluster, as Ray tells them: ``CPU`` and ``GPU``.
        workers: trials at a time.
    """
    together = {name: sum(int(one.get(name, 0)) for one in machines) for name in ("CPU", "GPU")}
    most = trial_resources(workers, together["CPU"] or 1, together["GPU"])
    # A trial runs on one machine.
    largest = {name.lower(): max((one.get(name, 0) for one in machines), default=0) for name in together}
    return {
        name: min(amount, most[name], max(largest[name], 1) if name == "cpu" else largest[name])
        if name in most
        else amount
        for name, amount in resources.items()
        if name != "gpu" or "gpu" in most
    }


def places(resources: Mapping[str, float], machines: Sequence[Mapping[str, float]]) -> int:
    """How many trials machines hold at a time.

    Args:
        resources: of one trial, as Ray tells them: ``CPU`` and ``GPU``.
        machines: of each machine.
    """
    asked = {name: amount for name, amount in resources.items() if amount > 0}
    return sum(
        min((int(one.get(name, 0) / amount + 1e-6) for name, amount in asked.items()), default=0)
        for one in machines
    )
