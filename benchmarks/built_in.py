"""Tasks whose images come with packages that the engine needs anyway, so that a suite runs anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

#: Images of each class of the small tasks, and the side of a patch.
_FEW, _PATCH = 20, 64
#: Patches of each photograph.
_PATCHES = 60


def digits() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The 1,797 handwritten digits of scikit-learn, 8 px (Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    return images, found.target.astype(np.int64), [str(name) for name in found.target_names]


def few_digits() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Twenty of each digit."""
    images, labels, names = digits()
    rng = np.random.default_rng(0)
    chosen = [rng.permutation(np.flatnonzero(labels == label))[:_FEW] for label in range(len(names))]
    rows = np.sort(np.concatenate(chosen))
    return images[rows], labels[rows], names


def scratches() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Patches of the two photographs of scikit-learn, every second one with a thin scratch: made defects.

    A patch is whole in itself; no two overlap.
    """
    from PIL import Image, ImageDraw
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    patches = []
    for photograph in load_sample_images().images:
        rows, columns = (length // _PATCH for length in photograph.shape[:2])
        for at in rng.permutation(rows * columns)[:_PATCHES].tolist():
            y, x = (_PATCH * place for place in divmod(at, columns))
            patches.append(photograph[y : y + _PATCH, x : x + _PATCH])
    labels = np.arange(len(patches)) % 2
    images = []
    for patch, label in zip(patches, labels.tolist(), strict=True):
        image = Image.fromarray(patch)
        if label:
            start, angle = rng.uniform(0.2 * _PATCH, 0.8 * _PATCH, 2), rng.uniform(0, 2 * np.pi)
            end = start + rng.uniform(0.25, 0.5) * _PATCH * np.array([np.cos(angle), np.sin(angle)])
            shade = (
                int(rng.integers(180, 256)) if np.asarray(patch).mean() < 128 else int(rng.integers(0, 76))
            )
            ImageDraw.Draw(image).line([*start, *end], fill=(shade,) * 3, width=1)
        images.append(np.asarray(image))
    return np.stack(images), labels.astype(np.int64), ["good", "scratched"]


TASKS: Mapping[str, Callable[[], tuple[np.ndarray, np.ndarray, list[str]]]] = {
    "digits": digits,
    "few-digits": few_digits,
    "scratches": scratches,
}


def write(name: str, folder: Path) -> Path:
    """Write a task as an npz file and return it; one that is there is left as it is.

    Raises:
        InputError: there is no such task.
    """
    from automl.errors import InputError, did_you_mean

    if name not in TASKS:
        raise InputError(f"no built-in task '{name}'{did_you_mean(name, sorted(TASKS))}")
    path = folder / f"{name}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        images, labels, names = TASKS[name]()
        part = folder / f".{name}.npz"
        np.savez(part, images=images, labels=labels, class_names=np.array(names))
        part.replace(path)
    return path
