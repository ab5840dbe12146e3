"""Devices that models run on: of this machine, and others that are known by a profile.

A profile holds what a kit of small networks takes on the device, and what the same networks take on this machine. What a
file takes here is measured; what it takes there is predicted from that (:mod:`automl.evaluation._there`), and says so.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from automl import _container
from automl.errors import InputError

KIND = "automl device profile"
#: Rises when a profile changes its meaning.
FORMAT = 1
#: Fewest networks that a device can be known by.
LEAST = 5


def cores() -> int:
    """Processors that this process may use, which on a shared machine or in a container are fewer than there are."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(there, _container.processors())))


@dataclass(frozen=True)
class Net:
    """A network of the kit.

    Attributes:
        file: name of its file.
        precision: ``fp32`` or ``int8``.
        here_ms, there_ms: median latency for one image on this machine and on the device.
    """

    file: str
    precision: str
    here_ms: float
    there_ms: float


@dataclass(frozen=True)
class DeviceProfile:
    """What is known of a device.

    Attributes:
        name: what the device calls itself.
        base: device of this machine that latencies are measured on, as ``cpu:1``.
        machine: this machine, as :func:`automl.evaluation.latency.device_name` calls it.
        nets: of the kit.
    """

    name: str
    base: str
    machine: str
    nets: tuple[Net, ...]


def read_profile(path: str | Path) -> DeviceProfile:
    """Read the profile that a kit's ``measure.py`` wrote.

    Raises:
        InputError: there is none, or it is damaged or of a newer version.
    """
    path = Path(path).expanduser()
    try:
        values: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["kind"] != KIND:
            raise ValueError("it is of another kind")
        if int(values["format"]) > FORMAT:
            raise InputError(
                f"device profile {path} is of a newer version of automl; update automl to use it"
            )
        nets = tuple(
            Net(str(n["file"]), str(n["precision"]), float(n["here_ms"]), float(n["there_ms"]))
            for n in values["nets"]
        )
        profile = DeviceProfile(str(values["name"]), str(values["base"]), str(values["machine"]), nets)
        if not re.fullmatch(r"(cpu|cuda):\d{1,4}", profile.base):
            raise ValueError(f"base is '{profile.base[:80]}', and no device of a machine such as cpu:1")
    except FileNotFoundError:
        raise InputError(f"device profile {path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"device profile {path} cannot be used ({' '.join(str(error).split())}); copy device.json from the kit again"
        ) from None
    if len(nets) < LEAST or not all(
        math.isfinite(v) and v > 0 for n in nets for v in (n.here_ms, n.there_ms)
    ):
        raise InputError(
            f"device profile {path} has not the latencies of {LEAST} networks; run the kit's measure.py to its end"
        )
    return profile


@dataclass(frozen=True)
class Device:
    """Where the exported model will run: ``cpu:THREADS``, ``cuda:INDEX``, or a device that a profile describes.

    Attributes:
        kind: ``cpu`` or ``cuda``; of the device here that a profile starts from.
        number: threads or index.
        profile: file of a :class:`DeviceProfile`; empty for a device of this machine.
    """

    kind: str = "cpu"
    number: int = 1
    profile: str = ""

    @classmethod
    def parse(cls, text: str) -> Device:
        """Parse ``cpu``, ``cpu:1``, ``cuda:0`` or the path of a profile, which ends in ``.json``.

        Raises:
            InputError: another form, more threads than this machine has, or a profile that cannot be used.
        """
        if str(text).strip().endswith(".json"):
            path = Path(str(text).strip()).expanduser().resolve()
            return replace(cls.parse(read_profile(path).base), profile=str(path))
        match = re.fullmatch(r"\s*(cpu|cuda)(?::(\d+))?\s*", str(text))
        if match is None:
            kind = re.split(r"[\W\d]", str(text).strip().lower())[0]
            close = {"gpu": "cuda:0", "nvidia": "cuda:0", "cuda": "cuda:0", "cpu": "cpu:1"}
            found = difflib.get_close_matches(kind, close, n=1)
            hint = f"; did you mean '{close[found[0]]}'?" if found else ";"
            raise InputError(
                f"device '{text}' is not known{hint} use cpu:1 (one thread), cpu:2, …, cuda:0, or the device.json of a kit"
            )
        number = int(match[2]) if match[2] is not None else (1 if match[1] == "cpu" else 0)
        most = cores()
        if match[1] == "cpu" and not 1 <= number <= most:
            raise InputError(
                f"device '{text}': this machine has {most} cores for this process, so cpu:1 to cpu:{most} can be measured"
            )
        return cls(match[1], number)

    def check_present(self) -> None:
        """Check, without loading a driver, that this machine has the GPU.

        Raises:
            InputError: it has none of that number.
        """
        if self.kind != "cuda" or sys.platform != "linux" or os.path.exists("/dev/dxg"):
            return
        count = sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir("/dev"))
        if self.index >= count:
            there = f"cuda:0 to cuda:{count - 1} can be measured" if count else "use cpu:1"
            raise InputError(f"device '{self}': this machine has {count or 'no'} NVIDIA GPUs; {there}")

    @property
    def threads(self) -> int:
        """CPU threads of the exported model."""
        return self.number if self.kind == "cpu" else 1

    @property
    def index(self) -> int:
        """Number of the GPU."""
        return self.number if self.kind == "cuda" else 0

    @property
    def evidence(self) -> str:
        """What a latency on it is: ``measured``, or ``predicted`` where it is not here."""
        return "predicted" if self.profile else "measured"

    @property
    def label(self) -> str:
        """What it is called in reports."""
        if not self.profile:
            return str(self)
        return read_profile(self.profile).name

    def __str__(self) -> str:
        return self.profile or f"{self.kind}:{self.number}"
