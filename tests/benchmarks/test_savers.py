"""The suite of cheaper trainings: its scores, what it trains, and that it goes on where it was broken off."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.suites import savers
from search_spaces import pretrain


def test_differences_are_paired_over_images() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    right = {name: [np.stack([hard < level] * 3)] for name, level in (("sandwich", 0.8), ("random", 0.7))}
    found = savers.scores(right, "random", 500, 0)
    assert found["mean"] == pytest.approx(0.7, abs=0.06)
    gap = found["less sandwich"]
    assert gap["mean"] == pytest.approx(found["mean"] - right["sandwich"][0].mean())
    assert gap["low"] < gap["mean"] < gap["high"]
    assert gap["high"] - gap["low"] < 0.07  # not the ±4 points of each alone
    assert found["less random"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_the_interval_covers_trainings_that_differ() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    right = {
        "sandwich": [np.stack([hard < 0.8] * 3)] * 2,
        "random": [np.stack([hard < level] * 3) for level in (0.9, 0.7)],
    }
    found = savers.scores(right, "random", 500, 0)
    gap = found["less sandwich"]
    assert abs(gap["mean"]) < 0.03 and gap["low"] < -0.07 and gap["high"] > 0.07
    assert found["each"][0] > found["each"][1] and found["mean"] == pytest.approx(np.mean(found["each"]))


@pytest.mark.slow
def test_all_ways_are_trained_once_and_judged_on_held_out_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 120, (60, 32, 32, 3)).astype(np.uint8)
    images[np.arange(60), :, :, labels] += 100
    np.savez(
        tmp_path / "colours.npz", images=images, labels=labels, split=(np.arange(60) >= 48).astype(np.uint8)
    )
    asked: list[list[str]] = []

    def measured(command: Sequence[str], log: Path, *, home: Path) -> Any:
        asked.append(list(command))
        monkeypatch.setattr(sys, "argv", list(command))
        pretrain.main()
        return SimpleNamespace(code=0)

    monkeypatch.setattr("benchmarks.processes.measured", measured)
    monkeypatch.setattr(pretrain, "_COUNTED", 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    arguments = [
        "--images", str(tmp_path / "colours.npz"), "--seconds", "2", "--resolutions", "48", "32", "--batch", "8",
        "--held-out", "12", "--subnets", "3", "--seeds", "1", "--results", str(tmp_path / "out"), "--work", str(tmp_path / "work"),
    ]  # fmt: skip
    assert savers.run(arguments) == 0
    assert len(asked) == len(savers.VARIANTS)
    told = json.loads((tmp_path / "out" / "savers.json").read_text())
    assert set(told["variants"]) == set(savers.VARIANTS)
    for one in told["variants"].values():
        assert one["steps"][0] > 0 and 0 <= one["smallest"] <= 1
    plans = {
        name: json.loads((tmp_path / "work" / f"{name}-0" / "mobile.json").read_text())["plan"]
        for name in savers.VARIANTS
    }
    assert plans["sandwich"]["seconds"] == 2 and plans["both"]["seconds"] == 1
    assert plans["both"]["progressive"] and plans["both"]["pruned"] == 0.5
    assert not plans["shorter"]["progressive"] and plans["shorter"]["pruned"] == 0
    said = capsys.readouterr().out
    assert "data pruning" in said and "as good" in said and "one random subnet a step, points [95 %]" in said
    assert savers.run(arguments) == 0
    assert len(asked) == len(savers.VARIANTS)  # what is there is not trained again


def test_a_share_out_of_range_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert savers.run(["--images", str(tmp_path / "x.npz"), "--share", "1.5"]) == 2
    assert "--share lies between 0 and 1" in capsys.readouterr().err
