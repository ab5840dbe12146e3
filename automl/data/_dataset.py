"""A data set that is decoded once and opened by many processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from automl.data import _splits
from automl.data._build import build, is_complete, may_have_healed, open_texts
from automl.data._cache import (
    LAYOUT,
    InUse,
    building,
    datasets_folder,
    default_cache_dir,
    discard,
    disk_errors,
)
from automl.data._checks import DataReport, Facts, make_report
from automl.data._levels import ImageLevel, open_level
from automl.data._listing import PARTS
from automl.data._sources import list_source
from automl.data._texts import Texts
from automl.errors import InputError, did_you_mean

#: The pictures of a sample smaller than this part of the images are not resized ahead.
_SAMPLE_SHARE = 4
#: Sides that make sense for a network.
_LARGEST_SIDE = 1024


class Dataset:
    """Images, labels and splits under one seed; everything large is memory-mapped.

    Attributes:
        folder: what :meth:`open` takes; names the cached data and the seed.
        name: stem of the source.
        source: absolute path of the source.
        fingerprint: of the pictures and labels, independent of where they lie.
        sketch: of the files, for :mod:`strategy_pool.sketches`.
        ranges: of grey values of more than 8 bits, kind → what is black and what is white in all images.
        seed: of the split.
        class_names: in their order.
        labels: int64 ``[N]``.
        split: uint8 ``[N]``, 0 train, 1 validation, 2 test.
        groups: int64 ``[N]``; images of one group (also near and exact copies) never straddle parts made here.
        size: side of the stored square pictures.
        report: counts and findings.
        test_override: the source itself names the test images.
        sampled: development images of a :meth:`sample`, None where all are there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.abspath(folder))
        base = self.folder.parent.parent
        self._base = base
        self._in_use = InUse(base)
        try:
            about = json.loads((base / "dataset.json").read_text("ascii"))
            view = json.loads((self.folder / "view.json").read_text("ascii"))
            if about["layout"] != LAYOUT:
                raise InputError(
                    f"{self.folder} was written by another version of automl; load the data set again"
                )
            facts = about["facts"]
            self.name: str = facts["name"]
            self.source = Path(about["source"])
            self.fingerprint: str = about["fingerprint"]
            self.sketch: list[str] = about["sketch"]
            self.ranges: dict[str, list[float]] = about["ranges"]
            self.seed: int = view["seed"]
            self.class_names: list[str] = facts["class_names"]
            self.size: int = facts["side"]
            self._stored: int = facts["stored"]
            self.report = DataReport.from_dict(view["report"])
            self._fold_count: int = view["folds"]
            self.labels = np.load(base / "labels.npy", mmap_mode="r")
            self.groups = np.load(base / "units.npy", mmap_mode="r")
            self._rows = np.load(base / "rows.npy", mmap_mode="r")
            self._given = np.load(base / "given.npy", mmap_mode="r")
            self.split = np.load(self.folder / "split.npy", mmap_mode="r")
            self._fold_of = np.load(self.folder / "fold.npy", mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{self.folder} holds no data set ({type(error).__name__}: {error}); load it again from its source"
            ) from None
        self._levels: dict[int, ImageLevel] = {}
        self._picked: np.ndarray | None = None
        self.sampled: int | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Open what :func:`load_dataset` made, without looking at the source.

        Raises:
            InputError: the folder is no data set, or was evicted from the cache.
        """
        return cls(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return Dataset.open, (str(self.folder),)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self)} images, {len(self.class_names)} classes, {self.size} px)"

    @property
    def test_override(self) -> bool:
        """Whether the source itself names the test images."""
        return bool((self._given == 2).any())

    @cached_property
    def digests(self) -> dict[str, str]:
        """Hex names of what the results of trials refer to, which the fingerprint does not cover.

        ``order``: which picture each image is; ``labels``: with the names of the classes; ``groups``, ``split`` and
        ``folds``: of each image.
        """
        with open(self._base / "thumbs.u8", "rb") as thumbs:
            pictures = hashlib.file_digest(thumbs, "sha256").digest()
        names = json.dumps(self.class_names).encode("ascii")
        return {
            "order": _hex_name(pictures, self._rows),
            "labels": _hex_name(names, self.labels),
            "groups": _hex_name(b"", self.groups),
            "split": _hex_name(b"", self.split),
            "folds": _hex_name(str(self._fold_count).encode("ascii"), self._fold_of),
        }

    @cached_property
    def source_names(self) -> Sequence[str]:
        """What each image is called in the source: a path relative to it, or ``FILE.npz[INDEX]``."""
        return self._texts[0]

    @cached_property
    def source_paths(self) -> Sequence[str]:
        """Absolute file of each image; empty for npz sources."""
        return self._texts[1]

    @cached_property
    def _texts(self) -> tuple[Texts, Texts]:
        return open_texts(self._base)

    def indices(self, part: str) -> np.ndarray:
        """Indices of ``train``, ``validation``, ``test`` or ``development`` (train and validation), ascending int64.

        Raises:
            ValueError: the part is unknown.
        """
        if part != "development" and part not in PARTS:
            raise ValueError(f"part is {part!r}{did_you_mean(part, (*PARTS, 'development'))}")
        found = np.asarray(self.split) < 2 if part == "development" else self.split == PARTS.index(part)
        if self._picked is not None and part != "test":
            found = found & self._picked
        return np.flatnonzero(found)

    def sample(self, count: int) -> Dataset:
        """The same data with about ``count`` of the development images: the others are in no part and no fold.

        Of each class in each part the same share is drawn, at least four images; which ones depends on the seed of
        the split alone, and a larger sample contains a smaller one.

        Args:
            count: images; where that takes all of them, the data set itself comes back.
        """
        development = np.asarray(self.split) < 2
        share = count / max(1, int(development.sum()))
        if share >= 1:
            return self
        drawn = np.random.default_rng(self.seed).permutation(len(self))
        kind = np.asarray(self.labels) * len(PARTS) + np.asarray(self.split)
        drawn = drawn[np.argsort(kind[drawn], kind="stable")]
        _kinds, first, inverse, sizes = np.unique(
            kind[drawn], return_index=True, return_inverse=True, return_counts=True
        )
        place = np.arange(len(self)) - first[inverse]
        picked = np.zeros(len(self), bool)
        picked[drawn] = place < np.maximum(4, np.ceil(share * sizes))[inverse]
        picked &= development
        if picked.sum() == development.sum():
            return self
        some = Dataset(self.folder)
        some._picked, some.sampled = picked, int(picked.sum())
        return some

    def images(self, side: int | None = None, *, once: bool = False) -> ImageLevel:
        """The pictures at a size: ``images(side)[index]`` is uint8 ``[n, side, side, 3]``.

        Sizes other than the stored one are derived with :meth:`resize_chain` and kept in the cache.

        Args:
            side: the stored one by default.
            once: each picture is wanted once or never: where the size is not there yet, it is derived at the access.

        Raises:
            ValueError: the side is not in 1..1024.
        """
        side = self.size if side is None else int(side)
        if not 1 <= side <= _LARGEST_SIDE:
            raise ValueError(f"side is {side}; it must be in 1..{_LARGEST_SIDE}")
        if side not in self._levels:
            keep = not once and (self.sampled is None or self.sampled > len(self) // _SAMPLE_SHARE)
            level = open_level(self._base, self._stored, self.size, self._rows, side, keep=keep)
            if once:
                return level
            self._levels[side] = level
        return self._levels[side]

    def resize_chain(self, resolution: int) -> list[int]:
        """Sides of the successive bilinear squashes from an original to ``resolution``, as the pictures went."""
        return [self.size] if resolution == self.size else [self.size, int(resolution)]

    @cached_property
    def folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(training, validation) indices of each fold, ascending int64.

        One fold where validation is large enough or given by the source with images of every class, else up to four over
        train and validation; classes that have a single group stay in training.
        """
        table = np.asarray(self._fold_of)
        out = []
        for fold in range(self._fold_count):
            inside = table == fold
            outside = (table != _splits.OUTSIDE) & ~inside
            if self._picked is not None:
                inside, outside = inside & self._picked, outside & self._picked
            out.append((np.flatnonzero(outside), np.flatnonzero(inside)))
        return out


