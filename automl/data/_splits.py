"""Train, validation and test: stratified by class, whole groups only, fixed by a seed.

Groups are dealt out one by one, the largest first, each to the part that lacks most of the group's rarest class
(iterative stratification, Sechidis et al. 2011, section 3, on groups instead of examples); single images then fill
what is still missing of each class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl.data._listing import PARTS, UNSET
from automl.errors import InputError

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.2
FOLDS = 4
#: Fewer development images than this, or fewer validation images of the median class, and folds are used.
_FEW_IMAGES = 400
_FEW_OF_A_CLASS = 8
#: Code in the fold table: in training in every fold.
ALWAYS = -2
#: Code in the fold table: no development image.
OUTSIDE = -1


def split(labels: np.ndarray, groups: np.ndarray, given: np.ndarray, seed: int) -> np.ndarray:
    """Assign each image a part, uint8 ``[N]`` (0 train, 1 validation, 2 test).

    Given parts are kept. A missing test part is cut from all images, a missing validation part from train.

    Args:
        labels: int64 ``[N]``, 0..C-1.
        groups: int64 ``[N]``; a group never straddles parts that are cut here.
        given: int8 ``[N]``, part that the source names or -1 (those count as train where parts are given).
        seed: of what is random.

    Raises:
        InputError: a part would be empty, or train would lack all classes but one.
    """
    part = np.where(given == UNSET, 0, given).astype(np.uint8)
    if not (given == 2).any():
        rows = np.arange(len(labels))
        part[_cut(labels, groups, rows, TEST_SHARE, [seed, 1], at_least=3)] = 2
    if not ((part == 1) & (given == 1)).any():
        rows = np.flatnonzero(part == 0)
        part[_cut(labels, groups, rows, VALIDATION_SHARE, [seed, 2], at_least=2)] = 1
    _check(labels, part, given)
    return part


def folds(
    labels: np.ndarray, groups: np.ndarray, part: np.ndarray, given: np.ndarray, seed: int
) -> tuple[int, np.ndarray]:
    """Decide how candidates are validated: number of folds and int8 ``[N]``, the fold that validates each image.

    One fold (the validation part) where there are enough images, or where the source names validation images of every
    class; else :data:`FOLDS` stratified folds of whole groups over train and validation. Images whose class has no
    other group stay in training (:data:`ALWAYS`); test images have :data:`OUTSIDE`.
    """
    table = np.full(len(labels), OUTSIDE, np.int8)
    development = np.flatnonzero(part < 2)
    validation = part == 1
    counts = np.bincount(labels[validation], minlength=int(labels.max()) + 1)
    many = validation.any() and len(development) >= _FEW_IMAGES and np.median(counts) >= _FEW_OF_A_CLASS
    if many or not len(unstated(labels, part, given)):
        table[development] = ALWAYS
        table[validation] = 0
        return 1, table
    number = min(FOLDS, len(np.unique(groups[development])))
    dealt = deal(labels[development], groups[development], [1 / number] * number, [seed, 3])
    table[development] = dealt
    for fold in range(number):
        # A class that lies in one fold alone would be missing from that fold's training.
        inside, outside = development[dealt == fold], development[dealt != fold]
        lonely = np.setdiff1d(labels[inside], labels[outside])
        stuck = inside[np.isin(labels[inside], lonely)]
        table[inside[np.isin(groups[inside], groups[stuck])]] = ALWAYS
    used = np.unique(table[table >= 0])
    if not len(used):
        if not validation.any():
            raise InputError(
                "no class has two groups of images to train and validate on; add images of each class"
            )
        table[development] = ALWAYS
        table[validation] = 0
        return 1, table
    renumber = np.full(number, OUTSIDE, np.int8)
    renumber[used] = np.arange(len(used))
    table[table >= 0] = renumber[table[table >= 0]]
    return len(used), table


def unstated(labels: np.ndarray, part: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Classes of the development images of which the source names no validation image that is in use as one."""
    return np.setdiff1d(labels[part < 2], labels[(part == 1) & (given == 1)])


