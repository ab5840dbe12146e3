"""Copies of an image that were re-encoded, resized or exposed differently.

Each image is a 16×16 grey thumbnail from which the mean picture of the set (what a fixed camera always sees) and
its own brightness are taken away, scaled to length one. Two thumbnails at an angle of cosine >= c lie at a distance
<= sqrt(2 - 2c), and so do their coordinates along any unit direction. Sorted along the direction of largest
variance, only neighbours within that distance can be near duplicates, so blocks of the sorted list are multiplied
with the few blocks after them. Pairs found so are verified on 32×32 thumbnails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Side of the stored thumbnails.
THUMB = 32
_COARSE = 16
#: Cosines of the coarse and of the fine thumbnails from which a pair counts as near duplicate.
_COARSE_COSINE = 0.98
_FINE_COSINE = 0.965
#: The fine limit rises up to this where a set of near duplicates grows too large.
_LAST_COSINE = 0.9995
#: Largest root mean square difference of the fine thumbnails after brightness and contrast are matched, grey levels.
_RMS = 10.0
#: Thumbnails with less contrast than this (standard deviation, grey levels) say nothing.
_FLAT = 1.5
#: Pairs that are compared at most; a data set that needs more is searched among the closest neighbours only.
_MAX_PAIRS = 4_000_000_000
#: Pairs that are kept at most.
_MAX_FOUND = 2_000_000
_BLOCK = 2048
#: A set of near duplicates larger than this share of the images is taken for an accident of similar scenes.
_MAX_SHARE = 0.1
_MAX_FREE = 6
#: The mean picture says something from so many images on.
_MEAN_FROM = 8


@dataclass(frozen=True)
class NearDuplicates:
    """Result of :func:`near_duplicates`.

    Attributes:
        pairs: int64 ``[P, 2]``, first < second.
        complete: all pairs were looked at.
        alike: the scenes are so alike that copies cannot be told from neighbours; no pair is given then.
        cosine: the limit in use at the end, higher than the first where scenes are very similar.
    """

    pairs: np.ndarray
    complete: bool
    cosine: float
    alike: bool = False


def near_duplicates(thumbs: np.ndarray, *, max_pairs: int = _MAX_PAIRS) -> NearDuplicates:
    """Find pairs of near duplicates.

    Args:
        thumbs: uint8 ``[N, 32, 32]`` grey.
        max_pairs: bound on the number of comparisons.
    """
    count = len(thumbs)
    none = np.zeros((0, 2), np.int64)
    if count < 2:
        return NearDuplicates(none, True, _COARSE_COSINE)
    mean = _mean(thumbs)
    vectors, usable = _coarse(thumbs, mean)
    if len(usable) < 2:
        return NearDuplicates(none, True, _COARSE_COSINE)
    pairs, complete = _candidates(vectors, max_pairs)
    pairs = np.sort(usable[pairs], axis=1)
    cosines, distances = _verify(thumbs, mean, pairs)
    cosine = _FINE_COSINE
    while True:
        kept = pairs[(cosines >= cosine) & (distances <= _RMS)]
        if not len(kept):
            break
        largest = int(np.bincount(components(count, kept)).max())
        if largest <= max(_MAX_FREE, _MAX_SHARE * count):
            break
        if cosine > _LAST_COSINE:
            return NearDuplicates(none, complete, cosine, alike=True)
        cosine = 1 - (1 - cosine) / 2
    return NearDuplicates(kept[np.lexsort((kept[:, 1], kept[:, 0]))], complete, cosine)


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Number the connected components of a graph, int64 ``[count]``, in the order of their first member.

    Args:
        count: number of nodes.
        pairs: int64 ``[P, 2]`` edges.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return np.arange(count, dtype=np.int64)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _number, labels = connected_components(graph, directed=False)
    _unique, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int64)
    order[np.argsort(first, kind="stable")] = np.arange(len(first))
    return order[inverse]


def group_edges(groups: np.ndarray) -> np.ndarray:
    """Edges that chain the members of each group, int64 ``[P, 2]``; members of group -1 stay apart."""
    members = np.flatnonzero(groups >= 0)
    ordered = members[np.argsort(groups[members], kind="stable")]
    same = groups[ordered[1:]] == groups[ordered[:-1]]
    return np.stack([ordered[:-1][same], ordered[1:][same]], axis=1)


def _mean(thumbs: np.ndarray) -> np.ndarray:
    """The mean picture float32 ``[32, 32]``; zero for a handful of images, where it would say too much of each."""
    if len(thumbs) < _MEAN_FROM:
        return np.zeros(thumbs.shape[1:], np.float32)
    total = np.zeros(thumbs.shape[1:], np.float64)
    for begin in range(0, len(thumbs), _BLOCK):
        total += thumbs[begin : begin + _BLOCK].sum(0, dtype=np.float64)
    return (total / len(thumbs)).astype(np.float32)


def _centred(thumbs: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Brightness-free residuals, float32 ``[n, 32, 32]``; the mean picture is scaled to each image's contrast."""
    x = thumbs.astype(np.float32)
    x -= x.mean((1, 2), keepdims=True)
    base = mean - mean.mean()
    power = float((base * base).sum())
    if power > 0:
        x -= ((x * base).sum((1, 2)) / power)[:, None, None] * base
    return x


