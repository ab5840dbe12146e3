"""Candidates spread over a pool, each run to its end and kept in the history."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from automl.candidate import Candidate
from automl.sweep import spread, sweep
from automl.task import Task
from strategy_pool.history import History
from strategy_pool.strategy import load_catalog
from tests.conftest import write_shapes

CATALOG = load_catalog()


def pool(*networks: str) -> list[Candidate]:
    return [
        Candidate(network, side, "fp32", name)
        for network, side, name in itertools.product(networks, (64, 96), CATALOG)
    ]


def test_networks_and_methods_come_equally_often() -> None:
    chosen = spread(pool("a", "b"), CATALOG, 22)
    kinds = {(c.architecture, CATALOG[c.strategy].method) for c in pool("a", "b")}
    assert len(chosen) == 22 and len(set(chosen)) == 22
    assert {(c.architecture, CATALOG[c.strategy].method) for c in chosen} == kinds


@pytest.mark.parametrize("count", [1, 30, 10_000])
def test_the_order_of_the_pool_does_not_matter_and_more_begin_with_the_same(count: int) -> None:
    candidates = pool("a", "b", "c")
    chosen = spread(candidates, CATALOG, count)
    assert chosen == spread(candidates[::-1], CATALOG, count)
    assert len(chosen) == min(count, len(candidates))
    assert spread(candidates, CATALOG, count + 5)[: len(chosen)] == chosen


def test_a_sweep_is_in_the_history_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=8)
    url = f"sqlite:///{tmp_path}/history.db"

    def run(count: int) -> list[str]:
        task = Task.make(data, max_trials=count, backbones=["small_cnn_xs"])
        name = sweep(
            task,
            out=tmp_path / "run",
            candidates=count,
            seconds=1.0,
            history_url=url,
            in_process=True,
            quiet=True,
        )
        with History(url) as history:
            trials = history.trials(name)
            assert json.loads(history.tasks()["features"][0])["classes"] == 3
        assert trials["status"].eq("completed").all() and trials["score"].notna().all()
        assert trials["source"].eq("pool").all()
        return [str(candidate) for candidate in trials["candidate"]]

    first = run(1)
    assert len(first) == 1
    second = run(2)
    assert len(second) == 2 and second[:1] == first
    assert run(2) == second
    assert not list((tmp_path / "run").rglob("*.safetensors"))
