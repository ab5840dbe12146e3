"""Paired differences with a group bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.comparison import ScoredPart, balanced_accuracy, over_datasets, paired_difference


def _part(rng: np.random.Generator, images: int, right: dict[str, float], per_group: int = 1) -> ScoredPart:
    labels = rng.integers(0, 3, images)
    predicted = {
        name: np.where(rng.random(images) < share, labels, (labels + 1) % 3) for name, share in right.items()
    }
    return ScoredPart(labels, np.arange(images) // per_group, predicted)


def test_balanced_accuracy_counts_each_present_class_once() -> None:
    labels, predicted = np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2])
    assert balanced_accuracy(labels, predicted) == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(balanced_accuracy(labels[:0], predicted[:0]))


def test_the_difference_is_that_of_the_balanced_accuracies() -> None:
    rng = np.random.default_rng(0)
    parts = [_part(rng, 150, {"a": 0.9, "b": 0.7}) for _ in range(3)]
    got = paired_difference(parts, "a", "b", resamples=300)
    wanted = np.mean(
        [
            balanced_accuracy(p.labels, p.predicted["a"]) - balanced_accuracy(p.labels, p.predicted["b"])
            for p in parts
        ]
    )
    assert got.mean == pytest.approx(wanted)
    assert 0 < got.low < got.mean < got.high
    again = paired_difference(parts, "a", "b", resamples=300)
    assert (got.low, got.high) == (again.low, again.high)


def test_equal_predictions_have_no_interval() -> None:
    rng = np.random.default_rng(1)
    part = _part(rng, 60, {"a": 0.8})
    same = ScoredPart(part.labels, part.groups, {"a": part.predicted["a"], "b": part.predicted["a"]})
    got = paired_difference([same], "a", "b", resamples=200)
    assert got.mean == got.low == got.high == 0


def test_images_of_one_group_are_not_independent() -> None:
    labels = np.tile([0, 1], 100)
    right = np.repeat(
        np.random.default_rng(2).random(20) < 0.6, 10
    )  # groups of ten are right or wrong as one
    predicted = {"a": np.where(right, labels, 1 - labels), "b": np.zeros(200, dtype=np.int64)}
    grouped = paired_difference([ScoredPart(labels, np.arange(200) // 10, predicted)], "a", "b")
    single = paired_difference([ScoredPart(labels, np.arange(200), predicted)], "a", "b")
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(100):
        part = _part(rng, 240, {"a": 0.85, "b": 0.75})
        got = paired_difference([part], "a", "b", resamples=200, seed=seed)
        covered += got.low <= 0.1 <= got.high
    assert 86 <= covered <= 100


def test_a_class_that_a_resample_misses_does_not_give_nan() -> None:
    labels = np.array([0] * 20 + [1])
    predicted = {"a": labels, "b": np.zeros_like(labels)}
    got = paired_difference([ScoredPart(labels, np.arange(21), predicted)], "a", "b", resamples=200)
    assert got.mean == pytest.approx(0.5)
    assert np.isfinite(got.samples).all()


def test_datasets_are_averaged() -> None:
    rng = np.random.default_rng(4)
    found = [
        paired_difference([_part(rng, 90, {"a": 0.9, "b": 0.6})], "a", "b", resamples=200, seed=s)
        for s in (0, 1)
    ]
    both = over_datasets(found)
    assert both.mean == pytest.approx((found[0].mean + found[1].mean) / 2)
    assert both.high - both.low < max(d.high - d.low for d in found)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="no test images"):
        paired_difference([], "a", "b")


def test_the_luck_of_the_draw_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for right in (0.95, 0.6, 0.9, 0.65, 0.8):  # of the first method, by draw
        labels = np.arange(400) % 2
        first = np.where(rng.random(400) < right, labels, 1 - labels)
        second = np.where(rng.random(400) < 0.7, labels, 1 - labels)
        parts.append(ScoredPart(labels, np.arange(400), {"a": first, "b": second}))
    fixed = paired_difference(parts, "a", "b", resamples=1000)
    drawn = paired_difference(parts, "a", "b", resamples=1000, resample_parts=True)
    assert drawn.mean == fixed.mean
    assert drawn.high - drawn.low > 2 * (fixed.high - fixed.low)
    assert drawn.low < drawn.mean < drawn.high
    alone = paired_difference(parts[:1], "a", "b", resamples=1000, resample_parts=True)
    assert np.isfinite(alone.samples).all()
