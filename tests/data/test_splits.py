from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.data._splits import ALWAYS, OUTSIDE, deal, folds, proportional_order, split
from automl.errors import InputError

UNSET = np.int8(-1)


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels, groups and a seed; each class has at least four images in groups of their own."""
    classes = draw(st.integers(2, 5))
    labels: list[int] = []
    groups: list[int] = []
    for c in range(classes):
        for _ in range(draw(st.integers(4, 12))):
            size = draw(st.integers(1, 5))
            groups += [max(groups, default=-1) + 1] * size
            labels += [c] * size
    if draw(st.booleans()):
        mixed = draw(st.integers(0, 4))
        labels += [draw(st.integers(0, classes - 1)) for _ in range(mixed)]
        groups += [max(groups) + 1] * mixed
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return np.array(labels)[order], np.array(groups)[order] * 7, draw(st.integers(0, 5))


@settings(max_examples=60, deadline=None)
@given(tables())
def test_parts_cover_all_images_and_keep_groups_whole(table: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, groups, seed = table
    part = split(labels, groups, np.full(len(labels), UNSET), seed)
    assert set(np.unique(part)) == {0, 1, 2}
    for group in np.unique(groups):
        assert len(np.unique(part[groups == group])) == 1
    for c in np.unique(labels):
        assert set(part[labels == c]) == {0, 1, 2}
    assert (part == split(labels, groups, np.full(len(labels), UNSET), seed)).all()


@settings(max_examples=60, deadline=None)
@given(tables())
def test_folds_are_disjoint_cover_development_and_keep_groups_whole(
    table: tuple[np.ndarray, np.ndarray, int],
) -> None:
    labels, groups, seed = table
    part = split(labels, groups, np.full(len(labels), UNSET), seed)
    none = np.full(len(labels), UNSET)
    number, table_of = folds(labels, groups, part, none, seed)
    assert 1 < number <= 4
    assert ((table_of == OUTSIDE) == (part == 2)).all()
    for group in np.unique(groups):
        assert len(np.unique(table_of[groups == group])) == 1
    for fold in range(number):
        training = (table_of != OUTSIDE) & (table_of != fold)
        assert (table_of == fold).any()
        assert set(labels[training]) == set(labels)
    assert (table_of == folds(labels, groups, part, none, seed)[1]).all()


@settings(max_examples=30, deadline=None)
@given(tables(), st.lists(st.integers(0, 2), min_size=500, max_size=500))
def test_given_parts_are_kept(table: tuple[np.ndarray, np.ndarray, int], codes: list[int]) -> None:
    labels, groups, seed = table
    stated = np.array(codes[: len(labels)], np.int8)
    stated[:3] = [0, 1, 2]
    for c in np.unique(labels):
        stated[np.flatnonzero(labels == c)[-1]] = 0
    if set(stated.tolist()) == {0, 1, 2}:
        assert (split(labels, groups, stated, seed) == stated).all()


def test_shares_are_a_fifth_and_a_fifth_of_the_rest() -> None:
    labels = np.repeat([0, 1, 2], [1000, 100, 50])
    part = split(labels, np.arange(1150), np.full(1150, UNSET), 0)
    for c, count in enumerate([1000, 100, 50]):
        own = part[labels == c]
        assert (own == 2).sum() == count * 0.2
        assert (own == 1).sum() == count * 0.16


def test_seeds_differ() -> None:
    labels = np.repeat([0, 1], 50)
    first, second = (split(labels, np.arange(100), np.full(100, UNSET), seed) for seed in (0, 1))
    assert (first != second).any()


def test_missing_validation_is_cut_from_train_only() -> None:
    labels = np.tile([0, 1], 50)
    stated = np.repeat([0, 2], 50).astype(np.int8)
    part = split(labels, np.arange(100), stated, 0)
    assert (part[50:] == 2).all()
    assert (part[:50] == 1).sum() == 10


def test_missing_test_is_cut_from_all() -> None:
    labels = np.tile([0, 1], 50)
    stated = np.repeat([0, 1], 50).astype(np.int8)
    part = split(labels, np.arange(100), stated, 0)
    assert (part == 2).sum() == 20
    assert set(part[:50]) == {0, 2}
    assert set(part[50:]) == {1, 2}


def test_rare_class_is_on_every_side_where_it_can_be() -> None:
    labels = np.array([0] * 200 + [1] * 3)
    part = split(labels, np.arange(203), np.full(203, UNSET), 3)
    assert sorted(part[200:]) == [0, 1, 2]
    lonely = np.array([0] * 200 + [1] * 50 + [2])
    part = split(lonely, np.arange(251), np.full(251, UNSET), 3)
    assert part[-1] == 0
    number, table = folds(lonely, np.arange(251), part, np.full(251, UNSET), 3)
    assert number == 4
    assert table[-1] == ALWAYS


def test_one_fold_where_validation_is_large_enough() -> None:
    labels = np.repeat([0, 1], 400)
    part = split(labels, np.arange(800), np.full(800, UNSET), 0)
    number, table = folds(labels, np.arange(800), part, np.full(800, UNSET), 0)
    assert number == 1
    assert ((table == 0) == (part == 1)).all()
    many = np.repeat(np.arange(100), 20)
    part = split(many, np.arange(2000), np.full(2000, UNSET), 0)
    assert folds(many, np.arange(2000), part, np.full(2000, UNSET), 0)[0] == 4


def test_a_given_validation_of_every_class_is_the_one_fold_however_small() -> None:
    labels = np.tile([0, 1, 2], 12)
    stated = np.zeros(36, np.int8)
    stated[:3], stated[3:9] = 1, 2
    part = split(labels, np.arange(36), stated, 0)
    number, table = folds(labels, np.arange(36), part, stated, 0)
    assert number == 1
    assert table.tolist() == [0] * 3 + [OUTSIDE] * 6 + [ALWAYS] * 27
    stated[2] = 0  # no image of the last class
    part = split(labels, np.arange(36), stated, 0)
    number, table = folds(labels, np.arange(36), part, stated, 0)
    assert number == 4
    assert ((table == OUTSIDE) == (stated == 2)).all()


@pytest.mark.parametrize(
    ("labels", "stated", "message"),
    [
        ([0, 1], [-1, -1], "too few images"),
        ([0, 0, 1, 1], [-1] * 4, "too few images"),
        ([0, 1, 0, 1], [2, 2, 2, 2], "leaves no image"),
        ([0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 2, 2], "all of one class"),
    ],
)
def test_splits_that_cannot_be(labels: list[int], stated: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(np.array(labels), np.arange(len(labels)), np.array(stated, np.int8), 0)


def test_dealing_is_fast_and_even() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 200, 40_000)
    parts = deal(labels, generator.integers(0, 30_000, 40_000), [0.25] * 4, [0])
    assert np.ptp(np.bincount(parts)) < 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 5), st.floats(0, 1))
def test_every_beginning_keeps_the_share_of_each_class(classes: list[int], seed: int, share: float) -> None:
    labels = np.array(classes)
    order = proportional_order(labels, seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    taken = int(share * len(labels))
    for name in np.unique(labels):
        mine = labels == name
        # A class is at most one image early or late, and so are all of the others.
        assert abs((labels[order[:taken]] == name).sum() - taken * mine.mean()) <= 5
    np.testing.assert_array_equal(order, proportional_order(labels, seed))


def test_which_images_of_a_class_come_first_is_a_draw() -> None:
    labels = np.repeat([0, 1], [400, 100])
    first = {seed: set(proportional_order(labels, seed)[:50].tolist()) for seed in range(20)}
    assert all(sum(i >= 400 for i in found) in (9, 10, 11) for found in first.values())
    often = np.bincount([i for found in first.values() for i in found], minlength=500)
    assert often.max() <= 10 and (often > 0).mean() > 0.8
