"""Balanced accuracy of methods on the same images, and how sure a difference between two of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Resamples that are held in memory at a time.
_CHUNK = 200


@dataclass(frozen=True)
class ScoredPart:
    """The test images of one split and what each method said about them.

    Attributes:
        labels: true class, int64 ``[n]``, 0..C-1.
        groups: int64 ``[n]``; images of one group are not independent. One numbering for all splits of a
            dataset.
        predicted: method → int64 ``[n]``.
    """

    labels: np.ndarray
    groups: np.ndarray
    predicted: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """A paired difference: its mean over splits, the interval, and the resampled values ``[B]``."""

    mean: float
    low: float
    high: float
    samples: np.ndarray


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall over the classes that ``labels`` holds; NaN without images."""
    recalls = [float((predicted[labels == c] == c).mean()) for c in np.unique(labels)]
    return float(np.mean(recalls)) if recalls else float("nan")


def paired_difference(
    parts: Sequence[ScoredPart],
    first: str,
    second: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
    resample_parts: bool = False,
) -> Difference:
    """Balanced accuracy of ``first`` minus ``second``, averaged over splits, with a 95 % percentile interval.

    Groups are drawn with replacement from the whole dataset (cluster bootstrap: Davison & Hinkley 1997,
    section 3.8). A drawn group brings its images into every split whose test part holds them, for both
    methods, so the interval respects the pairing, images of one part, and images that several splits test.
    A class that a resample misses in a split does not count there.

    Where the splits differ by the images that were learned from (draws of a few), they can be drawn with
    replacement too, independently of the groups (the pigeonhole bootstrap: Owen 2007, section 4); the
    interval then also covers the luck of the draw.

    Args:
        parts: one per split; together at least one image.
        first, second: methods, keys of each part's ``predicted``.
        resamples: B.
        seed: of the resampling.
        resample_parts: draw splits as well as groups.
    """
    if not parts or not any(len(part.labels) for part in parts):
        raise ValueError("there are no test images to compare methods on")
    known = np.unique(np.concatenate([part.groups for part in parts]))
    classes = 1 + max(int(part.labels.max()) for part in parts if len(part.labels))
    tables = []
    for part in parts:
        cell = np.searchsorted(known, part.groups) * classes + part.labels
        size = len(known) * classes

        def count(weights: np.ndarray, cell: np.ndarray = cell, size: int = size) -> np.ndarray:
            return np.bincount(cell, weights, minlength=size).reshape(-1, classes)

        hits = [count((part.predicted[name] == part.labels).astype(float)) for name in (first, second)]
        tables.append((count(np.ones(len(cell))), *hits))

    def difference(weights: np.ndarray, share: np.ndarray | None = None) -> np.ndarray:
        per_split = []
        for total, hit_first, hit_second in tables:
            seen = weights @ total
            with np.errstate(invalid="ignore", divide="ignore"):
                recall_gap = np.where(seen > 0, (weights @ hit_first - weights @ hit_second) / seen, 0.0)
                per_split.append(recall_gap.sum(1) / (seen > 0).sum(1))
        gaps = np.stack(per_split)
        if share is None:
            return np.nanmean(gaps, axis=0)
        share = np.where(np.isnan(gaps), 0.0, share)
        with np.errstate(invalid="ignore"):
            return np.nansum(gaps * share, axis=0) / share.sum(0)

    rng = np.random.default_rng(seed)

    def drawn(number: int, size: int) -> np.ndarray:
        return rng.multinomial(number, np.full(number, 1 / number), size=size).astype(float)

    samples = np.concatenate(
        [
            difference(
                drawn(len(known), min(_CHUNK, resamples - begin)),
                drawn(len(parts), min(_CHUNK, resamples - begin)).T if resample_parts else None,
            )
            for begin in range(0, resamples, _CHUNK)
        ]
    )
    return _summary(float(difference(np.ones((1, len(known))))[0]), samples)


def over_datasets(differences: Sequence[Difference]) -> Difference:
    """Mean over datasets; each was resampled on its own, so the interval is about these very datasets."""
    return _summary(
        float(np.mean([d.mean for d in differences])), np.mean([d.samples for d in differences], axis=0)
    )


def _summary(mean: float, samples: np.ndarray) -> Difference:
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return Difference(mean, float(low), float(high), samples)
