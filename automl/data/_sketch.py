"""The smallest digests of the files of a data set, by which :mod:`strategy_pool.sketches` tells copies."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from strategy_pool.sketches import SIZE

#: Bytes of each image that are looked at.
_BYTES = 1 << 16


def sketch(read: Any, places: np.ndarray) -> list[str]:
    """The smallest digests, ascending hex words.

    Args:
        read: ``read[place]`` is the path, the bytes or the pixels of an image.
        places: of the images, int64 ``[N]``; all are looked at, as a choice by place would miss a copy in another order.
    """
    words = {_digest(read[place]) for place in places.tolist()}
    return sorted(word for word in words if word)[:SIZE]


def _digest(item: Any) -> str:
    """Of an image's bytes; empty where the file has gone since it was decoded."""
    if isinstance(item, str | os.PathLike):
        try:
            with open(item, "rb") as file:
                begins, length = file.read(_BYTES), os.fstat(file.fileno()).st_size
        except OSError:
            return ""
    else:
        begins = item[:_BYTES] if isinstance(item, bytes) else np.ascontiguousarray(item).tobytes()[:_BYTES]
        length = len(item) if isinstance(item, bytes) else item.nbytes
    return hashlib.blake2b(begins + str(length).encode(), digest_size=8).hexdigest()
