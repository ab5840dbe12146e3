"""Metrics against scikit-learn, intervals against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from automl.evaluation import _ranking
from automl.evaluation.metrics import binomial_interval, compute, evaluate_all, interval
from tests.evaluation._scores import names, scores


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 60),
    classes=st.integers(2, 5),
    seed=st.integers(0, 10_000),
    coarse=st.booleans(),
)
def test_compute_agrees_with_scikit_learn(n: int, classes: int, seed: int, coarse: bool) -> None:
    labels, p = scores(n, classes, seed)
    p = np.round(p, 1) if coarse else p  # ties
    predicted = p.argmax(1)
    kinds = names(classes)

    def own(name: str, class_name: str | None = None) -> float:
        return compute(name, class_name, labels, p, predicted, kinds)

    assert own("accuracy") == pytest.approx(sk.accuracy_score(labels, predicted))
    recalls = [(predicted[labels == c] == c).mean() for c in np.unique(labels)]
    assert own("balanced_accuracy") == pytest.approx(float(np.mean(recalls)))
    assert own("macro_f1") == pytest.approx(sk.f1_score(labels, predicted, average="macro", zero_division=0))
    for position, class_name in enumerate(kinds):
        positive = labels == position
        if not positive.any():
            assert math.isnan(own("recall", class_name)) and math.isnan(own("average_precision", class_name))
            assert math.isnan(own("auroc", class_name))
            continue
        mine = predicted == position
        assert own("recall", class_name) == pytest.approx(sk.recall_score(positive, mine, zero_division=0))
        assert own("precision", class_name) == pytest.approx(
            sk.precision_score(positive, mine, zero_division=0)
        )
        assert own("average_precision", class_name) == pytest.approx(
            sk.average_precision_score(positive, p[:, position])
        )
        if not positive.all():
            assert own("auroc", class_name) == pytest.approx(sk.roc_auc_score(positive, p[:, position]))


def test_balanced_accuracy_agrees_with_scikit_learn() -> None:
    labels, p = scores(300, 4, prior=[0.7, 0.1, 0.1, 0.1])
    expected = sk.balanced_accuracy_score(labels, p.argmax(1))
    assert compute("balanced_accuracy", None, labels, p, p.argmax(1), names(4)) == pytest.approx(expected)


def test_undefined_metrics() -> None:
    labels, p = np.array([0, 0, 1]), np.array([[0.9, 0.05, 0.05]] * 3)
    predicted = p.argmax(1)
    assert math.isnan(compute("precision", "c", labels, p, predicted, names(3)))
    assert compute("precision", "b", labels, p, predicted, names(3)) == 0.0
    assert compute("balanced_accuracy", None, labels, p, predicted, names(3)) == 0.5
    empty = np.zeros(0, dtype=np.int64)
    assert math.isnan(compute("accuracy", None, empty, np.zeros((0, 2)), empty, names(2)))
    found = evaluate_all(empty, np.zeros((0, 2)), empty, names(2))
    assert found["recall[a]"].n == 0 and (found["accuracy"].low, found["accuracy"].high) == (0.0, 1.0)


def test_unknown_names_are_refused() -> None:
    labels, p = scores(5, 2)
    with pytest.raises(ValueError, match="unknown metric 'f2'"):
        compute("f2", None, labels, p, p.argmax(1), names(2))
    with pytest.raises(ValueError, match="one of the classes a, b; got 'z'"):
        compute("recall", "z", labels, p, p.argmax(1), names(2))
    with pytest.raises(ValueError, match="got None"):
        interval("auroc", None, labels, p, p.argmax(1), names(2))


@given(n=st.integers(1, 400), data=st.data())
@settings(max_examples=40, deadline=None)
def test_binomial_interval_is_the_exact_one(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    expected = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert binomial_interval(k, n) == pytest.approx((expected.low, expected.high), abs=1e-8)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 50),
    classes=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    skill=st.sampled_from([0.0, 1.5, 30.0]),
    per_group=st.integers(1, 5),
)
def test_intervals_hold_the_value(n: int, classes: int, seed: int, skill: float, per_group: int) -> None:
    labels, p = scores(n, classes, seed, skill)
    groups = np.arange(n) // per_group
    for key, metric in evaluate_all(labels, p, p.argmax(1), names(classes), groups).items():
        assert 0 <= metric.low <= metric.high <= 1, key
        if math.isfinite(metric.value):
            assert metric.low <= metric.value <= metric.high, key
            assert metric.best_low is not None and metric.low <= metric.best_low + 1e-12, key
        else:
            assert (metric.low, metric.high) == (0.0, 1.0), key


def test_evaluate_all_says_what_single_calls_say() -> None:
    labels, p = scores(120, 3)
    predicted, groups = p.argmax(1), np.arange(120) // 2
    found = evaluate_all(labels, p, predicted, names(3), groups, seed=3)
    assert list(found)[:3] == ["accuracy", "balanced_accuracy", "macro_f1"]
    for key, metric in found.items():
        name, _, rest = key.partition("[")
        assert interval(name, rest[:-1] or None, labels, p, predicted, names(3), groups, 3) == metric
        assert metric.value == compute(name, rest[:-1] or None, labels, p, predicted, names(3))
    assert found["recall[b]"].n == (labels == 1).sum()
    assert found["precision[b]"].n == (predicted == 1).sum()
    assert found["accuracy"].n == found["auroc[a]"].n == 120
    assert set(found["accuracy"].to_dict()) == {"value", "low", "high", "n"}


def test_same_seed_same_intervals_and_images_in_any_order() -> None:
    labels, p = scores(90, 3)
    first = evaluate_all(labels, p, p.argmax(1), names(3), seed=5)
    assert first == evaluate_all(labels, p, p.argmax(1), names(3), seed=5)
    order = np.random.default_rng(0).permutation(90)
    other = evaluate_all(labels[order], p[order], p[order].argmax(1), names(3), seed=5)
    for key, metric in first.items():
        assert metric.low == pytest.approx(other[key].low) and metric.high == pytest.approx(other[key].high)


def test_a_flawless_score_on_few_images_proves_little() -> None:
    labels = np.array([0] * 40 + [1] * 5)
    p = np.where(np.eye(2)[labels] > 0, 0.9, 0.1)
    for groups in (None, np.arange(45) // 3):
        found = evaluate_all(labels, p, labels, names(2), groups)
        assert found["accuracy"].low < 0.93
        assert found["balanced_accuracy"].low < 0.8 and found["macro_f1"].low < 0.8
        assert found["auroc[b]"].low < 0.5 and found["average_precision[b]"].low < 0.5


def test_images_of_one_group_count_for_less() -> None:
    rng = np.random.default_rng(0)
    right_by_group = rng.random(40) < 0.8
    labels = np.zeros(400, dtype=np.int64)
    predicted = np.where(np.repeat(right_by_group, 10), 0, 1)
    p = np.eye(2)[predicted] * 0.8 + 0.1
    groups = np.repeat(np.arange(40), 10)
    alone = interval("accuracy", None, labels, p, predicted, names(2))
    together = interval("accuracy", None, labels, p, predicted, names(2), groups)
    of_groups = binomial_interval(int(right_by_group.sum()), 40)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert (together.low, together.high) == pytest.approx(of_groups, abs=0.02)


def test_groups_that_do_not_matter_cost_little() -> None:
    labels, p = scores(1000, 2, seed=3)
    groups = np.random.default_rng(1).integers(0, 500, 1000)
    for name in ("accuracy", "balanced_accuracy"):
        alone = interval(name, None, labels, p, p.argmax(1), names(2))
        together = interval(name, None, labels, p, p.argmax(1), names(2), groups)
        assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.2)


def _numeric(metric, influence, positive: np.ndarray, scored: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """An influence is the change when an image is there twice, to first order in 1/n."""
    value, found = metric(positive, scored), influence(positive, scored)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    copies = 400
    many, much = np.tile(positive, copies), np.tile(scored, copies)
    for image in (0, 7, len(positive) - 1):
        moved = metric(np.append(many, positive[image]), np.append(much, scored[image]))
        assert (moved - value) * copies == pytest.approx(found[image], abs=2e-3)


@pytest.mark.parametrize("coarse", [False, True])
def test_influences_are_derivatives(coarse: bool) -> None:
    labels, p = scores(40, 2, seed=4, skill=0.8)
    scored = np.round(p[:, 1].astype(np.float64), 1 if coarse else 6)
    _numeric(_ranking.auroc, _ranking.auroc_influence, labels == 1, scored)
    _numeric(_ranking.average_precision, _ranking.average_precision_influence, labels == 1, scored)


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "auroc", "average_precision", "recall"])
@pytest.mark.parametrize("per_group", [1, 4])
def test_intervals_cover_the_truth(name: str, per_group: int) -> None:
    """About 95 of 100 data sets give an interval that holds the value of the population."""
    labels, p = scores(100_000, 3, seed=1, prior=[0.6, 0.3, 0.1])
    which = "c" if name in ("auroc", "average_precision", "recall") else None
    truth = compute(name, which, labels, p, p.argmax(1), names(3))
    rng, covered, draws = np.random.default_rng(2), 0, 150
    for _ in range(draws):
        picked = np.repeat(rng.integers(0, len(labels), 240 // per_group), per_group)
        groups = np.arange(240) // per_group
        got = interval(
            name, which, labels[picked], p[picked], p[picked].argmax(1), names(3), groups, seed=int(picked[0])
        )
        covered += got.low <= truth <= got.high
    assert covered / draws >= 0.88


@pytest.mark.parametrize(
    ("classes", "images", "recall"), [(2, 20, 0.9), (2, 50, 0.9), (2, 50, 0.96), (6, 10, 0.9)]
)
def test_a_lower_bound_of_few_images_is_seldom_too_high(classes: int, images: int, recall: float) -> None:
    """It may lie above the truth in 2.5 of 100 data sets."""
    rng, draws = np.random.default_rng(3), 400
    labels = np.repeat(np.arange(classes), images)
    p = np.zeros((len(labels), classes))
    seen: dict[tuple[str, bytes], float] = {}
    too_high = dict.fromkeys(("balanced_accuracy", "macro_f1"), 0)  # the truth of both is the recall
    for _ in range(draws):
        wrong = rng.random(len(labels)) >= recall
        predicted = np.where(wrong, (labels + rng.integers(1, classes, len(labels))) % classes, labels)
        table = np.bincount(labels * classes + predicted, minlength=classes**2).tobytes()
        for name in too_high:
            if (name, table) not in seen:
                seen[name, table] = interval(name, None, labels, p, predicted, names(classes)).low
            too_high[name] += seen[name, table] > recall
    assert max(too_high.values()) / draws <= 0.03


def test_a_lower_bound_of_few_groups_of_all_classes_is_seldom_too_high() -> None:
    rng, draws, groups = np.random.default_rng(4), 300, np.repeat(np.arange(30), 4)
    labels = np.tile([0, 1], 60)
    too_high = dict.fromkeys(("balanced_accuracy", "macro_f1"), 0)
    for _ in range(draws):
        right = rng.random(120) < rng.beta(2.7, 0.3, 30)[groups]  # some groups are much harder than others
        predicted = np.where(right, labels, 1 - labels)
        for name in too_high:
            too_high[name] += (
                interval(name, None, labels, np.zeros((120, 2)), predicted, names(2), groups).low > 0.9
            )
    assert max(too_high.values()) / draws <= 0.05


@pytest.mark.parametrize(
    ("images", "at_best"), [((20, 20), 0.025 ** (1 / 40)), ((60,) * 6, 0.025 ** (1 / 360)), ((400, 4), 0.699)]
)
def test_what_a_flawless_score_proves(images: tuple[int, ...], at_best: float) -> None:
    """The lowest average at which there would be no error with a chance of 2.5 %."""
    labels = np.repeat(np.arange(len(images)), images)
    for name in ("balanced_accuracy", "macro_f1"):
        found = interval(name, None, labels, np.eye(len(images))[labels], labels, names(len(images)))
        assert found.low == found.best_low == pytest.approx(at_best, abs=1e-3)


def test_the_scores_of_a_class_are_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from automl.evaluation import _ranking

    seen: list[int] = []
    blocks_of = _ranking.blocks_of
    monkeypatch.setattr(_ranking, "blocks_of", lambda s: seen.append(len(s)) or blocks_of(s))
    labels, p = scores(2000, 10)
    for groups in (None, np.random.default_rng(0).integers(0, 700, 2000)):
        seen.clear()
        evaluate_all(labels, p, p.argmax(1), names(10), groups)
        assert seen == [2000] * 10
