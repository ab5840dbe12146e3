"""Losses against formulas written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from automl.training import make_loss

NAMES = ("cross_entropy", "class_balanced", "logit_adjusted", "focal")
COUNTS = np.array([80, 15, 5])
LOGITS = torch.tensor([[1.2, -0.3, 0.4], [0.1, 0.9, -1.5], [-0.7, 0.2, 0.6], [2.0, 1.0, -1.0]])
LABELS = torch.tensor([0, 1, 2, 1])


def hot(labels: Tensor = LABELS, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).float()


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(v) for v in row))
    return [v - total for v in row]


def test_cross_entropy() -> None:
    expected = -sum(log_softmax(r)[c] for r, c in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)) / 4
    assert float(make_loss("cross_entropy", COUNTS)(LOGITS, hot())) == pytest.approx(expected, rel=1e-5)


def test_logit_adjusted_adds_the_log_prior() -> None:
    prior = [math.log(v / 100) for v in COUNTS]
    rows = [[v + p for v, p in zip(r, prior, strict=True)] for r in LOGITS.tolist()]
    expected = -sum(log_softmax(r)[c] for r, c in zip(rows, LABELS.tolist(), strict=True)) / 4
    assert float(make_loss("logit_adjusted", COUNTS)(LOGITS, hot())) == pytest.approx(expected, rel=1e-5)


def test_class_balanced_weighs_by_the_effective_number() -> None:
    weight = [(1 - 0.999) / (1 - 0.999**n) for n in COUNTS]
    losses = [-log_softmax(r)[c] for r, c in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    weights = [weight[c] for c in LABELS.tolist()]
    expected = sum(w * v for w, v in zip(weights, losses, strict=True)) / sum(weights)
    assert float(make_loss("class_balanced", COUNTS)(LOGITS, hot())) == pytest.approx(expected, rel=1e-4)


def test_focal_turns_down_what_is_already_right() -> None:
    logs = [log_softmax(r)[c] for r, c in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    expected = sum(-((1 - math.exp(v)) ** 2) * v for v in logs) / 4
    assert float(make_loss("focal", COUNTS)(LOGITS, hot())) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_smoothing_is_a_softer_target(name: str) -> None:
    smooth = make_loss(name, COUNTS, smoothing=0.2)(LOGITS[:1], hot()[:1])
    soft = make_loss(name, COUNTS)(LOGITS[:1], hot()[:1] * 0.8 + 0.2 / 3)
    torch.testing.assert_close(smooth, soft)


def test_torch_agrees_on_smoothed_cross_entropy() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(make_loss("cross_entropy", COUNTS, smoothing=0.1)(LOGITS, hot()), expected)


@pytest.mark.parametrize("name", ["class_balanced", "logit_adjusted"])
def test_equal_counts_make_no_difference(name: str) -> None:
    plain = make_loss("cross_entropy", COUNTS)(LOGITS, hot())
    torch.testing.assert_close(make_loss(name, np.array([7, 7, 7]))(LOGITS, hot()), plain)


def test_errors_on_rare_classes_weigh_more() -> None:
    loss = make_loss("class_balanced", COUNTS)
    wrong_rare = torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    wrong_common = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 3.0]])
    targets = hot(torch.tensor([0, 2]))
    assert float(loss(wrong_rare, targets)) > float(loss(wrong_common, targets))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(NAMES), st.lists(st.integers(0, 500), min_size=2, max_size=6), st.floats(0, 0.9))
def test_losses_are_finite_positive_and_fall_along_their_gradient(
    name: str, counts: list[int], smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(len(counts))
    logits = torch.randn(5, len(counts), generator=generator, requires_grad=True)
    targets = torch.rand(5, len(counts), generator=generator)
    targets = targets / targets.sum(1, keepdim=True)
    loss_of = make_loss(name, np.array(counts), smoothing=smoothing)
    loss = loss_of(logits, targets)
    loss.backward()
    assert math.isfinite(loss.item()) and loss.item() >= 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert float(loss_of(logits.detach() - 1e-2 * logits.grad, targets)) <= loss.item() + 1e-6


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown loss 'hinge'; known: cross_entropy"):
        make_loss("hinge", COUNTS)
