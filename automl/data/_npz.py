"""npz files: pixels (``images``) or encoded files one after the other (``data`` and ``offsets``)."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from automl.data._listing import UNSET, Listing, class_order, encode, find_columns, part_codes
from automl.data._texts import Texts
from automl.errors import InputError, did_you_mean

_CHANNELS = (1, 3, 4)


def list_npz(path: Path, chosen: dict[str, str], name: str | None = None) -> Listing:
    """List the images of an npz file; the pixels themselves are not read.

    Raises:
        InputError: arrays are missing, have the wrong shape or type, or hold Python objects.
    """
    for role in ("path",):
        if chosen.get(role):
            raise InputError(f"{path} is an npz file and has no paths; leave out --column {role}=")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is damaged or was not written by numpy.savez")
        with np.load(path, allow_pickle=False) as archive:
            available = list(archive.files)
            kind = "encoded" if {"data", "offsets"} <= set(available) else "arrays"
            if kind == "arrays" and "images" not in available:
                raise InputError(
                    f"{path} has neither 'images' nor 'data' and 'offsets'{did_you_mean('images', available)}"
                )
            small = {name for name in available if name not in ("images", "data")}
            arrays = {name: archive[name] for name in small if not _huge(archive, name)}
        count = _count(path, kind, arrays)
    except InputError:
        raise
    except Exception as error:
        # numpy and zipfile raise many kinds for a damaged file.
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path} holds Python objects, which are never unpickled; save plain arrays with numpy.savez"
            ) from None
        raise InputError(f"{path} cannot be read as npz: {' '.join(str(error).split())[:160]}") from None
    known = sorted(arrays)
    label_key = find_columns("label", known, chosen, path) or (["labels"] if "labels" in arrays else [])
    if not label_key:
        raise InputError(f"{path} has no 'labels'{did_you_mean('labels', available)}")
    labels, class_names = _labels(path, arrays[label_key[0]], arrays.get("class_names"), count)
    split_key = find_columns("split", known, chosen, path)
    split = np.full(count, UNSET, np.int8)
    if split_key:
        split = part_codes(_flat(path, split_key[0], arrays[split_key[0]], count).tolist(), path)
    groups = [
        encode(_flat(path, key, arrays[key], count)) for key in find_columns("group", known, chosen, path)
    ]
    stat = os.stat(path)
    return Listing(
        kind=kind,
        name=name or path.stem,
        source=path,
        names=Texts.of(f"{path.name}[{at}]" for at in range(count)),
        paths=[],
        labels=labels,
        class_names=class_names,
        split=split,
        groups=groups,
        stamp=np.array([[stat.st_size, stat.st_mtime_ns]], np.int64),
    )


class NpzReader:
    """Images of an npz file by index: bytes of an encoded file, or uint8 pixels.

    Stored members are memory-mapped where they lie; compressed ones are unpacked into ``scratch`` first.
    """

    def __init__(self, path: Path, kind: str, scratch: Path) -> None:
        self.kind = kind
        try:
            self.array = open_member(path, "data" if kind == "encoded" else "images", scratch)
            with np.load(path, allow_pickle=False) as archive:
                self.offsets = archive["offsets"].tolist() if kind == "encoded" else []
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
            raise InputError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from None
        if kind == "encoded" and self.array.ndim == 1:
            begin = np.asarray(self.offsets)
            if (np.diff(begin) < 0).any() or begin[0] < 0 or begin[-1] > len(self.array):
                raise InputError(
                    f"{path}: 'offsets' must rise and stay within 'data' ({len(self.array)} bytes)"
                )

    def __getitem__(self, at: int) -> bytes | np.ndarray:
        if self.kind == "encoded":
            return self.array[self.offsets[at] : self.offsets[at + 1]].tobytes()
        return np.asarray(self.array[at])


def open_member(path: Path, name: str, scratch: Path) -> np.memmap[Any, Any]:
    """Memory-map one array of an npz file."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as member:
                shape, fortran, dtype = _npy_header(member)
                inner = member.tell()
            with open(path, "rb") as handle:
                handle.seek(info.header_offset)
                head = handle.read(30)
            begin = (
                info.header_offset
                + 30
                + int.from_bytes(head[26:28], "little")
                + int.from_bytes(head[28:30], "little")
            )
            mapped: np.memmap[Any, Any] = np.memmap(
                str(path),
                dtype=dtype,
                mode="r",
                offset=begin + inner,
                shape=shape,
                order="F" if fortran else "C",
            )
            return mapped
        scratch.mkdir(parents=True, exist_ok=True)
        target = scratch / f"{name}.npy"
        with archive.open(info) as member, open(target, "wb") as out:
            while block := member.read(1 << 22):
                out.write(block)
    return np.load(target, mmap_mode="r", allow_pickle=False)


