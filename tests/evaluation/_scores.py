"""Scores of models that are right more often than not."""

from __future__ import annotations

import numpy as np


def scores(
    n: int, classes: int, seed: int = 0, skill: float = 1.5, prior: list[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 ``[n]`` and probabilities float32 ``[n, classes]``."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size=n, p=prior)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += skill
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return labels.astype(np.int64), (raised / raised.sum(1, keepdims=True)).astype(np.float32)


def names(classes: int) -> list[str]:
    """Class names ``a``, ``b``, …"""
    return [chr(ord("a") + i) for i in range(classes)]