def _coarse(thumbs: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    vectors, usable = [], []
    for begin in range(0, len(thumbs), _BLOCK):
        block = np.asarray(thumbs[begin : begin + _BLOCK])
        x = _centred(block, mean)
        x = x.reshape(len(x), _COARSE, 2, _COARSE, 2).mean((2, 4)).reshape(len(x), -1)
        norm = np.sqrt((x * x).sum(1))
        good = norm > _FLAT * _COARSE
        vectors.append(x[good] / norm[good, None])
        usable.append(begin + np.flatnonzero(good))
    return np.concatenate(vectors), np.concatenate(usable).astype(np.int64)


def _candidates(vectors: np.ndarray, max_pairs: int) -> tuple[np.ndarray, bool]:
    """Pairs of rows with a cosine above the coarse limit, int64 ``[P, 2]``."""
    count = len(vectors)
    reach = float(np.sqrt(2 - 2 * _COARSE_COSINE))
    sample = vectors[:: max(1, count // 4096)]
    _values, axes = np.linalg.eigh(sample.T @ sample)
    # Leading directions first: the first 32 already bound the distance, the rest is looked at for survivors only.
    turned = vectors @ axes[:, ::-1].astype(np.float32)
    order = np.argsort(turned[:, 0], kind="stable")
    turned = np.ascontiguousarray(turned[order])
    first = turned[:, 0].copy()
    width = min(64, turned.shape[1])
    short = np.ascontiguousarray(turned[:, :width])
    rest = np.sqrt(np.clip(1 - (short * short).sum(1), 0, None))
    ends = np.searchsorted(first, first + reach, side="right")
    farthest = max(_BLOCK, max_pairs // max(count, 1))
    complete = bool((ends - np.arange(count)).max() <= farthest)
    found: list[np.ndarray] = []
    total = 0
    for begin in range(0, count, _BLOCK):
        stop = min(count, begin + _BLOCK)
        end = int(min(ends[stop - 1], stop + farthest))
        for other in range(begin, end, _BLOCK):
            until = min(end, other + _BLOCK)
            # cos = short·short' + rest·rest' at most (Cauchy-Schwarz)
            bound = short[begin:stop] @ short[other:until].T
            bound += rest[begin:stop, None] * rest[None, other:until]
            i, j = np.nonzero(bound >= _COARSE_COSINE)
            i, j = i + begin, j + other
            ahead = j > i
            i, j = i[ahead], j[ahead]
            for at in range(0, len(i), 1 << 16):
                a, b = i[at : at + (1 << 16)], j[at : at + (1 << 16)]
                close = np.einsum("nd,nd->n", turned[a], turned[b]) >= _COARSE_COSINE
                found.append(np.stack([order[a[close]], order[b[close]]], 1))
                total += int(close.sum())
                if total > _MAX_FOUND:
                    return np.concatenate(found)[:_MAX_FOUND], False
    return (np.concatenate(found) if found else np.zeros((0, 2), np.int64)), complete


def _verify(thumbs: np.ndarray, mean: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and root mean square difference (grey levels, contrast matched) of the fine thumbnails of each pair."""
    cosines = np.empty(len(pairs), np.float32)
    distances = np.empty(len(pairs), np.float32)
    for begin in range(0, len(pairs), _BLOCK):
        a = _centred(np.asarray(thumbs[pairs[begin : begin + _BLOCK, 0]]), mean)
        b = _centred(np.asarray(thumbs[pairs[begin : begin + _BLOCK, 1]]), mean)
        dot = (a * b).sum((1, 2))
        power_a, power_b = (a * a).sum((1, 2)), (b * b).sum((1, 2))
        cosine = dot / np.sqrt(np.maximum(power_a * power_b, 1e-12))
        cosines[begin : begin + _BLOCK] = cosine
        # after the best gain the residual of the stronger image is its norm times the sine of the angle
        left = np.maximum(power_a, power_b) * np.clip(1 - cosine * cosine, 0, None)
        distances[begin : begin + _BLOCK] = np.sqrt(left / (THUMB * THUMB))
    return cosines, distances
