"""The quality suite: plans, resumes, refuses mixed settings, and makes the table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.suites import quality

RIGHT = {"engine": 0.9, "logreg": 0.6, "plain": 0.75}


def _cell(spec: dict[str, Any], right: dict[str, float] = RIGHT) -> dict[str, Any]:
    rng = np.random.default_rng([len(spec["dataset"]), spec["split"]])
    labels = rng.integers(0, 3, 120)
    luck = rng.random(120)
    predicted = np.where(luck < right[spec["method"]], labels, (labels + 1) % 3)
    return {
        **{key: spec[key] for key in ("dataset", "split", "method", "settings")},
        "classes": ["a", "b", "c"],
        "fingerprint": "f",
        "images": 600,
        "development_images": 480,
        "seconds": 12.0,
        "index": list(range(120)),
        "labels": labels.tolist(),
        "groups": (np.arange(120) // 2).tolist(),
        "predicted": predicted.tolist(),
        "details": {},
        "environment": {"commit": "abc"},
    }


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the child process; tells which cells were run."""
    names: list[str] = []

    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "benchmarks.suites._quality_cell" not in command:
            return subprocess.CompletedProcess(command, 1, "", "")
        spec = json.loads(Path(command[-1]).read_text())
        names.append(Path(spec["target"]).stem)
        assert options["env"]["AUTOML_HOME"].startswith(spec["shared"])
        if spec["method"] == "plain" and spec["dataset"] == "broken":
            options["stdout"].write("it fell over\n")
            return subprocess.CompletedProcess(command, 1)
        Path(spec["target"]).write_text(json.dumps(_cell(spec)))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", fake)
    return names


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "parts").mkdir()
    return [
        "--data", str(tmp_path / "parts"), "--splits", "2", "--resamples", "200",
        "--out", str(tmp_path / "out"), "--results", str(tmp_path / "results"),
    ]  # fmt: skip


def test_table_and_resume(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.run(arguments) == 0
    assert len(called) == 6
    found = json.loads((tmp_path / "results" / "quality.json").read_text())
    (row,) = found["datasets"]
    assert row["better_reference"] == "plain"
    gap = row["differences"]["plain"]
    scores = {name: value["balanced_accuracy"] for name, value in row["methods"].items()}
    assert gap["mean"] == pytest.approx(scores["engine"] - scores["plain"], abs=2e-5)
    assert 0 < gap["low"] < gap["mean"] < gap["high"]
    assert found["overall"]["engine - better reference"] == gap
    text = (tmp_path / "results" / "quality.md").read_text()
    assert "| parts | 3 | 120 + 120 |" in text
    assert str(tmp_path) not in text + json.dumps(found)
    assert text in capsys.readouterr().out

    (tmp_path / "out" / "cells" / "parts-1-engine.json").unlink()
    assert quality.run(arguments) == 0
    assert called[6:] == ["parts-1-engine"]


def test_a_failed_cell_is_told_and_the_others_go_on(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments[1] = f"broken={tmp_path / 'parts'}"
    assert quality.run(arguments) == 1
    assert len(called) == 6
    assert "it fell over" in capsys.readouterr().err


def test_other_settings_are_refused_before_anything_runs(
    arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.run([*arguments, "--methods", "logreg"]) == 0
    before = len(called)
    assert quality.run([*arguments, "--budget", "90s"]) == 2
    assert len(called) == before
    assert "other settings" in capsys.readouterr().err


def test_cells_about_different_images_are_not_compared() -> None:
    spec = {"dataset": "d", "split": 0, "settings": {"budget": 10}}
    one, two = _cell({**spec, "method": "engine"}), _cell({**spec, "method": "logreg"})
    two["index"] = two["index"][::-1]
    with pytest.raises(Exception, match="different images"):
        quality.summarise([one, two], resamples=200)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "engine,logregg"], "did you mean 'logreg'"),
        (["--splits", "0"], "at least 1"),
        (["--budget", "soon"], "is not a time"),
        (["--weights-dir", "nowhere"], "does not exist"),
        (["--column", "part:label=y"], "did you mean 'parts'"),
        (["--column", "label"], "has not the form"),
        (["--data", "nothing-here"], "does not exist"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    arguments: list[str],
    extra: list[str],
    message: str,
    called: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert quality.run([*arguments, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert called == []


def test_columns_go_to_the_named_dataset(tmp_path: Path, arguments: list[str], called: list[str]) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "labels.csv").write_text("path,label\n")
    data = ["--data", str(tmp_path / "parts"), str(tmp_path / "cells" / "labels.csv")]
    columns = ["--column", "cells:split=", "--column", "label=kind"]
    assert quality.run([*arguments, *data, *columns, "--methods", "logreg"]) == 0
    out = tmp_path / "out" / "work"
    wanted = {"cells-0-logreg": {"split": "", "label": "kind"}, "parts-0-logreg": {"label": "kind"}}
    for name, value in wanted.items():
        assert json.loads((out / name / "spec.json").read_text())["settings"]["columns"] == value


@pytest.mark.slow
def test_a_reference_cell_in_its_own_process(tmp_path: Path, weights: Path, tiny_folder: Path) -> None:
    code = quality.run(
        [
            "--data", str(tiny_folder), "--weights-dir", str(weights), "--splits", "1",
            "--backbone", "mobilenetv2_035.keras_in1k_feat", "--budget", "10s", "--methods", "logreg,plain",
            "--out", str(tmp_path / "out"), "--results", str(tmp_path / "results"), "--resamples", "100",
        ]
    )  # fmt: skip
    assert code == 0
    (row,) = json.loads((tmp_path / "results" / "quality.json").read_text())["datasets"]
    assert row["methods"]["logreg"]["balanced_accuracy"] > 0.7