def _hex_name(about: bytes, numbers: np.ndarray) -> str:
    return hashlib.sha256(about + b"\0" + np.ascontiguousarray(numbers).tobytes()).hexdigest()[:16]


def load_dataset(
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    columns: dict[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    listed: Callable[[list[str]], None] | None = None,
) -> Dataset:
    """Open a data set; the first time it is decoded into the cache.

    Args:
        source: a folder of class folders, a table (CSV, Parquet), a folder with a ``labels.csv``, or an ``.npz`` file.
        seed: of the split.
        cache_dir: root of the cache, ``$AUTOML_HOME`` or ``~/.cache/automl`` by default.
        columns: which column has the role ``path``, ``label``, ``split`` or ``group``; ``""`` ignores a role.
        progress: called with (done, total) images while they are decoded.
        listed: called with the names of the classes once the source is known to be sound and before anything is
            decoded; what it raises ends the loading.

    Raises:
        InputError: the source cannot be used, or the disk or the cache's bound is too small.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed is {seed}; it must be a whole number from 0")
    listing = list_source(source, columns)
    if listed is not None:
        listed(listing.class_names)
    folder = datasets_folder(default_cache_dir() if cache_dir is None else Path(cache_dir))
    base = folder / listing.key(LAYOUT)
    if is_complete(base) and may_have_healed(base, listing):
        discard(base)
    in_use = InUse(base)
    try:
        if not is_complete(base):
            with building(base):
                if not is_complete(base):
                    build(listing, base, progress)
        view = base / "views" / f"seed-{seed}"
        if not (view / "view.json").is_file():
            with building(base), disk_errors(folder, listing.name):
                if not (view / "view.json").is_file():
                    _make_view(base, view, seed)
        return Dataset(view)
    finally:
        in_use.close()


def _make_view(base: Path, view: Path, seed: int) -> None:
    about = json.loads((base / "dataset.json").read_text("ascii"))
    arrays = {
        name: np.asarray(np.load(base / f"{name}.npy", mmap_mode="r"))
        for name in ("labels", "rows", "units", "near", "groups", "given")
    }
    labels, units, given = arrays["labels"], arrays["units"], arrays["given"]
    part = _splits.split(labels, units, given, seed)
    folds, fold_of = _splits.folds(labels, units, part, given, seed)
    report = make_report(
        Facts(**about["facts"]),
        labels=labels,
        rows=arrays["rows"],
        near=arrays["near"],
        groups=list(arrays["groups"]),
        units=units,
        given=given,
        part=part,
        folds=folds,
        names=open_texts(base)[0],
    )
    temporary = view.with_name(f".{view.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        np.save(temporary / "split.npy", part)
        np.save(temporary / "fold.npy", fold_of)
        (temporary / "view.json").write_text(
            json.dumps({"seed": seed, "folds": folds, "report": report.to_dict()}), "ascii"
        )
        os.rename(temporary, view)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
