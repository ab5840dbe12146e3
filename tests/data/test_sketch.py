"""Sketches tell whether two data sets are of the same pictures, and how many of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.data import load_dataset
from automl.data._sketch import sketch
from strategy_pool.sketches import SIZE, copies, shared
from tests.conftest import write_shapes


def numbers(values: np.ndarray) -> list[str]:
    return sketch([int(v).to_bytes(8, "big") for v in values], np.arange(len(values)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1))
def test_the_share_of_common_pictures_is_told(one: int, other: int, common: float) -> None:
    both = int(common * min(one, other))
    first, second = np.arange(one), np.arange(one - both, one - both + other)
    a, b = numbers(first), numbers(second)
    assert shared(a, b) == shared(b, a)
    if both == 0:
        assert shared(a, b) == 0
    elif max(one, other) <= SIZE:
        assert shared(a, b) == pytest.approx(both / min(one, other))
    elif both == min(one, other):
        assert shared(a, b) in (0.0, 1.0)  # 0 where none of the few is among the smallest of the many
        if min(one, other) / max(one, other) > 0.05:
            assert shared(a, b) == 1.0


def test_nothing_is_shared_with_nothing() -> None:
    assert shared([], []) == shared([], numbers(np.arange(9))) == 0.0


def test_a_part_of_a_folder_is_known_whatever_its_labels_and_its_size(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "shapes", per_class=20)
    whole = load_dataset(folder, cache_dir=tmp_path / "home")
    paths = sorted(folder.rglob("*.png"))[::3]
    table = tmp_path / "some.csv"
    table.write_text("path,label\n" + "".join(f"{p},{n % 2}\n" for n, p in enumerate(paths)))
    part = load_dataset(table, cache_dir=tmp_path / "home")
    other = load_dataset(write_shapes(tmp_path / "others", per_class=20, seed=5), cache_dir=tmp_path / "home")
    assert len(whole.sketch) == 60 and len(part.sketch) == len(paths)
    assert shared(whole.sketch, part.sketch) == 1.0
    assert shared(whole.sketch, other.sketch) == 0.0


def test_a_file_that_has_gone_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    assert len(sketch([str(tmp_path / "a"), str(tmp_path / "b")], np.arange(2))) == 1


def test_copies_are_found_by_way_of_others() -> None:
    sketches = {
        "b": numbers(np.arange(100)), "a": numbers(np.arange(60, 200)), "c": numbers(np.arange(180, 300)),
        "d": numbers(np.arange(400, 500)), "e": [], "f": [],
    }  # fmt: skip
    assert shared(sketches["b"], sketches["c"]) == 0.0
    assert copies(sketches) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e", "f": "f"}
    assert copies({}) == {}


def test_a_few_common_pictures_make_no_copy() -> None:
    sketches = {"a": numbers(np.arange(100)), "b": numbers(np.arange(95, 195))}
    assert copies(sketches) == {"a": "a", "b": "b"}
