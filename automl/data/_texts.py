"""Very many texts in little memory: one block of bytes, and where each text begins in it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

_BLOCK = 4096


class Texts(Sequence[str]):
    """A sequence of texts that takes their bytes and 8 more per text; memory-mapped where it was opened from disk.

    Args:
        block: uint8 ``[B]``, UTF-8, one text after the other.
        begins: int64 ``[N + 1]``, where each text begins in ``block``, and the end of the last.
        prefix: what every text begins with; it is not in the block.
    """

    def __init__(self, block: np.ndarray, begins: np.ndarray, prefix: str = "") -> None:
        self.block, self.begins, self.prefix = block, begins, prefix

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack texts."""
        packer = Packer()
        for text in texts:
            packer.append(text)
        return packer.texts()

    def with_prefix(self, prefix: str) -> Texts:
        """The same texts, each after ``prefix``; the block is shared."""
        return Texts(self.block, self.begins, prefix)

    def __len__(self) -> int:
        return len(self.begins) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            if step != 1:
                return [self[at] for at in range(begin, end, step)]
            return list(self._run(begin, max(begin, end)))
        at = int(index)
        at += len(self) if at < 0 else 0
        if not 0 <= at < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self.prefix + _decoded(self.block[self.begins[at] : self.begins[at + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return self._run(0, len(self))

    def _run(self, start: int, stop: int) -> Iterator[str]:
        for begin in range(start, stop, _BLOCK):
            at = self.begins[begin : min(stop, begin + _BLOCK) + 1].tolist()
            part = self.block[at[0] : at[-1]].tobytes()
            for left, right in pairwise(at):
                yield self.prefix + _decoded(part[left - at[0] : right - at[0]])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text in self[:3])
        return f"<{len(self)} texts: {shown}{', …' if len(self) > 3 else ''}>"

    def same_block(self, other: Texts) -> bool:
        """Whether both hold the same texts, prefixes aside."""
        return np.array_equal(self.begins, other.begins) and np.array_equal(self.block, other.block)

    def take(self, rows: np.ndarray) -> Texts:
        """Those of the ascending ``rows``; itself where these are all."""
        if len(rows) == len(self):
            return self
        packer = Packer()
        for at in rows.tolist():
            packer.append(_decoded(self.block[self.begins[at] : self.begins[at + 1]].tobytes()))
        return packer.texts().with_prefix(self.prefix)

    def save(self, folder: Path, name: str) -> None:
        """Write ``NAME.u8`` and ``NAME.npy``; the prefix is for the caller to keep."""
        self.block.tofile(folder / f"{name}.u8")
        np.save(folder / f"{name}.npy", self.begins)

    @classmethod
    def open(cls, folder: Path, name: str, prefix: str = "") -> Texts:
        """Map what :meth:`save` wrote.

        Raises:
            OSError: the files are not there.
        """
        begins = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        path = folder / f"{name}.u8"
        block: Any = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        return cls(block, begins, prefix)


class Packer:
    """Collects texts one by one."""

    def __init__(self) -> None:
        self._block = bytearray()
        self._begins = array("q", [0])

    def append(self, text: str) -> None:
        """Add one."""
        self._block += text.encode("utf-8", "surrogateescape")
        self._begins.append(len(self._block))

    def texts(self) -> Texts:
        """All of them; nothing can be added afterwards."""
        return Texts(np.frombuffer(self._block, np.uint8), np.frombuffer(self._begins, np.int64))


def first_equal(texts: Sequence[str]) -> np.ndarray:
    """Where each text occurs for the first time, int64 ``[N]``."""
    codes = np.fromiter(map(hash, texts), np.int64, len(texts))
    _codes, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    found = first[inverse].astype(np.int64)
    # Two texts may share a hash; the later one then stands for itself.
    for at in np.flatnonzero(found != np.arange(len(found))).tolist():
        if texts[at] != texts[int(found[at])]:
            found[at] = at
    return found


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
