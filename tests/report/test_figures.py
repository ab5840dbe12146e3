from __future__ import annotations

import numpy as np
import pytest

from automl.report._figures import pareto, pr_curve, shade
from automl.report._svg import Axis


def test_the_front_holds_what_nothing_beats() -> None:
    rng = np.random.default_rng(0)
    points = [(float(a), float(b)) for a, b in rng.integers(0, 12, (60, 2))]
    best = {p for p in points if not any((c <= p[0] and s >= p[1]) and (c, s) != p for c, s in points)}
    assert pareto(points) == sorted(best)
    assert pareto([]) == []


def test_the_curve_agrees_with_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(1)
    positive = rng.random(80) < 0.3
    score = np.round(rng.random(80) + 0.3 * positive, 1)
    recall, precision = pr_curve(positive, score)
    theirs = {
        (round(r, 9), round(p, 9)) for p, r in zip(*precision_recall_curve(positive, score)[:2], strict=True)
    }
    ours = {(round(float(r), 9), round(float(p), 9)) for r, p in zip(recall[1:], precision[1:], strict=True)}
    assert ours <= theirs
    assert recall[0] == 0 and recall[-1] == 1 and (np.diff(recall) >= 0).all()
    assert len(pr_curve(rng.random(5000) < 0.5, rng.random(5000))[0]) <= 160


@pytest.mark.parametrize("colour", [(11, 95, 165), (180, 83, 9)])
def test_counts_can_be_read_on_every_shade(colour: tuple[int, int, int]) -> None:
    def luminance(rgb: list[int]) -> float:
        parts = [v / 255 for v in rgb]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for strength in np.linspace(0, 1, 101):
        back, ink = shade(colour, float(strength))
        low, high = sorted(
            [luminance([int(v) for v in back[4:-1].split(",")]), 1.0 if ink == "#fff" else 0.0]
        )
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([0.91, 0.97], {"percent": True}),
        ([1.0], {"percent": True}),
        ([0.0], {"percent": True}),
        ([0.97, 0.9701], {"percent": True}),
        ([0.4, 300.0], {"log": True}),
        ([1.2], {"log": True}),
        ([0.0, 45.0], {"zero": True}),
        ([0.0], {"zero": True}),
        ([], {}),
        ([float("nan"), 3.0], {}),
    ],
)
def test_axes_hold_their_values_and_have_different_ticks(
    values: list[float], options: dict[str, bool]
) -> None:
    axis = Axis.around(values, **options)
    assert axis.low < axis.high
    for value in values:
        if np.isfinite(value):
            assert -1e-9 <= axis.at(value) <= 1 + 1e-9
    labels = [text for _, text in axis.labels()]
    assert 1 <= len(labels) <= 8
    assert len(set(labels)) == len(labels)
