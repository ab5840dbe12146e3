"""The trial table: its contract, what is mended, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategy_pool.trial_table import TableError, read_trial_table, trial_table


def frame(rows: list[tuple[Any, ...]], **more: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["task", "strategy", "score"]).assign(**more)


ROWS = [("b", "y", 3.0), ("a", "x", 0.2), ("a", "y", 0.6), ("b", "x", 1.0), ("a", "z", 0.4)]


def test_it_is_sorted_and_scores_are_normalised_within_each_task() -> None:
    table = trial_table(frame(ROWS))
    assert table.tasks == ["a", "b"]
    assert table.frame[["task", "strategy"]].to_numpy().tolist() == [
        ["a", "x"], ["a", "y"], ["a", "z"], ["b", "x"], ["b", "y"],
    ]  # fmt: skip
    assert table.frame["value"].tolist() == pytest.approx([0.0, 1.0, 0.5, 0.0, 1.0])
    assert not table.has_seconds
    assert table.features == []
    assert table.notes == ()


def test_a_trial_without_a_score_counts_as_the_worst_of_its_task() -> None:
    table = trial_table(frame([*ROWS, ("a", "w", None), ("a", "v", float("inf"))]))
    values = table.frame.set_index(["task", "strategy"])["value"]
    assert values["a", "w"] == 0.0
    assert values["a", "v"] == 0.0
    assert "2 trials without a score" in table.notes[0]


def test_several_trials_of_one_strategy_on_a_task_are_averaged() -> None:
    table = trial_table(frame([*ROWS, ("a", "x", 0.4)], seconds=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    row = table.frame.set_index(["task", "strategy"]).loc[("a", "x")]
    assert row["score"] == pytest.approx(0.3)
    assert row["seconds"] == pytest.approx(4.0)
    assert len(table.frame) == 5
    assert table.has_seconds


def test_a_task_of_equal_scores_is_told_apart() -> None:
    table = trial_table(frame([*ROWS, ("c", "x", 1.0), ("c", "y", 1.0)]))
    assert table.tasks == ["a", "b", "c"]
    assert table.told().tasks == ["a", "b"]
    assert "1 task whose scores are all equal" in table.notes[0]


def test_a_task_without_any_score_is_told_apart() -> None:
    assert trial_table(frame([*ROWS, ("c", "x", None), ("c", "y", None)])).told().tasks == ["a", "b"]


def test_a_group_belongs_to_the_whole_task() -> None:
    table = trial_table(frame(ROWS, group=["g", None, "h", "g", None]))
    assert table.groups() == {"a": "h", "b": "g"}
    assert trial_table(frame(ROWS)).groups() == {"a": "a", "b": "b"}


def test_features_are_the_columns_with_a_prefix() -> None:
    table = trial_table(
        frame(ROWS, **{"task.n": [1] * 5, "strategy.lr": [0.1] * 5, "device.x": ["c"] * 5, "n": [1] * 5})
    )
    assert table.features == ["task.n", "strategy.lr", "device.x"]


@pytest.mark.parametrize(
    ("given_failed", "expected"),
    [([True, False, True, False, False], 2), (["true", "no", "1", "0", None], 2), ([1, 0, 1, 0, 0], 2)],
)
def test_failed_is_read_in_any_usual_form(given_failed: list[Any], expected: int) -> None:
    assert trial_table(frame(ROWS, failed=given_failed)).frame["failed"].sum() == expected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (frame(ROWS).drop(columns="score"), "no column 'score'"),
        (frame(ROWS).rename(columns={"task": "tasks"}), "did you mean 'tasks'"),
        (frame(ROWS)[:0], "holds no trial"),
        (frame([("a", "x", "good")]), "'good'; it has to be a number"),
        (frame([("a", None, 1.0)]), "row 0 has no strategy"),
        (frame(ROWS, failed=["maybe"] * 5), "true or false"),
        (frame(ROWS, group=list("gghgg")), "task 'a' lies in 2 groups"),
        (frame(ROWS, seconds=[-1.0] * 5), "took -1.0 seconds"),
    ],
)
def test_what_does_not_follow_the_contract_is_refused(wrong: pd.DataFrame, words: str) -> None:
    with pytest.raises(TableError, match=words):
        trial_table(wrong)


def test_files_are_read_and_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    frame(ROWS).to_csv(tmp_path / "t.csv", index=False)
    frame(ROWS).to_parquet(tmp_path / "t.parquet")
    one, two = read_trial_table(tmp_path / "t.csv"), read_trial_table(tmp_path / "t.parquet")
    assert one.frame["value"].tolist() == two.frame["value"].tolist()
    (tmp_path / "broken.parquet").write_text("nothing")
    for name, words in (
        ("broken.parquet", "cannot be read"),
        ("missing.csv", "No such file"),
        ("t.xlsx", "has to be .parquet or .csv"),
    ):
        with pytest.raises(TableError, match=words):
            read_trial_table(tmp_path / name)


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("task,strategy,score\n007,1e5,0.5\n007,100000,0.7\n")
    table = read_trial_table(tmp_path / "t.csv")
    assert table.tasks == ["007"]
    assert table.frame["strategy"].tolist() == ["100000", "1e5"]


def test_a_sample_of_a_task_keeps_its_best_and_is_the_same_for_a_seed() -> None:
    rows = [("a", f"s{i:03d}", float(i % 97)) for i in range(200)] + ROWS[3:4]
    table = trial_table(frame(rows))
    sample = table.subsampled(50, seed=3)
    sizes = sample.frame["task"].value_counts()
    assert sizes["a"] == 50
    assert sizes["b"] == 1
    assert sample.frame.loc[sample.frame["task"] == "a", "score"].max() == 96.0
    pd.testing.assert_frame_equal(sample.frame, table.subsampled(50, seed=3).frame)
    assert table.subsampled(500, seed=3) is table


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_values_keep_the_order_of_scores_and_lie_between_0_and_1(scores: list[float]) -> None:
    table = trial_table(frame([("t", f"s{i:02d}", s) for i, s in enumerate(scores)]))
    values = table.frame["value"].to_numpy()
    if len(set(scores)) == 1:
        assert np.isnan(values).all()
        return
    assert values.min() == 0.0
    assert values.max() == 1.0
    order = np.argsort(scores, kind="stable")
    assert (np.diff(values[order]) >= 0).all()
