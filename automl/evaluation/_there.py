"""Latency on a device that is not here, predicted from what is measured here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from automl.device import DeviceProfile, Net
from search_spaces.predict import Transfer

#: Is in every quantised graph.
_QUANTISED = b"QuantizeLinear"


class There:
    """Predicts for a device.

    Args:
        profile: of the device.

    Attributes:
        factor: how much slower than predicted a network of the kit was in the worst case, each predicted from the
            others; at least 1.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        self._transfer = _fitted(profile.nets)
        self.factor = 1.0
        for at, left_out in enumerate(profile.nets):
            others = [*profile.nets[:at], *profile.nets[at + 1 :]]
            guess = _fitted(others).predict(_known([left_out.here_ms], [left_out.precision]))
            self.factor = max(self.factor, left_out.there_ms / float(guess[0]))

    def latency(self, milliseconds: float, precision: str) -> float:
        """Return what a network takes there, milliseconds, that takes so many here."""
        return float(self._transfer.predict(_known([milliseconds], [precision]))[0])


def precision_of(path: Path) -> str:
    """``int8`` for an ONNX file whose graph is quantised, else ``fp32``."""
    return "int8" if _QUANTISED in path.read_bytes() else "fp32"


def _fitted(nets: Sequence[Net]) -> Transfer:
    known = _known([net.here_ms for net in nets], [net.precision for net in nets])
    return Transfer().fit(known, np.array([net.there_ms for net in nets]))


def _known(here: Sequence[float], precisions: Sequence[str]) -> np.ndarray:
    """Float [n, 2]: the latency here, and whether it is int8, which devices speed up differently."""
    whether = [math.e if precision == "int8" else 1.0 for precision in precisions]
    return np.stack([np.asarray(here, dtype=float), np.asarray(whether)], axis=1)
