"""The training suite: it measures what trials run, in turns, and tells the ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.suites import training
from tests._models import write_model


def test_steps_of_a_network_are_measured_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "weights" / "tiny.random")
    arguments = [
        "--weights-dir",
        str(tmp_path / "weights"),
        "--sides",
        "32,48",
        "--batch",
        "2",
        "--steps",
        "3",
    ]
    arguments += ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    assert training.run(arguments) == 0
    found = json.loads((tmp_path / "results" / "training.json").read_text())
    assert [row["side"] for row in found["rows"]] == [32, 48]
    for row in found["rows"]:
        assert set(row["images_per_second"]) == set(training.MODES)
        assert min(row["images_per_second"].values()) > 0
        assert row["against_float32"]["float32"] == 1.0
    assert str(tmp_path) not in (tmp_path / "results" / "training.json").read_text()
    assert (tmp_path / "results" / "training.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give --weights-dir"),
        (["--weights-dir", "no/such"], "'no/such' does not exist"),
        (["--weights-dir", ".", "--sides", "big"], "--sides is 'big'"),
        (["--weights-dir", ".", "--sides", "8"], "at least 32"),
        (["--weights-dir", ".", "--batch", "1"], "--batch is at least 2"),
    ],
)
def test_wrong_input(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert training.run([*arguments, "--work", str(tmp_path), "--results", str(tmp_path)]) == 2
    assert told in capsys.readouterr().err
