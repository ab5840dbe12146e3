"""The sweep against labels that are computed one threshold at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.evaluation._sweep import sweep
from automl.evaluation.metrics import compute
from tests.evaluation._scores import names, scores


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 30),
    classes=st.integers(2, 5),
    seed=st.integers(0, 10_000),
    coarse=st.booleans(),
    shifted=st.booleans(),
    data=st.data(),
)
def test_each_step_has_the_metrics_of_its_bias(
    n: int, classes: int, seed: int, coarse: bool, shifted: bool, data: st.DataObject
) -> None:
    labels, p = scores(n, classes, seed, skill=0.5)
    p = (np.round(p, 1) + 0.01) if coarse else p
    logs = np.log(p.astype(np.float64))
    bias = np.random.default_rng(seed).normal(size=classes) if shifted else np.zeros(classes)
    position, of = data.draw(st.integers(0, classes - 1)), data.draw(st.integers(0, classes - 1))
    wanted = [
        ("recall", of),
        ("precision", of),
        *((m, -1) for m in ("accuracy", "balanced_accuracy", "macro_f1")),
    ]
    steps = sweep(logs, labels, bias, position, wanted)
    assert (np.diff(steps.biases) > 0).all()
    moved = bias.copy()
    for k, value in enumerate(steps.biases):
        moved[position] = value
        predicted = (logs + moved).argmax(1)
        for name, where in wanted:
            expected = compute(
                name, None if where < 0 else names(classes)[where], labels, p, predicted, names(classes)
            )
            assert steps.values[name, where][k] == pytest.approx(np.nan_to_num(expected), abs=1e-12), name
        hits = int(((labels == of) & (predicted == of)).sum())
        assert steps.spare["recall", of][k] == pytest.approx((hits - 1) / max(int((labels == of).sum()), 1))
    # All labellings are there: none of one class and all of it, and one per distinct threshold between.
    moved[position] = steps.biases[0]
    assert not ((logs + moved).argmax(1) == position).any()
    moved[position] = steps.biases[-1]
    assert ((logs + moved).argmax(1) == position).all()


def test_zero_is_kept_exactly_where_it_is_as_good() -> None:
    logs = np.log(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]))
    steps = sweep(logs, np.array([0, 1, 1]), np.zeros(2), 1, [("accuracy", -1)])
    assert 0.0 in steps.biases
    assert steps.values["accuracy", -1][list(steps.biases).index(0.0)] == 1.0
    separate = np.log(np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert sweep(separate, np.array([0, 0]), np.zeros(2), 1, []).biases[0] == 0.0
