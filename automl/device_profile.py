"""A device that is not here: what a kit of small networks takes on it, and what the same networks take on this machine.

What a file takes here is measured; what it takes there is predicted from that (:mod:`automl.evaluation._there`), and says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl.errors import InputError

KIND = "automl device profile"
#: Rises when a profile changes its meaning.
FORMAT = 1
#: Fewest networks that a device can be known by.
LEAST = 5


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
    except FileNotFoundError:
        raise InputError(f"device profile {path} does not exist") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
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
