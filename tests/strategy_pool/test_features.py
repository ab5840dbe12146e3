"""The same candidate has the same features whether it was tried or waits in a pool."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from strategy_pool.features import LANDMARK_METHOD, candidate_features, history_table, pool_rows
from strategy_pool.history import History
from strategy_pool.ranker import Ranker
from strategy_pool.strategy import load_catalog
from strategy_pool.trial_table import TableError

CATALOG = load_catalog()
NETWORKS = ("net_a.in1k", "net_b.in1k")
RECIPES = ("full_plain", "full_mixup", "logistic_last", "knn_last", "norm_bias")


def pool() -> pd.DataFrame:
    rows = [
        (f"{network}@{side}/fp32/{recipe}", network, side, "fp32", recipe, side / 2)
        for network in NETWORKS
        for side in (96, 128)
        for recipe in RECIPES
    ]
    columns = ["candidate", "architecture", "resolution", "precision", "strategy", "macs_m"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def history() -> History:
    """Three tasks; the first recipe is the best one, and one trial of each task failed."""
    store = History("sqlite://")
    for task in range(3):
        store.add_task(f"t{task}", {"name": "n", "features": {"images": 100.0 * (task + 1), "side": 64}})
        for place, row in enumerate(pool().itertuples()):
            store.add_trial(
                {
                    "uid": f"t{task}/{place}", "task_id": f"t{task}", "candidate": row.candidate,
                    "architecture": row.architecture, "resolution": row.resolution, "precision": row.precision,
                    "strategy": row.strategy, "overrides": {}, "device": "cpu:1", "source": "pool",
                    "score": None if place == 3 else 1.0 - 0.1 * RECIPES.index(row.strategy), "seconds": 5.0,
                    "status": "failed" if place == 3 else "completed",
                    "metrics": {"landmarks": {"knn": 0.5 + 0.1 * (row.architecture == NETWORKS[1]), "logme": -1.0}},
                }
            )  # fmt: skip
    return store


def test_tried_or_waiting_the_features_are_the_same(history: History) -> None:
    table = history_table(history.trials("t1"), history.tasks(), CATALOG).frame
    about = {"images": 200.0, "side": 64.0}
    rows = pool_rows(pool().drop(columns="macs_m"), about, CATALOG, "cpu:1", history.trials("t1"))
    rows = rows[rows["strategy.method"] != LANDMARK_METHOD].sort_values("strategy", ignore_index=True)
    shared = [name for name in table.columns if "." in name]
    assert {"task.images", "task.side", "device.name", "strategy.backbone", "strategy.lr"} <= set(shared)
    pd.testing.assert_frame_equal(table[shared], rows[shared], check_dtype=False)
    assert table["strategy"].tolist() == rows["strategy"].tolist()


def test_landmarks_tell_of_the_task_and_of_how_far_a_network_is_behind(history: History) -> None:
    frame = history_table(history.trials(), history.tasks(), CATALOG).frame
    assert frame["task.knn"].unique().tolist() == [0.6]
    assert frame["task.probe"].unique().tolist() == pytest.approx([0.8])
    gaps = frame.groupby("strategy.backbone")["strategy.knn_gap"].unique()
    assert [value.tolist() for value in gaps] == [pytest.approx([-0.1]), [0.0]]
    assert frame["task.dimension"].isna().all()
    before = pool_rows(pool(), {}, CATALOG)
    assert "strategy.knn_gap" not in before.columns


def test_what_has_run_before_anything_is_ranked_is_not_ranked(history: History) -> None:
    trial = history.trial("t0/2")
    assert trial["strategy"] == "logistic_last"
    later = {**trial, "uid": "t0/later", "overrides": {"C": 9.0}, "score": 0.95, "scores": None}
    history.add_trial({**later, "candidate": "net_a.in1k@96/fp32/logistic_last?C=9"})
    frame = history_table(history.trials(), history.tasks(), CATALOG).frame
    assert LANDMARK_METHOD not in set(frame["strategy.method"])
    assert frame["task.probe"].unique().tolist() == pytest.approx(
        [0.8]
    )  # not of the later one with its own numbers
    only = history.trials()[lambda rows: rows["strategy"] == "logistic_last"]
    with pytest.raises(TableError, match="holds no trial"):
        history_table(only, history.tasks(), CATALOG)


def test_a_failed_trial_has_the_lowest_score_and_a_refit_is_none(history: History) -> None:
    trial = history.trial("t0/0")
    history.add_trial({**trial, "uid": "t0/refit", "source": "refit", "score": 0.0, "scores": None})
    frame = history_table(history.trials(), history.tasks(), CATALOG).frame
    assert len(frame) == 3 * (len(pool()) - 4)
    failed = frame[frame["failed"]]
    assert len(failed) == 3 and (failed["value"] == 0).all()


def test_a_ranker_learns_from_a_history_and_orders_a_pool(history: History) -> None:
    ranker = Ranker().fit(history_table(history.trials(), history.tasks(), CATALOG), 0)
    predicted = ranker.predict(pool_rows(pool(), {"images": 50.0, "side": 64.0}, CATALOG))
    best = pool()["strategy"][predicted.argmax()]
    assert best == RECIPES[0]
    assert pool()["strategy"][predicted.argmin()] in RECIPES[3:]


def test_overrides_are_features_of_their_own() -> None:
    frame = pool().head(2).assign(overrides=[json.dumps({"lr": 0.5}), None])
    found = candidate_features(frame, CATALOG)
    assert found["strategy.lr"].tolist() == [0.5, CATALOG[RECIPES[1]].lr]


def test_a_recipe_that_is_not_known_has_gaps() -> None:
    frame = pool().head(2).assign(strategy=["gone", RECIPES[0]])
    found = candidate_features(frame, CATALOG)
    assert math.isnan(found["strategy.lr"][0]) and found["strategy.recipe"][0] == "gone"
    assert found["strategy.macs_m"].tolist() == [48.0, 48.0]


def test_an_empty_history_is_no_table() -> None:
    store = History("sqlite://")
    with pytest.raises(TableError, match="no trial"):
        history_table(store.trials(), store.tasks(), CATALOG)
