"""The history that a package carries orders the pool of a new user, but for tasks of the very same pictures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from automl.data import load_dataset
from automl.engine import rank_task
from automl.task import Task
from strategy_pool import shipped
from strategy_pool.history import History
from strategy_pool.strategy import load_catalog
from tests.conftest import write_shapes

CATALOG = load_catalog()
#: The last recipe of the catalog that trains a network from scratch.
BEST = max((s for s in CATALOG.values() if s.method == "scratch"), key=lambda s: s.order).name


def carried(file: Path, sketch: list[str]) -> None:
    """A history of two tasks on which the order of the catalog is turned round."""
    with History("sqlite://") as history:
        for task in ("p", "q"):
            history.add_task(task, {"name": task, "features": {"images": 100.0}, "sketch": sketch})
            for recipe in CATALOG.values():
                history.add_trial(
                    {
                        "uid": f"{task}/{recipe.name}", "task_id": task, "candidate": f"net@64/fp32/{recipe.name}",
                        "architecture": "net", "resolution": 64, "precision": "fp32", "strategy": recipe.name,
                        "overrides": {}, "device": "cpu:1", "source": "pool", "score": recipe.order / 100,
                        "seconds": 5.0, "status": "completed",
                    }
                )  # fmt: skip
        history.export(file)


def ranked(data: Path, folder: Path) -> pd.DataFrame:
    task = Task.make(data, budget="60s", backbones=["small_cnn_xs"], seed=1)
    return rank_task(task, history_url=f"sqlite:///{folder}/history.db", quiet=True)


def test_it_orders_the_pool_unless_it_is_of_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=12)
    monkeypatch.setattr(shipped, "FILE", tmp_path / "none.parquet")
    without = ranked(data, tmp_path)
    assert not without["why"].str.contains("past task").any()
    carried(tmp_path / "other.parquet", ["0a", "0b"])
    monkeypatch.setattr(shipped, "FILE", tmp_path / "other.parquet")
    found = ranked(data, tmp_path)
    assert found["why"].str.contains("2 past tasks").any()
    places = [list(frame["strategy"]).index(BEST) for frame in (without, found)]
    assert places[1] < places[0]
    carried(tmp_path / "same.parquet", load_dataset(data, seed=1).sketch)
    monkeypatch.setattr(shipped, "FILE", tmp_path / "same.parquet")
    pd.testing.assert_frame_equal(ranked(data, tmp_path), without)


def test_a_task_that_the_own_history_has_too_is_the_own_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried(tmp_path / "carried.parquet", [])
    monkeypatch.setattr(shipped, "FILE", tmp_path / "carried.parquet")
    with History(tmp_path / "own.db") as history:
        history.add_task("p", {"name": "own"})
        history.add_trial(
            {
                "uid": "own",
                "task_id": "p",
                "candidate": "c",
                "strategy": BEST,
                "status": "completed",
                "score": 0.5,
            }
        )
        trials, tasks = shipped.with_shipped(history.ranking_trials(()), history.tasks())
        nothing = shipped.with_shipped(
            *(frame.iloc[:0] for frame in (history.ranking_trials(()), history.tasks()))
        )
    assert tasks.set_index("task_id")["name"].to_dict() == {"p": "own", "q": "q"}
    assert (trials["task_id"] == "p").sum() == 1 and (trials["task_id"] == "q").sum() == len(CATALOG)
    assert len(nothing[0]) == 2 * len(CATALOG) and set(nothing[1]["task_id"]) == {"p", "q"}
