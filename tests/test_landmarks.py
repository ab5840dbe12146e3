"""Landmarks of features whose structure is known."""

from __future__ import annotations

import numpy as np
import pytest

from automl.landmarks import MOST_IMAGES, landmarks


def clusters(
    gap: float, count: int = 300, classes: int = 3, width: int = 40, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Normal clusters whose centres lie ``gap`` from the middle."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.eye(classes, width) * gap
    return centres[labels] + rng.normal(size=(count, width)), labels


def test_the_further_apart_the_better_all_figures() -> None:
    figures = [landmarks(*clusters(gap)) for gap in (0.0, 3.0, 9.0)]
    for name in ("knn", "separability", "logme"):
        values = [one[name] for one in figures]
        assert values == sorted(values) and values[0] < values[2]
    assert figures[2]["knn"] == 1.0
    assert figures[0]["knn"] == pytest.approx(1 / 3, abs=0.12)
    assert 0 <= figures[0]["separability"] < 0.05 < figures[2]["separability"] < 1


@pytest.mark.parametrize("dimension", [2, 5])
def test_the_dimension_is_that_of_the_cloud_not_of_the_space(dimension: int) -> None:
    rng = np.random.default_rng(0)
    inside = rng.uniform(size=(900, dimension))
    turned = inside @ rng.normal(size=(dimension, 64))
    found = landmarks(turned, np.arange(900) % 2)["dimension"]
    assert found == pytest.approx(dimension, rel=0.2)


def test_a_rare_class_counts_as_much() -> None:
    features, labels = clusters(0.0, count=400, classes=2)
    labels = (np.arange(400) >= 380).astype(np.int64)
    assert landmarks(features, labels)["knn"] == pytest.approx(0.5, abs=0.2)


def test_logme_is_the_evidence_of_a_bayesian_linear_regression() -> None:
    """Against the determinant of the covariance of the labels, over a grid of alpha and beta."""
    features, labels = clusters(2.0, count=40, classes=2, width=6)
    x = features - features.mean(0)
    best = []
    for c in (0, 1):
        t = (labels == c).astype(float)
        found = []
        for alpha in np.exp(np.linspace(-6, 8, 60)):
            for beta in np.exp(np.linspace(-2, 6, 60)):
                covariance = np.eye(40) / beta + x @ x.T / alpha
                _sign, logdet = np.linalg.slogdet(covariance)
                found.append(-0.5 * (40 * np.log(2 * np.pi) + logdet + t @ np.linalg.solve(covariance, t)))
        best.append(max(found) / 40)
    assert landmarks(features, labels)["logme"] == pytest.approx(np.mean(best), abs=0.01)


def test_many_images_are_sampled_each_class_in_its_share() -> None:
    features, labels = clusters(4.0, count=3 * MOST_IMAGES)
    labels = np.where(np.arange(len(labels)) < 30, 7, labels)
    first, again = landmarks(features, labels), landmarks(features, labels)
    assert first == again
    assert first["knn"] > 0.5


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (np.zeros((2, 3)), np.array([0, 1])),
        (np.zeros((9, 3)), np.zeros(9, np.int64)),
    ],
)
def test_what_cannot_be_told_is_left_out(features: np.ndarray, labels: np.ndarray) -> None:
    assert landmarks(features, labels) == {}


def test_features_that_are_all_the_same_do_no_harm() -> None:
    found = landmarks(np.ones((20, 4)), np.arange(20) % 2)
    assert all(np.isfinite(value) for value in found.values())
    assert set(found) == {"knn"}