def member_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and unpacked bytes (0 where it can be mapped in place) of one array, without reading it."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as member:
            shape, _fortran, dtype = _npy_header(member)
        return shape, dtype, 0 if info.compress_type == zipfile.ZIP_STORED else info.file_size


def _npy_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype


def _huge(archive: Any, name: str) -> bool:
    """Other arrays that lie in the file (masks, boxes) are not needed."""
    return int(archive.zip.getinfo(f"{name}.npy").file_size) > 1 << 28


def _count(path: Path, kind: str, arrays: dict[str, np.ndarray]) -> int:
    if kind == "encoded":
        offsets = arrays["offsets"]
        shape, dtype, _unpacked = member_header(path, "data")
        if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 1:
            raise InputError(
                f"{path}: 'offsets' must be whole numbers [N+1], it is {offsets.dtype} {offsets.shape}"
            )
        if dtype != np.uint8 or len(shape) != 1:
            raise InputError(f"{path}: 'data' must be uint8 [bytes], it is {dtype} {shape}")
        return len(offsets) - 1
    shape, dtype, _unpacked = member_header(path, "images")
    if (
        dtype != np.uint8
        or len(shape) not in (3, 4)
        or (len(shape) == 4 and shape[3] not in _CHANNELS)
        or 0 in shape[1:]
    ):
        raise InputError(
            f"{path}: 'images' must be uint8 [N, H, W] or [N, H, W, 1|3|4], it is {dtype} {shape}"
        )
    return shape[0]


def _flat(path: Path, key: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.shape != (count,):
        raise InputError(
            f"{path}: {key!r} must have one value per image ({count}), its shape is {values.shape}"
        )
    return values


def _labels(
    path: Path, values: np.ndarray, given: np.ndarray | None, count: int
) -> tuple[np.ndarray, list[str]]:
    values = _flat(path, "labels", values, count)
    if values.dtype.kind in "US":
        texts = [str(v) for v in values.astype(str)]
        order = [str(n) for n in given.astype(str)] if given is not None else class_order(list(set(texts)))
        index = {name: at for at, name in enumerate(order)}
        unknown = set(texts) - set(index)
        if unknown:
            raise InputError(f"{path}: label {min(unknown)!r} is not in 'class_names'")
        return np.array([index[text] for text in texts], np.int64), order
    if values.dtype.kind not in "iub":
        raise InputError(f"{path}: 'labels' must be whole numbers or text, it is {values.dtype}")
    numbers = values.astype(np.int64)
    if given is None:
        present, codes = np.unique(numbers, return_inverse=True)
        return codes.astype(np.int64), [str(value) for value in present]
    if given.ndim != 1:
        raise InputError(f"{path}: 'class_names' must be a list of names, its shape is {given.shape}")
    if count and not 0 <= numbers.min() <= numbers.max() < len(given):
        raise InputError(
            f"{path}: labels run from {numbers.min()} to {numbers.max()} but 'class_names' has {len(given)} names"
        )
    names = [str(name) for name in given.astype(str)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: 'class_names' holds {twice!r} twice; each class needs its own name")
    return numbers, names
