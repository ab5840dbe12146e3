"""A few training images per class, drawn at random; all that has nothing to do with them is for the test."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.cells import write_text

if TYPE_CHECKING:
    from automl.data import Dataset

_LINK = "images"


def draw(labels: np.ndarray, groups: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw development images; every image of a group that was not touched is a test image.

    Classes are dealt with from the one with the fewest groups on. Of a class, images are taken in random
    order until there are ``shots``; an image of a new group is passed over where that would leave less than
    half of the groups of any of its classes for the test, so that a small class gets fewer. A class of a
    single group is learned and not tested. The other images of a drawn group are left out.

    Args:
        labels: int64 ``[N]``, 0..C-1, each class at least once.
        groups: int64 ``[N]``.
        shots: images per class.
        seed: number of the draw.

    Returns:
        development and test indices, ascending int64.

    Raises:
        InputError: nothing is left to test on.
    """
    from automl.errors import InputError

    rng = np.random.default_rng([seed, shots])
    classes_of: dict[int, list[int]] = {}
    pairs = np.unique(np.stack([labels, groups], 1), axis=0)
    for c, group in pairs.tolist():
        classes_of.setdefault(group, []).append(c)
    left = np.bincount(pairs[:, 0])
    keep = np.where(left > 1, (left + 1) // 2, 0)
    taken: set[int] = set()
    drawn: list[int] = []

    def take(group: int) -> None:
        taken.add(group)
        left[classes_of[group]] -= 1

    for c in np.argsort(left, kind="stable"):
        order = rng.permutation(np.flatnonzero(labels == c)).tolist()
        mine: list[int] = []
        for row in order:
            group = int(groups[row])
            if group not in taken:
                if any(left[o] <= keep[o] for o in classes_of[group]):
                    continue
                take(group)
            mine.append(row)
            if len(mine) == shots:
                break
        if not mine:  # other classes need all its groups; it is learned all the same
            mine = order[:1]
            take(int(groups[mine[0]]))
        drawn += mine
    test = np.flatnonzero(~np.isin(groups, list(taken)))
    if not len(test):
        raise InputError(
            f"no image is left to test on after {shots} of each class were drawn; use fewer --shots"
        )
    return np.array(sorted(drawn), np.int64), test


def write_manifest(
    dataset: Dataset, development: np.ndarray, test: np.ndarray, folder: Path, name: str
) -> tuple[Path, np.ndarray]:
    """Write a table with ``path, label, split, group`` that names only ``train`` and ``test``.

    Args:
        dataset: all images.
        development, test: indices from :func:`draw`.
        folder: of the tables of this dataset; the pictures are reached by a link in it, or lie in it as PNG
            files where the source is an archive.
        name: of the table, without ending.

    Returns:
        the table, and the index in ``dataset`` of each of its rows, int64 ``[n]``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = _reachable(dataset, folder)
    rows = np.sort(np.concatenate([development, test]))
    learned = set(development.tolist())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "split", "group"])
    for row in rows.tolist():
        label = dataset.class_names[int(dataset.labels[row])]
        writer.writerow(
            [paths[row], label, "train" if row in learned else "test", f"g{int(dataset.groups[row])}"]
        )
    table = folder / f"{name}.csv"
    write_text(table, text.getvalue())
    return table, rows


def _reachable(dataset: Dataset, folder: Path) -> list[str]:
    """Path of every image relative to the folder; a table may name nothing outside its own folder."""
    files = list(dataset.source_paths)
    link = folder / (_LINK if files else f"{_LINK}-{dataset.fingerprint[:12]}")
    if files:
        root = os.path.commonpath([os.path.dirname(file) for file in files])
        if not link.is_symlink() or os.readlink(link) != root:
            link.unlink(missing_ok=True)
            link.symlink_to(root, target_is_directory=True)
        return [os.path.join(link.name, os.path.relpath(file, root)) for file in files]
    names = [f"{at:06d}.png" for at in range(len(dataset))]
    if not link.is_dir():
        from PIL import Image

        temporary = folder / f".{link.name}-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        level = dataset.images()
        for at, name in enumerate(names):
            Image.fromarray(level[at]).save(temporary / name)
        os.rename(temporary, link)
    return [os.path.join(link.name, name) for name in names]
