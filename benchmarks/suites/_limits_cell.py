"""One set of limits of the limits suite: one submit by the command line, and what it reported.

``python -m benchmarks.suites._limits_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from automl.errors import AutomlError, InputError
from benchmarks import child
from benchmarks.child import Spec


def run_folder(spec: Spec) -> Path:
    """Where the run, and with it the exported file, lies."""
    return Path(spec["work"]) / "run"


def sha256(path: Path) -> str:
    """Of a file's content, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_cell(spec: Spec) -> dict[str, Any]:
    """Submit as a user does; returns exit code, reported costs and limits, and the file's size and digest.

    Raises:
        InputError: the command was refused.
        AutomlError: it ended with another code than 0 and 3.
    """
    folder, settings = run_folder(spec), spec["settings"]
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    command = [sys.executable, "-m", "automl", "submit", spec["source"], "--out", str(folder)]
    command += ["--budget", f"{settings['budget']:g}s", "--seed", str(settings["submit_seed"])]
    for option, values in (
        ("--constraint", settings["constraints"]),
        ("--weights-dir", spec["weights_dirs"]),
        ("--backbone", settings["backbones"]),
        ("--column", [f"{role}={name}" for role, name in settings["columns"].items()]),
    ):
        for value in values:
            command += [option, value]
    began = time.monotonic()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    seconds = time.monotonic() - began
    print(done.stdout, done.stderr, sep="\n", flush=True)  # into the log
    if done.returncode not in (0, 3):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if done.returncode == 2:
            raise InputError(last.removeprefix("error: "))
        raise AutomlError(f"submit ended with {done.returncode}: {last}")
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    model = folder / found["model"]
    test = found["metrics"]["test"]["balanced_accuracy"]
    return {
        "exit_code": done.returncode,
        "status": found["status"],
        "costs": found["costs"],
        "limits": [
            {key: row[key] for key in ("expression", "measured", "satisfied")} for row in found["constraints"]
        ],
        "model": {"bytes": model.stat().st_size, "sha256": sha256(model)} if model.is_file() else None,
        "balanced_accuracy": {key: test[key] for key in ("value", "low", "high", "n")},
        "details": {
            "winner": found["winner"],
            "members": len(found["members"]),
            "trials": found["trials"],
            "seconds": found["seconds"],
        },
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1], run_cell))
