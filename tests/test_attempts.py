"""Which choice is exported next when a file misses its limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.attempts import Attempts
from automl.ensemble import Selection
from automl.task import Constraint

LIMITS = [Constraint.parse("latency_ms<=10")]


def choice(ms: float, members: int = 1, **costs: float) -> Selection:
    weights = {f"t{n}": 1 / members for n in range(members)}
    return Selection(weights, (0.0, ms), np.zeros((1, 2)), {"latency_ms": ms, **costs})


def test_the_best_comes_first_whatever_is_expected_of_it() -> None:
    first, second = choice(12.0), choice(3.0)
    assert Attempts([first, second], LIMITS).next() is first


def test_of_what_is_left_the_best_that_should_keep_the_limits_comes_next() -> None:
    together, three, two, alone, cheapest = (
        choice(9.4, 4),
        choice(8.6, 3),
        choice(7.0, 2),
        choice(6.0),
        choice(0.4),
    )
    attempts = Attempts([together, three, two, alone, cheapest], LIMITS)
    assert attempts.next() is together
    attempts.cost(together, {"latency_ms": 11.8})
    assert attempts.next() is two  # three would take 10.8


def test_what_several_take_too_much_says_nothing_of_one() -> None:
    together, alone = choice(9.4, 2), choice(9.5)
    attempts = Attempts([together, alone, choice(1.0)], LIMITS)
    attempts.next()
    attempts.cost(together, {"latency_ms": 12.0})
    assert attempts.next() is alone


def test_what_one_takes_too_much_says_nothing_of_others() -> None:
    alone, other, together = choice(9.4), choice(9.3), choice(9.2, 2)
    attempts = Attempts([alone, other, together], LIMITS)
    attempts.next()
    attempts.cost(alone, {"latency_ms": 15.0})
    assert attempts.next() is other


@pytest.mark.parametrize(("last", "expected"), [(False, 9.5), (True, 7.9)])
def test_the_last_one_leaves_room(last: bool, expected: float) -> None:
    attempts = Attempts([choice(9.9), choice(9.5), choice(7.9), choice(0.1)], LIMITS)
    attempts.next()
    found = attempts.next(last=last)
    assert found is not None and found.costs["latency_ms"] == expected


def test_after_two_there_is_room_too() -> None:
    attempts = Attempts([choice(9.9), choice(9.7), choice(9.5), choice(7.9)], LIMITS)
    given_out = [attempts.next() for _ in range(3)]
    assert [found.costs["latency_ms"] for found in given_out if found] == [9.9, 9.7, 7.9]


def test_each_cost_is_learned_alone() -> None:
    limits = [*LIMITS, Constraint.parse("size_mb<=4")]
    first = choice(5.0, 2, size_mb=3.5)
    slow, large = choice(9.0, 2, size_mb=1.0), choice(1.0, 2, size_mb=3.5)
    attempts = Attempts([first, large, slow], limits)
    attempts.next()
    attempts.cost(first, {"latency_ms": 5.0, "size_mb": 4.5})
    assert attempts.next() is slow


@given(st.lists(st.floats(0.1, 30.0), min_size=1, max_size=12), st.floats(0.5, 3.0))
def test_each_is_given_out_once_and_not_too_many(expected: list[float], dearer: float) -> None:
    choices = [choice(ms, 1 + at % 3) for at, ms in enumerate(expected)]
    attempts, seen = Attempts(choices, LIMITS), []
    while (found := attempts.next()) is not None:
        attempts.cost(found, {"latency_ms": dearer * found.costs["latency_ms"]})
        seen.append(id(found))
    assert len(seen) == len(set(seen)) == min(6, len(choices))
    assert seen[0] == id(choices[0])


def test_without_limits_they_come_in_order() -> None:
    choices = [choice(3.0), choice(2.0), choice(1.0)]
    attempts = Attempts(choices, [])
    assert [attempts.next() for _ in range(4)] == [*choices, None]
