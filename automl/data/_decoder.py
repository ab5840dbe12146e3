"""From encoded files to stored squares, a few at a time: in this process, or in processes of their own.

Small images keep Python itself busy, and then threads wait for each other; many of them are decoded by one child
process per core. Those speak a plain protocol over pipes, see :func:`pack` and :func:`unpack`; a child that
cannot be started or dies costs time only, because its images are decoded here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image

from automl.data._decode import DecodeError, TooLarge, array_image, decode_image, squash
from automl.data._duplicates import THUMB
from automl.machine import KEEP_PAGES

#: From so many images on, starting processes pays.
_MANY = 3000
_HEAD = struct.Struct("<cIII")
_SIZE = struct.Struct("<I")


@dataclass
class Decoded:
    """One image: pixels uint8 ``[S, S, 3]`` and thumbnail uint8 ``[32, 32]``, or the reason why not."""

    pixels: bytes | None
    thumb: bytes
    digest: bytes
    size: tuple[int, int]
    reason: str = ""


def decode_one(item: Any, side: int, *, large: bool = True) -> Decoded:
    """Decode a file (path or bytes) or pixels.

    Raises:
        TooLarge: without ``large``, the image is one of those that are decoded one at a time.
    """
    try:
        image = array_image(item) if isinstance(item, np.ndarray) else decode_image(item, large=large)
    except DecodeError as error:
        return Decoded(None, b"", b"", (0, 0), str(error))
    square = squash(image, [side])
    pixels = square.tobytes()
    thumb = square.convert("L").resize((THUMB, THUMB), Image.Resampling.BILINEAR).tobytes()
    return Decoded(pixels, thumb, hashlib.blake2b(pixels, digest_size=16).digest(), image.size)


class Decoder:
    """Decodes chunks of items; threads may share it.

    Args:
        side: of the stored squares.
        count: images that will come.
        workers: processes at most.
        files: whether items are paths or bytes of files; pixels are never sent to a process.
    """

    def __init__(self, side: int, count: int, workers: int, *, files: bool) -> None:
        self._side = side
        self._children: list[subprocess.Popen[bytes]] = []
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        if files and workers > 1 and count >= _MANY:
            for _ in range(workers):
                with contextlib.suppress(OSError):
                    self._children.append(_start(side))
            for child in self._children:
                self._free.put(child)

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_error: object) -> None:
        for child in self._children:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            child.wait()

    def chunk(self, items: Sequence[Any]) -> list[Decoded]:
        """Decode some items."""
        try:
            child = self._free.get_nowait()
        except queue.Empty:
            return [decode_one(item, self._side) for item in items]
        try:
            found = unpack(ask(child, items), len(items), self._side)
        except (OSError, EOFError):
            return [decode_one(item, self._side) for item in items]
        self._free.put(child)
        return [
            decode_one(item, self._side) if one is None else one
            for item, one in zip(items, found, strict=True)
        ]


def _start(side: int) -> subprocess.Popen[bytes]:
    # In a session of its own, so that Ctrl-C reaches this process alone.
    return subprocess.Popen(
        [sys.executable, "-m", "automl.data._worker", str(side)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, **KEEP_PAGES, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def ask(child: subprocess.Popen[bytes], items: Sequence[Any]) -> bytes:
    """Send items to a child and return its answer.

    Raises:
        EOFError, OSError: the child is gone.
    """
    words = [(b"b", item) if isinstance(item, bytes) else (b"p", os.fsencode(item)) for item in items]
    body = b"".join(kind + _SIZE.pack(len(word)) + word for kind, word in words)
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


def items_of(body: bytes) -> list[str | bytes]:
    """The items that :func:`ask` sent."""
    found: list[str | bytes] = []
    at = 0
    while at < len(body):
        (size,) = _SIZE.unpack_from(body, at + 1)
        word = body[at + 5 : at + 5 + size]
        found.append(word if body[at : at + 1] == b"b" else os.fsdecode(word))
        at += 5 + size
    return found


def pack(items: Sequence[str | bytes], side: int) -> bytes:
    """Decode items and write the answer: per image ``d`` (decoded), ``r`` (a reason) or ``l`` (too large for a child)."""
    parts = []
    for item in items:
        try:
            one = decode_one(item, side, large=False)
        except TooLarge:
            parts.append(_HEAD.pack(b"l", 0, 0, 0))
            continue
        if one.pixels is None:
            reason = one.reason.encode("utf-8", "backslashreplace")
            parts.append(_HEAD.pack(b"r", 0, 0, len(reason)) + reason)
        else:
            parts += [_HEAD.pack(b"d", *one.size, len(one.pixels)), one.pixels, one.thumb, one.digest]
    body = b"".join(parts)
    return _SIZE.pack(len(body)) + body


def unpack(body: bytes, count: int, side: int) -> list[Decoded | None]:
    """What :func:`pack` wrote, without its size; None for images that a child leaves to this process.

    Raises:
        EOFError: it is not about ``count`` images of this side.
    """
    found: list[Decoded | None] = []
    at = 0
    while at < len(body):
        kind, width, height, size = _HEAD.unpack_from(body, at)
        at += _HEAD.size
        word = body[at : at + size]
        at += size
        if kind == b"d":
            if size != side * side * 3:
                raise EOFError
            thumb, digest = body[at : at + THUMB * THUMB], body[at + THUMB * THUMB : at + THUMB * THUMB + 16]
            at += THUMB * THUMB + 16
            found.append(Decoded(word, thumb, digest, (width, height)))
        else:
            found.append(Decoded(None, b"", b"", (0, 0), word.decode("utf-8")) if kind == b"r" else None)
    if len(found) != count:
        raise EOFError
    return found
