"""The suite of latencies: what is measured in rounds, how it is resumed, and its figures from made measurements."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.suites import latency


def made(count: int, noise: float, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Networks whose latency is a sum of what their choices cost, measured three times."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"d{n}": rng.integers(1, 5, count).astype(float) for n in range(5)})
    truth = 0.2 + frame.to_numpy() @ np.array([0.5, 0.1, 0.3, 0.2, 0.05])
    return frame, truth[:, None] * np.exp(rng.normal(0, noise, (count, 3)))


def test_calm_measurements_of_a_sum_are_predicted_within_the_tolerance() -> None:
    found = latency.figures(*made(150, 0.005), seed=0)
    assert found["spread"] == pytest.approx(0.005, rel=0.2)
    assert (found["tolerance"], found["within"], found["subnets"]) == (0.1, 150, 150)
    assert found["mape"] < 0.02 and found["kendall_tau"] > 0.95
    assert found["within_low"] > 0.97
    assert sum(found["models"].values()) == latency.FOLDS


def test_a_noisy_machine_widens_the_tolerance_and_says_so() -> None:
    found = latency.figures(*made(150, 0.12), seed=0)
    assert found["spread"] == pytest.approx(0.12, rel=0.2)
    assert found["tolerance"] == pytest.approx(2 * found["spread"])
    assert found["mape"] > 0.05


def test_a_slow_minute_in_one_round_changes_no_median() -> None:
    frame, rounds = made(150, 0.005)
    rounds[:40, 1] *= 1.25
    found = latency.figures(frame, rounds, seed=0)
    assert found["within"] == 150 and found["spread"] > 0.05


def test_latencies_that_nothing_explains_are_not_predicted() -> None:
    frame, rounds = made(150, 0.005)
    found = latency.figures(frame, rounds[np.random.default_rng(1).permutation(150)], seed=0)
    assert found["within_share"] < 0.8 and abs(found["kendall_tau"]) < 0.3


class Timed:
    """In place of the timer: 1 ms, then 2 ms, and so on; stops after some."""

    def __init__(self, count: int) -> None:
        self.left, self.number = count, 0

    def __call__(self, *_: object) -> Timed:
        return self

    def __enter__(self) -> Timed:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def measure(self, _file: Path, thorough: bool) -> Any:
        assert not thorough
        if not self.left:
            raise KeyboardInterrupt
        self.left, self.number = self.left - 1, self.number + 1
        return SimpleNamespace(median_ms=float(self.number))


def test_every_subnet_is_measured_in_every_round_and_what_was_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("benchmarks.suites.latency.FOLDS", 2)
    monkeypatch.setattr("automl._subnets.vision_model", lambda *_, **__: None)
    monkeypatch.setattr("automl.export.export_onnx", lambda *_: SimpleNamespace(macs=2e6, params=1e6))
    arguments = ["--subnets", "20", "--results", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr("automl.evaluation.latency.Timer", Timed(27))
    with pytest.raises(KeyboardInterrupt):
        latency.run(arguments)
    again = Timed(100)
    monkeypatch.setattr("automl.evaluation.latency.Timer", again)
    assert latency.run(arguments) == 0
    assert again.number == 33
    table = pd.read_parquet(tmp_path / "out" / "latency.parquet")
    assert len(table) == 20 and sorted(table["round_1_ms"]) == [float(n) for n in range(1, 21)]
    assert np.allclose(table["latency_ms"], table.filter(regex="round_").median(axis=1))
    told = json.loads((tmp_path / "out" / "latency.json").read_text())
    assert told["subnets"] == 20
    assert "20 subnets" in (tmp_path / "out" / "latency.md").read_text()
