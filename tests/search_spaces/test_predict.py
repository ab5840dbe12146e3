"""Latencies from tables: additive ones exactly, others better than their spread, bounds that hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from search_spaces._gates import find_gates, without_absent
from search_spaces._interactions import Interactions
from search_spaces.predict import (
    MEMBERS,
    CostPredictor,
    Features,
    TableError,
    Transfer,
    feature_columns,
)


def made(count: int, seed: int, noise: float = 0.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Networks whose stages' latencies grow with kernel and width, more so at a larger side."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "side": rng.choice([64, 96, 128, 160], count),
            "depth": rng.integers(1, 4, count),
            "k0": rng.choice([3, 5, 7], count),
            "k1": rng.choice([3, 5, 7], count),
            "k2": rng.choice([3, 5, 7], count),
            "act": rng.choice(["relu", "silu"], count),
            "same": 1,
        }
    )
    blocks = sum(np.where(frame["depth"] > at, 0.2 + 0.05 * frame[f"k{at}"], 0.0) for at in range(3))
    latency = (frame["side"] / 64.0) ** 2 * (1.0 + blocks) * np.where(frame["act"] == "silu", 1.2, 1.0)
    return frame, (latency * np.exp(noise * rng.normal(size=count))).to_numpy()


@pytest.mark.parametrize("name", list(MEMBERS))
def test_every_member_learns_something_and_keeps_its_word(name: str) -> None:
    frame, latency = made(300, 0)
    features = Features().fit(frame[:200])
    fitted = MEMBERS[name]().fit(features, frame[:200], latency[:200], 0)
    predicted = fitted.predict(frame[200:])
    assert predicted.shape == (100,)
    assert (predicted > 0).all()
    missed = np.abs(predicted / latency[200:] - 1).mean()
    plain = np.abs(np.exp(np.log(latency[:200]).mean()) / latency[200:] - 1).mean()
    assert missed < 0.5 * plain
    again = MEMBERS[name]().fit(features, frame[:200], latency[:200], 0).predict(frame[200:])
    np.testing.assert_array_equal(predicted, again)


def test_an_additive_table_is_learned_exactly() -> None:
    frame, _ = made(200, 1)
    latency = (0.3 + 0.1 * frame["k0"] + 0.02 * frame["side"] + (frame["act"] == "silu")).to_numpy()
    predictor = CostPredictor().fit(frame[:150], latency[:150])
    assert np.abs(predictor.predict(frame[150:]) / latency[150:] - 1).max() < 1e-2


def test_products_of_choices_are_learned_from_few_rows() -> None:
    frame, latency = made(400, 2)
    predictor = CostPredictor().fit(frame[:150], latency[:150])
    missed = np.abs(predictor.predict(frame[150:]) / latency[150:] - 1)
    assert predictor.chosen == "interactions"
    assert missed.mean() < 0.01
    assert predictor.errors["interactions"] < predictor.errors["additive"]


def test_the_bound_holds_about_as_often_as_it_says() -> None:
    frame, latency = made(1200, 3, noise=0.1)
    predictor = CostPredictor().fit(frame[:300], latency[:300])
    share = (latency[300:] <= predictor.upper(frame[300:], 0.9)).mean()
    assert 0.85 < share < 0.95


def test_gaps_and_unseen_categories_are_predicted() -> None:
    frame, latency = made(200, 4)
    frame["k2"] = frame["k2"].astype(float).where(frame["depth"] > 2)
    asked = frame[:5].assign(act="gelu", k1=[3, 5, 7, 9, 3])
    predictor = CostPredictor().fit(frame, latency)
    assert np.isfinite(predictor.predict(asked)).all()
    assert (predictor.predict(asked) > 0).all()


def test_what_cannot_be_learned_from_is_said() -> None:
    frame, latency = made(50, 5)
    with pytest.raises(TableError, match="5 networks are too few"):
        CostPredictor().fit(frame[:5], latency[:5])
    with pytest.raises(TableError, match="not a number above 0"):
        CostPredictor().fit(frame, np.where(np.arange(50) == 7, 0.0, latency))
    with pytest.raises(TableError, match="no column tells"):
        CostPredictor().fit(frame[["same"]], latency)
    fitted = CostPredictor().fit(frame, latency)
    with pytest.raises(TableError, match="no column 'k0'"):
        fitted.predict(frame.drop(columns="k0"))


def test_what_describes_absent_blocks_is_found_by_its_columns() -> None:
    rng = np.random.default_rng(9)
    frame = pd.DataFrame({f"ks{at}": rng.choice([3, 5, 7], 400) for at in range(6)})
    frame["act"] = "relu"
    frame["d0"], frame["d1"] = rng.integers(1, 4, (2, 400))
    gates = find_gates(frame)
    assert [(g.depth, g.block, g.place) for g in gates] == [
        ("d0", "ks1", 1), ("d0", "ks2", 2), ("d1", "ks4", 1), ("d1", "ks5", 2)
    ]  # fmt: skip
    cleared = without_absent(frame, gates)
    assert (cleared["ks2"] == 0).equals(frame["d0"] <= 2) and (cleared["ks0"] == frame["ks0"]).all()
    latency = 0.5 + 0.1 * cleared[[f"ks{at}" for at in range(6)]].sum(axis=1).to_numpy()
    predictor = CostPredictor().fit(frame[:200], latency[:200])
    assert predictor.gates == gates
    assert np.abs(predictor.predict(frame[200:]) / latency[200:] - 1).mean() < 0.005
    assert find_gates(frame.drop(columns="ks5")) == []
    always = 0.5 + 0.1 * frame[[f"ks{at}" for at in range(6)]].sum(axis=1).to_numpy()
    assert CostPredictor().fit(frame[:200], always[:200]).gates == []


def test_other_measurements_of_a_table_are_left_out() -> None:
    frame, _ = made(100, 6)
    rng = np.random.default_rng(0)
    frame["gflops_total"] = rng.random(100)
    frame["gpu_a_1"], frame["gpu_a_32"], frame["gpu_b_32"], frame["gpu_b_1"] = rng.random((4, 100))
    columns, left_out = feature_columns(frame, "gpu_a_32", ["same"])
    assert sorted(left_out) == ["gpu_a_1", "gpu_b_1", "gpu_b_32", "same"]
    assert columns == ["side", "depth", "k0", "k1", "k2", "act", "gflops_total"]


def test_a_device_is_known_from_ten_measurements() -> None:
    rng = np.random.default_rng(7)
    size, shape = rng.uniform(1, 3, 200), rng.uniform(-0.3, 0.3, 200)
    known = np.exp(np.stack([size + shape, 0.8 * size - shape, size], axis=1))
    new = 0.02 * np.exp(0.9 * size + 0.5 * shape)
    found = Transfer().fit(known[:10], new[:10]).predict(known[10:])
    assert np.abs(found / new[10:] - 1).mean() < 0.02
    with pytest.raises(TableError, match="too few"):
        Transfer().fit(known[:2], new[:2])


def test_the_sums_over_products_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(8)
    rows = rng.random((4, 3))
    rows[:, 2] = [0, 1, 1, 0]
    process = Interactions(order=3).fit(rows, np.array([False, False, True]), rng.random(4), 0)
    import torch

    parameters = torch.as_tensor(rng.normal(size=3 + 3 + 3 + 1))
    found = process._kernel(torch.as_tensor(rows), torch.as_tensor(rows), parameters).numpy()
    widths, weights = np.exp(parameters[:3].numpy()), np.exp(parameters[3:6].numpy())
    s = np.exp(parameters[6:9].numpy())
    for a in range(4):
        for b in range(4):
            z = weights[:2] * np.exp(-0.5 * ((rows[a, :2] - rows[b, :2]) / widths[:2]) ** 2)
            equal = 1.0 if rows[a, 2] == rows[b, 2] else np.exp(-0.5 / widths[2] ** 2)
            x, y, w = *z, weights[2] * equal
            wanted = 1 + s[0] * (x + y + w) + s[1] * (x * y + x * w + y * w) + s[2] * x * y * w
            assert found[a, b] == pytest.approx(wanted)
