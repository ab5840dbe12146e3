"""Decode every image once, into files that worker processes map into memory."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from automl.data._cache import LAYOUT, disk_errors, need_space
from automl.data._checks import Facts
from automl.data._decode import DecodeError, decode_image, image_size, is_passing
from automl.data._decoder import Decoded, Decoder, put
from automl.data._depth import Extent, Ranges, find_ranges, told
from automl.data._duplicates import THUMB, components, group_edges, near_duplicates
from automl.data._listing import Listing
from automl.data._npz import NpzReader, member_header
from automl.data._sketch import sketch
from automl.data._texts import Texts, first_equal
from automl.device import cores
from automl.errors import InputError

#: Largest side of the stored squares.
MAX_SIDE = 256
_MIN_SIDE = 8
#: Headers that are read to choose the side.
_SIZE_SAMPLE = 2000
#: Pixels of so many bytes are decoded and handed over at a time, in chunks of 4 to 64 images.
_CHUNK_BYTES = 1 << 20
#: Bytes of a thumbnail.
_THUMB = THUMB * THUMB
#: Of a data set, beside ``dataset.json`` and ``images.u8``.
_FILES = (
    "labels.npy", "rows.npy", "units.npy", "near.npy", "groups.npy", "given.npy", "texts.json", "names.npy", "names.u8",
    "thumbs.u8",
)  # fmt: skip
#: Files that could not be read, of which so many are tried again.
_TRIED_AGAIN = 20

Progress = Callable[[int, int], None]


def build(listing: Listing, base: Path, progress: Progress | None) -> None:
    """Decode ``listing`` into the folder ``base``, which appears complete or not at all.

    Raises:
        InputError: nothing usable is left, or the disk is too small.
    """
    folder = base.parent
    temporary = base.with_name(base.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    began = time.monotonic()
    with disk_errors(folder, listing.name):
        try:
            need_space(folder, _unpacked(listing), listing.name)
            temporary.mkdir(parents=True)
            with Decoder(len(listing.names), cores(), files=listing.kind != "arrays") as decoder:
                read = _reader(listing, temporary / "scratch")
                side = _choose_side(listing, read)
                need_space(
                    folder, len(listing.names) * (side * side * 3 + 2 * THUMB * THUMB + 64), listing.name
                )
                decoder.begin(side, temporary / "images.u8")
                facts = _write(listing, read, side, decoder, temporary, progress)
            del read
            shutil.rmtree(temporary / "scratch", ignore_errors=True)
            facts["seconds"] = round(time.monotonic() - began, 3)
            _write_json(temporary / "dataset.json", facts)
            shutil.rmtree(base, ignore_errors=True)
            os.rename(temporary, base)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def is_complete(base: Path) -> bool:
    """Whether a data set of this layout lies there, with all its files."""
    try:
        facts = json.loads((base / "dataset.json").read_text("ascii"))["facts"]
        whole = int(facts["stored"]) * int(facts["side"]) ** 2 * 3
        return (base / "images.u8").stat().st_size == whole and all(
            (base / name).is_file() for name in _FILES
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def may_have_healed(base: Path, listing: Listing) -> bool:
    """Whether a file can be read now that could not when the data set was decoded, as a disk or a right was missing."""
    if not len(listing.paths):
        return False
    facts = json.loads((base / "dataset.json").read_text("ascii"))["facts"]
    names = {one["name"] for one in facts["unreadable"] if is_passing(one["reason"])}
    if not names:
        return False
    places = [at for at, name in enumerate(listing.names) if name in names][:_TRIED_AGAIN]
    for at in places:
        with contextlib.suppress(DecodeError):
            decode_image(listing.paths[at])
            return True
    return False


def parallel(work: Callable[[int], Any], count: int) -> Generator[Any, None, None]:
    """``work(0) … work(count - 1)`` in this order, a few ahead on all cores."""
    workers = cores()
    if workers == 1 or count == 1:
        yield from map(work, range(count))
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[Any]] = deque()
        try:
            for at in range(count):
                ahead.append(pool.submit(work, at))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


class _Files:
    """Paths by index, as :class:`NpzReader` gives bytes and pixels."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __getitem__(self, at: int) -> str:
        return self.paths[at]


