"""The sweep's tables, from made cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.suites import sweep
from strategy_pool.trial_table import read_trial_table

RECIPES = ("full_mixup", "knn_last", "full_plain", "norm_bias")
SETTINGS = {"budget": 20.0, "backbones": [], "columns": {}, "candidates": 16, "seed": 0}


def cell(name: str, seed: int) -> dict[str, Any]:
    """Sixteen trials, the same order of quality everywhere, one of them failed."""
    rng = np.random.default_rng(seed)
    trials = [
        {
            "task_id": f"{name}-id", "candidate": f"{network}@{side}/fp32/{recipe}", "architecture": network,
            "resolution": side, "precision": "fp32", "strategy": recipe, "overrides": "{}", "device": "cpu:1",
            "source": "pool", "seconds": float(1 + place), "epochs": 1,
            "status": "failed" if (place, number, side) == (3, 0, 64) else "completed",
            "score": None if (place, number, side) == (3, 0, 64) else 1 - 0.1 * place + rng.normal(0, 0.01),
        }
        for place, recipe in enumerate(RECIPES)
        for number, network in enumerate(("a", "b"))
        for side in (64, 96)
    ]  # fmt: skip
    return {
        "schema_version": 2,
        "dataset": name,
        "settings": SETTINGS,
        "seconds": 40.0,
        "task": {"name": name, "features": {"images": 100.0 * (seed + 1), "classes": 3.0}},
        "trials": trials,
        "environment": {"commit": "abc"},
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder of results with the cells of four datasets."""
    folder = tmp_path / "results" / "cells" / "sweep"
    folder.mkdir(parents=True)
    for seed, name in enumerate("pqrs"):
        (folder / f"{name}.json").write_text(json.dumps(cell(name, seed)))
        (tmp_path / name).mkdir()
    return tmp_path


def table_only(made: Path) -> int:
    arguments = [
        "--table-only",
        "--results",
        str(made / "results"),
        "--work",
        str(made / "work"),
        "--seeds",
        "1",
    ]
    return sweep.run(
        [
            "--data",
            *(str(made / name) for name in "pqrs"),
            "--budget",
            "20s",
            "--candidates",
            "16",
            *arguments,
        ]
    )


def test_the_table_judges_rankers_on_datasets_left_out(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table_only(made) == 0
    told = json.loads((made / "results" / "sweep.json").read_text())
    assert [row["dataset"] for row in told["datasets"]] == list("pqrs")
    assert {row["trials"] for row in told["datasets"]} == {16}
    assert {row["failed"] for row in told["datasets"]} == {1}
    methods = told["judged"]["methods"]
    assert set(methods) == {"ranker", "history_average", "lightgbm_regression", "random", "catalog"}
    assert methods["history_average"]["regret@5"]["mean"] < methods["random"]["regret@1"]["mean"]
    assert "ranker - catalog" in told["judged"]["paired"]
    text = capsys.readouterr().out
    assert "| p | 100 | 3 | 16 | 1 |" in text and "*catalog*" in text


def test_the_trials_become_a_trial_table(made: Path) -> None:
    assert table_only(made) == 0
    table = read_trial_table(made / "results" / "sweep.parquet")
    assert table.tasks == list("pqrs")
    assert table.has_seconds and len(table.frame) == 64
    assert {"task.images", "strategy.lr", "strategy.method", "device.name"} <= set(table.features)
    assert int(table.frame["failed"].sum()) == 4


def test_one_dataset_is_judged_by_nobody(made: Path) -> None:
    arguments = ["--table-only", "--results", str(made / "results"), "--work", str(made / "work")]
    assert sweep.run(["--data", str(made / "p"), "--budget", "20s", "--candidates", "16", *arguments]) == 0
    assert json.loads((made / "results" / "sweep.json").read_text())["judged"] is None
