"""The pictures of a data set at one size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from automl.data._build import parallel
from automl.data._cache import cache_limit, locked, make_room
from automl.data._decode import squash

_CHUNK = 64
#: Share of the cache that one derived size may take; enlarged pictures hold nothing new and get less.
_SHARE_SMALLER, _SHARE_LARGER = 0.25, 0.05


class ImageLevel:
    """Pictures as uint8 ``[N, side, side, 3]`` RGB, read from disk when they are indexed.

    ``level[index]`` copies the pictures in the order of ``index`` (whole numbers, a slice or a mask).
    """

    def __init__(self, stored: np.ndarray, rows: np.ndarray, side: int, *, derive: bool = False) -> None:
        """Wrap pictures.

        Args:
            stored: uint8 ``[rows, S, S, 3]``, memory-mapped.
            rows: int64 ``[N]``, which stored picture each image is.
            side: of the pictures that are given out.
            derive: resize from S to ``side`` at each access.
        """
        self._stored, self._rows, self._derive = stored, rows, derive and stored.shape[1] != side
        self.side = side

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(N, side, side, 3)``."""
        return (len(self._rows), self.side, self.side, 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        picked = np.asarray(index) if isinstance(index, list | tuple) else index
        if isinstance(picked, np.ndarray) and picked.size == 0 and picked.dtype != bool:
            picked = picked.astype(np.int64)
        rows = self._rows[picked]
        if np.ndim(rows) == 0:
            return np.asarray(self._take(np.asarray([rows]))[0])
        return self._take(rows)

    def _take(self, rows: np.ndarray) -> np.ndarray:
        if not self._derive:
            copied: np.ndarray = np.array(self._stored[rows], np.uint8)
            return copied
        out = np.empty((len(rows), self.side, self.side, 3), np.uint8)
        for at, row in enumerate(rows):
            out[at] = np.asarray(squash(Image.fromarray(self._stored[row]), [self.side]))
        return out


def open_level(
    base: Path, count: int, stored_side: int, rows: np.ndarray, side: int, *, keep: bool = True
) -> ImageLevel:
    """Pictures of a size, derived from the stored ones once and kept; two processes derive it only once.

    A size that would take too much of the cache or of the disk is derived at each access instead.

    Args:
        base: folder of the cached data set.
        count: stored pictures.
        stored_side: their side.
        rows: int64 ``[N]``, which stored picture each image is.
        side: that is asked for.
        keep: derive all of them now; else each at its access, where they are not there yet.
    """
    stored = _map(base / "images.u8", count, stored_side)
    if side == stored_side:
        return ImageLevel(stored, rows, side)
    folder = base / "levels"
    path = folder / f"{side}.u8"
    if not keep and not path.exists():
        return ImageLevel(stored, rows, side, derive=True)
    if not path.exists():
        wanted = count * side * side * 3
        share = _SHARE_SMALLER if side < stored_side else _SHARE_LARGER
        if wanted > share * cache_limit() or not make_room(base.parent, wanted):
            return ImageLevel(stored, rows, side, derive=True)
        try:
            folder.mkdir(exist_ok=True)
            with locked(folder / f"{side}.lock"):
                if not path.exists():
                    _derive(stored, side, path)
        except OSError:
            # A full or read-only disk costs time, not the result.
            return ImageLevel(stored, rows, side, derive=True)
    return ImageLevel(_map(path, count, side), rows, side)


def _map(path: Path, count: int, side: int) -> np.ndarray:
    return np.memmap(path, np.uint8, "r", shape=(count, side, side, 3))


def _derive(stored: np.ndarray, side: int, path: Path) -> None:
    temporary = path.with_suffix(".part")
    count = len(stored)

    def work(chunk: int) -> bytes:
        pictures = (stored[at] for at in range(chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK)))
        return b"".join(squash(Image.fromarray(picture), [side]).tobytes() for picture in pictures)

    try:
        with open(temporary, "wb") as out:
            out.writelines(parallel(work, -(-count // _CHUNK)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
