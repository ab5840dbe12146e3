"""Sentences about the winner that hold for what happened."""

from __future__ import annotations

import math
from typing import Any

from automl.explain import needs, why

FACTS: dict[str, Any] = {
    "objective": "accuracy", "score": 0.9123, "images": 40, "candidates": 7, "keeping": 7, "limited": False,
    "turned_down": 0, "missed_cost": False, "missed_quality": False, "rival": ("b", 0.9), "joint": False,
    "refitted": False, "likely": False,
}  # fmt: skip


def told(**changes: Any) -> str:
    return why("a", **{**FACTS, **changes})


def test_the_best_of_all() -> None:
    assert told() == (
        "a has the best accuracy (0.912 on 40 validation images no member was trained on when it was judged) among "
        "the 7 finished candidates. The best other model is b with 0.900."
    )
    assert "among the 1 finished candidate." in told(candidates=1, keeping=1, rival=None)
    assert "best single model is b" in told(joint=True)
    assert told(refitted=True).endswith("trained on with the validation images.")


def test_only_those_that_keep_the_limits_are_counted() -> None:
    assert "among the 3 of 7 finished candidates whose costs keep the limits." in told(
        limited=True, keeping=3
    )
    assert "whose costs" not in told(limited=True)


def test_better_ones_that_missed_a_limit_are_told() -> None:
    text = told(limited=True, turned_down=2)
    assert "of what kept the limits as an exported file; 2 choices expected to be better did not" in text
    assert "1 choice expected" in told(limited=True, turned_down=1)


def test_where_none_keeps_the_limits_none_is_said_to() -> None:
    text = told(limited=True, missed_cost=True, keeping=0, turned_down=2, rival=None)
    assert text.startswith("None of the 7 finished candidates keeps all limits. a, with a accuracy")
    assert "has the best" not in text


def test_a_quality_that_is_missed_on_test_images_is_told() -> None:
    text = told(limited=True, missed_quality=True)
    assert "has the best accuracy" in text
    assert "On the test images it misses a limit" in text


def test_a_choice_by_likelihood_claims_no_best_score() -> None:
    text = told(likely=True)
    assert "has the best" not in text
    assert text.startswith(
        "a gives the right labels the highest probability, up to the noise (accuracy 0.912 on 40 validation images "
        "no member was trained on when it was judged), among the 7 finished candidates."
    )


def row(expression: str, limit: float, measured: float, satisfied: bool = False) -> dict[str, Any]:
    return {"expression": expression, "limit": limit, "measured": measured, "satisfied": satisfied}


def test_what_is_missed_by_little_does_not_look_kept() -> None:
    text = needs(
        [
            row("recall[a>=b]>=0.995", 0.995, 0.99497),
            row("latency_ms<=2", 2.0, 2.0004),
            row("size_mb<=4", 4.0, 1.0, satisfied=True),
        ]
    )
    assert text == (
        "The closest model misses recall[a>=b]>=0.995 (measured 99.497 %) and latency_ms<=2 (measured 2.0004 ms); "
        "it would do with these limits at the measured values."
    )


def test_what_no_image_tells_of_is_no_measured_value() -> None:
    rows = [row("recall[rare]>=0.9", 0.9, math.nan), row("size_mb<=2", 2.0, 3.5)]
    assert needs(rows).startswith("The closest model misses size_mb<=2 (measured 3.5 MB);")
    assert needs(rows).endswith("No test image tells of recall[rare]>=0.9.")
    assert needs(rows[:1]) == "No test image tells of recall[rare]>=0.9."
