"""Whether a model keeps its limits, and how well the images can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automl.evaluation.metrics import Metric, binomial_interval
from automl.task import Constraint

#: Costs that depend on the device; the others are properties of the file.
_OF_DEVICE = ("latency_ms", "latency_p95_ms", "memory_mb")
_UNKNOWN = Metric(math.nan, 0.0, 1.0, 0, 0.0)


def check(
    constraints: Sequence[Constraint],
    *,
    costs: Mapping[str, float],
    quality: Mapping[str, Metric],
    predicted_device: bool = False,
) -> list[dict[str, Any]]:
    """Return one row per constraint, as in ``result.json``.

    ``evidence`` of a cost is ``measured``, ``predicted`` if it was not measured on the device, or ``not_measured``.
    That of a quality is ``proved`` when the bound of its two-sided 95 % interval keeps the limit, ``met`` when the
    point estimate does, ``too_few`` when not even a flawless score on these images could prove it, and ``violated``
    when the point estimate misses it. A metric without images is ``too_few`` and not satisfied.

    Args:
        constraints: the limits.
        costs: of the exported file, by name; ``NAME_low`` and ``NAME_high`` may give the spread of a measurement.
        quality: on images that no choice was made on, as :func:`automl.evaluation.metrics.evaluate_all` returns.
        predicted_device: whether the device was described rather than present.
    """
    return [
        _cost_row(c, costs, predicted_device) if c.is_cost else _quality_row(c, quality) for c in constraints
    ]


def violations(constraints: Sequence[Constraint], values: Mapping[str, float]) -> dict[str, float]:
    """How far each value is beyond its limit, relative to it; at most 0 where it holds, infinite where it is missing.

    Args:
        constraints: the limits.
        values: by metric, as ``latency_ms`` or ``recall[defect]``.
    """
    return {c.expression: c.violation(float(values.get(c.metric, math.nan))) for c in constraints}


def _cost_row(constraint: Constraint, costs: Mapping[str, float], predicted_device: bool) -> dict[str, Any]:
    value = float(costs.get(constraint.name, math.nan))
    low = float(costs.get(f"{constraint.name}_low", value))
    high = float(costs.get(f"{constraint.name}_high", value))
    if math.isnan(value):
        evidence = "not_measured"
    else:
        evidence = "predicted" if predicted_device and constraint.name in _OF_DEVICE else "measured"
    return _row(constraint, value, low, high, evidence)


def _quality_row(constraint: Constraint, quality: Mapping[str, Metric]) -> dict[str, Any]:
    metric = quality.get(constraint.metric, _UNKNOWN)
    if math.isnan(metric.value):
        evidence = "too_few"
    elif not constraint.satisfied(metric.value):
        evidence = "violated"
    elif constraint.satisfied(metric.low):
        evidence = "proved"
    else:
        best = metric.best_low if metric.best_low is not None else binomial_interval(metric.n, metric.n)[0]
        evidence = "met" if constraint.satisfied(best) else "too_few"
    return _row(constraint, metric.value, metric.low, metric.high, evidence)


def _row(constraint: Constraint, value: float, low: float, high: float, evidence: str) -> dict[str, Any]:
    return {
        "expression": constraint.expression,
        "limit": constraint.limit,
        "measured": value,
        "low": low,
        "high": high,
        "evidence": evidence,
        "satisfied": constraint.satisfied(value),
    }
