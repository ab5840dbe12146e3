"""The sweep's tables, from made cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.suites import sweep
from strategy_pool.features import history_table
from strategy_pool.shipped import shipped
from strategy_pool.strategy import load_catalog
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
            "trial_id": f"t{place}{number}{side}", "created": "2026-01-02T00:00:00", "metrics": None,
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
        "task": {
            "name": name,
            "features": {"images": 100.0 * (seed + 1), "classes": 3.0},
            "sketch": [f"{seed:02x}{word:02x}" for word in range(20)],
        },
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


def table_only(made: Path, *more: str) -> int:
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
            *more,
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
    assert set(methods) == {"ranker", "history_average", "lightgbm_regression", "random", "catalog", "prior"}
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


def test_the_trials_become_the_history_that_is_carried(made: Path) -> None:
    file = made / "history.parquet"
    assert table_only(made, "--ship", str(file)) == 0
    trials, tasks = shipped(file=file)
    assert tasks["task_id"].tolist() == ["p", "q", "r", "s"]
    assert trials.groupby("task_id").size().to_dict() == dict.fromkeys("pqrs", 16)
    table = history_table(trials, tasks, load_catalog())
    assert {"task.images", "strategy.backbone"} <= set(table.features)
    # Of the pictures of r are a quarter of these.
    trials, tasks = shipped([f"02{word:02x}" for word in range(5)] + [f"zz{n:02x}" for n in range(15)], file)
    assert tasks["task_id"].tolist() == ["p", "q", "s"] and set(trials["task_id"]) == set("pqs")
    assert shipped(file=made / "none")[0].empty


def test_the_order_before_a_ranker_is_judged_like_the_others(made: Path) -> None:
    table_only(made)
    judged = json.loads((made / "results" / "sweep.json").read_text())["judged"]
    # The recipes are as good everywhere, in another order than the catalog's.
    assert judged["methods"]["prior"]["ndcg@10"]["mean"] > judged["methods"]["catalog"]["ndcg@10"]["mean"]
    assert "what orders the pool before" in (made / "results" / "sweep.md").read_text()
