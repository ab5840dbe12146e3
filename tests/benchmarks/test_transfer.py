"""Searchers that are asked in environments of their own: what they are told, and that what they say is checked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from automl.candidate import Candidate
from automl.errors import AutomlError, InputError
from benchmarks import peers
from benchmarks.methods import METHODS
from benchmarks.transfer import TRANSFER, TransferSearcher, configuration, history
from strategy_pool import shipped
from strategy_pool.strategy import load_catalog

CATALOG = load_catalog()
RECIPES = ("knn_last", "full_plain", "full_plain_128", "probe_then_full_light")
POOL = [Candidate(net, side, "fp32", recipe) for net in ("a", "b") for side in (64, 96) for recipe in RECIPES]
TASKS = pd.DataFrame(
    {
        "task_id": ["one", "two", "three", "untried"],
        "features": [json.dumps({"images": n, "classes": 2}) for n in (50, 60, 70, 80)],
    }
)
NEVER_TRIED = Candidate("a", 64, "int8", "full_plain")

SCRIPT = """
import json, os, sys

told = json.loads(sys.stdin.readline())
with open(os.path.join(os.path.dirname(__file__), "told.json"), "w") as handle:
    json.dump({**told, "hidden": os.environ.get("PYTHONPATH")}, handle)
place, heard = 0, []
for line in sys.stdin:
    if json.loads(line) != "next":
        heard.append(json.loads(line))
        continue
    if place == FAILS:
        sys.exit("no")
    print(json.dumps(place if place < len(told["configurations"]) else None), flush=True)
    place += 1
with open(os.path.join(os.path.dirname(__file__), "heard.json"), "w") as handle:
    json.dump(heard, handle)
