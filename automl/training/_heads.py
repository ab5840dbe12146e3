"""Heads on pooled features: linear, and nearest neighbours. Both are plain modules that export to ONNX."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import solve_triangular
from torch import Tensor, nn

#: Floating-point operations per second of the solver on one core, a cautious order of size.
_SOLVER_RATE = 2e10
#: Share of the largest squared length of a direction below which another is none.
_NOTHING = 1e-9


class LinearHead(nn.Module):
    """Standardise, then one linear layer: ``[N, F]`` → ``[N, C]``."""

    def __init__(self, features: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    center: Tensor
    scale: Tensor

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout((features - self.center) / self.scale))
        return logits

    def describe(self) -> dict[str, Any]:
        return {"kind": "linear", "features": self.linear.in_features, "classes": self.linear.out_features}


class SideBySide(nn.Module):
    """Several heads on the same features: ``[N, F]`` → ``[N, K · C]``, one after the other."""

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([head(features) for head in self.heads], dim=1)


class NeighboursHead(nn.Module):
    """k nearest neighbours by cosine, votes weighted by ``exp(similarity / T)``.

    The weighted vote is that of Wu et al. 2018 (Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination, section 3.4). Each class's votes are divided by its prior when
    ``balanced``, so that rare classes are not outvoted. Logits are log votes.
    """

    temperature = 0.07

    def __init__(self, examples: int, features: int, classes: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("bank", torch.zeros(examples, features))
        self.register_buffer("votes", torch.zeros(examples, classes))

    center: Tensor
    bank: Tensor
    votes: Tensor

    def forward(self, features: Tensor) -> Tensor:
        similarity = F.normalize(features - self.center, dim=1) @ self.bank.t()
        top, index = similarity.topk(self.neighbours, dim=1)
        weight = (top / self.temperature).softmax(dim=1)
        votes = (self.votes[index] * weight.unsqueeze(2)).sum(dim=1)
        return (votes + 1e-3).log()

    def describe(self) -> dict[str, Any]:
        examples, features = self.bank.shape
        return {
            "kind": "neighbours",
            "examples": examples,
            "features": features,
            "classes": self.votes.shape[1],
            "neighbours": self.neighbours,
        }


def build_head(description: Mapping[str, Any]) -> nn.Module:
    """Rebuild an empty head from :meth:`describe`."""
    kind = description["kind"]
    if kind == "linear":
        return LinearHead(description["features"], description["classes"])
    if kind == "neighbours":
        return NeighboursHead(
            description["examples"],
            description["features"],
            description["classes"],
            description["neighbours"],
        )
    raise ValueError(f"unknown head {kind!r}; known: linear, neighbours")


def fit_neighbours(features: np.ndarray, labels: np.ndarray, classes: int, neighbours: int) -> NeighboursHead:
    """Store the training features ``[N, F]``; class votes are divided by the class's frequency."""
    head = NeighboursHead(len(features), features.shape[1], classes, min(neighbours, len(features)))
    center = features.mean(0)
    bank = features - center
    bank = bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-12)
    prior = np.bincount(labels, minlength=classes) / len(labels)
    votes = np.eye(classes)[labels] / np.maximum(prior, 1e-12)[labels, None] / classes
    with torch.no_grad():
        head.center.copy_(torch.from_numpy(center).float())
        head.bank.copy_(torch.from_numpy(bank).float())
        head.votes.copy_(torch.from_numpy(votes).float())
    return head.eval()


@dataclass(frozen=True)
class Coordinates:
    """Standardised features in the span of the examples, ready to be fitted with many strengths.

    The L2 penalty of a logistic regression does not change under rotation, so more features than examples can be
    replaced by coordinates in the span of the examples without changing the solution (the representer theorem,
    Schölkopf, Herbrich & Smola 2001).

    Attributes:
        center, scale: of the features, float32 ``[F]``.
        values: float32 ``[N, R]`` with R at most the smaller of N and F.
        basis: rows span the features, float32 ``[R, F]``; None where the values are the features themselves.
    """

    center: np.ndarray
    scale: np.ndarray
    values: np.ndarray
    basis: np.ndarray | None


