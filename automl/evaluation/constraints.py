"""Whether a model keeps its limits, and how well the images can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automl.evaluation.metrics import Metric, binomial_interval
from automl.task import Constraint


def check(
    constraints: Sequence[Constraint],
    *,
    costs: Mapping[str, float],
    quality: Mapping[str, Metric],
    predicted_device: bool = False,
) -> list[dict[str, Any]]:
    """Return one row per constraint, as in ``result.json``.

    Args:
        constraints: the limits.
        costs: measured on the exported file.
        quality: measured on images that no choice was made on.
        predicted_device: whether latencies were predicted rather than measured.

    Evidence of a quality is ``proved`` when the bound of its 95 % interval keeps the limit, ``met`` when the
    point estimate does, ``too_few`` when even a perfect score on that many images could not prove it, and
    ``violated`` when the point estimate misses it.
    """
    rows = []
    for constraint in constraints:
        if constraint.is_cost:
            value = float(costs.get(constraint.name, math.nan))
            low = high = value
            evidence = "predicted" if predicted_device and constraint.name.startswith("latency") else "measured"
        else:
            metric = quality.get(constraint.metric, Metric(math.nan, math.nan, math.nan, 0))
            value, low, high = metric.value, metric.low, metric.high
            evidence = _evidence(constraint, metric)
        rows.append(
            {
                "expression": constraint.expression,
                "limit": constraint.limit,
                "measured": value,
                "low": low,
                "high": high,
                "evidence": evidence,
                "satisfied": constraint.satisfied(value),
            }
        )
    return rows


def _evidence(constraint: Constraint, metric: Metric) -> str:
    if not constraint.satisfied(metric.value):
        return "violated"
    if constraint.satisfied(metric.low):
        return "proved"
    return "too_few" if not constraint.satisfied(binomial_interval(metric.n, metric.n)[0]) else "met"


def violations(constraints: Sequence[Constraint], values: Mapping[str, float]) -> dict[str, float]:
    """How far each value is beyond its limit, relative to it; at most 0 where it holds."""
    return {c.expression: c.violation(float(values.get(c.metric, math.nan))) for c in constraints}
