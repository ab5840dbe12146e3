"""Many texts in one block of bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.data._texts import Texts, first_equal


@settings(deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=30))
def test_holds_what_was_put_in(words: list[str]) -> None:
    texts = Texts.of(words)
    assert list(texts) == words
    assert [texts[at] for at in range(len(texts))] == words
    assert texts == words
    assert texts[1:4] == words[1:4]
    assert list(texts.with_prefix("p/")) == [f"p/{word}" for word in words]


def test_is_saved_and_mapped(tmp_path: Path) -> None:
    words = ["bad/000.png", "", "übel/\udcff.png", "x" * 5000]
    Texts.of(words).save(tmp_path, "names")
    texts = Texts.open(tmp_path, "names", "/data/")
    assert isinstance(texts.block, np.memmap)
    assert list(texts) == [f"/data/{word}" for word in words]
    Texts.of([""]).save(tmp_path, "empty")
    assert list(Texts.open(tmp_path, "empty")) == [""]


def test_some_of_them() -> None:
    texts = Texts.of(str(n) for n in range(9)).with_prefix("n")
    assert list(texts.take(np.array([2, 7]))) == ["n2", "n7"]
    assert texts.take(np.arange(9)) is texts
    assert texts[-1] == "n8"
    assert texts != ["n1"]
    with pytest.raises(IndexError):
        texts[9]


def test_blocks_are_crossed() -> None:
    words = [f"file-{n}" for n in range(10_000)]
    assert list(Texts.of(words)) == words
    assert os.fsencode(Texts.of(words)[9_999]) == b"file-9999"


@given(st.lists(st.sampled_from(["a", "b", "ab", "", "ü", "c" * 99])))
@settings(deadline=None)
def test_first_of_equal_texts(words: list[str]) -> None:
    assert first_equal(Texts.of(words)).tolist() == [words.index(word) for word in words]


class _Alike(str):
    """A text that shares its hash with all others of its kind."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7


def test_a_shared_hash_is_no_equality() -> None:
    assert first_equal([_Alike("a"), _Alike("b"), _Alike("a")]).tolist() == [0, 1, 0]


@given(
    st.lists(st.text(max_size=5), max_size=12),
    st.none() | st.integers(-15, 15),
    st.none() | st.integers(-15, 15),
    st.sampled_from([None, 1, 2, -1]),
)
@settings(deadline=None)
def test_slices_are_those_of_a_list(
    words: list[str], begin: int | None, end: int | None, step: int | None
) -> None:
    assert Texts.of(words).with_prefix("p")[begin:end:step] == ["p" + word for word in words][begin:end:step]
