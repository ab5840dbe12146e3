"""Meta-features of a dataset, as a plain dict of numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def profile(dataset: Any) -> dict[str, float]:
    """Sizes, classes and imbalance of the development images.

    Args:
        dataset: an opened :class:`automl.data.Dataset`.

    Returns:
        name → number; the landmarks on frozen features are the first trials of a run and are kept with them.
    """
    labels = np.asarray(dataset.labels)
    development = np.asarray(dataset.indices("development"))
    counts = np.bincount(labels[development], minlength=len(dataset.class_names)).astype(float)
    share = counts[counts > 0] / max(1.0, counts.sum())
    entropy = float(-(share * np.log(share)).sum() / math.log(max(2, len(counts))))
    return {
        "images": float(len(development)),
        "classes": float(len(counts)),
        "smallest_class": float(counts.min()),
        "largest_class": float(counts.max()),
        "imbalance": float(counts.max() / max(1.0, counts.min())),
        "entropy": entropy,
        "side": float(dataset.size),
        "test_images": float(len(dataset.indices("test"))),
    }
