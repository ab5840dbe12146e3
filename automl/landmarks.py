"""What frozen features tell about a task in a second: how near, how separable and of how many dimensions its classes are."""

from __future__ import annotations

import numpy as np

#: Images that are looked at, at most.
MOST_IMAGES = 500
#: Neighbours that vote.
_NEIGHBOURS = 5
#: Rounds of LogME's fixed point.
_ROUNDS = 30


def landmarks(
    features: np.ndarray, labels: np.ndarray, index: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Cheap figures of frozen features, without any training.

    Args:
        features: pooled, float [n, F], in memory or mapped.
        labels: int64 [n].
        index: rows that count, by default all; of more than :data:`MOST_IMAGES` a sample is taken, each class in its
            share.
        seed: of the sample.

    Returns:
        ``knn``: balanced accuracy of 5 nearest neighbours by cosine, each image left out in turn;
        ``separability``: share of the variance that lies between the classes;
        ``dimension``: intrinsic dimension (Facco et al. 2017, the TwoNN estimator);
        ``logme``: log evidence per image of a linear model (You et al. 2021, *LogME*, algorithm 1), mean over classes.
        What cannot be told, as of one class, is left out.
    """
    index = np.arange(len(labels)) if index is None else index
    rows = index[_sample(labels[index], seed)]
    x, y = np.asarray(features[rows], dtype=np.float64), np.unique(labels[rows], return_inverse=True)[1]
    if len(x) < 3 or y.max() == 0:
        return {}
    x = x - x.mean(axis=0)
    gram = x @ x.T
    found = {
        "knn": _knn(gram, y),
        "separability": _separability(x, y),
        "dimension": _dimension(gram),
        "logme": _logme(gram, y, x.shape[1]),
    }
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _sample(labels: np.ndarray, seed: int) -> np.ndarray:
    if len(labels) <= MOST_IMAGES:
        return np.arange(len(labels))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[np.linspace(0, len(labels) - 1, MOST_IMAGES).astype(int)])


def _knn(gram: np.ndarray, y: np.ndarray) -> float:
    length = np.sqrt(np.maximum(np.diag(gram), 1e-24))
    near = gram / length[:, None] / length
    np.fill_diagonal(near, -np.inf)  # an image is not its own neighbour
    count = min(_NEIGHBOURS, len(y) - 1)
    nearest = np.argpartition(-near, count - 1, axis=1)[:, :count]
    share = np.bincount(y) / len(y)
    votes = np.zeros((len(y), len(share)))
    np.add.at(votes, (np.arange(len(y))[:, None], y[nearest]), 1.0)
    # A vote for a rare class counts for more, so that frequent ones do not win by number.
    hit = (votes / share).argmax(axis=1) == y
    return float(np.mean([hit[y == c].mean() for c in range(len(share))]))


def _separability(x: np.ndarray, y: np.ndarray) -> float:
    total = float((x**2).sum())
    if total <= 0:
        return float("nan")
    sums = np.zeros((y.max() + 1, x.shape[1]))
    np.add.at(sums, y, x)
    count = np.bincount(y)[:, None]
    return float((sums**2 / count).sum() / total)


def _dimension(gram: np.ndarray) -> float:
    squares = np.diag(gram)
    distances = squares[:, None] + squares[None, :] - 2 * gram
    np.fill_diagonal(distances, np.inf)
    two = np.sqrt(np.maximum(np.partition(distances, 1, axis=1)[:, :2], 0.0))
    two = two[two[:, 0] > 1e-9 * np.sqrt(max(float(squares.mean()), 1e-30))]
    ratio = two[:, 1] / two[:, 0]
    logs = np.log(ratio[ratio > 1.0])
    return float(len(logs) / logs.sum()) if len(logs) else float("nan")


def _logme(gram: np.ndarray, y: np.ndarray, width: int) -> float:
    """Mean over classes of the maximised log evidence per image of Bayesian linear regression on one-hot labels."""
    n = len(y)
    values, vectors = np.linalg.eigh(gram)
    if values[-1] <= 1e-20:
        return float("nan")
    keep = values > 1e-9 * values[-1]
    sigma, u = values[keep], vectors[:, keep]
    evidences = []
    for c in range(int(y.max()) + 1):
        t = (y == c).astype(float)
        z2 = (u.T @ t) ** 2
        rest = float(t @ t - z2.sum())
        alpha, beta = 1.0, 1.0
        for _ in range(_ROUNDS):
            shrunk = sigma / (alpha + beta * sigma)
            gamma = float((beta * shrunk).sum())
            m2 = float((beta**2 * sigma * z2 / (alpha + beta * sigma) ** 2).sum())
            error = float((z2 / (1 + beta / alpha * sigma) ** 2).sum() + max(rest, 0.0))
            before = alpha
            alpha = max(gamma, 1e-9) / max(m2, 1e-12)
            beta = max(n - gamma, 1e-6) / max(error, 1e-12)
            if abs(alpha - before) < 1e-3 * before:
                break
        m2 = float((beta**2 * sigma * z2 / (alpha + beta * sigma) ** 2).sum())
        error = float((z2 / (1 + beta / alpha * sigma) ** 2).sum() + max(rest, 0.0))
        logdet = float(np.log(alpha + beta * sigma).sum() + (width - len(sigma)) * np.log(alpha))
        evidence = 0.5 * (
            width * np.log(alpha)
            + n * np.log(beta)
            - n * np.log(2 * np.pi)
            - beta * error
            - alpha * m2
            - logdet
        )
        evidences.append(evidence / n)
    return float(np.mean(evidences))
