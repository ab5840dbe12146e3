"""Rows of constraints as they stand in ``result.json``."""

from __future__ import annotations

import math

import numpy as np
import pytest

from automl.evaluation.constraints import check, violations
from automl.evaluation.metrics import Metric, evaluate_all
from automl.task import Constraint


def _evidence(limit: str, right: int, n: int) -> tuple[str, bool]:
    """Of a recall with so many right of n."""
    labels = np.ones(n, dtype=np.int64)
    predicted = (np.arange(n) < right).astype(np.int64)
    quality = evaluate_all(labels, np.eye(2)[predicted], predicted, ["ok", "bad"])
    row = check([Constraint.parse(limit)], costs={}, quality=quality)[0]
    return row["evidence"], row["satisfied"]


def test_evidence_of_a_quality() -> None:
    assert _evidence("recall[bad]>=0.9", 100, 100) == ("proved", True)
    assert _evidence("recall[bad]>=0.9", 95, 100) == ("met", True)
    assert _evidence("recall[bad]>=0.9", 89, 100) == ("violated", False)
    assert _evidence("recall[bad]>=0.9", 20, 20) == ("too_few", True)
    assert _evidence("recall[bad]>=0.9", 17, 20) == ("violated", False)


def test_as_many_images_as_it_takes() -> None:
    """0.995 is proved by 736 flawless images: 0.025 ** (1 / n) >= 0.995."""
    assert _evidence("recall[bad]>=0.995", 735, 735) == ("too_few", True)
    assert _evidence("recall[bad]>=0.995", 736, 736) == ("proved", True)


@pytest.mark.parametrize("groups", [None, np.arange(45) // 3])
@pytest.mark.parametrize(
    "metric", ["accuracy", "balanced_accuracy", "macro_f1", "auroc[bad]", "average_precision[bad]"]
)
def test_a_handful_of_images_proves_no_tight_limit(metric: str, groups: np.ndarray | None) -> None:
    labels = np.array([0] * 40 + [1] * 5)
    p = np.where(np.eye(2)[labels] > 0, 0.9, 0.1)
    quality = evaluate_all(labels, p, labels, ["ok", "bad"], groups)
    row = check([Constraint.parse(f"{metric}>=0.99")], costs={}, quality=quality)[0]
    assert (row["evidence"], row["satisfied"]) == ("too_few", True)


def test_costs() -> None:
    limits = [Constraint.parse(t) for t in ("latency_ms<=5", "size_mb<=4", "memory_mb<=50", "macs_m<=10")]
    costs = {
        "latency_ms": 4.0,
        "latency_ms_low": 3.9,
        "latency_ms_high": 5.2,
        "size_mb": 4.5,
        "memory_mb": 9.0,
    }
    latency, size, memory, macs = check(limits, costs=costs, quality={})
    assert latency == {
        "expression": "latency_ms<=5",
        "limit": 5.0,
        "measured": 4.0,
        "low": 3.9,
        "high": 5.2,
        "evidence": "measured",
        "satisfied": True,
    }
    assert (size["low"], size["high"], size["satisfied"]) == (4.5, 4.5, False)
    assert (macs["evidence"], macs["satisfied"]) == ("not_measured", False) and math.isnan(macs["measured"])
    told = [row["evidence"] for row in check(limits[:3], costs=costs, quality={}, predicted_device=True)]
    assert told == ["predicted", "measured", "predicted"]
    assert memory["satisfied"] is True


def test_a_metric_without_images_is_not_satisfied() -> None:
    limit = [Constraint.parse("recall[bad]>=0.5")]
    for quality in ({}, {"recall[bad]": Metric(math.nan, 0.0, 1.0, 0)}):
        row = check(limit, costs={}, quality=quality)[0]
        assert (row["evidence"], row["satisfied"], row["low"], row["high"]) == ("too_few", False, 0.0, 1.0)


def test_a_metric_from_elsewhere_is_judged_by_its_count() -> None:
    limit = [Constraint.parse("accuracy>=0.9")]
    assert check(limit, costs={}, quality={"accuracy": Metric(1.0, 0.6, 1.0, 20)})[0]["evidence"] == "too_few"
    assert check(limit, costs={}, quality={"accuracy": Metric(0.95, 0.88, 1.0, 100)})[0]["evidence"] == "met"


def test_violations_are_relative() -> None:
    limits = [Constraint.parse(t) for t in ("latency_ms<=5", "recall[bad]>=0.8", "size_mb<=4")]
    found = violations(limits, {"latency_ms": 6.0, "recall[bad]": 0.88})
    assert found["latency_ms<=5"] == pytest.approx(0.2)
    assert found["recall[bad]>=0.8"] == pytest.approx(-0.1)
    assert found["size_mb<=4"] == math.inf
