"""``automl rerank evaluate``: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from strategy_pool.ranking_metrics import METRICS

from ._command import automl, refused


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six tasks of ten strategies with a feature that tells their scores, in three groups."""
    rng = np.random.default_rng(0)
    rows = [
        (f"t{t}", f"s{t}-{s}", 0.1 * s + t + rng.normal(0, 0.01), s, f"g{t % 3}")
        for t in range(6)
        for s in range(10)
    ]
    frame = pd.DataFrame(rows, columns=["task", "strategy", "score", "strategy.x", "group"])
    frame.to_parquet(tmp_path / "trials.parquet")
    return tmp_path / "trials.parquet"


@pytest.mark.parametrize(
    ("options", "by", "seeds"),
    [
        ((), "task", 1),
        (("--by", "group", "--seeds", 2), "group", 2),
        (("--past", 2, "--draws", 3), "task", 1),
    ],
)
def test_the_last_line_is_the_contract(table: Path, options: tuple[object, ...], by: str, seeds: int) -> None:
    done = automl("rerank", "evaluate", "--table", table, "--json", *options)
    assert done.code == 0, done.err
    found = done.last_json
    assert (found["tasks"], found["by"], found["seeds"]) == (6, by, seeds)
    assert set(found["methods"]) == {"ranker", "random", "history_average", "lightgbm_regression"}
    for figures in found["methods"].values():
        assert tuple(figures) == METRICS
        assert all(set(figure) == {"mean", "se"} for figure in figures.values())
    assert set(found["paired"]) == {"ranker - history_average", "ranker - lightgbm_regression"}
    for figures in found["paired"].values():
        assert all(f["low"] <= f["mean"] <= f["high"] for f in figures.values())
    assert "ndcg@10" in done.out and "fold" in done.err


def test_what_is_wrong_is_one_line(table: Path, tmp_path: Path) -> None:
    refused(automl("rerank", "evaluate", "--table", tmp_path / "no.csv"), "cannot be read")
    refused(automl("rerank", "evaluate", "--table", table, "--by", "grup"), "did you mean 'group'")
    refused(automl("rerank", "evaluate", "--table", table, "--past", 6), "1 to 5 can be learned from")
    pd.DataFrame({"task": ["a"], "strategy": ["b"]}).to_csv(tmp_path / "bad.csv")
    refused(automl("rerank", "evaluate", "--table", tmp_path / "bad.csv"), "has no column 'score'")
