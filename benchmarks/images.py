"""Small cells: labels and groups of a dataset once per folder, test images as run lengths."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import write_text


def pack(
    folder: Path,
    *,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: list[str],
    fingerprint: str,
    test: np.ndarray,
    predicted: np.ndarray,
) -> dict[str, Any]:
    """The part of a cell that says what was predicted of which images.

    Args:
        folder: of the cells; ``images-NAME.json`` is written there unless it is there.
        labels, groups: int64 ``[N]``, of all images of the dataset.
        classes: names.
        fingerprint: of the dataset.
        test: indices of the test images, ascending int64 ``[n]``.
        predicted: class of each of them, int64 ``[n]``.

    Returns:
        ``images`` (the NAME above), ``test`` (run lengths of images outside and inside the test part, in
        turn) and ``predicted``.
    """
    about = {
        "fingerprint": fingerprint,
        "classes": list(classes),
        "labels": np.asarray(labels).tolist(),
        "groups": np.asarray(groups).tolist(),
    }
    text = json.dumps(about, separators=(",", ":"))
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"images-{name}.json"
    if not path.exists():
        write_text(path, text + "\n")
    inside = np.zeros(len(labels), bool)
    inside[test] = True
    return {"images": name, "test": _runs(inside), "predicted": np.asarray(predicted).tolist()}


def unpack(cell: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The cell with ``images`` (their number), ``images_id``, ``classes``, ``index``, ``labels``, ``groups`` (arrays
    over the test images) and ``predicted`` as an array.

    Raises:
        InputError: the folder has no list of these images, or it does not fit.
    """
    from automl.errors import InputError

    path = folder / f"images-{cell['images']}.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path} is missing or damaged; bring it from where the cells were made") from None
    labels, groups = np.array(about["labels"], np.int64), np.array(about["groups"], np.int64)
    runs = cell["test"]
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    predicted = np.array(cell["predicted"], np.int64)
    if len(inside) != len(labels) or int(inside.sum()) != len(predicted):
        raise InputError(f"a cell of {folder} does not fit {path.name}; remove the cell")
    index = np.flatnonzero(inside)
    return {
        **cell,
        "images": len(labels),
        "images_id": cell["images"],
        "classes": about["classes"],
        "index": index,
        "labels": labels[index],
        "groups": groups[index],
        "predicted": predicted,
    }


def _runs(inside: np.ndarray) -> list[int]:
    """Lengths of the runs of False and True, in turn, beginning with False (0 where the first is True)."""
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], edges, [len(inside)]])).tolist()
    return [0, *lengths] if len(inside) and inside[0] else lengths
