"""The demonstration task: real handwritten digits that scikit-learn carries, written out as image files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_digits(folder: Path, per_class: int | None = None) -> Path:
    """Write scikit-learn's 1,797 digits (8×8, enlarged to 32×32) as PNG files, one folder per class.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI repository, test part.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    counts: dict[int, int] = {}
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        counts[int(label)] = counts.get(int(label), 0) + 1
        if per_class is not None and counts[int(label)] > per_class:
            continue
        target = folder / str(int(label)) / f"{number:04d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            grey = Image.fromarray(np.round(pixels * 255 / 16).astype(np.uint8))
            grey.resize((32, 32), Image.Resampling.BICUBIC).save(target)
    return folder


def _is_demo(folder: Path, data: Path) -> bool:
    """Whether an earlier demonstration ran in this folder; any other run is not ours to replace."""
    try:
        task = json.loads((folder / "search" / "task.json").read_text(encoding="utf-8"))
        return Path(task["data"]).resolve() == data.resolve()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_demo(out: str | os.PathLike[str] | None, budget: str) -> Any:
    """Submit the digits with a latency and a size limit."""
    import shutil

    import automl
    from automl.home import cache_folder
    from automl.task import Budget

    Budget.parse(budget)  # before anything is removed
    data = write_digits(cache_folder("demo") / "digits")
    folder = Path(out if out is not None else automl.new_run_folder(data)).resolve()
    if _is_demo(folder, data):
        shutil.rmtree(folder)
    return automl.submit(data, constraints=["latency_ms<=1", "size_mb<=2"], budget=budget, seed=0, out=folder)
