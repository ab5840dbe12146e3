"""A refit whose file has forgotten what it was trained on is not exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from automl.refit_check import MOST_CHECKED, leave_out_worse

LABELS = np.array([0] * 30 + [1] * 10)


class Images:
    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return rows


def finisher(labels: np.ndarray, late: bool = False) -> Any:
    submit = SimpleNamespace(workers=1, clock=SimpleNamespace(late=lambda: late), notes=[])
    submit.say = submit.notes.append
    specs = {name: (SimpleNamespace(candidate=SimpleNamespace(resolution=32)), None) for name in "ab"}
    return SimpleNamespace(
        refits={"a": "r", "c": "s"},
        by_id=specs,
        submit=submit,
        chooser=SimpleNamespace(index=np.arange(len(labels))),
        dataset=SimpleNamespace(
            labels=labels, class_names=["x", "y"], seed=0, images=lambda _side, once: Images()
        ),
        _named=lambda selection: " + ".join(selection.weights),
    )


def selection(predicted: np.ndarray, names: str = "ab") -> Any:
    scores = np.where(predicted[:, None] == np.arange(2), 0.9, 0.1)
    return SimpleNamespace(weights=dict.fromkeys(names, 0.5), log_probabilities=np.log(scores))


@pytest.fixture
def file_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Lets a file answer with these labels, by image; returns the images that it was asked for."""

    def says(labels: np.ndarray) -> list[np.ndarray]:
        asked: list[np.ndarray] = []

        def run(_path: Path, level: Any, index: np.ndarray, *, threads: int, enough: Any) -> Any:
            rows = level[index] if not enough(0) else index[:0]
            asked.append(rows)
            return np.eye(2, dtype=np.float32)[labels[rows]], labels[rows]

        monkeypatch.setattr("automl.export.run_onnx", run)
        return asked

    return says


POINT: Any = SimpleNamespace(bias=np.zeros(2))
RIGHT, ONE_WRONG = LABELS, np.where(np.arange(40) == 35, 0, LABELS)


def test_a_file_that_does_worse_is_made_of_the_trials_before(file_says: Any) -> None:
    asked = file_says(ONE_WRONG)
    made = finisher(LABELS)
    assert leave_out_worse(made, selection(RIGHT), POINT, Path("x"))
    assert made.refits == {"c": "s"}  # of another choice
    assert sorted(asked[0]) == list(range(40))
    assert any(
        "a + b is exported as it was before" in note and "95.0 %" in note for note in made.submit.notes
    )


@pytest.mark.parametrize("before", [RIGHT, ONE_WRONG])
def test_one_that_is_as_good_or_better_stays(file_says: Any, before: np.ndarray) -> None:
    file_says(RIGHT)
    made = finisher(LABELS)
    assert not leave_out_worse(made, selection(before), POINT, Path("x"))
    assert made.refits == {"a": "r", "c": "s"} and not made.submit.notes


def test_the_operating_point_counts(file_says: Any) -> None:
    """Scores whose labels are only right at the operating point are compared there."""
    file_says(RIGHT)
    turned: Any = SimpleNamespace(bias=np.array([5.0, 0.0]))
    made = finisher(LABELS)
    assert not leave_out_worse(made, selection(RIGHT), turned, Path("x"))
    file_says(np.zeros_like(LABELS))
    assert not leave_out_worse(
        made, selection(RIGHT), turned, Path("x")
    )  # before, all were called the first too
    assert leave_out_worse(made, selection(RIGHT), POINT, Path("x"))


def test_nothing_is_looked_at_without_refits_or_time(file_says: Any) -> None:
    asked = file_says(ONE_WRONG)
    assert not leave_out_worse(finisher(LABELS), selection(RIGHT, "b"), POINT, Path("x"))
    assert not asked
    assert not leave_out_worse(finisher(LABELS, late=True), selection(RIGHT), POINT, Path("x"))
    assert not len(asked[0])


def test_of_many_images_a_fair_sample_is_looked_at(file_says: Any) -> None:
    labels = np.repeat([0, 1], [3000, 1000])
    asked = file_says(labels)
    assert not leave_out_worse(finisher(labels), selection(labels), POINT, Path("x"))
    assert len(asked[0]) == MOST_CHECKED and (labels[asked[0]] == 1).sum() == MOST_CHECKED // 4
