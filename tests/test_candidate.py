"""Candidates: ids are stable and parse back, and nothing that tells two apart is lost on the way."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.candidate import PRECISIONS, Candidate

names = st.from_regex(r"[a-z][a-z0-9_.\-]{0,20}", fullmatch=True)
values = st.one_of(st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False), names)
candidates = st.builds(
    Candidate,
    names,
    st.integers(8, 1024),
    st.sampled_from(PRECISIONS),
    names,
    st.dictionaries(names, values, max_size=3).map(lambda found: tuple(found.items())),
)


@given(candidates)
def test_a_candidate_comes_back_from_json(candidate: Candidate) -> None:
    again = Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))
    assert again == candidate
    assert again.id == candidate.id
    assert hash(again) == hash(candidate)


@given(candidates)
def test_an_id_without_overrides_parses_back(candidate: Candidate) -> None:
    plain = Candidate(*candidate.triple, candidate.strategy)
    assert Candidate.parse(plain.id) == plain
    if candidate.overrides:
        assert candidate.id.startswith(f"{plain.id}~")
        with pytest.raises(ValueError, match="the form is"):
            Candidate.parse(candidate.id)
    else:
        assert candidate.id == plain.id


@given(candidates, st.randoms())
def test_the_order_of_overrides_does_not_matter(candidate: Candidate, random: object) -> None:
    shuffled = list(candidate.overrides)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = Candidate(*candidate.triple, candidate.strategy, tuple(shuffled))
    assert (again, again.id) == (candidate, candidate.id)


@given(candidates, candidates)
def test_different_candidates_have_different_ids(first: Candidate, second: Candidate) -> None:
    assert (first == second) == (first.id == second.id)


def test_the_id_is_what_is_written_in_old_histories() -> None:
    plain = Candidate("resnet18.a1_in1k", 128, "int8", "full_plain")
    assert plain.id == "resnet18.a1_in1k@128/int8/full_plain"
    assert plain.triple == ("resnet18.a1_in1k", 128, "int8")
    changed = Candidate("net", 64, "fp32", "s", (("lr", 0.01), ("epochs", 3)))
    assert changed.overrides == (("epochs", 3), ("lr", 0.01))
    assert changed.id == "net@64/fp32/s~86f94e"


def test_overrides_as_pairs_or_as_a_dict() -> None:
    base = {"architecture": "net", "resolution": 64, "precision": "fp32", "strategy": "s"}
    as_dict = Candidate.from_dict({**base, "overrides": {"lr": 0.1}})
    as_pairs = Candidate.from_dict({**base, "overrides": [["lr", 0.1]]})
    assert as_dict == as_pairs
    assert Candidate.from_dict(base) == Candidate.from_dict({**base, "overrides": None})


def test_wrong_candidates() -> None:
    with pytest.raises(ValueError, match="precision is 'fp16'; known: fp32, int8"):
        Candidate("net", 64, "fp16", "s")
    for text in ("", "net", "net@64", "net@64/fp32", "net@x/fp32/s", "@64/fp32/s"):
        with pytest.raises(ValueError, match="architecture@resolution/precision/strategy"):
            Candidate.parse(text)
