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
    work = tmp_path / "work"
    spec: dict[str, Any] = {
        "label": "slow", "target": str(tmp_path / "cells" / "slow.json"), "work": str(work), "alone": False,
        "shared": str(tmp_path), "settings": {"budget": 1.0},
    }  # fmt: skip
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
