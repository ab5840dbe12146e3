"""All labels that moving the bias of one class can give, and the metrics at each of them.

As the bias of class ``c`` rises, images change one after the other from the best of the other classes to ``c``. After
one sort, cumulative sums give every metric at every such threshold: O(n log n) for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Thresholds closer than this (in log-probability) count as one: float32, in which models run, cannot keep them apart.
RESOLUTION = 2e-6
_BEYOND = 0.5

Wanted = tuple[str, int]  # metric, position of its class or -1


@dataclass(frozen=True)
class Steps:
    """Candidate biases of one class, rising, with each wanted metric.

    Attributes:
        biases: float64 ``[K]``; midway between the two images where the labels change, or exactly 0 where 0 gives
            the same labels.
        values: metric → float64 ``[K]``; 0 where it is undefined.
        spare: recall or precision → its value with one hit fewer, float64 ``[K]``.
    """

    biases: np.ndarray
    values: dict[Wanted, np.ndarray]
    spare: dict[Wanted, np.ndarray]


def sweep(
    logs: np.ndarray, labels: np.ndarray, bias: np.ndarray, position: int, wanted: Sequence[Wanted]
) -> Steps:
    """Move the bias of the class at ``position`` over all its thresholds, the others staying at ``bias``.

    Args:
        logs: log-probabilities ``[n, C]``, n ≥ 1 and C ≥ 2.
        labels: ``[n]``.
        bias: ``[C]``.
        wanted: metrics of the labels, that is neither ``auroc`` nor ``average_precision``.
    """
    n, classes = logs.shape
    others = logs + bias
    others[:, position] = -np.inf
    rival = others.argmax(axis=1)
    edge = others[np.arange(n), rival] - logs[:, position]
    order = np.argsort(edge, kind="stable")
    edge, rival, truth = edge[order], rival[order], labels[order]
    last = np.append(np.diff(edge) > RESOLUTION, True)
    ends = np.flatnonzero(last)  # the last image of each threshold
    first = np.append(0, ends[:-1] + 1)
    lower = np.append(edge[first[0]] - 2 * _BEYOND, edge[ends])
    upper = np.append(edge[first], edge[ends[-1]] + 2 * _BEYOND)
    biases = (lower + upper) / 2
    inside = (lower < -RESOLUTION) & (upper > RESOLUTION)
    if edge[0] > RESOLUTION:
        inside[0] = True
    if edge[-1] < -RESOLUTION:
        inside[-1] = True
    biases = np.where(inside, 0.0, biases)
    tally = _Tally(truth, rival, position, classes, np.append(0, ends + 1))
    values, spare = {}, {}
    for name, of in wanted:
        if name in ("recall", "precision"):
            hits, whole = tally.pair(name, of)
            values[name, of] = hits / np.maximum(whole, 1)
            spare[name, of] = (hits - 1) / np.maximum(whole, 1)
        else:
            values[name, of] = tally.average(name)
    return Steps(biases, values, spare)


class _Tally:
    """Cumulative counts along the steps: ``at[k]`` images have changed at step ``k``."""

    def __init__(
        self, truth: np.ndarray, rival: np.ndarray, position: int, classes: int, at: np.ndarray
    ) -> None:
        self.truth, self.rival, self.position, self.classes, self.at = truth, rival, position, classes, at
        self.n = len(truth)
        self.actual = np.bincount(truth, minlength=classes)
        self.gain = truth == position  # becomes right when it changes
        self.loss = truth == rival  # was right before

    def _along(self, per_image: np.ndarray) -> np.ndarray:
        return np.append(np.zeros(1, dtype=per_image.dtype), np.cumsum(per_image))[self.at]

    def pair(self, name: str, of: int) -> tuple[np.ndarray, np.ndarray]:
        """Numerator and denominator of a recall or precision."""
        if of == self.position:
            hits, chosen = self._along(self.gain.astype(np.int64)), self.at
        else:
            mine = self.rival == of
            right = (mine & self.loss).astype(np.int64)
            hits = right.sum() - self._along(right)
            chosen = mine.sum() - self._along(mine.astype(np.int64))
        return hits, (np.full(len(self.at), self.actual[of]) if name == "recall" else chosen)

    def average(self, name: str) -> np.ndarray:
        """Accuracy, balanced accuracy or macro F1."""
        gain, loss = self.gain.astype(np.int64), self.loss.astype(np.int64)
        if name == "accuracy":
            return (loss.sum() + self._along(gain - loss)) / self.n
        if name == "balanced_accuracy":
            share = 1.0 / np.maximum(self.actual, 1)
            moved = self._along(gain) * share[self.position] - self._along(loss * share[self.truth])
            return (float((loss * share[self.truth]).sum()) + moved) / int((self.actual > 0).sum())
        return self._macro_f1(gain, loss)

    def _macro_f1(self, gain: np.ndarray, loss: np.ndarray) -> np.ndarray:
        own_actual = self.actual[self.position]
        own_bottom = own_actual + self.at
        own = np.where(own_bottom > 0, 2 * self._along(gain) / np.maximum(own_bottom, 1), 0.0)
        # Each change touches one rival: its F1 before and after, from the counts within the images of that rival.
        by_rival = np.argsort(self.rival, kind="stable")
        group = self.rival[by_rival]
        start = np.searchsorted(group, np.arange(self.classes))
        gone = np.arange(self.n) - start[group]  # images of this rival that have changed before
        lost = np.cumsum(loss[by_rival])
        lost_before = lost - loss[by_rival] - np.append(0, lost)[start][group]
        chosen = np.bincount(self.rival, minlength=self.classes)
        right = np.bincount(self.rival, weights=loss, minlength=self.classes)
        bottom = (self.actual + chosen)[group] - gone
        before = 2 * (right[group] - lost_before) / bottom
        after = 2 * (right[group] - lost_before - loss[by_rival]) / np.maximum(bottom - 1, 1)
        change, vanished = np.empty(self.n), np.empty(self.n, dtype=np.int64)
        change[by_rival] = after - before
        vanished[by_rival] = bottom == 1  # neither labelled nor predicted any more
        known = self.actual + chosen > 0
        known[self.position] = False
        total = float((2 * right[known] / (self.actual + chosen)[known]).sum())
        count = int(known.sum()) - self._along(vanished) + (own_bottom > 0)
        return (total + self._along(change) + own) / np.maximum(count, 1)
