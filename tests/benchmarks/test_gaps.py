"""The engine's differences: over data sets, with runs that failed, and after another method's time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.gaps import gaps

LABELS = np.array([0, 0, 1, 1, 2, 2])


def cell(predicted: list[int], **details: Any) -> dict[str, Any]:
    return {
        "images_id": "i", "index": np.arange(6), "dataset": "d", "labels": LABELS, "groups": np.arange(6),
        "predicted": np.array(predicted), "details": details,
    }  # fmt: skip


RIGHT, HALF, WRONG = [0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0], [1, 1, 2, 2, 0, 0]


def means(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {other: row["mean"] for other, row in found.items()}


def test_tasks_of_the_same_pictures_count_once() -> None:
    by_task = {
        "a": {"engine": {0: cell(RIGHT)}, "other": {0: cell(RIGHT)}},
        "b": {"engine": {0: cell(RIGHT)}, "other": {0: cell(RIGHT)}},
        "c": {"engine": {0: cell(RIGHT)}, "other": {0: cell(WRONG)}},
    }
    found = gaps(by_task, {"a": "one", "b": "one", "c": "two"}, 100)
    assert means(found) == {"other": 0.5} and found["other"]["tasks"] == 3
    assert means(gaps(by_task, {}, 100)) == {"other": pytest.approx(1 / 3, abs=1e-5)}


def test_a_run_without_a_model_is_wrong_everywhere() -> None:
    failed = {"failed": "no trial left a model", "settings": {}}
    by_task = {
        "a": {
            "engine": {0: cell(HALF), 1: failed},
            "other": {0: failed, 1: cell(RIGHT)},
            "third": {0: failed},
        }
    }
    found = gaps(by_task, {}, 100)
    assert means(found) == {"other": -0.25, "third": 0.5}


def test_after_another_methods_time_the_engine_says_what_it_then_knew() -> None:
    run = {
        "trials": [{"ended": 5.0}, {"ended": 20.0}],
        "curve": [[2.0, 0.1, 0.0], [5.0, 0.5, 0.5], [30.0, None, 1.0]],
        "predicted": [WRONG, HALF],
    }
    by_task = {
        "a": {
            "engine": {0: cell(RIGHT, run=run)},
            **{name: {0: cell(WRONG)} for name in ("1", "4", "5", "20")},
        }
    }
    runs = pd.DataFrame(
        [{"task": "a", "method": name, "seed": 0, "trained": float(name)} for name in ("1", "4", "5", "20")]
    )
    assert means(gaps(by_task, {}, 100, runs)) == {"1": 0.0, "4": 0.0, "5": 0.5, "20": 1.0}
    assert set(means(gaps(by_task, {}, 100)).values()) == {1.0}
