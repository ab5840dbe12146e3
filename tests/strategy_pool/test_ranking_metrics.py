"""Regret, NDCG and Kendall's tau against hand-worked and library figures, and the paired bootstrap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn.metrics import ndcg_score

from strategy_pool.ranking_metrics import (
    METRICS,
    mean_and_se,
    ndcg,
    order_of,
    paired_bootstrap,
    ranking_scores,
    regret,
)

VALUES = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=40)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_regret_is_what_the_best_of_the_first_k_lacks() -> None:
    values = np.array([0.2, 0.7, 0.1, 1.0])
    assert [regret(values, k) for k in (1, 2, 3, 4, 10)] == pytest.approx([0.8, 0.3, 0.3, 0.0, 0.0])


def test_ndcg_by_hand() -> None:
    values = np.array([0.5, 1.0])
    expected = (0.5 + 1.0 / math.log2(3)) / (1.0 + 0.5 / math.log2(3))
    assert ndcg(values, 10) == pytest.approx(expected)
    assert ndcg(values, 1) == pytest.approx(0.5)
    assert ndcg(np.zeros(3), 10) == 1.0


@given(VALUES, st.integers(0, 10_000))
def test_metrics_agree_with_the_libraries(values: list[float], seed: int) -> None:
    truth = np.array(values, dtype=float)
    predicted = generator(seed).permutation(len(truth)).astype(float)  # no ties
    found = ranking_scores(order_of(predicted, generator()), truth)
    assert set(found) == set(METRICS)
    if truth.max() > 0:
        assert found["ndcg@10"] == pytest.approx(ndcg_score([truth], [predicted], k=10))
    tau = kendalltau(predicted, truth).statistic
    assert found["kendall_tau"] == pytest.approx(0.0 if math.isnan(tau) else tau)
    assert found["regret@1"] >= found["regret@5"] >= found["regret@10"] >= 0.0


@given(VALUES)
def test_the_right_order_is_perfect(values: list[float]) -> None:
    truth = np.array(values, dtype=float)
    found = ranking_scores(order_of(truth, generator()), truth)
    assert found["ndcg@10"] == pytest.approx(1.0)
    assert found["regret@1"] == pytest.approx(1.0 - truth.max())


def test_ties_are_broken_at_random_and_gaps_come_last() -> None:
    predicted = np.array([1.0, 1.0, np.nan, 2.0])
    orders = {tuple(order_of(predicted, generator(seed)).tolist()) for seed in range(30)}
    assert orders == {(3, 0, 1, 2), (3, 1, 0, 2)}


def test_random_order_has_the_expected_regret() -> None:
    truth = np.linspace(0, 1, 11)
    found = [
        ranking_scores(order_of(np.zeros(11), generator(seed)), truth)["regret@1"] for seed in range(2000)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.03)


def test_mean_and_standard_error() -> None:
    assert mean_and_se(np.array([1.0, 3.0])) == {"mean": 2.0, "se": pytest.approx(1.0)}
    assert mean_and_se(np.array([1.0])) == {"mean": 1.0, "se": None}


def test_the_paired_bootstrap_covers_the_mean_difference_of_its_size() -> None:
    rng = generator(5)
    covered = 0
    for trial in range(100):
        difference = rng.normal(0.3, 1.0, 40)
        first = {str(i): float(d) for i, d in enumerate(difference)}
        found = paired_bootstrap(first, dict.fromkeys(first, 0.0), seed=trial, resamples=1000)
        assert found["mean"] == pytest.approx(difference.mean())
        covered += found["low"] <= 0.3 <= found["high"]
    assert 86 <= covered <= 99


def test_the_same_figures_have_no_difference_and_other_tasks_are_refused() -> None:
    assert paired_bootstrap({"a": 0.5, "b": 0.1}, {"a": 0.5, "b": 0.1}) == {
        "mean": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    with pytest.raises(ValueError, match="same tasks"):
        paired_bootstrap({"a": 0.5}, {"b": 0.5})
    with pytest.raises(ValueError, match="same tasks"):
        paired_bootstrap({}, {})