"""


def run_of(folder: Path) -> Any:
    return SimpleNamespace(
        dataset=SimpleNamespace(sketch=()),
        task=SimpleNamespace(seed=3),
        pool=[*POOL, NEVER_TRIED],
        catalog=CATALOG,
        features={"images": 90.0, "classes": 3},
        folder=folder,
    )


@pytest.fixture
def trials() -> pd.DataFrame:
    """Three earlier tasks on which network b and whole fine-tuning are good."""
    rows = [
        {
            "task_id": task, "architecture": net, "resolution": side, "precision": "fp32", "strategy": recipe,
            "overrides": "{}", "status": "completed",
            "score": 0.5 + 0.3 * (net == "b") + 0.1 * (recipe == "full_plain") + 0.01 * number,
        }
        for number, task in enumerate(("one", "two", "three"))
        for net in ("a", "b")
        for side in (64, 96)
        for recipe in RECIPES
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def earlier(trials: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.setattr(shipped, "shipped", lambda _sketch: (trials, TASKS))
    return trials


def copycat(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails: int = -1, listens: bool = False
) -> TransferSearcher:
    """One in an environment that is this one; it says what there is in its order."""
    environment = folder / "environments" / "copycat"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(sys.executable)
    (environment / "installed.json").write_text("{}")
    monkeypatch.setenv(peers.VARIABLE, str(environment.parent))
    (folder / "script.py").write_text(SCRIPT.replace("FAILS", str(fails)))
    peer = peers.Peer("a copycat", (), "copycat", str(folder / "script.py"), answers=False)
    monkeypatch.setattr(peers, "PEERS", {"copycat": peer})
    return TransferSearcher("a copycat", "copycat", "copying", listens=listens)


def test_it_is_told_the_pool_and_earlier_tasks_and_proposes_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: pd.DataFrame
) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    with copycat(tmp_path, monkeypatch).proposing(run_of(tmp_path / "run")) as asked:
        assert [asked.propose() for _ in POOL] == POOL
        asked.observe(POOL[0], 0.5, {}, "completed", error=None, epochs=3)
        assert not asked.done
        assert asked.propose() is None and asked.done and asked.propose() is None
        process = asked.process
    assert process.poll() is not None
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["method"], told["seed"], told["hidden"]) == ("copying", 3, None)
    assert told["configurations"] == [configuration(c, CATALOG[c.strategy]) for c in POOL]
    assert {task: len(of["tried"]) for task, of in told["history"].items()} == {
        "one": 16,
        "two": 16,
        "three": 16,
    }
    assert told["features"] == {"images": 90.0, "classes": 3.0}
    assert told["history"]["two"]["features"] == {"images": 60, "classes": 2}
    assert told["history"]["two"]["tried"][0] == [
        configuration(POOL[0], CATALOG["knn_last"]),
        pytest.approx(0.51),
    ]


@pytest.mark.parametrize("listens", [True, False])
def test_one_that_listens_is_told_how_trials_end(
    listens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: pd.DataFrame
) -> None:
    with copycat(tmp_path, monkeypatch, listens=listens).proposing(run_of(tmp_path / "run")) as asked:
        assert asked.propose() == POOL[0] and asked.propose() == POOL[1]
        asked.observe(POOL[1], 0.5, {}, "completed")
        asked.observe(POOL[0], float("nan"), {}, "failed")
        asked.observe(NEVER_TRIED, 0.5)
        assert asked.process.stdin is not None
        asked.process.stdin.close()
        asked.process.wait(timeout=20)
    told = [{"place": 1, "score": 0.5}, {"place": 0, "score": None}]
    assert json.loads((tmp_path / "heard.json").read_text()) == (told if listens else [])


def test_one_that_ends_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: pd.DataFrame
) -> None:
    with copycat(tmp_path, monkeypatch, fails=1).proposing(run_of(tmp_path / "run")) as asked:
        assert asked.propose() == POOL[0]
        with pytest.raises(AutomlError, match="the searcher ended"):
            for _ in range(3):
                asked.propose()
    assert (tmp_path / "run" / "search" / "copycat.txt").read_text() == "no\n"


def test_one_that_is_not_installed_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: pd.DataFrame
) -> None:
    monkeypatch.setenv(peers.VARIABLE, str(tmp_path))
    with (
        pytest.raises(InputError, match="make peers ARGS=syne-tune"),
        TRANSFER["syne-zero-shot"].proposing(run_of(tmp_path)),
    ):
        pass


def test_only_plain_finished_trials_of_known_recipes_are_learned_from(trials: pd.DataFrame) -> None:
    changed = {
        0: {"status": "failed"}, 1: {"overrides": '{"lr": 0.1}'}, 2: {"strategy": "of old"}, 3: {"score": float("nan")},
    }  # fmt: skip
    for row, values in changed.items():
        for name, value in values.items():
            trials.loc[row, name] = value
    found = history(trials, TASKS, CATALOG)
    assert {task: len(of["tried"]) for task, of in found.items()} == {
        "one": 12,
        "two": 16,
        "three": 16,
    }


def test_a_configuration_tells_the_settings_and_no_words() -> None:
    told = configuration(POOL[1], CATALOG["full_plain"])
    assert told["network"] == "a" and told["side"] == 64 and told["recipe"] == "full_plain"
    assert told["lr"] == pytest.approx(-3.0)
    assert told["epochs"] == CATALOG["full_plain"].epochs
    assert not {"summary", "source", "order"} & set(told)


def test_they_are_methods_of_peers_that_can_be_installed() -> None:
    assert set(TRANSFER) <= set(METHODS)
    assert all(not peers.PEERS[one.peer].answers for one in TRANSFER.values())


@pytest.mark.parametrize("name", TRANSFER)
def test_what_did_well_before_comes_early(name: str, tmp_path: Path, earlier: pd.DataFrame) -> None:
    try:
        peers.python_of(TRANSFER[name].peer)
    except InputError as error:
        pytest.skip(str(error))
    firsts = []
    for _ in range(2):
        with TRANSFER[name].proposing(run_of(tmp_path)) as asked:
            found = []
            for _ in POOL:
                found.append(asked.propose())
                assert found[-1] is not None
                asked.observe(found[-1], 0.9 if found[-1].architecture == "b" else 0.4)
            assert asked.propose() is None
        assert sorted(found, key=str) == sorted(POOL, key=str)
        firsts.append(found)
    assert firsts[0] == firsts[1]
    if TRANSFER[name].method == "zero-shot":
        first = firsts[0][0]
        assert (first.architecture, first.strategy) == ("b", "full_plain")
    if TRANSFER[name].listens:
        assert [c.architecture for c in firsts[0][:6]] == ["b"] * 6
