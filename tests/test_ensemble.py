"""Selection of members, their calibration, and the joint module against the arithmetic it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from automl.ensemble import Member, blend, build_ensemble, calibrate, combine, resize_matrix, select
from automl.export import export_onnx, run_onnx
from tests._models import network, pictures, small_cnn

LABELS = np.arange(60) % 3


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def member(name: str, seed: int, signal: float = 1.0, single: bool = False, **costs: float) -> Member:
    """Noisy scores that are right more often the stronger the signal."""
    noise = np.random.default_rng(seed).normal(size=(60, 3))
    return Member(name, log_softmax(noise + signal * np.eye(3)[LABELS]), 1.0, costs, single)


def accuracy(probabilities: np.ndarray) -> tuple[float, float]:
    return 0.0, float((probabilities.argmax(1) == LABELS).mean())


def likelihood(probabilities: np.ndarray) -> tuple[float, float]:
    return 0.0, float(np.exp(np.log(probabilities[np.arange(60), LABELS]).mean()))


def test_members_that_err_differently_are_joined_and_beat_each_of_them() -> None:
    members = [member(name, seed) for seed, name in enumerate("abcd")]
    best = select(members, likelihood)[0]
    assert len(best.weights) > 1
    assert best.value > max(likelihood(np.exp(m.log_probabilities)) for m in members)


def test_a_useless_member_is_not_taken() -> None:
    best = select([member("good", 0, 3.0), member("bad", 1, -2.0)], likelihood)[0]
    assert dict(best.weights) == {"good": 1.0}


def test_without_members_there_is_no_choice() -> None:
    assert select([], accuracy) == []


#: Members → time of their file over the sum of their own.
CROWDED = {1: 1.0, 2: 1.06, 3: 1.12, 4: 1.18, 5: 1.2, 6: 1.2}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 3), min_size=1, max_size=6), st.integers(1, 4))
def test_every_choice_is_sound(signals: list[float], largest: int) -> None:
    members = {f"m{i}": member(f"m{i}", i, s, latency_ms=1.0 + i, size_mb=2.0) for i, s in enumerate(signals)}
    found = select(list(members.values()), likelihood, largest=largest)
    assert {tuple(s.weights) for s in found} >= {(name,) for name in members}
    assert len({tuple(sorted(s.weights)) for s in found}) == len(found)
    assert [s.value for s in found] == sorted((s.value for s in found), reverse=True)
    for selection in found:
        assert 1 <= len(selection.weights) <= largest
        assert sum(selection.weights.values()) == pytest.approx(1.0)
        np.testing.assert_allclose(selection.log_probabilities, combine(selection.weights, members))
        assert selection.value == likelihood(np.exp(selection.log_probabilities))
        summed = sum(members[n].costs["latency_ms"] for n in selection.weights)
        assert selection.costs["latency_ms"] == pytest.approx(summed * CROWDED[len(selection.weights)])
        assert selection.costs["size_mb"] == pytest.approx(2.0 * len(selection.weights))


def test_members_that_are_still_growing_are_held_to_half_of_the_weight() -> None:
    members = [member(name, seed, 1.5) for seed, name in enumerate("abcd")]
    growing = [replace(m, growing=m.trial_id == "a") for m in members]
    before, after = (blend(of, LABELS, likelihood, largest=4)[0].weights for of in (members, growing))
    assert set(before) == set(after) == set("abcd")
    assert after["a"] > 1.3 * before["a"]
    alike = [replace(m, growing=True) for m in members]
    assert dict(blend(alike, LABELS, likelihood, largest=4)[0].weights) == dict(before)


def test_one_that_is_still_growing_is_in_unless_it_does_harm() -> None:
    finished = [member(name, seed, 1.5) for seed, name in enumerate("abcd")]
    weak, useless = member("g", 9, 1.2), member("g", 9, -3.0)
    assert "g" not in blend([*finished, weak], LABELS, likelihood, largest=3)[0].weights
    assert "g" in blend([*finished, replace(weak, growing=True)], LABELS, likelihood, largest=3)[0].weights
    assert (
        "g"
        not in blend([*finished, replace(useless, growing=True)], LABELS, likelihood, largest=3)[0].weights
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 6), min_size=2, max_size=6), st.floats(0.5, 10))
def test_limits_on_summed_costs_are_respected(costs: list[float], limit: float) -> None:
    members = [member(f"m{i}", i, latency_ms=cost) for i, cost in enumerate(costs)]

    def admits(summed: Mapping[str, float]) -> bool:
        return summed["latency_ms"] <= limit

    found = select(members, likelihood, admits=admits)
    by_name = dict(zip([m.trial_id for m in members], costs, strict=True))
    assert all(sum(by_name[n] for n in s.weights) <= limit + 1e-9 for s in found)
    assert {n for s in found for n in s.weights} >= {n for n, cost in by_name.items() if cost <= limit}


def test_int8_members_stand_alone() -> None:
    members = [member("a", 0), member("b", 1), member("q", 2, single=True)]
    for selection in select(members, likelihood):
        assert "q" not in selection.weights or len(selection.weights) == 1


def test_constraints_come_before_quality() -> None:
    def value(probabilities: np.ndarray) -> tuple[float, float]:
        right = float((probabilities.argmax(1) == LABELS).mean())
        return (0.0, 0.1) if right < 0.9 else (-1.0, 0.9)

    found = select([member("weak", 0, 0.2), member("strong", 1, 6.0)], value)
    assert dict(found[0].weights) == {"weak": 1.0}


def test_small_gains_do_not_add_a_member() -> None:
    members = [member("a", 0), member("b", 1)]
    best = select(members, likelihood, least_gain=10.0)[0]
    assert len(best.weights) == 1


def test_the_order_of_the_members_does_not_matter() -> None:
    members = [member(name, seed) for seed, name in enumerate("abcde")]
    first, second = select(members, likelihood), select(members[::-1], likelihood)
    assert [dict(s.weights) for s in first] == [dict(s.weights) for s in second]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 3), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_every_blend_is_sound(signals: list[float], largest: int, balanced: bool) -> None:
    members = {f"m{i}": member(f"m{i}", i, s, latency_ms=1.0 + i) for i, s in enumerate(signals)}
    found = blend(list(members.values()), LABELS, likelihood, balanced=balanced, largest=largest)
    assert {tuple(s.weights) for s in found} >= {(name,) for name in members}
    assert len({tuple(sorted(s.weights)) for s in found}) == len(found)
    assert [s.value for s in found[1:]] == sorted((s.value for s in found[1:]), reverse=True)
    for selection in found:
        assert 1 <= len(selection.weights) <= largest
        assert min(selection.weights.values()) > 0
        assert sum(selection.weights.values()) == pytest.approx(1.0)
        np.testing.assert_allclose(selection.log_probabilities, combine(selection.weights, members))
        summed = sum(1.0 + int(n[1:]) for n in selection.weights)
        assert selection.costs["latency_ms"] == pytest.approx(summed * CROWDED[len(selection.weights)])


def test_a_blend_weighs_the_better_member_more_and_leaves_out_a_useless_one() -> None:
    weights = blend([member("good", 0, 2.0), member("fair", 1, 1.4)], LABELS, likelihood)[0].weights
    assert weights["good"] > weights["fair"] > 0
    bad = Member("bad", -4.0 * member("good", 0, 3.0).log_probabilities, 1.0, {})
    best = blend([member("good", 0, 3.0), bad], LABELS, likelihood)[0]
    assert dict(best.weights) == {"good": 1.0}


def test_a_blend_of_equally_good_members_takes_as_many_as_it_may() -> None:
    members = [member(name, seed, 1.5) for seed, name in enumerate("abcdef")]
    best = blend(members, LABELS, likelihood, largest=5)[0]
    assert len(best.weights) == 5
    assert max(best.weights.values()) < 2 * min(best.weights.values())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.5, 6), min_size=2, max_size=6), st.floats(0.5, 10))
def test_blends_respect_limits_on_summed_costs(costs: list[float], limit: float) -> None:
    members = [member(f"m{i}", i, latency_ms=cost) for i, cost in enumerate(costs)]
    found = blend(members, LABELS, likelihood, admits=lambda summed: summed["latency_ms"] <= limit)
    by_name = dict(zip([m.trial_id for m in members], costs, strict=True))
    assert all(sum(by_name[n] for n in s.weights) <= limit + 1e-9 for s in found)
    assert {n for s in found for n in s.weights} >= {n for n, cost in by_name.items() if cost <= limit}


def test_int8_members_are_never_blended() -> None:
    members = [member("a", 0), member("b", 1), member("q", 2, 3.0, single=True)]
    found = blend(members, LABELS, likelihood)
    assert dict(found[0].weights) == {"q": 1.0}
    assert all("q" not in s.weights or len(s.weights) == 1 for s in found)
    assert [dict(s.weights) for s in blend([members[2]], LABELS, likelihood)] == [{"q": 1.0}]
    assert blend([], LABELS, likelihood) == []


def test_combining_is_the_weighted_geometric_mean() -> None:
    a, b = member("a", 0), member("b", 1)
    product = np.exp(a.log_probabilities) ** 0.75 * np.exp(b.log_probabilities) ** 0.25
    expected = product / product.sum(1, keepdims=True)
    np.testing.assert_allclose(np.exp(combine({"a": 0.75, "b": 0.25}, {"a": a, "b": b})), expected)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_calibration_undoes_a_wrong_temperature(sharpness: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 1.5
    labels = np.array([rng.choice(3, p=p) for p in np.exp(log_softmax(logits))])
    logs, temperature = calibrate(np.exp(log_softmax(logits * sharpness)), labels)
    assert temperature == pytest.approx(sharpness, rel=0.25)
    np.testing.assert_allclose(np.exp(logs).sum(1), 1.0)


def test_calibration_keeps_labels_and_survives_certainty() -> None:
    probabilities = np.eye(3)[[0, 1, 2, 1]].astype(np.float32)
    logs, temperature = calibrate(probabilities, np.array([0, 1, 2, 0]))
    assert np.isfinite(logs).all() and np.isfinite(temperature)
    np.testing.assert_array_equal(logs.argmax(1), [0, 1, 2, 1])


def test_calibration_with_a_class_that_never_occurs() -> None:
    logs, _ = calibrate(np.full((4, 3), 1 / 3), np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(np.exp(logs), 1 / 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 96), st.integers(4, 96), st.integers(0, 5))
def test_the_resize_matrix_is_pillows(inside: int, outside: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (inside, inside), dtype=np.uint8)
    resized = Image.fromarray(image).resize((outside, outside), Image.Resampling.BILINEAR)
    matrix = resize_matrix(inside, outside)
    np.testing.assert_allclose(matrix.sum(1), 1.0)
    got = np.round(matrix @ image.astype(np.float64) @ matrix.T)
    assert np.abs(got - np.asarray(resized, dtype=np.float64)).max() <= 1


def test_resizing_to_the_same_side_changes_nothing() -> None:
    np.testing.assert_allclose(resize_matrix(17, 17), np.eye(17), atol=1e-12)


def test_the_module_is_the_weighted_sum_of_log_probabilities(tmp_path: Path) -> None:
    models = [network(small_cnn(), seed=seed) for seed in (0, 1)]
    images = pictures(6, 48)
    small = np.stack(
        [
            np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BILINEAR))
            for picture in images.numpy()
        ]
    )
    views = [images, torch.from_numpy(small)]
    members = {}
    with torch.inference_mode():
        for name, model, view in zip("ab", models, views, strict=True):
            logits = model(view.permute(0, 3, 1, 2).float()).double().numpy()
            members[name] = Member(name, log_softmax(logits / 2.0), 2.0, {})
    expected = np.exp(combine({"a": 0.4, "b": 0.6}, members))
    joint = build_ensemble([(models[0], 48, 0.4 / 2.0), (models[1], 32, 0.6 / 2.0)], 48)
    with torch.inference_mode():
        got = joint(images.permute(0, 3, 1, 2).float()).softmax(1).numpy()
    np.testing.assert_allclose(got, expected, atol=5e-3)
    export_onnx(joint, 48, tmp_path / "joint.onnx")
    exported, labels = run_onnx(tmp_path / "joint.onnx", images.numpy(), np.arange(6))
    np.testing.assert_allclose(exported, expected, atol=5e-3)
    np.testing.assert_array_equal(labels, expected.argmax(1))


def test_members_of_one_side_share_a_view_and_weights_stay_their_own() -> None:
    models = [network(small_cnn(), seed=seed) for seed in (0, 1, 2)]
    joint = build_ensemble([(m, side, 0.3) for m, side in zip(models, (32, 32, 64), strict=True)], 64)
    assert list(joint.resizers) == ["32"]
    assert sum(p.numel() for p in joint.parameters()) == sum(
        p.numel() for model in models for p in model.parameters()
    )
