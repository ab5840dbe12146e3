"""Encoded images to RGB: every mode Pillow can read, with a reason where it cannot."""

from __future__ import annotations

import functools
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from automl.data._depth import GUESSED, Extent, Ranges, extent, kind_of, to_bytes

#: Largest image that is decoded, in pixels.
MAX_PIXELS = 200_000_000
#: Images above this many pixels are decoded one at a time, so that a pool of threads stays small in memory.
_LARGE_PIXELS = 25_000_000
#: Files of at most this many bytes are read at once.
_AT_ONCE = 1 << 20
#: Raster formats only: some of Pillow's other readers start external programs.
FORMATS = (
    "JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "TGA", "MPO", "ICO", "PCX", "SGI", "AVIF",
)  # fmt: skip
#: Endings that are taken for images in a folder.
EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".tga",
        ".mpo",
        ".avif",
    ]
)
#: What a decoder may raise on damaged input; programming errors stay visible.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
    RuntimeError,
)

#: Where an orientation may be told, as Pillow names it in ``info``; in a TIFF it is among the tags.
_SAYS_WHAT_IS_UP = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")

#: Reasons that lie in the machine: rights, disks, memory.
_NO_RIGHT, _NO_MEMORY, _BROKEN = (
    "no permission to read the file",
    "too large for the memory of this machine",
    "damaged: ",
)
_PASSING = (_NO_RIGHT, _NO_MEMORY, f"{_BROKEN}[Errno ")

_large = threading.Semaphore(1)


def is_passing(reason: str) -> bool:
    """Whether a file may be read later that could not be: it was not the image's fault."""
    return reason.startswith(_PASSING)


class DecodeError(ValueError):
    """An image cannot be read; the message is the reason, a few words."""


class TooLarge(Exception):
    """An image of so many pixels that only one at a time is decoded."""


class Deep(Exception):
    """An image with grey values of more than 8 bits, of which it is not known yet what is black and what is white."""

    def __init__(self, extent: Extent) -> None:
        super().__init__(extent)
        self.extent = extent


def decode_image(
    source: str | Path | bytes, *, large: bool = True, ranges: Ranges | None = GUESSED
) -> Image.Image:
    """Read an image as 8-bit RGB.

    EXIF orientation is applied, transparency is laid over white, palettes are resolved, and grey values of more than
    8 bits are brought to 0..255. Of an animation the first frame counts.

    Args:
        source: a file, or the bytes of one.
        large: decode also images of very many pixels, of which a process decodes one at a time.
        ranges: of grey values of more than 8 bits; those of a data set are its :attr:`Dataset.ranges`.

    Raises:
        TooLarge: it has so many pixels, and ``large`` is False.
        Deep: it has grey values of more than 8 bits, and ``ranges`` is None.
        DecodeError: the file is empty, damaged, no image, or has more than :data:`MAX_PIXELS` pixels.
    """
    import struct
    import zlib

    try:
        _set_limit()
        with Image.open(_stream(source), formats=_known_formats()) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise DecodeError(f"{pixels / 1e6:.0f} megapixels, more than {MAX_PIXELS // 1_000_000}")
            if pixels > _LARGE_PIXELS:
                if not large:
                    raise TooLarge
                with _large:
                    return _rgb(image, ranges)
            return _rgb(image, ranges)
    except (DecodeError, TooLarge, Deep):
        raise
    except FileNotFoundError:
        raise DecodeError("file does not exist") from None
    except PermissionError:
        raise DecodeError(_NO_RIGHT) from None
    except UnidentifiedImageError:
        if _is_empty(source):
            raise DecodeError("empty file") from None
        raise DecodeError("not an image that can be read") from None
    except Image.DecompressionBombError:
        raise DecodeError(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except MemoryError:
        raise DecodeError(_NO_MEMORY) from None
    except (*_DAMAGE, struct.error, zlib.error) as error:
        text = " ".join(str(error).split())[:120]
        raise DecodeError(f"{_BROKEN}{text or type(error).__name__}") from None


def _stream(source: str | Path | bytes) -> Any:
    """What Pillow opens: small files at once, instead of its many small reads."""
    if not isinstance(source, bytes):
        with open(source, "rb", buffering=0) as handle:
            if os.fstat(handle.fileno()).st_size > _AT_ONCE:
                return str(source)
            source = handle.readall()
    return io.BytesIO(source)


def _is_empty(source: str | Path | bytes) -> bool:
    try:
        return not (len(source) if isinstance(source, bytes) else os.stat(source).st_size)
    except OSError:
        return False


def image_size(source: str | Path | bytes) -> tuple[int, int] | None:
    """Width and height from the header alone, as stored; None where it cannot be read."""
    try:
        _set_limit()
        stream: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        with Image.open(stream, formats=_known_formats()) as image:
            return image.width, image.height
    except Exception:
        # A header that cannot be read is reported when the image itself is decoded.
        return None


def array_image(array: np.ndarray) -> Image.Image:
    """An RGB image from uint8 ``[H, W]`` or ``[H, W, 1|3|4]``; alpha is laid over white."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _rgb(Image.fromarray(np.ascontiguousarray(array)), GUESSED)


def squash(image: Image.Image, sides: Sequence[int]) -> Image.Image:
    """Resize to squares, one after the other, with Pillow's antialiased bilinear filter."""
    for side in sides:
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
    return image


def _set_limit() -> None:
    """Pillow refuses at twice its limit, before any pixel is decoded."""
    if Image.MAX_IMAGE_PIXELS != MAX_PIXELS // 2:
        import warnings

        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        # What Pillow finds odd in metadata is no news: damaged pixels are reported one by one.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _rgb(image: Image.Image, ranges: Ranges | None) -> Image.Image:
    image.load()
    transposed = _upright(image)
    mode = transposed.mode
    if kind := kind_of(mode):  # a transparent grey of 16 bits is a grey like any other
        values = np.asarray(transposed)
        if ranges is None:
            raise Deep(extent(kind, values))
        return Image.fromarray(to_bytes(values, kind, ranges)).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in transposed.info:
        return _on_white(transposed)
    if mode == "RGB":
        return transposed  # its pixels are read; closing the file leaves them
    return transposed.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    if not hasattr(image, "tag_v2") and not any(name in image.info for name in _SAYS_WHAT_IS_UP):
        return image
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image
        return ImageOps.exif_transpose(image) or image
    except Exception:
        # Broken EXIF does not make the pixels worse.
        return image


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    white.alpha_composite(layer)
    return white.convert("RGB")
