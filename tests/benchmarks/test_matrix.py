"""Declared suites: what a file may say, which cells it makes, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl.data import load_dataset
from benchmarks import built_in, matrix, suites
from benchmarks.cli import find_suites
from benchmarks.methods import METHODS
from tests.benchmarks.fakes import judged, replace_child

RIGHT = {"engine": 0.9, "random": 0.8, "logreg": 0.6}
SUITE = """
summary = "Two tasks."
budget = "30s"
seeds = 2
methods = ["engine", "random", "logreg"]

[full]
seeds = 3

[[tasks]]
name = "parts"
data = "parts.csv"
columns = { label = "kind" }
limits = ["size_mb<=2"]

[[tasks]]
name = "cells"
data = "cells"
budget = "10s"
"""
DECLARED = sorted(Path(suites.__path__[0]).glob("*.toml"))


def declare(folder: Path, text: str = SUITE) -> Path:
    (folder / "made.toml").write_text(text)
    return folder / "made.toml"


@pytest.mark.parametrize("file", DECLARED, ids=lambda file: file.stem)
def test_every_declared_suite_is_sound(file: Path, tmp_path: Path) -> None:
    from automl.task import Budget, Constraint

    found = matrix.read_matrix(file)
    for scale in ("small", "full"):
        scaled = found.at(scale)
        assert set(scaled.methods) <= set(METHODS) and scaled.seeds >= 1
        assert Budget.parse(scaled.budget).seconds > 0
    for task in found.tasks:
        for text in task.limits:
            Constraint.parse(text)
        if task.data.startswith(matrix.BUILT_IN):
            assert built_in.write(task.data.removeprefix(matrix.BUILT_IN), tmp_path).exists()
    assert found.summary == find_suites()[file.stem].SUMMARY


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('budget = "30s"', 'bugdet = "30s"', "unknown 'bugdet'; did you mean 'budget'"),
        ("seeds = 2", "", "no 'seeds'"),
        ('name = "cells"', 'name = "parts"', "names that differ"),
        ('data = "cells"', 'path = "cells"', "a task has unknown 'path'"),
        ("[full]", "[full", "made.toml"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(matrix.MatrixError, match=message):
        matrix.read_matrix(declare(tmp_path, SUITE.replace(old, new)))


def _cell(spec: dict[str, Any]) -> dict[str, Any]:
    identity = spec["identity"]
    cell = judged(spec, RIGHT[identity["method"]], [identity["split"]])
    if identity["method"] == "logreg":
        return {**cell, "seconds": 3.0}
    trials = [
        {"trial_id": "t0001", "candidate": "a@64/fp32/x", "purpose": "search", "status": "completed", "score": 0.5,
         "began": 1.0, "ended": 6.0},
    ]  # fmt: skip
    run = {
        "status": "ok" if identity["method"] == "engine" else "infeasible",
        "costs": {"latency_ms": 3.0, "size_mb": 1.5, "macs_m": 50.0}, "curve": [[6.0, 0.5, 0.55], [28.0, None, 0.9]],
        "predicted": [[0] * 120], "trials": trials, "again": {"latency_ms": 3.2, "size_mb": 1.5 if identity["method"] == "engine" else 2.5},
    }  # fmt: skip
    return {**cell, "details": {"run": run}}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return replace_child(monkeypatch, matrix.MODULE, _cell)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "parts.csv").write_text("")
    (tmp_path / "cells").mkdir()
    return [
        "--data-dir", str(tmp_path), "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"),
        "--resamples", "100",
    ]  # fmt: skip


def test_the_cells_the_frames_and_the_page(tmp_path: Path, arguments: list[str], called: list[str]) -> None:
    file = declare(tmp_path)
    assert matrix.run(file, arguments) == 0
    assert called[:4] == ["parts-0-engine", "parts-0-random", "parts-0-logreg", "cells-0-engine"]
    assert len(called) == 12
    spec = json.loads((tmp_path / "work" / "work" / "parts-0-engine" / "spec.json").read_text())
    assert spec["settings"] == {
        "budget": 30.0, "backbones": [], "columns": {"label": "kind"}, "limits": ["size_mb<=2"], "anytime": True,
    }  # fmt: skip
    spec = json.loads((tmp_path / "work" / "work" / "cells-0-engine" / "spec.json").read_text())
    assert spec["settings"]["budget"] == 10.0 and spec["alone"]
    runs = pd.read_parquet(tmp_path / "results" / "made-runs.parquet")
    assert len(runs) == 12 and set(runs["status"]) == {"ok", "infeasible", "unchecked"}
    assert {(r.task, r.status) for r in runs.itertuples() if r.method == "logreg"} == {
        ("parts", "unchecked"), ("cells", "ok"),
    }  # fmt: skip
    assert dict(zip(runs["task"], runs["data"], strict=True)) == {"parts": "parts.csv", "cells": "cells"}
    assert runs[runs["method"] == "engine"]["first_seconds"].eq(6.0).all()
    broken = {(r.task, r.method): r.broken for r in runs.itertuples()}
    assert (
        broken["parts", "engine"] == 0 and broken["parts", "random"] == 1 and broken["parts", "logreg"] == -1
    )
    assert broken["cells", "random"] == 0
    assert runs["score"].between(runs["low"], runs["high"]).all()
    assert json.loads(runs["curve"][0])[0] == [6.0, 0.5, 0.55]
    trials = pd.read_parquet(tmp_path / "results" / "made-trials.parquet")
    assert len(trials) == 8 and set(trials["method"]) == {"engine", "random"}
    told = json.loads((tmp_path / "results" / "made.json").read_text())
    assert told["ranks"]["average"] == {"engine": 1.0, "random": 2.0, "logreg": 3.0}
    assert told["engine - other"]["logreg"]["low"] > 0.1 and told["over a limit"]["random"] == 4
    text = (tmp_path / "results" / "made.md").read_text()
    assert "| **average rank [95 %]** | 1.00 [1.00, 1.00] | 2.00 [2.00, 2.00] | 3.00 [3.00, 3.00] |" in text
    assert "| runs over a limit | 0 | 4 | not measured |" in text and str(tmp_path) not in text
    assert told["ranks where a run over a limit counts as 0"]["average"]["random"] > 2.0
    # Logistic regression took 3 s, when the engine had nothing yet; random search 6 s, when it had its last model.
    then = "engine at the other's time - other"
    assert told[then]["logreg"]["mean"] == pytest.approx(-told["tasks"]["cells"]["logreg"], abs=1e-4)
    assert told[then]["random"] == told["engine - other"]["random"]
    assert told["times"]["logreg"]["median"] == pytest.approx(2.0) and told["times"]["random"]["never"] == 0
    page = (tmp_path / "results" / "made.html").read_text()
    assert "<svg" in page and str(tmp_path) not in page
    assert matrix.run(file, arguments) == 0
    assert len(called) == 12


def test_a_run_that_fails_counts_as_one_without_a_model(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(spec: dict[str, Any]) -> dict[str, Any]:
        if spec["label"] == "parts-1-random":
            raise RuntimeError("no trial left a model")
        return _cell(spec)

    called = replace_child(monkeypatch, matrix.MODULE, make)
    file = declare(tmp_path)
    assert matrix.run(file, arguments) == 1
    said = capsys.readouterr()
    assert "parts-1-random: exit code 1: no trial left a model" in said.err and "to try again" in said.err
    runs = pd.read_parquet(tmp_path / "results" / "made-runs.parquet").set_index(["task", "method", "seed"])
    lost, other = runs.loc["parts", "random", 1], runs.loc["parts", "random", 0]
    assert lost["status"] == "failed" and pd.isna(lost["score"])
    told = json.loads((tmp_path / "results" / "made.json").read_text())
    assert told["tasks"]["parts"]["random"] == pytest.approx(other["score"] / 2, abs=1e-4)
    assert told["failed"] == {"engine": 0, "logreg": 0, "random": 1}
    assert told["seeds"]["parts"]["random"] == [0]
    assert "| runs without a model | 0 | 1 | 0 |" in said.out
    assert told["engine - other"]["random"]["mean"] > told["engine - other"]["random"]["low"] > 0
    assert matrix.run(file, arguments) == 1  # it is kept
    assert "parts-1-random: no trial left a model; remove" in capsys.readouterr().err
    assert len(called) == 12
    (tmp_path / "results" / "cells" / "made" / "parts-1-random.json").unlink()
    replace_child(monkeypatch, matrix.MODULE, _cell)
    assert matrix.run(file, arguments) == 0
    assert json.loads((tmp_path / "results" / "made.json").read_text())["failed"]["random"] == 0


def test_other_weights_than_those_of_a_cell_are_refused(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def cell(spec: dict[str, Any]) -> dict[str, Any]:
        return {**_cell(spec), "weights": spec["weights"]}

    monkeypatch = pytest.MonkeyPatch()
    replace_child(monkeypatch, matrix.MODULE, cell)
    for name in ("one", "two"):
        (tmp_path / "weights" / name).mkdir(parents=True)
        (tmp_path / "weights" / name / "config.json").write_text("{}")
    file = declare(tmp_path)
    assert matrix.run(file, [*arguments, "--weights-dir", str(tmp_path / "weights")]) == 0
    (tmp_path / "weights" / "two" / "config.json").unlink()
    assert matrix.run(file, [*arguments, "--weights-dir", str(tmp_path / "weights")]) == 2
    monkeypatch.undo()
    assert "with other weights at hand (one, two)" in capsys.readouterr().err


def test_what_is_asked_for_is_run(tmp_path: Path, arguments: list[str], called: list[str]) -> None:
    file = declare(tmp_path)
    more = ["--task", "cells", "--methods", "logreg", "--seeds", "1", "--budget", "20s"]
    assert matrix.run(file, [*arguments, *more]) == 0
    assert called == ["cells-0-logreg"]
    assert matrix.run(file, [*arguments, "--scale", "full", "--methods", "random", "--task", "parts"]) == 0
    assert called[1:] == [f"parts-{seed}-random" for seed in range(3)]


@pytest.mark.parametrize(
    "wrong", [["--task", "part"], ["--methods", "engin"], ["--seeds", "0"], ["--data-dir", "nowhere"]]
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path,
    arguments: list[str],
    called: list[str],
    wrong: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert matrix.run(declare(tmp_path), [*arguments, *wrong]) == 2
    assert capsys.readouterr().err.startswith("error: ") and called == []


@pytest.mark.parametrize("name", sorted(built_in.TASKS))
def test_built_in_tasks_are_data_sets(name: str, tmp_path: Path) -> None:
    path = built_in.write(name, tmp_path)
    before = path.stat().st_mtime_ns
    assert built_in.write(name, tmp_path) == path and path.stat().st_mtime_ns == before
    data = load_dataset(path, cache_dir=tmp_path / "home")
    counts = np.bincount(np.asarray(data.labels))
    assert counts.min() >= 20 and len(data.class_names) == len(counts)
    images, labels, names = built_in.TASKS[name]()
    again = built_in.TASKS[name]()
    np.testing.assert_array_equal(images, again[0])
    assert len(images) == len(labels) and names == list(again[2])
