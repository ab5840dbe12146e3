"""Operating points: the limits are kept where they can be, and nothing moves without a reason."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.evaluation._adjust import clearly_better
from automl.evaluation.metrics import compute
from automl.evaluation.operating_point import OperatingPoint, apply, choose
from automl.task import Constraint, Objective
from tests.evaluation._scores import names, scores


def _choose(p: np.ndarray, labels: np.ndarray, objective: str, *limits: str) -> OperatingPoint:
    return choose(
        p, labels, names(p.shape[1]), Objective.parse(objective), [Constraint.parse(text) for text in limits]
    )


def _value(name: str, labels: np.ndarray, p: np.ndarray, bias: np.ndarray) -> float:
    found = Objective.parse(name)
    return compute(found.name, found.class_name, labels, p, apply(p, bias), names(p.shape[1]))


def _thresholds(p: np.ndarray, position: int) -> np.ndarray:
    """Biases of one class, of each labelling that it alone can give."""
    logs = np.log(np.clip(p.astype(np.float64), 1e-12, 1))
    others = np.delete(logs, position, axis=1).max(1)
    edges = np.unique(others - logs[:, position])
    edges = edges[np.append(True, np.diff(edges) > 1e-4)]
    return np.concatenate([[edges[0] - 1], (edges[1:] + edges[:-1]) / 2, [edges[-1] + 1]])


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 60),
    classes=st.integers(2, 4),
    seed=st.integers(0, 10_000),
    limit=st.floats(0.05, 1.0),
    kinds=st.sampled_from([("recall", "precision"), ("precision", "recall"), ("recall", "accuracy")]),
)
def test_the_best_threshold_that_keeps_the_limit(
    n: int, classes: int, seed: int, limit: float, kinds: tuple[str, str]
) -> None:
    labels, p = scores(n, classes, seed, skill=1.0)
    labels[0] = 1
    objective = kinds[1] if kinds[1] == "accuracy" else f"{kinds[1]}[b]"
    constraint = f"{kinds[0]}[b]>={limit}"
    point = _choose(p, labels, objective, constraint)
    best, possible = -1.0, False
    for value in _thresholds(p, 1):
        bias = np.zeros(classes)
        bias[1] = value
        if _value(f"{kinds[0]}[b]", labels, p, bias) >= Constraint.parse(constraint).limit:
            possible = True
            best = max(best, np.nan_to_num(_value(objective, labels, p, bias)))
    if possible:
        assert point.satisfied and all(v <= 0 for v in point.violations.values())
        if kinds[1] != "accuracy":
            assert point.objective >= best - 1e-9
    assert point.objective == pytest.approx(np.nan_to_num(_value(objective, labels, p, point.bias)))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(4, 40), seed=st.integers(0, 10_000), objective=st.sampled_from(["precision[b]", "accuracy"])
)
def test_order_of_images_does_not_matter(n: int, seed: int, objective: str) -> None:
    labels, p = scores(n, 3, seed)
    order = np.random.default_rng(seed).permutation(n)
    for limits in ((), ("recall[b]>=0.8",), ("recall[b]>=0.8", "precision[c]>=0.7")):
        first, second = (
            _choose(p, labels, objective, *limits),
            _choose(p[order], labels[order], objective, *limits),
        )
        assert np.allclose(first.bias, second.bias) and first.violations == second.violations


def test_order_of_classes_does_not_matter() -> None:
    labels, p = scores(200, 3, seed=2)
    turn = np.array([2, 0, 1])
    point = _choose(p, labels, "accuracy", "recall[b]>=0.9")
    turned = choose(
        p[:, turn],
        np.argsort(turn)[labels],
        [names(3)[i] for i in turn],
        Objective("accuracy"),
        [Constraint.parse("recall[b]>=0.9")],
    )
    assert np.allclose(point.bias[turn], turned.bias)


@pytest.mark.parametrize(
    "objective", ["accuracy", "balanced_accuracy", "macro_f1", "auroc[a]", "average_precision[b]"]
)
@pytest.mark.parametrize("classes", [2, 5])
def test_zero_by_default(objective: str, classes: int) -> None:
    labels, p = scores(300, classes, seed=7)
    point = _choose(p, labels, objective, "latency_ms<=5")
    assert not point.bias.any() and point.satisfied and point.violations == {}
    assert point.objective == pytest.approx(_value(objective, labels, p, np.zeros(classes)))


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("n", [80, 400])
def test_noise_seldom_moves_an_average(n: int, classes: int) -> None:
    """The most probable class is the best label here, so that every move is one too many."""
    moved = 0
    for seed in range(60):
        labels, p = scores(n, classes, seed, skill=1.0)
        moved += bool(_choose(p, labels, "balanced_accuracy").bias.any())
    assert moved <= 12


@pytest.mark.parametrize("classes", [2, 4])
def test_a_clear_gain_moves_an_average(classes: int) -> None:
    prior = [0.85, *[0.15 / (classes - 1)] * (classes - 1)]
    labels, p = scores(3000, classes, seed=1, prior=prior)
    skewed = p * np.array(prior) ** 1.0
    skewed /= skewed.sum(1, keepdims=True)
    point = _choose(skewed, labels, "balanced_accuracy")
    fresh_labels, fresh = scores(3000, classes, seed=2, prior=prior)
    fresh = fresh * np.array(prior)
    before = _value("balanced_accuracy", fresh_labels, fresh, np.zeros(classes))
    assert _value("balanced_accuracy", fresh_labels, fresh, point.bias) > before + 0.05


def test_one_or_two_images_are_not_a_clear_gain() -> None:
    labels = np.zeros(100, dtype=np.int64)
    before = (np.arange(100) < 10).astype(np.int64)

    def clear(right: int, wrong: int) -> bool:
        after = before.copy()
        after[:right] = 0
        after[50 : 50 + wrong] = 1
        return clearly_better("accuracy", labels, before, after, 2)

    assert not clear(0, 0) and not clear(1, 0) and not clear(2, 0) and not clear(5, 3) and not clear(3, 5)
    assert clear(4, 0) and clear(9, 2)


def test_a_limit_that_holds_already_moves_nothing_for_an_average() -> None:
    labels, p = scores(300, 3, seed=5, skill=4)
    assert not _choose(p, labels, "accuracy", "recall[b]>=0.5").bias.any()


def test_limits_of_several_classes() -> None:
    labels, p = scores(1500, 6, seed=0, skill=2.0)
    point = _choose(p, labels, "accuracy", "recall[b]>=0.9", "precision[c]>=0.9")
    assert point.satisfied
    assert point.objective > 0.5  # not bought by giving every image to b
    assert not point.bias[[0, 3, 4, 5]].any()


def test_a_limit_on_an_average_is_reached_by_moving_several_classes() -> None:
    labels, p = scores(800, 3, seed=3, skill=1.5)
    shifted = p * np.array([1.0, 0.15, 6.0])
    shifted /= shifted.sum(1, keepdims=True)
    reachable = compute("accuracy", None, labels, p, p.argmax(1), names(3))
    point = _choose(shifted, labels, "balanced_accuracy", f"accuracy>={reachable - 0.005:.3f}")
    assert point.satisfied and point.bias.any()


def test_several_limits_against_a_grid() -> None:
    """Where a fine grid over two biases keeps both limits, the search does."""
    for seed in range(12):
        labels, p = scores(60, 3, seed, skill=0.8)
        limits = (
            ["recall[a]>=0.7", "recall[b]>=0.7"] if seed % 2 else ["recall[a]>=0.75", "precision[b]>=0.65"]
        )
        parsed = [Constraint.parse(text) for text in limits]
        grid = np.linspace(-4, 4, 41)
        possible = any(
            all(
                c.satisfied(np.nan_to_num(_value(c.metric, labels, p, np.array([x, y, 0.0])))) for c in parsed
            )
            for x, y in itertools.product(grid, grid)
        )
        if possible:
            assert _choose(p, labels, "accuracy", *limits).satisfied, seed


def test_limits_are_not_bought_with_the_wrong_class() -> None:
    """Meeting one limit after the other, at any price, ends well below what both together allow."""
    rng = np.random.default_rng(73)
    classes, n = int(rng.integers(3, 7)), int(rng.integers(60, 600))
    labels, p = scores(n, classes, 73, skill=float(rng.uniform(0.8, 2.2)))
    chosen = rng.permutation(classes)[: int(rng.integers(2, min(classes, 4) + 1))]
    limits = []
    for position in chosen:
        kind = ("recall", "precision")[int(rng.integers(2))]
        limits.append(f"{kind}[{names(classes)[position]}]>={rng.uniform(0.6, 0.92):.2f}")
    point = _choose(p, labels, "accuracy", *limits)
    assert point.satisfied and point.objective > 0.42


def test_an_image_to_spare_where_it_is_free() -> None:
    # Positives at 0.6, 0.5 and 0.3, negatives below: one missed would keep recall >= 0.6, none missed costs nothing.
    score = np.array([0.6, 0.5, 0.3, 0.1, 0.05, 0.02])
    p = np.stack([1 - score, score], 1)
    labels = np.array([1, 1, 1, 0, 0, 0])
    point = _choose(p, labels, "precision[b]", "recall[b]>=0.6")
    assert point.objective == 1.0 and list(apply(p, point.bias)) == [1, 1, 1, 0, 0, 0]
    middle = (math.log(0.7 / 0.3) + math.log(0.9 / 0.1)) / 2
    assert point.bias[1] == pytest.approx(middle)


def test_bare_precision_keeps_the_recall_of_the_default() -> None:
    labels, p = scores(600, 3, seed=4)
    before = np.zeros(3)
    for objective, other in (("precision[b]", "recall[b]"), ("recall[b]", "precision[b]")):
        point = _choose(p, labels, objective)
        assert _value(other, labels, p, point.bias) >= _value(other, labels, p, before) - 1e-9
        assert point.objective >= _value(objective, labels, p, before)
        assert other in point.note or not point.bias.any()


def test_bare_precision_of_a_class_that_is_never_predicted() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(200) < 40).astype(np.int64)
    score = np.clip(0.1 + 0.15 * labels + rng.normal(0, 0.05, 200), 0.01, 0.45)
    point = _choose(np.stack([1 - score, score], 1), labels, "precision[b]")
    assert _value("recall[b]", labels, np.stack([1 - score, score], 1), point.bias) > 0.5


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize(
    "objective", ["accuracy", "balanced_accuracy", "macro_f1", "precision[a]", "recall[a]", "auroc[a]"]
)
def test_one_class_only_is_no_error(classes: int, objective: str) -> None:
    for present in range(classes):
        labels = np.full(7, present)
        p = scores(7, classes, seed=1)[1]
        for limits in ((), ("recall[a]>=0.9", "precision[a]>=0.9"), ("auroc[a]>=0.5", "accuracy>=1")):
            point = _choose(p, labels, objective, *limits)
            assert point.bias.shape == (classes,) and np.isfinite(point.bias).all()
            assert all(math.isfinite(v) for v in point.violations.values())
            assert math.isfinite(point.objective)
    missing = _choose(scores(7, 2)[1], np.ones(7, dtype=np.int64), "accuracy", "recall[a]>=0.9")
    assert not missing.satisfied


def test_no_images() -> None:
    point = _choose(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "accuracy", "recall[a]>=0.9")
    assert not point.satisfied and math.isnan(point.objective) and point.bias.shape == (2,)


def test_limits_that_cannot_be_kept() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(200)
    labels = rng.integers(0, 2, 200)
    point = _choose(
        np.stack([1 - score, score], 1), labels, "accuracy", "recall[b]>=0.99", "precision[b]>=0.99"
    )
    assert not point.satisfied and "no threshold" in point.note
    assert max(point.violations.values()) > 0


def test_impossible_scores_are_no_error() -> None:
    p = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    point = _choose(p, np.array([0, 1, 1, 0]), "precision[b]", "recall[b]>=1")
    assert point.satisfied and np.isfinite(point.bias).all()
    assert apply(p, np.zeros(2)).dtype == np.int64


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The class of each sweep over thresholds, which is what a choice spends its time on."""
    from automl.evaluation import operating_point

    seen: list[int] = []

    def counted(logs: np.ndarray, labels: np.ndarray, bias: np.ndarray, position: int, *rest: Any) -> Any:
        seen.append(position)
        return sweep(logs, labels, bias, position, *rest)

    sweep = operating_point.sweep
    monkeypatch.setattr(operating_point, "sweep", counted)
    return seen


def test_an_unreachable_limit_with_many_classes_takes_few_sweeps(sweeps: list[int]) -> None:
    labels, p = scores(2000, 60, skill=2.0)
    kinds = [f"c{i}" for i in range(60)]
    limits = [Constraint.parse("macro_f1>=0.99")]
    assert not choose(p, labels, kinds, Objective("accuracy"), limits).satisfied
    assert set(sweeps) == set(range(60)) and len(sweeps) <= 4 * 60


@pytest.mark.parametrize(
    ("limits", "most"),
    [(("recall[b]>=0.9",), 2), (("recall[b]>=0.9", "precision[c]>=0.9"), 50), (("macro_f1>=0.99",), 300)],
)
def test_a_choice_takes_few_sweeps(sweeps: list[int], limits: tuple[str, ...], most: int) -> None:
    labels, p = scores(2000, 10, skill=2.0)
    _choose(p, labels, "accuracy", *limits)
    assert 1 <= len(sweeps) <= most
