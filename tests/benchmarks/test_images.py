"""Cells are small and give back what was put in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.errors import InputError
from benchmarks.images import _runs, pack, unpack


def _pack(folder: Path, inside: np.ndarray) -> tuple[dict[str, object], np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, len(inside))
    predicted = rng.integers(0, 3, int(inside.sum()))
    packed = pack(
        folder, labels=labels, groups=np.arange(len(inside)) // 2, classes=["a", "b", "ü"], fingerprint="f",
        test=np.flatnonzero(inside), predicted=predicted,
    )  # fmt: skip
    return json.loads(json.dumps(packed)), labels


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_runs_are_lengths_that_begin_outside(inside: list[bool]) -> None:
    runs = _runs(np.array(inside))
    assert sum(runs) == len(inside)
    assert np.repeat(np.arange(len(runs)) % 2 == 1, runs).tolist() == inside


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
def test_there_and_back(tmp_path: Path, share: float) -> None:
    inside = np.random.default_rng(1).random(2000) < share
    packed, labels = _pack(tmp_path, inside)
    cell = unpack(packed, tmp_path)
    assert cell["index"].tolist() == np.flatnonzero(inside).tolist()
    assert cell["labels"].tolist() == labels[inside].tolist()
    assert cell["predicted"].tolist() == packed["predicted"]
    assert cell["classes"] == ["a", "b", "ü"]
    assert cell["images"] == 2000
    assert len(json.dumps(packed)) < 4 * 2000 + 3 * inside.sum() + 100


def test_lists_of_images_are_shared_and_checked(tmp_path: Path) -> None:
    inside = np.arange(50) % 3 == 0
    packed, _ = _pack(tmp_path, inside)
    again, _ = _pack(tmp_path, ~inside)
    assert packed["images"] == again["images"]
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="does not fit"):
        unpack({**packed, "predicted": [0]}, tmp_path)
    with pytest.raises(InputError, match="missing or damaged"):
        unpack({**packed, "images": "other"}, tmp_path)
