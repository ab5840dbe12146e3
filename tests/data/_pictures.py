"""Pictures for the tests: every one different, none near another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, side: int = 24, height: int | None = None) -> np.ndarray:
    """Smooth random colours, uint8 ``[height, side, 3]``."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((side, height or side), Image.Resampling.BILINEAR))


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def class_folders(root: Path, counts: dict[str, int], *, seed: int = 0, side: int = 24) -> Path:
    """``root/CLASS/NUMBER.png``."""
    at = seed
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number:03d}.png", picture(at, side))
            at += 1
    return root
