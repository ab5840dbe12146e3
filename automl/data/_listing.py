"""What a source contains, before any image is decoded."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from automl.errors import InputError, did_you_mean

#: Codes of the parts of a split, in the order in which they are shown.
PARTS = ("train", "validation", "test")
#: No part was given.
UNSET = -1
_BLOCK = 4096
#: Names that a source may use for the parts.
PART_NAMES = {
    "train": 0, "training": 0, "0": 0,
    "validation": 1, "val": 1, "valid": 1, "dev": 1, "1": 1,
    "test": 2, "testing": 2, "2": 2,
}  # fmt: skip
#: What the columns of a table (or the arrays of an npz file) may be called; the first that exists counts.
SYNONYMS = {
    "path": ("path", "file", "filename", "image", "file_name", "filepath", "image_path"),
    "label": ("label", "class", "target"),
    "split": ("split",),
    "group": ("group", "groups", "dupgroup"),
}


@dataclass
class Listing:
    """All images of a source.

    Attributes:
        kind: ``folder``, ``manifest``, ``arrays`` (npz of pixels) or ``encoded`` (npz of encoded files).
        name: stem of the folder or file.
        source: absolute path of what was named.
        names: what an image is called in reports, one per image.
        paths: absolute files, one per image; empty for npz files.
        labels: int64 ``[N]``, index into ``class_names``.
        class_names: in their order.
        split: int8 ``[N]``, code of :data:`PARTS` or :data:`UNSET`.
        groups: int64 ``[N]`` per group column; -1 where an image belongs to none.
        stamp: int64 ``[M, 2]``, size and modification time of the files.
        set_aside: (name, reason) of what cannot be used.
        notes: lines for the report.
    """

    kind: str
    name: str
    source: Path
    names: Sequence[str]
    paths: Sequence[str]
    labels: np.ndarray
    class_names: list[str]
    split: np.ndarray
    groups: list[np.ndarray] = field(default_factory=list)
    stamp: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def key(self, version: int) -> str:
        """Hex name of this content: path, files with sizes and times, labels, splits, groups and ``version``."""
        digest = hashlib.sha256(f"{version}\0{self.kind}\0{self.source}\0".encode("utf-8", "surrogateescape"))
        for words in (self.class_names, self.names, self.paths):
            for begin in range(0, len(words), _BLOCK):
                between = b"\0" if begin else b""
                part = "\0".join(words[begin : begin + _BLOCK])
                digest.update(between + part.encode("utf-8", "surrogateescape"))
            digest.update(b"\1")
        for numbers in (self.labels, self.split, self.stamp, *self.groups):
            digest.update(np.ascontiguousarray(numbers).tobytes() + b"\2")
        digest.update(repr(self.set_aside).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:24]

    def check(self) -> None:
        """Raise :class:`InputError` where nothing can be learned from this."""
        if not len(self.labels):
            raise InputError(f"{self.source} holds no image that can be used; {self._why_empty()}")
        present = [self.class_names[c] for c in np.unique(self.labels)]
        if len(present) < 2:
            raise InputError(
                f"{self.source} has images of one class only ({present[0]!r}); a classification needs two or more"
            )

    def _why_empty(self) -> str:
        if self.set_aside:
            name, reason = self.set_aside[0]
            return f"{len(self.set_aside)} were set aside, the first is {name}: {reason}"
        return "expected CLASS/IMAGE.png, a labels.csv, or an .npz with images and labels"


def check_columns(columns: dict[str, str] | None) -> dict[str, str]:
    """The user's choice of columns.

    Raises:
        InputError: a key that is not one of :data:`SYNONYMS`.
    """
    chosen = dict(columns or {})
    for key in chosen:
        if key not in SYNONYMS:
            raise InputError(f"columns has no role {key!r}{did_you_mean(key, SYNONYMS)}")
    return chosen


def find_columns(role: str, available: list[str], chosen: dict[str, str], where: Path) -> list[str]:
    """The columns of a role, none where there is none: one, but for ``group`` all that match.

    An empty string as the choice means that the role is to be ignored.

    Raises:
        InputError: a chosen column does not exist.
    """
    if role in chosen:
        if not chosen[role]:
            return []
        if chosen[role] not in available:
            raise InputError(
                f"{where} has no {role} column {chosen[role]!r}{did_you_mean(chosen[role], available)}"
            )
        return [chosen[role]]
    lowered: dict[str, str] = {}
    for name in available:
        lowered.setdefault(name.strip().lower(), name)
    found = [lowered[synonym] for synonym in SYNONYMS[role] if synonym in lowered]
    return found if role == "group" else found[:1]


def class_order(names: list[str]) -> list[str]:
    """Sorted names; whole numbers are sorted by value."""
    if names and all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def encode(values: Iterable[object]) -> np.ndarray:
    """int64 codes of texts; -1 for empty ones."""
    codes: dict[str, int] = {"": -1}
    out = array("q", (codes.setdefault(str(value).strip(), len(codes) - 1) for value in values))
    return np.frombuffer(out, np.int64) if out else np.zeros(0, np.int64)


def part_codes(values: Iterable[object], where: Path) -> np.ndarray:
    """int8 codes of the parts; :data:`UNSET` for empty values.

    Raises:
        InputError: a name that is no part.
    """
    known: dict[str, int] = {"": UNSET}
    out = array("b")
    for value in values:
        text = str(value).strip()
        if text not in known:
            code = PART_NAMES.get(text.lower().removesuffix(".0"))
            if code is None:
                raise InputError(f"{where} has the split {text!r}{did_you_mean(text, PARTS)}")
            known[text] = code
        out.append(known[text])
    return np.frombuffer(out, np.int8) if out else np.zeros(0, np.int8)
