"""Metrics of an ordering (AUROC, average precision), each with the influence of every image on it.

The influences give the interval without resampling, in O(n log n): for AUROC they are the structural components of
DeLong, DeLong & Clarke-Pearson (1988), which Obuchowski (1997) sums within clusters and LeDell, Petersen & van der
Laan (2015) read as influence curves; for average precision they are the infinitesimal jackknife of Efron (1982).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

#: What :func:`blocks_of` returns.
Blocks: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]


def auroc(positive: np.ndarray, scores: np.ndarray, blocks: Blocks | None = None) -> float:
    """Probability that a positive outranks a negative, ties counting half; NaN without one of the two.

    Args:
        positive: bool ``[n]``.
        scores: ``[n]``, higher means more likely positive.
        blocks: of the scores, where they are known already, here and below.
    """
    wins = int(positive.sum())
    losses = len(positive) - wins
    if wins == 0 or losses == 0:
        return math.nan
    _, ends, order = blocks or blocks_of(scores)
    gained = np.cumsum(positive[order])[ends]
    rivals = ends + 1 - gained
    above = np.diff(rivals, prepend=0)  # negatives within the block
    won = np.diff(gained, prepend=0)
    return float((won * (losses - rivals + above / 2)).sum() / (wins * losses))


def average_precision(positive: np.ndarray, scores: np.ndarray, blocks: Blocks | None = None) -> float:
    """Mean precision over the steps of recall, not interpolated; NaN without a positive.

    Args:
        positive: bool ``[n]``.
        scores: ``[n]``, higher means more likely positive.
    """
    total = int(positive.sum())
    if total == 0:
        return math.nan
    _, ends, order = blocks or blocks_of(scores)
    gained = np.cumsum(positive[order])[ends]
    return float((np.diff(gained, prepend=0) * gained / (ends + 1)).sum() / total)


def auroc_influence(positive: np.ndarray, scores: np.ndarray, blocks: Blocks | None = None) -> np.ndarray:
    """Influence of each image on the AUROC, float64 ``[n]``; the sum is 0, the sum of squares its variance."""
    wins = int(positive.sum())
    losses = len(positive) - wins
    block, ends, order = blocks or blocks_of(scores)
    gained = np.cumsum(positive[order])[ends]
    rivals = ends + 1 - gained
    rivals_within, gained_within = np.diff(rivals, prepend=0), np.diff(gained, prepend=0)
    beaten = (
        losses - rivals + rivals_within / 2
    ) / losses  # share of negatives below a positive of this block
    lost = (gained - gained_within / 2) / wins  # share of positives above a negative of this block
    value = float((gained_within * beaten).sum() / wins)
    in_order = np.where(positive[order], (beaten[block] - value) / wins, (lost[block] - value) / losses)
    found = np.empty(len(scores))
    found[order] = in_order
    return found


def average_precision_influence(
    positive: np.ndarray, scores: np.ndarray, blocks: Blocks | None = None
) -> np.ndarray:
    """Influence of each image on the average precision, float64 ``[n]``: its derivative by the image's weight."""
    total = int(positive.sum())
    block, ends, order = blocks or blocks_of(scores)
    gained = np.cumsum(positive[order])[ends].astype(np.float64)
    seen = (ends + 1).astype(np.float64)
    step = np.diff(gained, prepend=0.0)
    value = float((step * gained / seen).sum() / total)
    # An image adds to `gained` (if positive) and to `seen` of its own block and of all blocks below it.
    as_hit = np.cumsum((step / seen)[::-1])[::-1]
    as_seen = np.cumsum((step * gained / seen**2)[::-1])[::-1]
    own = gained / seen - value
    in_order = np.where(positive[order], own[block] + as_hit[block], 0.0) - as_seen[block]
    found = np.empty(len(scores))
    found[order] = in_order / total
    return found


def blocks_of(scores: np.ndarray) -> Blocks:
    """Images of equal score: block of each image in order, position of each block's last image, order (best first)."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    ends = np.flatnonzero(last)
    block = np.cumsum(last) - last
    return block, ends, order
