"""Trials beside bare loops: how their speeds are compared, and one round of both with a network of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.suites import overhead
from benchmarks.suites._overhead_training import AIM, EPOCHS, LOOPS, per_second, shares, to_lines, together
from tests._models import write_model
from tests.conftest import write_shapes


def test_speed_is_of_the_time_between_the_first_and_the_last_epoch() -> None:
    assert per_second([100.0, 102.0, 104.0], 50) == 25.0


def test_trials_that_barely_overlap_are_told() -> None:
    assert together([[0.0, 5.0, 10.0], [0.0, 5.0, 10.0]]) == 1.0
    assert together([[0.0, 10.0], [8.0, 18.0]]) == 0.2
    assert together([[0.0, 10.0], [20.0, 30.0]]) == 0.0


def test_shares_are_of_the_same_round() -> None:
    rounds = [
        {"trials": [90.0, 90.0], "float32": [100.0, 100.0], "mixed": [120.0, 80.0], "together": 1.0},
        {"trials": [80.0, 60.0], "float32": [70.0, 70.0], "mixed": [140.0, 140.0], "together": 0.8},
        {"trials": [95.0, 95.0], "float32": [100.0, 100.0], "mixed": [100.0, 100.0], "together": 0.9},
    ]
    found = shares(rounds)
    assert found["float32"] == {"median": 0.95, "low": 0.9, "high": 1.0}
    assert found["mixed"] == {"median": 0.9, "low": 0.5, "high": 0.95}
    network = {
        "network": "n", "side": 128, "batch": 32, "training": 320, "validation": 80, "rounds": rounds, "share": found,
    }  # fmt: skip
    text = "\n".join(to_lines([network]))
    assert "| n | 128 | 90 | 100 | 100 | 95.0% (90.0% to 100.0%) | 90.0% (50.0% to 95.0%) |" in text
    assert "for 80% of it or more" in text
    assert f"Aim: {AIM:.0%}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--empty", "2", "--train", "tiny"], "--train needs --data"),
        (["--empty", "2", "--rounds", "0"], "--rounds is 0"),
    ],
)
def test_wrong_input(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert overhead.run([*arguments, "--work", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_trials_and_two_bare_loops_of_each_kind(tmp_path: Path) -> None:
    from benchmarks.processes import measured

    source = write_shapes(tmp_path / "shapes", 15)
    write_model(tmp_path / "weights" / "tiny.random")
    asked = {
        "source": str(source), "columns": {}, "seed": 0, "weights_dirs": [str(tmp_path / "weights")],
        "networks": ["tiny.random"], "rounds": 1, "work": str(tmp_path / "work"),
    }  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = ["benchmarks.suites._overhead_training", str(tmp_path / "asked.json")]
    done = measured(command, tmp_path / "log.txt", home=tmp_path / "home")
    assert done.code == 0, done.log.read_text()
    (found,) = json.loads(done.output.strip().splitlines()[-1])
    assert found["network"] == "tiny.random"
    (one,) = found["rounds"]
    for kind in ("trials", *LOOPS):
        assert len(one[kind]) == 2
        assert min(one[kind]) > 0
    assert 0 <= one["together"] <= 1
    trials = list((tmp_path / "work").rglob("outcome.json"))
    outcomes = [json.loads(path.read_text()) for path in trials]
    assert len(outcomes) == 2
    assert all(outcome["metrics"]["fold0"]["steps"] >= EPOCHS for outcome in outcomes)

    asked["networks"] = ["tiny.rundom"]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    assert (
        "did you mean 'tiny.random'" in measured(command, tmp_path / "log.txt", home=tmp_path / "home").why()
    )
