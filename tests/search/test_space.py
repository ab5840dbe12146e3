from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.candidate import Candidate
from automl.search._space import SearchSpace, tidy
from strategy_pool import strategy as catalog
from tests.search.runs import SPACE


def space_with(bounds: Any) -> SearchSpace:
    return SearchSpace.from_mapping(
        {"triples": [("a", 32, "fp32")], "strategies": ["tune"], "ranges": {"tune": {"lr": bounds}}}
    )


@pytest.mark.parametrize(
    "bounds",
    [
        (1.0, 1.0, False),
        (2.0, 1.0, False),
        (0.0, 1.0, True),
        (-1.0, 1.0, True),
        (float("nan"), 1.0, False),
        (0.0, float("nan"), False),
        (1.0, float("inf"), True),
        (float("-inf"), 0.0, False),
    ],
)
def test_ends_of_a_range_are_in_order(bounds: tuple[float, float, bool]) -> None:
    with pytest.raises(ValueError, match=r"range of tune\.lr is"):
        space_with(bounds)


@pytest.mark.parametrize("bounds", [(1e-4, 0.1, True), (-1.0, 1.0, False), (1, 2, False), ["plain", "mixed"]])
def test_ranges_in_order_are_kept(bounds: Any) -> None:
    assert space_with(bounds).ranges == {"tune": {"lr": bounds}}


@pytest.mark.parametrize("bounds", [["plain"], []])
def test_a_choice_of_one_is_none(bounds: list[str]) -> None:
    assert space_with(bounds).ranges == {"tune": {}}


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown key 'tripels'; known: triples"):
        SearchSpace.from_mapping({"tripels": []})


def test_repeated_entries_count_once() -> None:
    space = SearchSpace.from_mapping(
        {"triples": [("a", 32, "fp32"), ["a", 32, "fp32"]], "strategies": ["tune", "tune"], "ranges": {}}
    )
    assert space.triples == (("a", 32, "fp32"),)
    assert space.strategies == ("tune",)


def test_ranges_of_strategies_that_are_not_there_are_left_out() -> None:
    space = SearchSpace.from_mapping({"strategies": ["tune"], "ranges": {"probe": {"loss": ["x", "y"]}}})
    assert space.ranges == {"tune": {}}


def test_without_ranges_the_catalog_has_them() -> None:
    names = [name for name in catalog.load_catalog() if catalog.search_space(catalog.get(name))]
    space = SearchSpace.from_mapping({"triples": [("a", 32, "fp32")], "strategies": names})
    assert names
    for name in names:
        assert set(space.ranges[name]) <= set(space.defaults[name])
        assert space.candidate(("a", 32, "fp32"), name, space.defaults[name]).overrides == ()


def test_values_of_the_strategy_itself_are_no_overrides() -> None:
    space = SearchSpace.from_mapping(SPACE)
    made = space.candidate(("a", 32, "fp32"), "tune", {"lr": 0.01, "epochs": 7})
    assert made.overrides == (("epochs", 7),)
    assert space.candidate(("a", 32, "fp32"), "tune", {"lr": 0.0100001, "epochs": 10}).id == "a@32/fp32/tune"


def test_the_id_of_a_made_up_candidate_stays_the_same() -> None:
    # Resumed runs and histories know candidates by these ids.
    space = SearchSpace.from_mapping(SPACE)
    made = space.candidate(("a", 32, "fp32"), "tune", {"lr": 0.0123456, "epochs": 7})
    assert made.id == "a@32/fp32/tune~88d7cb"
    assert space.candidate(("a", 32, "fp32"), "tune", {"epochs": 7, "lr": 0.0123499}).id == made.id


values = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(-1e300, 1e300),
    st.sampled_from(["plain", "balanced", "größer", ""]),
)


@given(overrides=st.dictionaries(st.text("abcdef_", min_size=1, max_size=8), values, max_size=4))
def test_a_candidate_survives_json(overrides: dict[str, Any]) -> None:
    made = SearchSpace.from_mapping(SPACE).candidate(("b", 64, "int8"), "tune", overrides)
    again = Candidate.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made
    assert again.id == made.id


@given(value=st.floats(-1e300, 1e300))
def test_tidy_keeps_four_digits(value: float) -> None:
    assert tidy(value) == pytest.approx(value, rel=5.1e-4, abs=1e-320)
    assert tidy(tidy(value)) == tidy(value)


@pytest.mark.parametrize("value", [3, "plain", True, None, 0.0, float("inf")])
def test_tidy_leaves_the_rest_alone(value: Any) -> None:
    assert tidy(value) is value
