"""The README's front table and picture are what the files of a suite say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from benchmarks import front
from benchmarks.environment import environment
from benchmarks.plots import standalone

README = f"# It\n\nbefore\n\n{front.BEGIN}\nold\n{front.END}\n\nafter\n"


def run(
    task: str, method: str, seed: int, score: float, curve: list[list[float | None]], **more: object
) -> dict[str, object]:
    base = {
        "task": task, "method": method, "seed": seed, "budget": 60.0, "seconds": 60.0, "status": "ok", "score": score,
        "low": score, "high": score, "n_test": 100, "limits": "[]", "broken": -1, "latency_ms": 1.0, "size_mb": 1.0,
        "macs_m": 1.0, "first_seconds": 5.0, "curve": json.dumps(curve),
    }  # fmt: skip
    return {**base, "trained": base["seconds"], **more}


@pytest.fixture
def runs() -> pd.DataFrame:
    return pd.DataFrame(
        [
            run("p", "engine", 0, 0.9, [[10, 0.5, 0.6]]),
            run("p", "engine", 1, 0.7, [], n_test=3000),
            run("q", "engine", 0, 0.5, [[30, 0.4, 0.4]], status="infeasible"),
            run("p", "random", 0, 0.8, []),
            run("q", "random", 0, 0.625, [], broken=1),
        ]
    )


@pytest.fixture
def folder(tmp_path: Path, runs: pd.DataFrame) -> Path:
    """A project with the files of a suite and a README."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    runs.to_parquet(results / "industrial-runs.parquet")
    summary = {
        "engine - other": {"random": {"mean": 0.0125, "low": -0.02, "high": 0.04}}, "budget_seconds": [60.0], "cells": 5,
        "over a limit": {"engine": 1, "random": 1}, "unchecked": {"engine": 0, "random": 0},
        "times": {"random": {"pairs": 2, "median": 0.5, "low": 0.25, "high": None}},
        "commits": ["abc"], "environments": [environment()], "environment": environment(),
    }  # fmt: skip
    (results / "industrial.json").write_text(json.dumps(summary))
    (tmp_path / "README.md").write_text(README)
    return tmp_path


def make(folder: Path, *more: str) -> int:
    return front.main(
        ["--results", str(folder / "benchmarks" / "results"), "--readme", str(folder / "README.md"), *more]
    )


def test_the_table_says_what_the_files_say(folder: Path) -> None:
    assert make(folder) == 0
    text = (folder / "README.md").read_text()
    assert text.startswith(f"# It\n\nbefore\n\n{front.BEGIN}\n") and text.endswith(f"{front.END}\n\nafter\n")
    assert "old" not in text
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert rows == [
        ["task", "random", "engine"],
        ["p", "**80.0**", "**80.0**"],
        ["q", "**62.5**", "50.0"],
        ["average rank", "1.25 [1.00, 1.50]", "1.75 [1.50, 2.00]"],
        ["engine − it, points", "+1.2 [-2.0, +4.0]", ""],
        ["time of the engine / its time", "0.50 [0.25, ∞]", ""],
        ["runs over a limit", "1", "1"],
    ]
    assert "on 100 to 3,000 test images, mean over 2 seeds (0, 1), 60 s for each run" in text
    assert "5 cells, of commits abc" in text


def test_what_is_committed_can_be_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(folder, "--check") == 1
    assert (folder / "README.md").read_text() == README
    assert make(folder) == 0
    assert make(folder, "--check") == 0
    picture = folder / "benchmarks" / "results" / "industrial-front.svg"
    picture.write_text(picture.read_text().replace("average rank", "rank"))
    assert make(folder, "--check") == 1
    assert "make front" in capsys.readouterr().out


def test_what_is_missing_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "README.md").write_text("# It\n")
    assert make(folder) == 2
    assert make(folder, "--suite", "none") == 2
    said = capsys.readouterr().err
    assert front.BEGIN in said and "automl bench none makes the tables" in said


def test_the_curve_is_the_mean_of_runs_and_then_of_tasks(runs: pd.DataFrame) -> None:
    found = front.mean_curve(runs, "engine")
    assert [(time, mean) for time, mean, _, _ in found] == [
        (10.0, pytest.approx(0.15)), (30.0, pytest.approx(0.35)), (60.0, pytest.approx(0.65)),
    ]  # fmt: skip
    assert all(low <= mean <= high for _, mean, low, high in found)
    assert front.mean_curve(runs, "none") == []


def test_the_picture_is_sound_and_loads_nothing(runs: pd.DataFrame) -> None:
    drawn = front.draw(runs)
    root = ElementTree.fromstring(drawn)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert width > 700 and height >= 250
    words = " ".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "engine" in words and "average rank" in words and "seconds" in words
    assert not re.search(r"(href|url\(|@import)", drawn)
    ElementTree.fromstring(standalone([], 0))
