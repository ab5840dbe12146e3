"""A ranker that was saved and read again says the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from strategy_pool._saved import SavedError, load, save
from strategy_pool.learners import Regression
from strategy_pool.ranker import FLOOR, Ranker
from strategy_pool.trial_table import TrialTable, trial_table
from tests.strategy_pool.test_portfolio import timed
from tests.strategy_pool.test_rankers import dense, flipping, sparse

TABLES = {
    "learned": flipping(),
    "of one task each": sparse(tasks=6),
    "average": dense(),
    "few tasks": dense(tasks=2),
    "timed": timed(),
    "without features": timed(features=False),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_it_predicts_and_orders_as_before(table: TrialTable, tmp_path: Path) -> None:
    first, *others = table.tasks
    ranker = Ranker().fit(table.of(others), 0)
    save(ranker, tmp_path)
    again = load(tmp_path)
    shown = table.of([first]).frame.drop(columns=["score", "value"])
    np.testing.assert_array_equal(again.predict(shown), ranker.predict(shown))
    orders = [r.order(shown, np.random.default_rng(0)).tolist() for r in (ranker, again)]
    assert orders[0] == orders[1]
    assert (again.shares, again.gain) == (ranker.shares, ranker.gain)


def test_of_a_large_pool_it_asks_as_many_trees_as_before(tmp_path: Path) -> None:
    ranker = Ranker().fit(flipping(), 0)
    assert ranker.shares != {FLOOR: 1.0}
    ranker.pace = Regression(trees=40).fit(flipping(), 0)
    save(ranker, tmp_path)
    shown = flipping(tasks=1, each=3500, seed=9).frame.drop(columns=["score", "value"])
    views = [r.view(shown) for r in (ranker, load(tmp_path))]
    np.testing.assert_array_equal(views[1].predicted, views[0].predicted)
    np.testing.assert_array_equal(np.asarray(views[1].seconds), np.asarray(views[0].seconds))


def test_the_tables_cover_what_a_ranker_may_be() -> None:
    fitted = {name: Ranker().fit(table, 0) for name, table in TABLES.items()}
    assert fitted["learned"].shares != {FLOOR: 1.0} and fitted["average"].shares == {FLOOR: 1.0}
    assert fitted["few tasks"].spread is None and fitted["timed"].pace is not None


def test_new_candidates_are_judged_by_their_neighbours_as_before(tmp_path: Path) -> None:
    table = dense()
    ranker = Ranker().fit(table, 0)
    save(ranker, tmp_path)
    asked = table.of(["t0"]).frame.assign(strategy=[f"new{n}" for n in range(12)])
    np.testing.assert_array_equal(load(tmp_path).predict(asked), ranker.predict(asked))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ranker.json", b"{"),
        ("ranker.json", b"[]"),
        ("ranker.json", b'{"format": 1}'),
        ("ranker.json", None),
        ("arrays.npz", b"not a zip"),
        ("arrays.npz", None),
        ("lambdarank-0.txt", b"no trees"),
    ],
)
def test_a_damaged_one_is_an_error_of_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    ranker = Ranker().fit(sparse(), 0)
    ranker.shares = {"lambdarank": 1.0}
    ranker.fitted = {"lambdarank": ranker.members["lambdarank"]().fit(sparse(), 0)}
    save(ranker, tmp_path)
    assert load(tmp_path).predict(sparse().frame).shape == (320,)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SavedError) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_format_is_told(tmp_path: Path) -> None:
    save(Ranker().fit(trial_table(dense().frame), 0), tmp_path)
    told = json.loads((tmp_path / "ranker.json").read_text())
    (tmp_path / "ranker.json").write_text(json.dumps({**told, "format": 99}))
    with pytest.raises(SavedError, match="format 99"):
        load(tmp_path)
