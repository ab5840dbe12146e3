"""Heads on frozen features against scikit-learn and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from automl.training import coordinates, fit_logistic, fit_neighbours, iterations_within
from automl.training._heads import LinearHead, build_head


def examples(count: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping blobs, so that the solution is finite, with a different scale in each feature."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    x = rng.normal(size=(count, width)) + rng.normal(size=(classes, width))[labels]
    return (x * np.exp(rng.normal(size=width)) + 3 * rng.normal(size=width)).astype(np.float32), labels


def probabilities(head: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return head(torch.from_numpy(x)).softmax(1).numpy()


def reference(x: np.ndarray, y: np.ndarray, new: np.ndarray, strength: float, balanced: bool) -> np.ndarray:
    """scikit-learn's own pipeline, solved far more exactly than needed."""
    scaler = StandardScaler().fit(x)
    weight = "balanced" if balanced else None
    solver = LogisticRegression(C=strength, class_weight=weight, max_iter=5000, tol=1e-8)
    return solver.fit(scaler.transform(x), y).predict_proba(scaler.transform(new))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("width", [6, 90], ids=["as it is", "rotated"])
def test_logistic_equals_scikit_learn(width: int, balanced: bool) -> None:
    x, y = examples(60, width, 3)
    y[:10] = 0
    new, _ = examples(25, width, 3, seed=1)
    got = probabilities(fit_logistic(x, y, 3, strength=0.05, balanced=balanced), new)
    np.testing.assert_allclose(got, reference(x, y, new, 0.05, balanced), atol=5e-3)


def test_logistic_of_two_classes_equals_scikit_learn() -> None:
    x, y = examples(40, 5, 2)
    head = fit_logistic(x, y, 2, strength=0.3, balanced=False)
    assert head.linear.weight.shape == (2, 5)
    np.testing.assert_allclose(probabilities(head, x), reference(x, y, x, 0.3, False), atol=5e-3)


@pytest.mark.parametrize("width", [5, 70])
def test_prepared_coordinates_give_the_same_head_as_features(width: int) -> None:
    x, y = examples(50, width, 3)
    direct, prepared = (fit_logistic(z, y, 3, strength=0.1) for z in (x, coordinates(x)))
    np.testing.assert_array_equal(probabilities(direct, x), probabilities(prepared, x))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.integers(1, 40), st.integers(0, 9))
def test_coordinates_keep_all_distances(count: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, width))
    found = coordinates(x)
    scaled = (x - found.center) / found.scale
    assert found.values.shape[1] <= min(count, width)
    np.testing.assert_allclose(found.values @ found.values.T, scaled @ scaled.T, atol=1e-4)
    if found.basis is not None:
        np.testing.assert_allclose(found.values @ found.basis, scaled, atol=1e-4)
        np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(len(found.basis)), atol=1e-6)


def test_examples_that_are_there_twice_do_no_harm() -> None:
    x, y = examples(40, 90, 3)
    twice = coordinates(np.concatenate([x, x]))
    assert twice.basis is not None and np.isfinite(twice.basis).all()
    once = fit_logistic(x, y, 3, strength=0.1)
    both = fit_logistic(twice, np.concatenate([y, y]), 3, strength=0.05)
    np.testing.assert_allclose(probabilities(both, x), probabilities(once, x), atol=0.02)


def test_a_constant_feature_does_no_harm() -> None:
    x, y = examples(30, 4, 3)
    x[:, 2] = 7.0
    head = fit_logistic(x, y, 3, strength=1.0)
    shifted = x.copy()
    shifted[:, 2] += 1e-4
    assert np.isfinite(probabilities(head, x)).all()
    np.testing.assert_allclose(probabilities(head, shifted), probabilities(head, x), atol=1e-2)


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_class_without_examples_is_never_predicted(missing: int) -> None:
    x, y = examples(60, 8, 3)
    y = np.array([c for c in range(4) if c != missing])[y]
    got = probabilities(fit_logistic(x, y, 4, strength=0.1), x)
    assert got.shape == (60, 4)
    assert got[:, missing].max() < 1e-4
    present = [c for c in range(4) if c != missing]
    np.testing.assert_allclose(got[:, present], reference(x, y, x, 0.1, True), atol=5e-3)


def test_with_one_class_present_it_is_certain() -> None:
    x, _ = examples(10, 4, 2)
    got = probabilities(fit_logistic(x, np.full(10, 2), 3, strength=1.0), x)
    assert (got[:, 2] > 0.999).all()


def test_dropout_is_off_outside_training() -> None:
    head = LinearHead(4, 3, dropout=0.5)
    torch.nn.init.ones_(head.linear.weight)
    x = torch.ones(1, 4)
    assert torch.equal(head.eval()(x), torch.full((1, 3), 4.0))
    assert any(not torch.equal(head.train()(x), torch.full((1, 3), 4.0)) for _ in range(20))


def test_one_neighbour_recalls_the_training_labels() -> None:
    x, y = examples(40, 12, 4)
    assert (probabilities(fit_neighbours(x, y, 4, 1), x).argmax(1) == y).all()


def test_neighbours_vote_as_the_formula_says() -> None:
    x, y = examples(20, 6, 3)
    y[:12] = 0
    new, _ = examples(5, 6, 3, seed=2)
    head = fit_neighbours(x, y, 3, 4)
    with torch.inference_mode():
        got = head(torch.from_numpy(new)).numpy()
    center = x.mean(0)
    unit = lambda z: (z - center) / np.linalg.norm(z - center, axis=1, keepdims=True)  # noqa: E731
    similarity = unit(new) @ unit(x).T
    for row in range(5):
        nearest = np.argsort(-similarity[row])[:4]
        weight = np.exp(similarity[row, nearest] / 0.07)
        votes = np.zeros(3)
        for image, share in zip(nearest, weight / weight.sum(), strict=True):
            votes[y[image]] += share / (np.mean(y == y[image]) * 3)
        np.testing.assert_allclose(got[row], np.log(votes + 1e-3), atol=1e-3)


def test_more_neighbours_than_examples_are_all_examples() -> None:
    x, y = examples(6, 4, 2)
    assert fit_neighbours(x, y, 2, 50).neighbours == 6


@pytest.mark.parametrize("kind", ["linear", "neighbours"])
def test_a_head_is_rebuilt_from_its_description(kind: str) -> None:
    x, y = examples(20, 6, 3)
    head = fit_logistic(x, y, 3, strength=1.0) if kind == "linear" else fit_neighbours(x, y, 3, 5)
    again = build_head(head.describe()).eval()
    again.load_state_dict(head.state_dict())
    np.testing.assert_array_equal(probabilities(again, x), probabilities(head, x))


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown head 'tree'; known: linear, neighbours"):
        build_head({"kind": "tree"})


def test_iterations_within_the_time() -> None:
    assert iterations_within(math.inf, 100, 1000, 3) == 200
    assert iterations_within(-1.0, 10**6, 2000, 200) == 15
    few, more = (iterations_within(seconds, 20_000, 2000, 50) for seconds in (10.0, 20.0))
    assert 15 < few < more < 200
    assert iterations_within(10.0, 20_000, 2000, 100) < few
