"""Replay of past trials in simulated time, against times worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategy_pool.replay import Course, courses, read_curves, regret_over_time, time_grid
from strategy_pool.trial_table import TableError, trial_table

TRIALS = pd.DataFrame(
    {
        "task": ["t", "t", "t", "u", "u"],
        "strategy": ["a", "b", "c", "a", "b"],
        "score": [0.5, 0.9, 0.7, 0.2, 0.4],
        "seconds": [10.0, 20.0, np.nan, 5.0, 5.0],
    }
)
CURVES = pd.DataFrame(
    {
        "task": ["t"] * 4 + ["t", "elsewhere"],
        "strategy": ["b", "b", "b", "b", "c", "a"],
        "epoch": [2, 1, 3, 4, 1, 1],
        "score": [0.8, 0.6, 0.7, 0.9, 0.7, 1.0],
        "seconds": [4.0, 6.0, 5.0, 5.0, 3.0, 1.0],
    }
)


def written(folder: Path, frame: pd.DataFrame) -> Path:
    path = folder / "curves.parquet"
    frame.to_parquet(path)
    return path


def test_without_curves_a_score_is_there_at_the_end() -> None:
    found = courses(trial_table(TRIALS))
    assert set(found["t"]) == {"a", "b"}  # how long c took is not known
    assert found["t"]["b"].seconds.tolist() == [20.0]
    assert found["t"]["b"].values.tolist() == [1.0]


def test_curves_give_the_best_so_far_after_each_epoch(tmp_path: Path) -> None:
    found = courses(trial_table(TRIALS), read_curves(written(tmp_path, CURVES)))
    b = found["t"]["b"]
    np.testing.assert_allclose(b.seconds, [6.0, 10.0, 15.0, 20.0])
    np.testing.assert_allclose(b.values, [0.25, 0.75, 0.75, 1.0])
    np.testing.assert_allclose(found["t"]["c"].values, [0.5])
    assert set(found) == {"t", "u"}


def test_regret_falls_as_trials_end() -> None:
    of = courses(trial_table(TRIALS))["t"]
    times = np.array([1.0, 10.0, 29.0, 30.0, 100.0])
    np.testing.assert_allclose(regret_over_time([of["a"], of["b"]], times), [1, 1, 1, 0, 0])
    np.testing.assert_allclose(regret_over_time([of["b"], of["a"]], times), [1, 1, 0, 0, 0])
    np.testing.assert_allclose(regret_over_time([], times), np.ones(5))


@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1, max_size=8),
    st.lists(st.floats(0.1, 500), min_size=1, max_size=10, unique=True),
)
def test_regret_is_that_of_the_trials_that_have_ended(
    trials: list[tuple[float, float]], times: list[float]
) -> None:
    order = [Course(np.array([seconds]), np.array([value])) for seconds, value in trials]
    grid = np.sort(times)
    found = regret_over_time(order, grid)
    ends = np.cumsum([seconds for seconds, _ in trials])
    for time, regret in zip(grid, found, strict=True):
        ended = [value for end, (_, value) in zip(ends, trials, strict=True) if end <= time]
        assert regret == pytest.approx(1 - max(ended, default=0.0))
    assert (np.diff(found) <= 0).all()


def test_the_grid_is_round_and_spans_what_trials_take() -> None:
    grid = time_grid(courses(trial_table(TRIALS)))
    assert grid[0] <= 5.0 and grid[-1] >= 50.0
    assert (np.diff(grid) > 0).all()
    assert all(float(f"{value:.2g}") == value for value in grid)
    assert len(time_grid(courses(trial_table(TRIALS.drop(columns="seconds"))))) == 0


def test_wrong_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no column 'epoch'"):
        read_curves(written(tmp_path, CURVES.drop(columns="epoch")))
    with pytest.raises(TableError, match=r"took -1\.0 seconds"):
        read_curves(written(tmp_path, CURVES.assign(seconds=-1.0)))
    with pytest.raises(TableError, match="learning curves"):
        read_curves(tmp_path / "none.parquet")


def test_a_trial_that_failed_takes_its_time_and_leaves_nothing() -> None:
    frame = pd.DataFrame(
        {
            "task": "t",
            "strategy": ["x", "y", "z"],
            "score": [None, 0.5, 1.0],
            "seconds": 5.0,
            "failed": [True, False, False],
        }
    )
    curves = pd.DataFrame(
        {"task": "t", "strategy": "x", "epoch": [1, 2], "score": [0.99, np.nan], "seconds": 2.0}
    )
    for more in (None, curves):
        found = courses(trial_table(frame), more)["t"]
        assert found["x"].values.max() == 0.0 and found["x"].seconds[-1] == (5.0 if more is None else 4.0)
        assert found["z"].values.max() == 1.0


def test_of_two_trials_of_a_strategy_the_course_is_the_mean() -> None:
    frame = pd.DataFrame(
        {"task": "t", "strategy": ["x", "x", "y"], "score": [1.0, 1.0, 0.0], "seconds": 10.0}
    )
    curves = pd.DataFrame(
        {"task": "t", "strategy": "x", "epoch": [1, 1, 2, 2], "score": [0.2, 0.4, 1.0, 1.0], "seconds": 5.0}
    )
    course = courses(trial_table(frame), curves)["t"]["x"]
    assert course.seconds.tolist() == [5.0, 10.0] and course.values.tolist() == pytest.approx([0.3, 1.0])
