"""What is wrong or noteworthy about a data set, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automl.data._listing import PARTS, UNSET
from automl.data._splits import unstated

#: Examples that are listed per finding.
_EXAMPLES = 20
_IMBALANCE = 20.0
_TINY = 32


@dataclass(frozen=True)
class DataReport:
    """Counts and findings of a data set under one split.

    Attributes:
        name: of the data set.
        images, stored: usable images, and those left when exact copies are stored once.
        side: pixels of the stored squares.
        class_names: in their order.
        counts: part → class → images.
        folds: validation folds.
        unreadable: {"name", "reason"} of every image that was set aside.
        exact_duplicates, near_duplicates: images that are a copy of an earlier one; images that have a near copy.
        conflicts: {"names", "classes"} of the same image under different labels.
        leaks: {"exact", "near", "group"} → images of a given validation or test part whose copy is in another one.
        too_small: classes with fewer than 3 independent images.
        imbalance: largest class / smallest class.
        sizes: {"shortest", "median", "longest"} of the longer sides, pixels.
        warnings: one line per finding, the serious ones first.
        notes: one line per thing worth knowing.
    """

    name: str
    images: int
    stored: int
    side: int
    class_names: list[str]
    counts: dict[str, dict[str, int]]
    folds: int
    unreadable: list[dict[str, str]] = field(default_factory=list)
    exact_duplicates: int = 0
    near_duplicates: int = 0
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    leaks: dict[str, int] = field(default_factory=dict)
    too_small: list[str] = field(default_factory=list)
    imbalance: float = 1.0
    sizes: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataReport:
        """Rebuild from :meth:`to_dict`; unknown keys are ignored."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    def lines(self) -> list[str]:
        """The report for people, one finding per line."""
        parts = ", ".join(f"{sum(self.counts[part].values())} {part}" for part in PARTS)
        how = "one validation part" if self.folds == 1 else f"{self.folds} folds over train and validation"
        out = [
            f"{self.name}: {self.images} images, {len(self.class_names)} classes, stored at {self.side} px",
            f"{parts}; validated by {how}",
        ]
        shown = self.class_names[:12]
        each = ", ".join(f"{name} {sum(self.counts[part][name] for part in PARTS)}" for name in shown)
        more = len(self.class_names) - len(shown)
        out.append(f"images per class: {each}" + (f", … {more} more" if more > 0 else ""))
        out.extend(f"warning: {line}" for line in self.warnings)
        out.extend(self.notes)
        for item in self.unreadable[:_EXAMPLES]:
            out.append(f"set aside: {item['name']}: {item['reason']}")
        if len(self.unreadable) > _EXAMPLES:
            out.append(f"set aside: … {len(self.unreadable) - _EXAMPLES} more")
        return out


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before it is split (kept in the cache)."""

    name: str
    class_names: list[str]
    side: int
    stored: int
    unreadable: list[dict[str, str]]
    near_duplicates: int
    near_complete: bool
    sizes: dict[str, float]
    notes: list[str]


def make_report(
    facts: Facts,
    *,
    labels: np.ndarray,
    rows: np.ndarray,
    near: np.ndarray,
    groups: Sequence[np.ndarray],
    units: np.ndarray,
    given: np.ndarray,
    part: np.ndarray,
    folds: int,
    names: Sequence[str],
) -> DataReport:
    """Check a data set.

    Args:
        facts: what the cache knows.
        labels: int64 ``[N]``.
        rows: int64 ``[N]``, stored picture of each image (equal for exact copies).
        near: int64 ``[N]``, number of the cluster of near and exact copies.
        groups: the source's own groups, -1 for none.
        units: int64 ``[N]``, what is never torn apart.
        given: int8 ``[N]``, part that the source names.
        part: uint8 ``[N]``, part in use.
        folds: number of validation folds.
        names: of the images.
    """
    class_names = facts.class_names
    table = np.zeros((3, len(class_names)), np.int64)
    np.add.at(table, (part, labels), 1)
    total = table.sum(0)
    conflicts = _conflicts(labels, rows, names, class_names)
    leaks = _leaks(rows, near, groups, given)
    too_small = [
        class_names[c] for c in np.flatnonzero(_units_per_class(labels, units, len(class_names)) < 3)
    ]
    imbalance = float(total.max() / max(1, total.min()))
    exact = len(rows) - facts.stored

    warnings: list[str] = []
    if sum(leaks.values()):
        kinds = {"exact": "exact copies", "near": "near copies", "group": "members of the same group"}
        found = ", ".join(f"{count} by {kinds[kind]}" for kind, count in leaks.items() if count)
        warnings.append(
            f"the given split leaks: images of validation or test are also in another part ({found}); scores will be "
            "too good. It is kept; --column split= (columns={'split': ''} in Python) ignores it"
        )
    if conflicts:
        first = conflicts[0]
        warnings.append(
            f"{len(conflicts)} images occur under more than one label, for instance {first['names'][0]} "
            f"({' and '.join(first['classes'])})"
        )
    if facts.unreadable:
        warnings.append(f"{len(facts.unreadable)} images could not be used and were set aside")
    warnings.extend(_alike(class_names))
    if too_small:
        shown = ", ".join(repr(name) for name in too_small[:5]) + (" …" if len(too_small) > 5 else "")
        warnings.append(
            f"{len(too_small)} classes have fewer than 3 independent images and cannot be in all parts: {shown}"
        )
    for code, name in ((2, "test"), (0, "train")):
        absent = [class_names[c] for c in np.flatnonzero(table[code] == 0) if class_names[c] not in too_small]
        if absent:
            warnings.append(f"no {name} image of {', '.join(repr(a) for a in absent[:5])}")
    if imbalance >= _IMBALANCE:
        rare, common = int(total.argmin()), int(total.argmax())
        warnings.append(
            f"the classes are very unequal: {class_names[common]!r} has {total[common]} images, "
            f"{class_names[rare]!r} has {total[rare]}"
        )
    notes = list(facts.notes)
    if folds > 1 and (given == PARTS.index("validation")).any():
        absent = [class_names[c] for c in unstated(labels, part, given)]
        notes.append(
            f"the given validation part has no image of {', '.join(repr(a) for a in absent[:5])}"
            + (" …" if len(absent) > 5 else "")
            + f"; as there are few images, it is dealt into {folds} folds together with train"
        )
    if exact:
        notes.append(
            f"{exact} images are exact copies of others; copies never lie in different parts of a split made here"
        )
    if facts.near_duplicates:
        notes.append(f"{facts.near_duplicates} images have near copies; they are kept together too")
    if not facts.near_complete:
        notes.append(
            "there are too many images to compare all pairs for near copies; the most similar were compared"
        )
    sizes = facts.sizes
    if sizes["median"] < _TINY:
        notes.append(f"the images are tiny: the median of the longer side is {sizes['median']:.0f} px")
    if sizes["longest"] > 3 * sizes["shortest"]:
        notes.append(
            f"the image sizes are mixed: longer sides from {sizes['shortest']:.0f} to {sizes['longest']:.0f} px"
        )
    if sizes.get("oblong", 0) > 0.1:
        notes.append(
            f"{sizes['oblong']:.0%} of the images are more than twice as long as wide and are squashed to squares"
        )
    return DataReport(
        name=facts.name,
        images=len(labels),
        stored=facts.stored,
        side=facts.side,
        class_names=list(class_names),
        counts={
            name: {class_names[c]: int(table[code, c]) for c in range(len(class_names))}
            for code, name in enumerate(PARTS)
        },
        folds=folds,
        unreadable=list(facts.unreadable),
        exact_duplicates=exact,
        near_duplicates=facts.near_duplicates,
        conflicts=conflicts,
        leaks=leaks,
        too_small=too_small,
        imbalance=round(imbalance, 3),
        sizes=sizes,
        warnings=warnings,
        notes=notes,
    )


def _conflicts(
    labels: np.ndarray, rows: np.ndarray, names: Sequence[str], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    order = np.lexsort((labels, rows))
    same = (rows[order][1:] == rows[order][:-1]) & (labels[order][1:] != labels[order][:-1])
    out = []
    for row in np.unique(rows[order][1:][same]):
        members = order[np.searchsorted(rows[order], row) : np.searchsorted(rows[order], row, side="right")]
        out.append(
            {
                "names": [names[m] for m in members[:_EXAMPLES]],
                "classes": [class_names[c] for c in np.unique(labels[members])],
            }
        )
    return out


def _leaks(
    rows: np.ndarray, near: np.ndarray, groups: Sequence[np.ndarray], given: np.ndarray
) -> dict[str, int]:
    """Images of a given validation or test part that share a copy or a group with an earlier part; each counts once."""
    stated = np.where(given == UNSET, 0, given)
    leaks = {"exact": 0, "near": 0, "group": 0}
    if not (given != UNSET).any():
        return leaks
    seen = np.zeros(len(rows), bool)
    for kind, columns in (("exact", [rows]), ("near", [near]), ("group", list(groups))):
        for column in columns:
            members = np.flatnonzero(column >= 0)
            first = np.full(int(column.max(initial=-1)) + 1, 127, np.int64)
            np.minimum.at(first, column[members], stated[members])
            hit = members[stated[members] > first[column[members]]]
            fresh = hit[~seen[hit]]
            seen[fresh] = True
            leaks[kind] += len(fresh)
    return leaks


def _units_per_class(labels: np.ndarray, units: np.ndarray, classes: int) -> np.ndarray:
    pairs = np.unique(np.stack([labels, units], 1), axis=0)
    return np.bincount(pairs[:, 0], minlength=classes)


def _alike(class_names: Sequence[str]) -> list[str]:
    """Names that differ only in case and white space."""
    folded: dict[str, list[str]] = {}
    for name in class_names:
        folded.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return [
        f"the labels {' and '.join(repr(name) for name in names)} differ only in case or white space; "
        "they are different classes unless you rename them"
        for names in folded.values()
        if len(names) > 1
    ]
