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


def test_with_seconds_there_is_a_replay(table: Path, tmp_path: Path) -> None:
    frame = pd.read_parquet(table)
    without = automl("rerank", "evaluate", "--table", table, "--json")
    assert "replay" not in without.last_json and "regret over time" not in without.out
    frame.assign(seconds=60.0).to_parquet(tmp_path / "timed.parquet")
    done = automl("rerank", "evaluate", "--table", tmp_path / "timed.parquet", "--json")
    assert done.code == 0, done.err
    replay = done.last_json["replay"]
    assert set(replay) == set(done.last_json["methods"])
    for points in replay.values():
        assert all(set(point) == {"seconds", "regret", "se"} for point in points)
        regrets = [point["regret"] for point in points]
        assert regrets == sorted(regrets, reverse=True)
    # After the first trial the regret is that of the best-ranked strategy.
    first = next(point for point in replay["ranker"] if point["seconds"] >= 60.0)
    assert first["regret"] == pytest.approx(done.last_json["methods"]["ranker"]["regret@1"]["mean"])
    assert "regret over time" in done.out
    curves = frame.assign(epoch=1, seconds=30.0)[["task", "strategy", "epoch", "score", "seconds"]]
    curves.to_parquet(tmp_path / "curves.parquet")
    timed = automl("rerank", "evaluate", "--table", table, "--curves", tmp_path / "curves.parquet", "--json")
    assert any(point["seconds"] < 60.0 for point in timed.last_json["replay"]["ranker"])
    refused(automl("rerank", "evaluate", "--table", table, "--curves", table), "curves", "no column 'epoch'")


@pytest.mark.parametrize("columns", [(), ("strategy.same",), ("task.level",)])
@pytest.mark.parametrize("options", [(), ("--past", 1, "--draws", 2)])
def test_tables_without_a_feature_that_tells_are_judged(
    tmp_path: Path, columns: tuple[str, ...], options: tuple[object, ...]
) -> None:
    rows = [(f"t{t}", f"s{s}", 0.1 * s + t, 1.0, float(t)) for t in range(4) for s in range(6)]
    frame = pd.DataFrame(rows, columns=["task", "strategy", "score", "strategy.same", "task.level"])
    frame[["task", "strategy", "score", *columns]].to_csv(tmp_path / "plain.csv", index=False)
    done = automl("rerank", "evaluate", "--table", tmp_path / "plain.csv", "--json", *options)
    assert done.code == 0, done.err
    methods = done.last_json["methods"]
    assert methods["ranker"] == methods["history_average"]
