"""The overhead suite: what it reads from a run folder, memory of processes, and empty trials."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from benchmarks.processes import Finished, Peaks, measured, trial_times
from benchmarks.suites import overhead
from benchmarks.suites._overhead_empty import run_empty

START = 1_700_000_000.0


def _run_folder(folder: Path) -> Path:
    """A run of two workers: trials of 20 s and 30 s from second 10 on, and one that failed at once."""
    for name, ended, seconds, status in (
        ("t0001", 30.0, 20.0, "completed"),
        ("t0002", 40.0, 30.0, "timeout"),
        ("t0003", 12.0, 0.5, "failed"),
    ):
        path = folder / "search" / "trials" / name / "outcome.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"seconds": seconds, "status": status}))
        os.utime(path, (START + ended, START + ended))
    (folder / "result.json").write_text(json.dumps({"seconds": {"total": 49.0, "data": 2.0, "workers": 2}}))
    return folder


def test_figures_of_a_run(tmp_path: Path) -> None:
    run = _run_folder(tmp_path / "run")
    assert [trial.name for trial in trial_times(run)] == ["t0003", "t0001", "t0002"]
    done = Finished(0, START, 52.0, "", tmp_path / "log", Peaks(total=900_000_000, driver=300_000_000))
    found = overhead.figures(run, done, 50.0, 200_000_000.0)
    assert found["seconds"] == {
        "total": 52.0, "first_trial": 30.0, "before": 10.0, "search": 30.0, "after": 12.0, "in_trials": 50.5,
    }  # fmt: skip
    assert found["share_in_trials"] == 0.505
    assert found["off"] == 0.04
    assert (found["trials"], found["failed_trials"], found["workers"]) == (3, 1, 2)
    assert found["memory_mb"]["beyond_torch"] == 300.0
    cell = {"dataset": "d", "settings": _settings(), **found, "environment": {"commit": "abc"}}
    summary = overhead.summarise([cell, {**cell, "off": -0.2}], None)
    assert [row["within_limit"] for row in summary["datasets"]] == [True, False]
    text = overhead.to_markdown(summary)
    assert "+4.0%" in text
    assert "-20.0% (missed)" in text


def _settings() -> dict[str, object]:
    return {"budget": 50.0, "constraints": [], "columns": [], "workers": None, "seed": 0}


def test_the_command_of_a_submit() -> None:
    spec = {
        "source": "data", "weights_dirs": ["w"], "weights": [],
        "settings": {**_settings(), "workers": 2, "constraints": ["size_mb<=4"], "columns": ["label=kind"]},
    }  # fmt: skip
    assert overhead.submit_command(spec, Path("run")) == [
        "automl", "submit", "data", "--budget", "50s", "--seed", "0", "--out", "run", "--workers", "2",
        "--constraint", "size_mb<=4", "--column", "label=kind", "--weights-dir", "w",
    ]  # fmt: skip


def test_a_process_is_measured_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "eater.py").write_text(
        "import os, subprocess, sys, time\n"
        "block = b'x' * 60_000_000\n"
        "if len(sys.argv) > 1:\n    time.sleep(1)\n    sys.exit(0)\n"
        "print(os.environ['AUTOML_HOME'])\n"
        "sys.exit(subprocess.run([sys.executable, __file__, 'child']).returncode + 5)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = time.time() - 0.1
    done = measured(["eater"], tmp_path / "log.txt", home=tmp_path / "home", seconds=0.05, unique=True)
    assert (done.code, done.output.strip()) == (5, str(tmp_path / "home"))
    assert done.why() == "it said nothing"
    assert done.seconds >= 1
    assert before <= done.started <= done.started + done.seconds <= time.time() + 0.1
    assert done.peaks.driver > 60e6
    assert done.peaks.others > 60e6
    assert done.peaks.total > 120e6
    assert done.peaks.uss > 60e6


def test_empty_trials(tmp_path: Path) -> None:
    found = run_empty(5, tmp_path / "run", 1, mode="inprocess")
    assert (found["trials"], found["workers"]) == (5, 1)
    assert found["first"] > 0
    assert found["each"] > 0


@pytest.mark.slow
def test_empty_trials_with_ray(tmp_path: Path) -> None:
    code = overhead.run(
        ["--empty", "4", "--workers", "1", "--work", str(tmp_path), "--results", str(tmp_path / "r")]
    )
    assert code == 0
    assert json.loads((tmp_path / "r" / "overhead.json").read_text())["empty"]["trials"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to measure"),
        (["--empty", "1"], "at least 2"),
        (["--empty", "3", "--workers", "0"], "at least 1"),
        (["--data", "nothing-here"], "does not exist"),
        (["--empty", "3", "--budget", "soon"], "is not a time"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert overhead.run([*arguments, "--work", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_cells_of_other_settings_are_refused(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "d.json").write_text(json.dumps({"settings": _settings()}))
    assert overhead.run(["--data", f"d={tiny_folder}", "--budget", "60s", "--work", str(tmp_path)]) == 2
    assert "other settings" in capsys.readouterr().err
