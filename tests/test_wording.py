from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

from automl import wording


def test_the_examples_hold() -> None:
    assert doctest.testmod(wording).failed == 0


@pytest.mark.parametrize("value", [0.9999, 0.99951, 0.9999999, 1e-5, 0.0004])
def test_what_is_not_all_or_nothing_does_not_look_so(value: float) -> None:
    assert wording.share(value) not in ("100 %", "100.0 %", "0 %", "0.0 %")


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "5", True, np.float32("nan")])
def test_what_is_no_number_is_unknown(value: object) -> None:
    assert not wording.known(value)
    assert wording.share(value) == wording.number(value) == wording.duration(value) == "unknown"


def test_numbers_of_numpy_are_numbers() -> None:
    assert wording.share(np.float32(0.5)) == "50.0 %"
    assert wording.number(np.int64(1200)) == "1,200"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0.4 s"), (42.4, "42 s"), (231.0, "4 min"), (3600.0, "60 min"), (9000.0, "2 h 30 min")],
)
def test_durations(value: float, text: str) -> None:
    assert wording.duration(value) == text


def test_class_names_with_signs_are_split_at_the_operator() -> None:
    assert wording.split_expression("recall[a<=b]>=0.5") == ("recall[a<=b]", ">=")
    assert wording.title("recall[a]b]") == "recall of a]b"
