"""The nightly job and the versions of the ranker, by their commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from automl.engine import rank_task
from automl.published import published, versions
from automl.task import Task
from strategy_pool import shipped
from strategy_pool.history import History
from strategy_pool.strategy import load_catalog
from tests.conftest import write_shapes

from ._command import automl, refused

CATALOG = load_catalog()
#: Recipes in the order of how good they are on tasks with few images; the catalog has another order.
RECIPES = ["scratch_strong", "scratch_sgd", "scratch_medium_ema", "scratch_small", "scratch_progressive_64"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own home folder; the package carries no history."""
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(shipped, "FILE", tmp_path / "none.parquet")
    return tmp_path / "home"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A history of nine tasks on which the recipes differ clearly, where images are many the other way round."""
    found = f"sqlite:///{tmp_path}/history.db"
    rng = np.random.default_rng(0)
    with History(found) as history:
        for task in range(9):
            many = task % 2 == 1
            images = 50.0 + task if not many else 9000.0 + task
            history.add_task(f"t{task}", {"name": "n", "features": {"images": images}})
            for network in ("small_cnn_xs", "small_cnn_s"):
                for place, recipe in enumerate(RECIPES[::-1] if many else RECIPES):
                    history.add_trial(
                        {
                            "uid": f"{task}/{network}/{recipe}", "task_id": f"t{task}", "source": "pool",
                            "candidate": f"{network}@64/fp32/{recipe}", "architecture": network, "resolution": 64,
                            "precision": "fp32", "strategy": recipe, "overrides": {}, "device": "cpu:1",
                            "score": 0.9 - 0.1 * place + rng.normal(0, 0.01), "seconds": 20.0, "status": "completed",
                        }
                    )  # fmt: skip
    return found


def test_a_night_publishes_and_a_submit_uses_it(home: Path, url: str, tmp_path: Path) -> None:
    done = automl("rerank", "--history", url, "--json")
    assert done.code == 0
    assert done.last_json["published"] is True and done.last_json["version"] == 1
    assert "version 1 is better than the average of the history" in done.out
    ranker, catalog, retired = published(True, print)
    assert ranker is not None and set(catalog) == set(CATALOG) and retired == []
    data = write_shapes(tmp_path / "shapes", per_class=8)
    task = Task.make(data, backbones=["small_cnn_xs", "small_cnn_s"])
    frame = rank_task(task, history_url=url, quiet=True)
    order = frame["strategy"].drop_duplicates().tolist()
    assert order.index(RECIPES[0]) < order.index(RECIPES[-1])
    assert frame["why"].str.contains("the ranker expects 0").all()
    assert frame["why"].str.contains(r"past tasks|its nearest| as \w+ [+-]").all()
    assert frame["predicted_seconds"].between(5, 80).all()
    assert (frame["low"] <= frame["high"]).all()
    again = automl("rerank", "--history", url, "--json")
    assert again.last_json["published"] is False and "nothing new" in again.last_json["reason"]


def test_versions_are_listed_compared_and_taken_back(home: Path, url: str) -> None:
    automl("rerank", "--history", url)
    listed = automl("pool", "list", "--json")
    assert listed.last_json["in_use"] == 1 and len(listed.last_json["versions"]) == 1
    assert "version 1 (in use)" in listed.out
    shown = automl("pool", "show", "1", "--json")
    assert shown.last_json["tasks"] == 9 and "ndcg@10" in shown.last_json["metrics"]
    assert automl("pool", "show", "full_plain", "--json").last_json["method"] == CATALOG["full_plain"].method
    same = automl("pool", "diff", "1", "1", "--json").last_json
    assert same["changed"] == {} and set(same["metrics"]) >= {"ndcg@10", "regret@1"}
    back = automl("pool", "rollback", "--json")
    assert back.last_json == {"in_use": None, "before": 1}
    assert published(True, print)[0] is None
    assert automl("pool", "rollback", "1").code == 0 and versions().in_use == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["pool", "show", "7"], "no version 7"),
        (["pool", "diff", "1", "2"], "none yet"),
        (["pool", "rollback"], "nothing to go back"),
        (["pool", "rollback", "3"], "no version 3"),
        (["pool", "show", "full_plian"], "full_plain"),
    ],
)
def test_what_is_not_there_is_told(home: Path, arguments: list[str], word: str) -> None:
    refused(automl(*arguments), word)


def test_an_empty_history_teaches_nothing(home: Path, tmp_path: Path) -> None:
    done = automl("rerank", "--history", f"sqlite:///{tmp_path}/empty.db", "--json")
    assert done.code == 0 and done.last_json["published"] is False
    assert "too little" in done.last_json["reason"]


def test_a_first_night_learns_from_what_the_package_carries(home: Path, url: str, tmp_path: Path) -> None:
    with History(url) as history:
        history.export(shipped.FILE)
    done = automl("rerank", "--history", f"sqlite:///{tmp_path}/empty.db", "--json")
    assert done.code == 0 and done.last_json["published"] is True
    assert automl("pool", "show", "1", "--json").last_json["tasks"] == 9


def test_only_one_night_at_a_time(home: Path, url: str) -> None:
    with versions().lock():
        done = automl("rerank", "--history", url, "--json")
        busy = automl("pool", "rollback", "0")
    assert done.code == 0 and "another process" in done.last_json["reason"]
    assert busy.code == 2
    assert versions().numbers() == []


def test_a_damaged_ranker_is_told_and_not_used(home: Path, url: str) -> None:
    automl("rerank", "--history", url)
    (home / "ranker" / "0001" / "ranker.json").write_text("{")
    said: list[str] = []
    ranker, catalog, _retired = published(True, said.append)
    assert ranker is None and catalog == CATALOG
    assert len(said) == 1 and "cannot be read" in said[0]


def test_what_was_promoted_and_retired_counts_until_it_is_taken_back(home: Path, url: str) -> None:
    automl("rerank", "--history", url)
    path = home / "ranker" / "0001" / "about.json"
    recipe = {**CATALOG["full_plain"].to_dict(), "name": "full_plain.abcdef", "lr": 0.002}
    told = json.loads(path.read_text())
    path.write_text(
        json.dumps({**told, "promoted": {"full_plain.abcdef": recipe}, "retired": ["full_mixup"]})
    )
    listed = {s["name"]: s["state"] for s in automl("pool", "list", "--json").last_json["strategies"]}
    assert listed["full_plain.abcdef"] == "promoted" and listed["full_mixup"] == "retired"
    assert published(True, print)[1]["full_plain.abcdef"].lr == 0.002
    automl("pool", "rollback")
    assert published(True, print)[1:] == (CATALOG, [])
