"""Subnets for limits: rows that are subnets, limits that are kept, and scores near the best there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.propose import Codes, front, propose
from search_spaces.supernet import Dimension, Space

SPACE = Space(
    (
        Dimension("stem.width", (8, 16, 24), "stem"),
        Dimension("s0.depth", (1, 2, 3), "s0"),
        *(Dimension(f"s0.b{place}.kernel", (3, 5, 7), "s0", ("s0.depth", place)) for place in range(3)),
        Dimension("s1.depth", (2, 3), "s1"),
        *(Dimension(f"s1.b{place}.width", (16, 32), "s1", ("s1.depth", place)) for place in range(3)),
    )
)
CODES = Codes(SPACE)


def everything() -> np.ndarray:
    """Values of all subnets of the space."""
    ranks = itertools.product(*(range(len(d.choices)) for d in SPACE.dimensions))
    names = [d.name for d in SPACE.dimensions]
    subnets = [
        SPACE.canonical({n: d.choices[at] for n, d, at in zip(names, SPACE.dimensions, row, strict=True)})
        for row in ranks
    ]
    return CODES.values(np.unique(CODES.of(subnets), axis=0))


def cost(values: np.ndarray) -> np.ndarray:
    return 1.0 + values.sum(axis=1) + 0.1 * values[:, 0] * values[:, 2:5].sum(axis=1)


def score(values: np.ndarray) -> np.ndarray:
    return np.sqrt(values + 1).sum(axis=1) + 0.2 * np.sin(values @ np.arange(values.shape[1]))


@given(seed=st.integers(0, 10_000))
def test_rows_are_subnets_of_the_space(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = CODES.drawn(20, rng)
    rows = np.concatenate([drawn, CODES.children(drawn[:5], 20, rng)])
    subnets = [CODES.subnet(row) for row in rows]
    for subnet in subnets:
        assert SPACE.canonical(subnet) == subnet
    np.testing.assert_array_equal(CODES.of(subnets), rows)
    values = CODES.values(rows)
    absent = SPACE.encode(subnets) == -1
    np.testing.assert_array_equal(values == 0, absent)
    chosen = np.array([[subnet[d.name] for d in SPACE.dimensions] for subnet in subnets])
    np.testing.assert_array_equal(values[~absent], chosen[~absent])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 1.0))
def test_limits_are_kept_and_the_best_is_nearly_found(seed: int, share: float) -> None:
    values = everything()
    limit = float(np.quantile(cost(values), share))
    found = propose(
        SPACE, score, {"ms": cost}, {"ms": limit}, count=4, seed=seed, population=64, generations=20
    )
    rows = CODES.values(CODES.of(found))
    assert (cost(rows) <= limit).all()
    scores = score(rows)
    assert (scores[:-1] >= scores[1:]).all()
    assert len({tuple(row) for row in rows}) == 4
    best = score(values)[cost(values) <= limit].max()
    assert scores[0] >= best - 0.02 * abs(best)


def test_what_nothing_keeps_is_broken_least() -> None:
    found = propose(SPACE, score, {"ms": cost, "mb": cost}, {"ms": 1.0}, count=3, seed=0)
    assert found[0] == SPACE.canonical(SPACE.smallest())
    assert found == propose(SPACE, score, {"ms": cost}, {"ms": 1.0}, count=3, seed=0)


def test_without_limits_the_best_of_all_is_found_from_a_known_one() -> None:
    values = everything()
    best = CODES.values(CODES.of(propose(SPACE, score, {}, {}, count=1, seed=3, known=[SPACE.largest()])))
    assert score(best)[0] >= np.quantile(score(values), 0.99)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_a_front_has_nearly_the_best_within_each_limit_and_nothing_known(seed: int, count: int) -> None:
    values = everything()
    known = propose(SPACE, score, {"ms": cost}, {"ms": float(np.median(cost(values)))}, count=3, seed=seed)
    found = front(SPACE, score, cost, count=count, seed=seed, known=known)
    assert len(found) == count
    codes = [CODES.text(row) for row in CODES.of([*found, *known])]
    assert len(set(codes)) == count + 3
    rows = CODES.values(CODES.of(found))
    ends = cost(CODES.values(CODES.of([SPACE.smallest(), SPACE.largest()])))
    limits = np.exp(np.linspace(*np.log(ends), count + 1)[1:])
    assert (cost(rows) <= limits * (1 + 1e-9)).all()
    left = np.array([not (row == CODES.values(CODES.of(known))).all(1).any() for row in values])
    for limit, row in zip(limits, rows, strict=True):
        best = score(values)[left & (cost(values) <= limit * (1 + 1e-9))].max()
        assert score(row[None])[0] >= best - 0.03 * abs(best)
        left &= ~(values == row).all(1)


def test_wrong_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="no 'mb' is predicted; costs: ms"):
        propose(SPACE, score, {"ms": cost}, {"mb": 1.0})
    with pytest.raises(ValueError, match="not above 0"):
        propose(SPACE, score, {"ms": cost}, {"ms": 0.0})
