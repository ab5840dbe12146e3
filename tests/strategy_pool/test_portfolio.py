"""The order by expected gain per second, against what a slow and simple program finds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategy_pool.portfolio import Spread, greedy
from strategy_pool.ranker import Ranker, learn_pace
from strategy_pool.trial_table import TrialTable, trial_table


def slow_greedy(draws: np.ndarray, seconds: np.ndarray) -> list[int]:
    """All gains anew in each step."""
    best, order = np.zeros(draws.shape[1]), []
    while len(order) < len(draws):
        gains = [np.maximum(row - best, 0).mean() / s for row, s in zip(draws, seconds, strict=True)]
        for done in order:
            gains[done] = -1.0
        top = int(np.argmax(gains))
        if gains[top] <= 0:
            break
        order.append(top)
        best = np.maximum(best, draws[top])
    return order


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 300), seed=st.integers(0, 10**6))
def test_looking_at_few_finds_what_looking_at_all_finds(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    draws = np.clip(generator.uniform(size=(count, 1)) + generator.normal(0, 0.3, (count, 9)), 0, 1)
    seconds = np.exp(generator.normal(0, 2, count))
    assert greedy(draws, seconds, first=count).tolist() == slow_greedy(draws, seconds)


def test_no_more_than_asked_for_are_placed() -> None:
    draws = np.random.default_rng(0).uniform(size=(50, 200))
    assert len(greedy(draws, None, first=7)) == 7


def test_a_twin_waits() -> None:
    good = np.array([0.9, 0.9, 0.1, 0.1])
    draws = np.stack([good, good, 0.6 * good[::-1]])
    assert greedy(draws, None).tolist() == [0, 2]


def test_what_takes_long_waits() -> None:
    draws = np.array([[0.8, 0.9], [0.6, 0.7]])
    assert greedy(draws, np.array([10.0, 1.0])).tolist() == [1, 0]
    assert greedy(draws, np.array([1.0, 1.0])).tolist() == [0]


def past(shared: float, seed: int = 0, groups: int = 300, each: int = 6) -> tuple[np.ndarray, ...]:
    """Predictions, values that they miss by a part common to each group, and the groups."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), each)
    predicted = generator.uniform(0, 1, len(group))
    common = generator.normal(size=groups)[group]
    own = generator.normal(size=len(group))
    missed = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return predicted, predicted + 0.1 * missed, group


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.7])
def test_what_the_candidates_of_a_model_share_is_found(shared: float) -> None:
    assert Spread.fit(*past(shared)).shared == pytest.approx(shared, abs=0.08)


def test_draws_have_the_distribution_of_the_past() -> None:
    predicted, values, group = past(0.5)
    spread = Spread.fit(predicted, values, group)
    asked = np.array([0.25, 0.75, 0.75])
    draws = spread.draw(asked, np.array([0, 1, 1]), np.random.default_rng(0), 4000)
    assert draws.mean(axis=1) == pytest.approx(asked, abs=0.03)
    assert draws.std(axis=1) == pytest.approx([0.1] * 3, abs=0.02)
    together = np.corrcoef(draws)
    assert together[1, 2] == pytest.approx(0.5, abs=0.1)
    assert abs(together[0, 1]) < 0.1
    assert draws.min() >= values.min() and draws.max() <= values.max()


@pytest.mark.parametrize("count", [1, 2, 15])
def test_a_short_past_is_enough_to_draw_from(count: int) -> None:
    spread = Spread.fit(np.zeros(count), np.linspace(0, 1, count), np.arange(count))
    draws = spread.draw(np.array([-1.0, 0.0, 5.0]), np.arange(3), np.random.default_rng(0), 8)
    assert draws.shape == (3, 8) and np.isfinite(draws).all()


def timed(tasks: int = 6, features: bool = True) -> TrialTable:
    """Every other strategy takes a hundred times as long; all are about as good."""
    generator = np.random.default_rng(0)
    rows = [
        (f"t{task}", f"s{number:02d}", generator.uniform(), 100.0 if number % 2 else 1.0, float(number % 2))
        for task in range(tasks)
        for number in range(30)
    ]
    frame = pd.DataFrame(rows, columns=["task", "strategy", "score", "seconds", "strategy.long"])
    return trial_table(frame if features else frame.drop(columns="strategy.long"))


@pytest.mark.parametrize("features", [True, False])
def test_the_ranker_tries_the_quick_ones_first(features: bool) -> None:
    table = timed(features=features)
    shown = table.of(["t0"]).frame
    ranker = Ranker().fit(table.of(["t1", "t2", "t3", "t4", "t5"]), 0)
    order = ranker.order(shown, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(30))
    quick = shown["seconds"].to_numpy()[order] == 1.0
    assert quick[:10].all()
    seconds = ranker.view(shown).seconds
    assert seconds is not None
    assert np.corrcoef(np.log(seconds), np.log(shown["seconds"]))[0, 1] > 0.9


def test_without_times_or_with_few_tasks_the_order_is_that_of_the_predictions() -> None:
    table = timed()
    shown = table.of(["t0"]).frame
    few = Ranker().fit(table.of(["t1", "t2"]), 0)
    order = few.order(shown, np.random.default_rng(0))
    assert (np.diff(few.predict(shown)[order]) <= 0).all()
    untimed = trial_table(table.frame.drop(columns="seconds"))
    assert Ranker().fit(untimed, 0).view(shown).seconds is None


def test_times_that_are_all_zero_tell_nothing() -> None:
    table = timed()
    ranker = Ranker().fit(trial_table(table.frame.assign(seconds=0.0)), 0)
    shown = table.of(["t0"]).frame
    assert ranker.view(shown).seconds is None
    assert sorted(ranker.order(shown, np.random.default_rng(0)).tolist()) == list(range(30))


def test_gaps_in_the_times_are_left_out() -> None:
    frame = timed().frame
    gaps = trial_table(frame.assign(seconds=frame["seconds"].where(frame.index % 5 > 0)))
    assert np.isfinite(learn_pace(gaps, 0).predict(gaps.frame)).all()
