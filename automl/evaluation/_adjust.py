"""Biases for an average over all classes, moved only where the gain is clear on images they were not chosen on."""

from __future__ import annotations

import numpy as np

from automl.evaluation import metrics
from automl.evaluation._sweep import sweep

_STRENGTHS = tuple(s / 4 for s in range(-6, 7))
_DRAWS = 400
_SEED = 0
_EQUAL = 1e-9


def adjusted(logs: np.ndarray, labels: np.ndarray, name: str) -> np.ndarray | None:
    """Biases that clearly raise accuracy, balanced accuracy or macro F1; None if none do.

    With two classes, the threshold is swept. With more, biases are a multiple of the log-frequency of the classes,
    the logit adjustment of Menon et al. (2021): one number to choose, as a bias per class would fit the noise.
    They are chosen on each half of the images and tried on the other; only where that gains more than one standard
    error are they chosen on all.

    Args:
        logs: log-probabilities ``[n, C]``.
        labels: ``[n]``.
        name: of the metric.
    """
    classes = logs.shape[1]
    if len(np.unique(labels)) < 2:
        return None
    second = _halves(logs, labels)
    before = logs.argmax(1)
    after = before.copy()
    for half in (second, ~second):
        if len(np.unique(labels[~half])) < 2:
            return None
        after[half] = (logs[half] + _fitted(logs[~half], labels[~half], name)).argmax(1)
    if not clearly_better(name, labels, before, after, classes):
        return None
    found = _fitted(logs, labels, name)
    return found if np.any(found) else None


def clearly_better(
    name: str, labels: np.ndarray, before: np.ndarray, after: np.ndarray, classes: int, seed: int = 0
) -> bool:
    """Whether labels ``after`` beat labels ``before`` by more than one standard error, by a paired bootstrap.

    With few images between the two, the error is corrected for continuity as McNemar's test is (Edwards 1948): one
    or two images that happen to fall right are not a clear gain.
    """
    cells, counts = np.unique((labels * classes + before) * classes + after, return_counts=True)
    truth, old, new = cells // classes**2, cells // classes % classes, cells % classes
    gain = _average(name, truth, new, counts[None], classes) - _average(
        name, truth, old, counts[None], classes
    )
    if gain[0] <= _EQUAL:
        return False
    n = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=_DRAWS)
    gains = _average(name, truth, new, drawn, classes) - _average(name, truth, old, drawn, classes)
    decided = int(counts[(truth == old) != (truth == new)].sum())
    return bool(gain[0] * (1 - 1 / max(decided, 1)) > gains.std())


def _average(
    name: str, truth: np.ndarray, predicted: np.ndarray, counts: np.ndarray, classes: int
) -> np.ndarray:
    """A metric of weighted cells, ``[draws]``."""
    right = truth == predicted
    if name == "accuracy":
        return np.asarray(counts[:, right].sum(1) / counts.sum(1))
    draws = len(counts)

    def per_class(which: np.ndarray, of: np.ndarray) -> np.ndarray:
        found = np.zeros((classes, draws))
        np.add.at(found, of[which], counts[:, which].T)
        return found.T

    everything = np.ones(len(truth), dtype=bool)
    return np.asarray(
        metrics.average(
            name, per_class(right, truth), per_class(everything, truth), per_class(everything, predicted)
        )
    )


def _fitted(logs: np.ndarray, labels: np.ndarray, name: str) -> np.ndarray:
    classes = logs.shape[1]
    zero = np.zeros(classes)
    if classes == 2:
        steps = sweep(logs, labels, zero, 1, [(name, -1)])
        values = steps.values[name, -1]
        best = np.flatnonzero(values >= values.max() - _EQUAL)
        return np.array([0.0, steps.biases[best[np.abs(steps.biases[best]).argmin()]]])
    counts = np.bincount(labels, minlength=classes)
    frequent = np.log(np.maximum(counts, 0.5) / len(labels))
    best_bias, best_key = zero, (-1.0, 0.0)
    for strength in _STRENGTHS:
        bias = -strength * (frequent - frequent.mean())
        predicted = (logs + bias).argmax(1)
        value = metrics.compute(name, None, labels, logs, predicted, [""] * classes)
        if (round(value, 9), -abs(strength)) > best_key:
            best_bias, best_key = bias + 0.0, (round(value, 9), -abs(strength))
    return best_bias


def _halves(logs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A random half of each class, bool ``[n]``, the same whatever the order of the images.

    Images are put in the order of their scores first, only so that the draw does not depend on how they came.
    Alternating along that order would make the halves copies of each other, and a trial on one no test of the other.
    """
    own = logs[np.arange(len(labels)), labels]
    order = np.lexsort((logs.max(1), own, labels))
    shuffled = order[np.random.default_rng(_SEED).permutation(len(order))]
    shuffled = shuffled[np.argsort(labels[shuffled], kind="stable")]
    second = np.zeros(len(labels), dtype=bool)
    second[shuffled[1::2]] = True
    return second