def _reader(listing: Listing, scratch: Path) -> Any:
    if listing.kind in ("arrays", "encoded"):
        return NpzReader(listing.source, listing.kind, scratch)
    return _Files(listing.paths)


def _unpacked(listing: Listing) -> int:
    if listing.kind not in ("arrays", "encoded"):
        return 0
    return member_header(listing.source, "data" if listing.kind == "encoded" else "images")[2]


def _choose_side(listing: Listing, read: Any) -> int:
    """90th percentile of the longer sides of evenly spaced images, at most :data:`MAX_SIDE`."""
    count = len(listing.names)
    if listing.kind == "arrays":
        longer: list[int] = [max(read.array.shape[1:3])]
    else:
        picked = np.unique(np.linspace(0, count - 1, min(count, _SIZE_SAMPLE)).astype(int))
        sizes = (image_size(read[int(at)]) for at in picked)
        longer = [max(size) for size in sizes if size is not None]
    side = round(float(np.percentile(longer, 90))) if longer else _MIN_SIDE
    return int(min(MAX_SIDE, max(_MIN_SIDE, side)))


def _write(
    listing: Listing, read: Any, side: int, decoder: Decoder, folder: Path, progress: Progress | None
) -> dict[str, Any]:
    count = len(listing.names)
    # A table may name a file many times: it is decoded for the first of its images only.
    first = first_equal(listing.paths) if listing.kind == "manifest" else np.arange(count)
    once = np.flatnonzero(first == np.arange(count))
    length = min(64, max(4, _CHUNK_BYTES // (side * side * 3)))

    rows = np.full(count, -1, np.int64)
    sizes = np.zeros((count, 2), np.int32)
    seen: dict[bytes, int] = {}
    reasons: dict[int, str] = {}
    deep: dict[int, Extent] = {}
    done = 0
    if progress is not None:
        progress(0, len(once))

    def decode(pieces: list[tuple[int, int]], ranges: Ranges | None, thumbs: int) -> None:
        """Decode pieces of ``once``, each given by its first place and the one behind its last."""
        nonlocal done

        def work(piece: int) -> list[Decoded]:
            begin, end = pieces[piece]
            return decoder.chunk([read[at] for at in once[begin:end].tolist()], begin, ranges)

        # Whatever happens here, no thread may write any more when the decoder closes its file.
        with contextlib.closing(parallel(work, len(pieces))) as found:
            for (begin, end), decoded in zip(pieces, found, strict=True):
                put(thumbs, [one.thumb or bytes(_THUMB) for one in decoded], begin * _THUMB)
                for place, (at, one) in enumerate(zip(once[begin:end].tolist(), decoded, strict=True), begin):
                    if one.extent is not None:
                        deep[place] = one.extent
                    elif one.reason:
                        reasons[at] = one.reason
                    else:
                        rows[at], sizes[at] = seen.setdefault(one.digest, place), one.size
                done += len(decoded)
                if progress is not None:
                    progress(done, len(once) + len(deep))

    with open(folder / "thumbs.u8", "wb") as thumbs:
        whole = [(begin, min(begin + length, len(once))) for begin in range(0, len(once), length)]
        decode(whole, None, thumbs.fileno())
        ranges = find_ranges(deep.values())
        if deep:  # what is black and what is white in them is known only now
            decode(_pieces(sorted(deep), length), ranges, thumbs.fileno())
            seen = dict(sorted(seen.items(), key=lambda item: item[1]))
    decoder.close()
    places = np.fromiter(seen.values(), np.int64, len(seen))
    moved = _close_gaps(places, {folder / "images.u8": side * side * 3, folder / "thumbs.u8": _THUMB})
    digests = [digest for _place, digest in sorted(zip(moved.tolist(), seen, strict=True))]
    rows[rows >= 0] = moved[np.searchsorted(places, rows[rows >= 0])]
    rows, sizes = rows[first], sizes[first]
    usable = np.flatnonzero(rows >= 0)
    set_aside = [{"name": name, "reason": reason} for name, reason in listing.set_aside]
    set_aside += [
        {"name": listing.names[at], "reason": reasons[int(first[at])]}
        for at in np.flatnonzero(rows < 0).tolist()
    ]
    if not len(usable):
        one = set_aside[0]
        raise InputError(
            f"none of the {count} images of {listing.source} can be read; the first is {one['name']}: {one['reason']}"
        )
    listing = dataclasses.replace(listing, notes=[*listing.notes, *told(ranges)])
    about = _finish(listing, folder, side, usable, rows[usable], sizes[usable], digests, set_aside)
    return {**about, "ranges": ranges, "sketch": sketch(read, np.unique(first[usable]))}


def _pieces(places: list[int], longest: int) -> list[tuple[int, int]]:
    """Ascending places as pieces without gaps: the first place of each, and the one behind its last."""
    pieces: list[tuple[int, int]] = []
    for place in places:
        begin, end = pieces[-1] if pieces else (0, -1)
        if place == end and end - begin < longest:
            pieces[-1] = (begin, place + 1)
        else:
            pieces.append((place, place + 1))
    return pieces


def _close_gaps(places: np.ndarray, files: Mapping[Path, int]) -> np.ndarray:
    """Move the last records of files into the gaps that copies and unreadable images left, and shorten the files.

    Args:
        places: of the records that are kept, int64 ``[n]``, ascending.
        files: and the bytes of a record of each.

    Returns:
        where they are now, int64 ``[n]``, a permutation of ``0 … n - 1``.
    """
    count = len(places)
    late = places >= count
    moved = places.copy()
    moved[late] = np.setdiff1d(np.arange(count), places[~late], assume_unique=True)
    for path, size in files.items():
        with open(path, "r+b") as file:
            for source, target in zip(places[late].tolist(), moved[late].tolist(), strict=True):
                file.seek(source * size)
                block = file.read(size)
                file.seek(target * size)
                file.write(block)
            file.truncate(count * size)
    return moved


def _finish(
    listing: Listing,
    folder: Path,
    side: int,
    usable: np.ndarray,
    rows: np.ndarray,
    sizes: np.ndarray,
    digests: list[bytes],
    set_aside: list[dict[str, str]],
) -> dict[str, Any]:
    present, labels = np.unique(listing.labels[usable], return_inverse=True)
    labels = labels.astype(np.int64)
    class_names = [listing.class_names[c] for c in present]
    notes = list(listing.notes)
    empty = [name for name in listing.class_names if name not in set(class_names)]
    if empty:
        shown = ", ".join(repr(name) for name in empty[:8]) + (" …" if len(empty) > 8 else "")
        notes.append(f"{len(empty)} classes have no usable image and were left out: {shown}")
    if len(class_names) < 2:
        raise InputError(
            f"{listing.source} has readable images of one class only ({class_names[0]!r}); "
            "a classification needs two or more"
        )
    stored = len(digests)
    thumbs = np.memmap(folder / "thumbs.u8", np.uint8, "r", shape=(stored, THUMB, THUMB))
    near = near_duplicates(thumbs, scratch=folder)
    del thumbs
    cluster = components(stored, near.pairs)[rows]
    groups = (
        np.stack([group[usable] for group in listing.groups])
        if listing.groups
        else np.zeros((0, len(rows)), np.int64)
    )
    units = _units(cluster, groups)
    for name, array in (
        ("labels", labels),
        ("rows", rows),
        ("units", units),
        ("near", cluster),
        ("groups", groups),
        ("given", listing.split[usable]),
    ):
        np.save(folder / f"{name}.npy", array)
    _write_texts(listing, usable, folder)
    near_rows = np.unique(near.pairs)
    longer = sizes.max(1)
    if near.alike:
        notes.append(
            "the scenes are so alike that near copies cannot be recognised; only exact copies are kept together"
        )
    facts = Facts(
        name=listing.name,
        class_names=class_names,
        side=side,
        stored=stored,
        unreadable=set_aside,
        near_duplicates=int(np.isin(rows, near_rows).sum()),
        near_complete=near.complete,
        sizes={
            "shortest": float(np.percentile(longer, 1)),
            "median": float(np.median(longer)),
            "longest": float(np.percentile(longer, 99)),
            "oblong": round(float((longer > 2 * np.maximum(sizes.min(1), 1)).mean()), 4),
        },
        notes=notes,
    )
    return {
        "layout": LAYOUT,
        "source": str(listing.source),
        "count": len(rows),
        "fingerprint": _fingerprint(digests, rows, labels, class_names),
        "facts": dataclasses.asdict(facts),
    }


def _units(cluster: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Number what is never torn apart, int64 ``[N]``, in the order of the first members."""
    if (groups >= 0).any():
        edges = [group_edges(cluster), *(group_edges(group) for group in groups)]
        return components(len(cluster), np.concatenate(edges))
    _clusters, first, inverse = np.unique(cluster, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[inverse]


def _write_texts(listing: Listing, usable: np.ndarray, folder: Path) -> None:
    """Names and paths; where they differ by a prefix only, the paths are not written again."""
    names, paths = (
        texts if isinstance(texts, Texts) else Texts.of(texts) for texts in (listing.names, listing.paths)
    )
    names.take(usable).save(folder, "names")
    about = None
    if len(paths):
        shared = paths.block is names.block and paths.begins is names.begins
        if not shared:
            paths.take(usable).save(folder, "paths")
        about = {"file": "names" if shared else "paths", "prefix": paths.prefix}
    _write_json(folder / "texts.json", {"names": {"file": "names", "prefix": names.prefix}, "paths": about})


def open_texts(base: Path) -> tuple[Texts, Texts]:
    """Names and absolute paths (none for npz sources) of the images of a built data set, memory-mapped."""
    about = json.loads((base / "texts.json").read_text("ascii"))
    names, paths = (
        Texts.of(()) if about[kind] is None else Texts.open(base, **_opening(about[kind]))
        for kind in ("names", "paths")
    )
    return names, paths


def _opening(about: dict[str, str]) -> dict[str, str]:
    return {"name": about["file"], "prefix": about["prefix"]}


def _fingerprint(digests: list[bytes], rows: np.ndarray, labels: np.ndarray, class_names: list[str]) -> str:
    """Hex name of the content: pictures and labels, wherever they lie and in whatever order."""
    total = hashlib.sha256()
    words = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in class_names]
    pictures = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    names = np.frombuffer(b"".join(words), np.uint8).reshape(len(words), -1)
    # In the order of the pairs of digests; ranks stand for the digests, so that no pair is ever spelt out twice.
    of_picture = np.empty(len(digests), np.int64)
    of_picture[sorted(range(len(digests)), key=digests.__getitem__)] = np.arange(len(digests))
    of_name = np.empty(len(words), np.int64)
    of_name[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    order = np.argsort(of_picture[rows] * len(words) + of_name[labels], kind="stable")
    for begin in range(0, len(order), 1 << 16):
        picked = order[begin : begin + (1 << 16)]
        total.update(np.concatenate([pictures[rows[picked]], names[labels[picked]]], 1).tobytes())
    return total.hexdigest()[:16]


def _write_json(path: Path, value: Any) -> None:
    with open(path, "w", encoding="ascii") as handle:
        json.dump(value, handle)
        handle.flush()
        os.fsync(handle.fileno())
