"""Grey values of more than 8 bits: one range from black to white for all images of a data set.

What such a value means is told by no file: a camera of 12 bits writes 0..4095 into files of 16, and floats have no
white at all. A range that each image had of its own would make the same part bright in one image and dark in another.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

#: Kind of the values, as numpy calls them → what is black and what is white.
Ranges = Mapping[str, Sequence[float]]
#: No range is known: 16 bits are divided by 257, the others guessed image by image.
GUESSED: Ranges = MappingProxyType({})
#: White of cameras of 8, 10, 12, 14 and 16 bits.
_WHITES = (255, 1023, 4095, 16383, 65535)
#: Share of the images at either end that may lie outside a stretched range, so that a broken one does not decide it.
_OUTSIDE = 0.01


@dataclass(frozen=True)
class Extent:
    """The smallest and the largest value of an image of such a kind, of those that are finite."""

    kind: str
    low: float
    high: float


def kind_of(mode: str) -> str:
    """``uint16``, ``int32`` or ``float32``, for Pillow's name of a mode; empty where 8 bits hold the values."""
    if mode.startswith("I;16"):
        return "uint16"
    return {"I": "int32", "F": "float32"}.get(mode, "")


def extent(kind: str, values: np.ndarray) -> Extent:
    """The extent of an image's values ``[H, W]``."""
    if kind == "float32":
        values = values[np.isfinite(values)]
    return Extent(kind, float(values.min()), float(values.max())) if values.size else Extent(kind, 0.0, 0.0)


def find_ranges(extents: Iterable[Extent]) -> dict[str, list[float]]:
    """One range for each kind, whatever the order of the images.

    Integers begin at 0 and end at the white of the camera of fewest bits that holds them all. Floats, and integers
    that no such camera writes, are stretched from the smallest to the largest value that 99 % of the images keep within.
    """
    ends: dict[str, list[tuple[float, float]]] = {}
    for one in extents:
        ends.setdefault(one.kind, []).append((one.low, one.high))
    out = {}
    for kind in sorted(ends):
        lows, highs = np.array(ends[kind]).T
        fitting = [white for white in _WHITES if highs.max() <= white]
        if kind != "float32" and lows.min() >= 0 and fitting:
            out[kind] = [0.0, float(fitting[0])]
            continue
        low = float(np.quantile(lows, _OUTSIDE, method="lower"))
        high = float(np.quantile(highs, 1 - _OUTSIDE, method="higher"))
        out[kind] = [low, high if high > low else low + max(1.0, abs(low))]
    return out


def check_ranges(values: Any) -> dict[str, list[float]]:
    """Ranges as they were written to a file.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(values, dict):
        raise ValueError("ranges is not a black and a white for each kind of grey values")
    for kind, ends in values.items():
        numbers = isinstance(ends, list) and len(ends) == 2 and all(type(v) in (int, float) for v in ends)
        if not numbers or not -math.inf < ends[0] < ends[1] < math.inf:
            raise ValueError(f"ranges of {kind!r} are not a black and a white above it")
    return values


def told(ranges: Ranges) -> list[str]:
    """One line for each range."""
    return [
        f"grey values of more than 8 bits ({kind}): in all images {black:.7g} is black and {white:.7g} is white"
        for kind, (black, white) in ranges.items()
    ]


def to_bytes(values: np.ndarray, kind: str, ranges: Ranges) -> np.ndarray:
    """Grey values of a kind to uint8 ``[H, W]``; what is beyond the range is black or white, what is not finite 0.

    Where a range is not known, 16 bits are divided by 257. Of the other kinds 0..1 (floats), 0..255 and 0..65535 are
    recognised by the values of the image, any other range is stretched.
    """
    if kind == "uint16":
        black, white = ranges.get(kind, (0, 65535))
        return _table(float(black), float(white))[values]
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    black, white = ranges.get(kind) or _guess(wide, kind)
    return _scaled(wide, black, white)


def _guess(values: np.ndarray, kind: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1, 255, 65535) if kind == "float32" else (255, 65535):
            if high <= white:
                return 0.0, float(white)
    return low, high


@functools.cache
def _table(black: float, white: float) -> np.ndarray:
    return _scaled(np.arange(1 << 16, dtype=np.float64), black, white)


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    return np.clip(np.rint((values - black) * (255 / max(white - black, 1e-300))), 0, 255).astype(np.uint8)
