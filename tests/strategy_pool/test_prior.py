"""The history average and the order of the pool."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategy_pool.prior import history_average, rank
from strategy_pool.strategy import load_catalog


def table(rows: Sequence[tuple[str, str, float | None]], **more: Sequence[Any]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["task_id", "strategy", "score"])
    return frame.assign(**more)


def pool(
    strategies: dict[str, int], architectures: tuple[str, ...] = ("net",), sides: tuple[int, ...] = (64,)
) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "candidate": f"{a}@{r}/fp32/{s}",
                "architecture": a,
                "resolution": r,
                "precision": "fp32",
                "strategy": s,
                "order": order,
                "latency_ms": 1.0,
            }
            for s, order in strategies.items()
            for a in architectures
            for r in sides
        ]
    )


def test_scores_are_normalised_within_each_task_and_averaged_over_tasks() -> None:
    history = table(
        [
            ("t1", "a", 0.9), ("t1", "b", 0.8), ("t1", "c", 0.7),
            ("t2", "a", 10.0), ("t2", "b", 20.0), ("t2", "b", 10.0),
        ]
    )  # fmt: skip
    found = history_average(history).set_index("strategy")
    assert found.loc["a", "mean_score"] == pytest.approx(0.5)
    assert found.loc["b", "mean_score"] == pytest.approx(0.5)  # (0.5 + (1 + 0) / 2) / 2
    assert found.loc["c", "mean_score"] == pytest.approx(0.0)
    assert found["n"].to_dict() == {"a": 2, "b": 2, "c": 1}
    assert list(history_average(history)["mean_score"]) == sorted(found["mean_score"], reverse=True)


def test_the_public_table_has_other_names_for_task_and_failure() -> None:
    rows = [("t", "a", 1.0), ("t", "b", 0.5), ("t", "c", math.nan)]
    history = table(rows, failed=[False, False, True]).rename(columns={"task_id": "task"})
    assert history_average(history).set_index("strategy")["mean_score"].to_dict() == {"a": 1, "b": 0, "c": 0}


def test_a_failure_is_the_worst_and_a_task_of_equal_scores_tells_nothing() -> None:
    rows = [
        ("t1", "a", 0.9),
        ("t1", "b", 0.5),
        ("t1", "c", None),
        ("t2", "a", 0.5),
        ("t2", "b", 0.5),
        ("t3", "a", 1.0),
    ]
    status = ["completed", "completed", "failed", "completed", "completed", "completed"]
    found = history_average(table(rows, status=status)).set_index("strategy")
    assert found["mean_score"].to_dict() == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert set(found["n"]) == {1}


def test_an_empty_history_has_no_average_and_a_wrong_table_is_an_error() -> None:
    assert history_average(table([])).empty
    with pytest.raises(ValueError, match="no column 'score'"):
        history_average(pd.DataFrame({"task": ["t"], "strategy": ["a"]}))
    with pytest.raises(ValueError, match="no column 'order'"):
        rank(pool({"a": 1}).drop(columns="order"))
    with pytest.raises(ValueError, match="above 0"):
        rank(pool({"a": 1}), shrinkage=0.0)


@pytest.mark.parametrize("history", [None, table([])])
def test_without_a_history_the_catalog_decides(history: pd.DataFrame | None) -> None:
    catalog = {s.name: s.order for s in load_catalog().values()}
    shuffled = pool(catalog).sample(frac=1.0, random_state=3)
    ranked = rank(shuffled, history)
    assert list(ranked["strategy"]) == list(catalog)
    assert ranked["predicted_score"].is_monotonic_decreasing
    assert ranked["predicted_seconds"].isna().all()
    assert ranked["reason"].str.startswith("catalog order").all()
    assert set(shuffled.columns) < set(ranked.columns)


def test_evidence_moves_a_recipe_by_how_much_there_is() -> None:
    strategies = {"first": 10, "second": 20, "third": 30}
    one = table([("t", "first", 0.0), ("t", "third", 1.0)])
    many = pd.concat([one.assign(task_id=f"t{i}") for i in range(20)])
    little, much = (rank(pool(strategies), h).set_index("strategy")["predicted_score"] for h in (one, many))
    assert much["third"] > little["third"] > little["second"] > little["first"] > much["first"]
    assert much["third"] > 0.9 and much["first"] < 0.1
    # (n · mean + k · prior) / (n + k) with k = 2 and the prior 0.5 + 0.15 at the first place
    assert little["first"] == pytest.approx(2 * 0.65 / 3)


def test_a_candidate_has_its_own_record_and_its_backbones() -> None:
    frame = pool({"a": 1, "b": 2}, ("good", "bad"))
    rows = []
    for task in range(10):
        for architecture, score in (("good", 1.0), ("bad", 0.0)):
            rows.append((f"t{task}", "a", score, architecture, f"{architecture}@64/fp32/a", 5.0, "completed"))
    columns = ["task_id", "strategy", "score", "architecture", "candidate", "seconds", "status"]
    ranked = rank(frame, pd.DataFrame(rows, columns=columns)).set_index("candidate")
    score = ranked["predicted_score"]
    assert score["good@64/fp32/a"] > 0.85 and score["bad@64/fp32/a"] < 0.15
    assert score["good@64/fp32/b"] > score["bad@64/fp32/b"]  # never tried, but the backbone was
    assert ranked.loc["good@64/fp32/a", "predicted_seconds"] == 5.0
    assert math.isnan(ranked.loc["good@64/fp32/b", "predicted_seconds"])
    assert "scored 1.00 on 10 past tasks" in ranked.loc["good@64/fp32/a", "reason"]
    assert ranked["low"].le(score).all() and ranked["high"].ge(score).all()


def test_trials_with_overrides_are_not_held_for_the_recipe() -> None:
    rows = [("t", "a", 0.0), ("t", "b", 0.5), ("t", "a", 1.0)]
    history = table(rows, overrides=["{}", None, '{"lr": 0.01}'])
    ranked = rank(pool({"a": 1, "b": 2}), history)
    assert ranked["strategy"].tolist() == ["b", "a"]


def test_the_head_does_not_repeat_a_recipe_on_a_backbone_in_a_row() -> None:
    ranked = rank(pool({"a": 1, "b": 2, "c": 3}, ("x", "y"), (64, 96, 128)), None)
    pairs = list(zip(ranked["strategy"], ranked["architecture"], strict=True))
    assert all(one != other for one, other in itertools.pairwise(pairs[:12]))
    assert sorted(ranked["candidate"]) == sorted(
        pool({"a": 1, "b": 2, "c": 3}, ("x", "y"), (64, 96, 128))["candidate"]
    )
    assert len(rank(pool({"a": 1}, sides=(64, 96)), None)) == 2  # nothing else to put between
    assert rank(pool({"a": 1}).head(0), None).empty


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["t1", "t2", "t3"]),
            st.sampled_from(["a", "b", "c", "gone"]),
            st.none() | st.floats(-1e6, 1e6) | st.just(math.inf),
            st.sampled_from(["completed", "failed", "stopped"]),
        ),
        max_size=25,
    )
)
def test_any_history_gives_every_candidate_once_with_finite_scores(
    rows: list[tuple[str, str, float | None, str]],
) -> None:
    history = pd.DataFrame(rows, columns=["task_id", "strategy", "score", "status"])
    frame = pool({"a": 1, "b": 2, "c": 3, "new": 4}, ("x", "y"))
    ranked = rank(frame, history)
    assert sorted(ranked["candidate"]) == sorted(frame["candidate"])
    values = ranked["predicted_score"].to_numpy()
    assert np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all()
