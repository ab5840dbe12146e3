"""From encoded files to stored squares, a few at a time: in this process, or in processes of their own.

Small images keep Python itself busy, and then threads wait for each other; many of them are decoded by one child
process per core. Whoever decodes a square writes it to its place in the file of all. The children speak a plain
protocol over pipes, see :func:`pack` and :func:`unpack`; a child that cannot be started or dies costs time only,
because its images are decoded here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from automl.data._decode import DecodeError, Deep, TooLarge, array_image, decode_image, squash
from automl.data._depth import Extent, Ranges
from automl.data._duplicates import THUMB
from automl.machine import KEEP_PAGES

#: From so many images on, starting processes pays.
_MANY = 3000
#: Bytes of the digest of an image.
_DIGEST = 16
_HEAD = struct.Struct("<cIII")
_SIZE = struct.Struct("<I")
_PLACE = struct.Struct("<Q")


@dataclass
class Decoded:
    """What is known of an image: thumbnail uint8 ``[32, 32]``, digest of its square, size as it was; or why it is not.

    Of an image with grey values of more than 8 bits, for which no ranges were given, the extent is all that is known.
    """

    thumb: bytes
    digest: bytes
    size: tuple[int, int]
    reason: str = ""
    extent: Extent | None = None


def decode_one(item: Any, side: int, ranges: Ranges | None, *, large: bool = True) -> tuple[Decoded, bytes]:
    """Decode a file (path or bytes) or pixels; the square uint8 ``[S, S, 3]`` comes second, empty where there is none.

    Raises:
        TooLarge: without ``large``, the image is one of those that are decoded one at a time.
    """
    try:
        image = (
            array_image(item)
            if isinstance(item, np.ndarray)
            else decode_image(item, large=large, ranges=ranges)
        )
    except DecodeError as error:
        return Decoded(b"", b"", (0, 0), str(error)), b""
    except Deep as deep:
        return Decoded(b"", b"", (0, 0), extent=deep.extent), b""
    square = squash(image, [side])
    pixels = square.tobytes()
    thumb = square.convert("L").resize((THUMB, THUMB), Image.Resampling.BILINEAR).tobytes()
    return Decoded(thumb, hashlib.blake2b(pixels, digest_size=_DIGEST).digest(), image.size), pixels


def put(file: int, blocks: Sequence[bytes], offset: int) -> None:
    """Write blocks one after another to an open file.

    Raises:
        OSError: it cannot be written.
    """
    written, size = os.pwritev(file, blocks, offset), sum(map(len, blocks))
    while written < size:  # as a signal or a full disk may have it
        written += os.pwrite(file, b"".join(blocks)[written:], offset + written)


class Decoder:
    """Decodes chunks of items once :meth:`begin` was called; threads may share it.

    Args:
        count: images that will come.
        workers: processes at most; they start at once.
        files: whether items are paths or bytes of files; pixels are never sent to a process.
    """

    def __init__(self, count: int, workers: int, *, files: bool) -> None:
        self._side, self._file = 0, -1
        self._children: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        if files and workers > 1 and count >= _MANY:
            for _ in range(workers):
                with contextlib.suppress(OSError):
                    self._children.append(_start())

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, and close the file."""
        if self._file >= 0:
            os.close(self._file)
        children, self._children, self._file = self._children, [], -1
        for child in children:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            child.wait()

    def begin(self, side: int, path: Path) -> None:
        """Tell the side of the squares and the new file for them, and wait until the processes are there.

        Raises:
            OSError: the file cannot be written.
        """
        self._side, self._file = side, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for child in self._children:
            with contextlib.suppress(OSError, EOFError):
                exchange(child, _SIZE.pack(side) + os.fsencode(path))
                self._free.put(child)

    def chunk(self, items: Sequence[Any], place: int, ranges: Ranges | None = None) -> list[Decoded]:
        """Decode some items and write their squares one after another, from a place on; nothing where there is none.

        Args:
            items: to decode.
            place: of the first one's square.
            ranges: of grey values of more than 8 bits; without them only the extent of such an image is told.

        Raises:
            OSError: they cannot be written.
        """
        found: Sequence[Decoded | None] = [None] * len(items)
        with contextlib.suppress(queue.Empty):
            child = self._free.get_nowait()
            with contextlib.suppress(OSError, EOFError):
                found = unpack(ask(child, items, place, ranges), len(items))
                self._free.put(child)
        return [
            self._here(item, place + at, ranges) if one is None else one
            for at, (item, one) in enumerate(zip(items, found, strict=True))
        ]

    def _here(self, item: Any, place: int, ranges: Ranges | None) -> Decoded:
        one, pixels = decode_one(item, self._side, ranges)
        put(self._file, [pixels], place * self._side**2 * 3)
        return one


