"""Copies of an image that were re-encoded, resized or exposed differently.

Each image is a 16×16 grey thumbnail from which the mean picture of the set (what a fixed camera always sees) and
its own brightness are taken away, scaled to length one. Two thumbnails at an angle of cosine >= c lie at a distance
<= sqrt(2 - 2c), and so do their coordinates along any unit direction. Sorted along the direction of largest
variance, only neighbours within that distance can be near duplicates, so blocks of the sorted list are multiplied
with the few blocks after them. Pairs found so are verified on 32×32 thumbnails.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from automl.machine import take_space

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
_BLOCK = 1024
#: Directions that bound the cosine.
_LEADING = 32
#: Thumbnails that the directions are taken from.
_SAMPLE = 4096
#: More thumbnails than this are laid out in a file, 1 KB each.
_ROWS_IN_MEMORY = 65_536
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


def near_duplicates(
    thumbs: np.ndarray, *, max_pairs: int = _MAX_PAIRS, scratch: Path | None = None
) -> NearDuplicates:
    """Find pairs of near duplicates.

    Args:
        thumbs: uint8 ``[N, 32, 32]`` grey.
        max_pairs: bound on the number of comparisons.
        scratch: folder for a file of 1 KB per image where there are very many; by default all is in memory.
    """
    count = len(thumbs)
    none = np.zeros((0, 2), np.int64)
    if count < 2:
        return NearDuplicates(none, True, _COARSE_COSINE)
    mean = _mean(thumbs)
    pairs, complete = _candidates(thumbs, mean, max_pairs, scratch)
    pairs = np.sort(pairs, axis=1)
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
    """Coarse thumbnails of length one, float32 ``[n, 256]``, and which are not flat, bool ``[n]``."""
    x = _centred(np.asarray(thumbs), mean)
    x = x.reshape(len(x), _COARSE, 2, _COARSE, 2).mean((2, 4)).reshape(len(x), -1)
    norm = np.sqrt((x * x).sum(1))
    return x / np.maximum(norm, 1e-12)[:, None], norm > _FLAT * _COARSE


def _axes(thumbs: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Orthonormal directions float32 ``[256, 256]``, those of largest variance first, from evenly spaced thumbnails."""
    vectors, usable = _coarse(thumbs[:: max(1, len(thumbs) // _SAMPLE)], mean)
    vectors = vectors[usable]
    _values, axes = np.linalg.eigh(vectors.T @ vectors)
    return np.ascontiguousarray(axes[:, ::-1], np.float32)


def _candidates(
    thumbs: np.ndarray, mean: np.ndarray, max_pairs: int, scratch: Path | None
) -> tuple[np.ndarray, bool]:
    """Pairs of rows with a cosine above the coarse limit, int64 ``[P, 2]``, and whether all were looked at."""
    axes = _axes(thumbs, mean)
    width = axes.shape[1]
    with _room((len(thumbs), width), scratch) as turned:
        # The leading directions already bound the cosine; the others are looked at for survivors only. By
        # Cauchy-Schwarz cos <= short·short' + rest·rest', so the length of the rest is one more direction.
        short = np.empty((len(thumbs), _LEADING + 1), np.float32)
        good = np.empty(len(thumbs), bool)
        for begin in range(0, len(thumbs), _BLOCK):
            end = begin + _BLOCK
            vectors, good[begin:end] = _coarse(thumbs[begin:end], mean)
            turned[begin:end] = vectors @ axes
            lead = turned[begin:end, :_LEADING]
            short[begin:end, :_LEADING] = lead
            short[begin:end, _LEADING] = np.sqrt(np.clip(1 - (lead * lead).sum(1), 0, None))
        rows = np.flatnonzero(good)
        rows = rows[np.argsort(short[rows, 0], kind="stable")]
        return _search(short[rows], turned, rows, max_pairs)


def _search(
    short: np.ndarray, turned: np.ndarray, rows: np.ndarray, max_pairs: int
) -> tuple[np.ndarray, bool]:
    """Compare blocks of the sorted list ``short`` with the blocks after them; ``rows`` is where each stands in ``turned``."""
    count = len(short)
    none = np.zeros((0, 2), np.int64)
    if count < 2:
        return none, True
    reach = float(np.sqrt(2 - 2 * _COARSE_COSINE))
    first = short[:, 0].copy()
    ends = np.searchsorted(first, first + np.float32(reach), side="right")
    farthest = max(_BLOCK, max_pairs // count)
    complete = bool((ends - np.arange(count)).max() <= farthest)
    found: list[np.ndarray] = []
    total = 0
    product = np.empty(_BLOCK * _BLOCK, np.float32)
    hits = np.empty(_BLOCK * _BLOCK, bool)
    for begin in range(0, count, _BLOCK):
        stop = min(count, begin + _BLOCK)
        end = int(min(ends[stop - 1], stop + farthest))
        for other in range(begin, end, _BLOCK):
            until = min(end, other + _BLOCK)
            size = (stop - begin) * (until - other)
            bound = product[:size].reshape(stop - begin, until - other)
            np.matmul(short[begin:stop], short[other:until].T, out=bound)
            np.greater_equal(product[:size], _COARSE_COSINE, out=hits[:size])
            i, j = np.divmod(np.flatnonzero(hits[:size]), until - other)
            i, j = i + begin, j + other
            ahead = j > i
            i, j = i[ahead], j[ahead]
            for at in range(0, len(i), 1 << 14):
                a, b = rows[i[at : at + (1 << 14)]], rows[j[at : at + (1 << 14)]]
                close = np.einsum("nd,nd->n", turned[a], turned[b]) >= _COARSE_COSINE
                found.append(np.stack([a[close], b[close]], 1))
                total += int(close.sum())
                if total > _MAX_FOUND:
                    return np.concatenate(found)[:_MAX_FOUND], False
    return (np.concatenate(found) if found else none), complete


@contextmanager
def _room(shape: tuple[int, int], scratch: Path | None) -> Iterator[np.ndarray]:
    """Room for float32 ``shape``: in memory, or for very many rows in a file that is gone afterwards."""
    if scratch is None or shape[0] <= _ROWS_IN_MEMORY:
        yield np.empty(shape, np.float32)
        return
    with tempfile.TemporaryFile(dir=scratch) as file:
        take_space(file.fileno(), 4 * shape[0] * shape[1])
        yield np.memmap(file, np.float32, "r+", shape=shape)


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