def coordinates(features: np.ndarray) -> Coordinates:
    """Standardise training features ``[N, F]`` and rotate them where that makes them fewer."""
    deviation = features.std(0, dtype=np.float64)
    center = features.mean(0, dtype=np.float64).astype(np.float32)
    scale = np.maximum(deviation, max(1e-6, 1e-3 * float(deviation.max(initial=0.0)))).astype(np.float32)
    if features.shape[1] <= len(features):
        values = features.astype(np.float32)  # a copy, and the only one: there may be gigabytes of them
        values -= center
        values /= scale
        return Coordinates(center, scale, values, None)
    scaled = (features.astype(np.float64) - center) / scale
    values, basis = _spanned(scaled)
    return Coordinates(center, scale, values.astype(np.float32), basis.astype(np.float32))


def _spanned(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates ``[N, R]`` of centred rows ``[N, F]``, and the orthonormal directions ``[R, F]`` that they are along."""
    gram = rows @ rows.T
    # Centred rows add up to nothing, so that the last one lies in the span of the others. Where nothing else makes
    # them dependent, Cholesky's factor gives the span at a fraction of the cost of eigenvectors.
    try:
        factor = np.linalg.cholesky(gram[:-1, :-1])
    except np.linalg.LinAlgError:
        factor = np.zeros((0, 0))
    if len(factor) and factor.diagonal().min() ** 2 > _NOTHING * factor.diagonal().max() ** 2:
        basis = solve_triangular(factor, rows[:-1], lower=True, check_finite=False)
        return np.concatenate([factor, rows[-1:] @ basis.T]), basis
    power, vectors = np.linalg.eigh(gram)
    kept = power > _NOTHING * max(float(power[-1]), 1e-300)
    length = np.sqrt(power[kept])
    return vectors[:, kept] * length, (vectors[:, kept] / length).T @ rows


def iterations_within(seconds: float, examples: int, features: int, classes: int) -> int:
    """Iterations of :func:`fit_logistic` that fit into a time on one core, 15 to 200."""
    each = 4.0 * examples * min(examples, features) * classes / _SOLVER_RATE
    return int(min(200.0, max(15.0, seconds / each)))


def fit_logistic(
    features: np.ndarray | Coordinates,
    labels: np.ndarray,
    classes: int,
    *,
    strength: float,
    balanced: bool = True,
    max_iterations: int = 200,
) -> LinearHead:
    """Multinomial logistic regression on standardised features (scikit-learn's L-BFGS).

    Args:
        features: training features ``[N, F]``, or their :func:`coordinates`.
        labels: class of each, ``[N]``.
        classes: number of classes of the task; a class without an example gets a very low bias.
        strength: inverse L2 regularisation, scikit-learn's ``C``.
        balanced: weigh classes by inverse frequency.
        max_iterations: of the solver.
    """
    from sklearn.linear_model import LogisticRegression

    known = features if isinstance(features, Coordinates) else coordinates(features)
    head = LinearHead(len(known.center), classes)
    present = np.unique(labels)
    with torch.no_grad():
        head.center.copy_(torch.from_numpy(known.center))
        head.scale.copy_(torch.from_numpy(known.scale))
        if len(present) < 2:
            head.linear.bias.fill_(-20.0)
            head.linear.bias[int(present[0])] = 20.0
            return head.eval()
        solver = LogisticRegression(
            C=strength,
            class_weight="balanced" if balanced else None,
            max_iter=max_iterations,
            tol=1e-3,
        )
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # not converged within the iterations: the path goes on from there
            solver.fit(known.values, labels)
        weight, bias = solver.coef_, solver.intercept_
        if known.basis is not None:
            weight = weight @ known.basis
        if len(present) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        head.linear.weight.zero_()
        head.linear.bias.fill_(-20.0)
        head.linear.weight[present] = torch.from_numpy(np.asarray(weight)).float()
        head.linear.bias[present] = torch.from_numpy(np.asarray(bias)).float()
    return head.eval()
