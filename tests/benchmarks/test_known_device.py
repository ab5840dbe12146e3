"""What networks cost on this machine is measured once and is all that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import known_device
from benchmarks.built_in import write


def test_the_notes_of_the_machine_are_all_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "known"
    monkeypatch.setenv("AUTOML_HOME", str(home))
    monkeypatch.setattr("automl._bench._PATIENCE", 0.0)
    monkeypatch.setattr("automl.evaluation.latency._THOROUGH", (2, 2, 0.05, 0.0))
    monkeypatch.setattr("automl.evaluation.latency._OTHER_LOAD", 99.0)  # other tests may run beside this one
    spec = {
        "identity": {"dataset": "digits"}, "source": str(write("few-digits", tmp_path)), "weights_dirs": [],
        "settings": {"budget": 10.0, "limits": ["latency_ms<=1000"], "columns": {}, "backbones": ["small_cnn_xs"]},
    }  # fmt: skip
    file = tmp_path / "specs.json"
    file.write_text(json.dumps([spec]))
    assert known_device.main(str(file)) == 0
    assert [path.name for path in home.iterdir()] == ["feasibility"]
    assert any("latency_ms" in path.read_text() for path in home.rglob("*.json"))
    file.write_text(json.dumps([{**spec, "source": str(tmp_path / "nowhere")}]))
    assert known_device.main(str(file)) == 2 and "error: " in capsys.readouterr().err