def _start() -> subprocess.Popen[bytes]:
    # In a session of its own, so that Ctrl-C reaches this process alone.
    return subprocess.Popen(
        [sys.executable, "-m", "automl.data._worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **KEEP_PAGES, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def ask(child: subprocess.Popen[bytes], items: Sequence[Any], place: int, ranges: Ranges | None) -> bytes:
    """Send items to a child and return its answer.

    Raises:
        EOFError, OSError: the child is gone.
    """
    words = [(b"w", json.dumps(ranges).encode("ascii"))]
    words += [(b"b", item) if isinstance(item, bytes) else (b"p", os.fsencode(item)) for item in items]
    body = b"".join(kind + _SIZE.pack(len(word)) + word for kind, word in words)
    return exchange(child, _PLACE.pack(place) + body)


def exchange(child: subprocess.Popen[bytes], body: bytes) -> bytes:
    """Send a block to a child and return the one that it answers with.

    Raises:
        EOFError, OSError: the child is gone.
    """
    if child.stdin is None or child.stdout is None:
        raise EOFError
    child.stdin.write(_SIZE.pack(len(body)) + body)
    child.stdin.flush()
    return read_block(child.stdout)


def read_block(stream: IO[bytes]) -> bytes:
    """Read what was sent with its size before it.

    Raises:
        EOFError: the other side is gone.
    """
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    body = stream.read(size)
    if len(body) < size:
        raise EOFError
    return body


def items_of(body: bytes) -> tuple[list[str | bytes], int, Ranges | None]:
    """The items, the place and the ranges that :func:`ask` sent."""
    found: list[str | bytes] = []
    ranges: Ranges | None = None
    (place,) = _PLACE.unpack_from(body)
    at = _PLACE.size
    while at < len(body):
        (size,) = _SIZE.unpack_from(body, at + 1)
        kind, word = body[at : at + 1], body[at + 5 : at + 5 + size]
        if kind == b"w":
            ranges = json.loads(word)
        else:
            found.append(word if kind == b"b" else os.fsdecode(word))
        at += 5 + size
    return found, place, ranges


def pack(items: Sequence[str | bytes], place: int, ranges: Ranges | None, side: int, file: int) -> bytes:
    """Decode items, write their squares, and say of each: ``d`` (decoded), ``r`` (a reason), ``e`` (an extent) or ``l``
    (too large for a child).

    Raises:
        OSError: they cannot be written.
    """
    parts, squares = [], []
    for item in items:
        try:
            one, pixels = decode_one(item, side, ranges, large=False)
        except TooLarge:
            parts.append(_HEAD.pack(b"l", 0, 0, 0))
            squares.append(bytes(side * side * 3))
            continue
        squares.append(pixels or bytes(side * side * 3))
        kind, word = b"r" if one.reason else b"d", one.reason.encode("utf-8", "backslashreplace")
        if one.extent is not None:
            kind, word = b"e", json.dumps(astuple(one.extent)).encode("ascii")
        parts.append(_HEAD.pack(kind, *one.size, len(word)))
        parts += [word, one.thumb, one.digest]
    put(file, squares, place * side * side * 3)
    body = b"".join(parts)
    return _SIZE.pack(len(body)) + body


def unpack(body: bytes, count: int) -> list[Decoded | None]:
    """What :func:`pack` said, without its size; None for images that a child leaves to this process.

    Raises:
        EOFError: it is not about ``count`` images.
    """
    found: list[Decoded | None] = []
    at = 0
    while at < len(body):
        kind, width, height, size = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        if kind == b"d":
            middle = at + THUMB * THUMB
            found.append(Decoded(body[at:middle], body[middle : middle + _DIGEST], (width, height)))
            at = middle + _DIGEST
        else:
            word = body[at : at + size].decode("utf-8")
            if kind == b"e":
                found.append(Decoded(b"", b"", (0, 0), extent=Extent(*json.loads(word))))
            else:
                found.append(Decoded(b"", b"", (0, 0), word) if kind == b"r" else None)
            at += size
    if len(found) != count:
        raise EOFError
    return found
