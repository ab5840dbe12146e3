"""Cells are made one at a time, and what was started for one ends with the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from automl.errors import InputError
from benchmarks.cells import run_cells

COMMAND = """
import json, sys, typer
from benchmarks.cells import run_cells
from benchmarks.cli import _command

app = typer.Typer()
app.command()(_command(lambda _: len(run_cells(json.loads(sys.argv[1]), "slow_cell", str))))
app([])
"""
CELL = """
import json, os, sys, time
from pathlib import Path

work = Path(json.loads(Path(sys.argv[1]).read_text())["work"])
(work / "pid.part").write_text(str(os.getpid()))
(work / "pid.part").rename(work / "pid")
time.sleep(120)
"""


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_cell_is_made_once_at_a_time_and_its_process_ends_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "slow_cell.py").write_text(CELL)
    work, spec = tmp_path / "work", _spec(tmp_path)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, json.dumps([spec])], env={**os.environ, "PYTHONPATH": path}
    ) as command:
        until((work / "pid").exists)
        cell = psutil.Process(int((work / "pid").read_text()))
        with pytest.raises(InputError, match="slow is being measured by another process"):
            run_cells([spec], "slow_cell", str)
        assert cell.is_running()
        command.send_signal(signal.SIGTERM)
        assert command.wait(60) == 128 + signal.SIGTERM
    until(lambda: not cell.is_running())


def test_the_process_of_a_cell_holds_its_lock(tmp_path: Path) -> None:
    (tmp_path / "slow_cell.py").write_text(CELL)
    spec = _spec(tmp_path)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, json.dumps([spec])], env={**os.environ, "PYTHONPATH": path}
    ) as command:
        until((tmp_path / "work" / "pid").exists)
        cell = psutil.Process(int((tmp_path / "work" / "pid").read_text()))
        command.kill()
    try:
        with pytest.raises(InputError, match="slow is being measured by another process"):
            run_cells([spec], "slow_cell", str)
    finally:
        cell.kill()


def test_a_process_that_is_killed_is_begun_once_more_and_kept_as_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([-9, 143, -9, 1])
    monkeypatch.setattr("benchmarks.cells.run_whole", lambda *_args, **_options: next(codes))
    spec = {**_spec(tmp_path), "keeps_failures": True, "identity": {"dataset": "d"}, "weights": []}
    (told,) = run_cells([spec], "slow_cell", str)
    assert "exit code 143" in told and not Path(spec["target"]).exists()
    (told,) = run_cells([spec], "slow_cell", str)
    assert "exit code 1" in told and "failed" in json.loads(Path(spec["target"]).read_text())


def test_what_is_known_of_the_machine_is_there_when_a_cell_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "known"
    (known / "feasibility").mkdir(parents=True)
    (known / "feasibility" / "note.json").write_text("1")
    seen = []

    def run(*_args: Any, **options: Any) -> int:
        home = Path(options["env"]["AUTOML_HOME"])
        seen.append(sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()))
        (home / "more").write_text("of this run")
        return 1

    monkeypatch.setattr("benchmarks.cells.run_whole", run)
    spec = {**_spec(tmp_path), "alone": True, "known": str(known)}
    run_cells([spec], "slow_cell", str)
    run_cells([spec], "slow_cell", str)
    assert seen == [["feasibility/note.json"]] * 2


def _spec(folder: Path) -> dict[str, Any]:
    return {
        "label": "slow", "target": str(folder / "cells" / "slow.json"), "work": str(folder / "work"), "alone": False,
        "shared": str(folder), "settings": {"budget": 1.0},
    }  # fmt: skip