def deal(labels: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: Sequence[int]) -> np.ndarray:
    """Deal whole groups out to parts, int8 ``[N]``: each class is spread by ``shares`` as far as groups allow.

    Args:
        labels: int64 ``[N]``, any codes.
        groups: int64 ``[N]``, any codes.
        shares: share of each part, summing to 1.
        seed: of what is random.
    """
    generator = np.random.default_rng(list(seed))
    _classes, labels = np.unique(labels, return_inverse=True)
    _names, unit = np.unique(groups, return_inverse=True)
    classes, units = len(_classes), len(_names)
    totals = np.bincount(labels, minlength=classes)
    need = np.outer(np.asarray(shares, np.float64), totals)
    of_unit = np.full(units, -1, np.int8)
    sizes = np.bincount(unit, minlength=units)

    many = np.flatnonzero(sizes > 1)
    if len(many):
        by_unit = np.argsort(unit, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)])
        many = generator.permutation(many)
        for u in many[np.argsort(-sizes[many], kind="stable")]:
            present, counts = np.unique(labels[by_unit[starts[u] : starts[u + 1]]], return_counts=True)
            rarest = present[np.argmin(totals[present])]
            lack = need[:, rarest]
            best = np.flatnonzero(lack >= lack.max() - 1e-9)
            if len(best) > 1:
                wanted = need[best].sum(1)
                best = best[wanted >= wanted.max() - 1e-9]
            chosen = int(best[generator.integers(len(best))])
            of_unit[u] = chosen
            need[chosen, present] -= counts

    single = np.flatnonzero(sizes[unit] == 1)
    for c in generator.permutation(classes):
        members = generator.permutation(single[labels[single] == c])
        if len(members):
            quota = _quota(need[:, c], len(members), need.sum(1))
            need[:, c] -= quota
            of_unit[unit[members]] = np.repeat(np.arange(len(shares)), quota)
    return of_unit[unit]


def proportional_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """An order, int64 ``[N]``, of which every beginning is a random sample with the share of each class kept.

    Args:
        labels: int64 ``[N]``.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, 4])
    drawn = rng.permutation(len(labels))
    by_class = drawn[np.argsort(labels[drawn], kind="stable")]
    _names, first, inverse, sizes = np.unique(
        labels[by_class], return_index=True, return_inverse=True, return_counts=True
    )
    place = np.arange(len(labels)) - first[inverse]
    return by_class[np.argsort((place + rng.random(len(sizes))[inverse]) / sizes[inverse], kind="stable")]


def _quota(need: np.ndarray, count: int, overall: np.ndarray) -> np.ndarray:
    """Share ``count`` images out so that what is lacked afterwards is as even as whole numbers allow."""
    wanted = np.maximum(need, 0)
    if wanted.sum() <= 0:
        wanted = np.ones_like(need)
    exact = wanted * (count / wanted.sum())
    quota: np.ndarray = np.floor(exact + 1e-9).astype(np.int64)
    left = count - int(quota.sum())
    order = np.lexsort((-overall, -np.round(exact - quota, 9)))
    quota[order[:left]] += 1
    return quota


def _cut(
    labels: np.ndarray,
    groups: np.ndarray,
    rows: np.ndarray,
    share: float,
    seed: Sequence[int],
    *,
    at_least: int,
) -> np.ndarray:
    """Rows of the part that is cut off; each class with ``at_least`` groups is on both sides."""
    if not len(rows):
        return rows
    inner = labels[rows]
    _names, unit = np.unique(groups[rows], return_inverse=True)
    cut = deal(inner, unit, [share, 1 - share], seed) == 0
    pairs = np.unique(np.stack([inner, unit], 1), axis=0)
    unit_size = np.bincount(unit)
    unit_cut = np.zeros(len(unit_size), bool)
    unit_cut[unit] = cut
    units_of = {int(c): pairs[pairs[:, 0] == c, 1] for c in np.unique(inner)}
    classes_of: dict[int, list[int]] = {}
    for c, u in pairs.tolist():
        classes_of.setdefault(u, []).append(c)
    keep = at_least - 1

    def left(c: int) -> int:
        return int((~unit_cut[units_of[c]]).sum())

    for c in sorted(units_of, key=lambda c: (len(units_of[c]), c)):
        own = units_of[c]
        # Too few to share: all stay; and what stays is never less than a training needs.
        while left(c) < min(keep, len(own)):
            inside = own[unit_cut[own]]
            unit_cut[inside[np.argmin(unit_size[inside])]] = False
        if len(own) >= at_least and not unit_cut[own].any():
            free = [
                u for u in own.tolist() if all(left(o) > min(keep, len(units_of[o])) for o in classes_of[u])
            ]
            if free:
                unit_cut[min(free, key=lambda u: (unit_size[u], u))] = True
    return rows[unit_cut[unit]]


def _check(labels: np.ndarray, part: np.ndarray, given: np.ndarray) -> None:
    stated = (given != UNSET).any()
    for code, name in enumerate(PARTS):
        if (part == code).any():
            continue
        if stated:
            raise InputError(
                f"the given split leaves no image for {name}; name all parts or ignore it with --column split= "
                "(columns={'split': ''} in Python)"
            )
        raise InputError(
            f"there are too few images to keep some for {name}: {len(labels)} images, and copies and groups count as "
            "one; a class needs 3 or more"
        )
    if len(np.unique(labels[part < 2])) < 2 or len(np.unique(labels[part == 0])) < 2:
        raise InputError(
            "the training images are all of one class; "
            + (
                "ignore the given split with --column split= (columns={'split': ''} in Python)"
                if stated
                else "add images of the other classes"
            )
        )
