"""Mixed precision on a CPU: the same network, the same gradients up to rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from automl.training import _precision as precision
from automl.training import mixed_precision

CPU = torch.device("cpu")


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 3),
    side=st.integers(13, 18),
    images=st.integers(1, 3),
    channels=st.integers(2, 5),
    seed=st.integers(0, 1000),
)
def test_depthwise_gradients_are_those_of_float32(
    kernel: int, stride: int, dilation: int, padding: int, side: int, images: int, channels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(images, channels, side, side + 1, generator=generator).bfloat16().float().requires_grad_()
    w = torch.randn(channels, 1, kernel, kernel, generator=generator).bfloat16().float().requires_grad_()
    expected = torch.conv2d(x, w, None, stride, padding, dilation, channels)
    asked = torch.randn(expected.shape, generator=generator).bfloat16().float()
    exact = torch.autograd.grad(expected, (x, w), asked)
    pairs = [(value, value) for value in (stride, padding, dilation)]
    made = precision.DepthwiseConvolution.apply(x, w, *pairs, channels)
    assert made.dtype == torch.bfloat16
    assert torch.allclose(made.float(), expected, rtol=0.02, atol=0.02 * float(expected.detach().abs().max()))
    for got, right in zip(torch.autograd.grad(made, (x, w), asked.bfloat16()), exact, strict=True):
        assert got.dtype == torch.float32 and got.shape == right.shape
        assert torch.allclose(got, right, rtol=0.02, atol=0.02 * float(right.abs().max()))


def test_a_network_learns_the_same_in_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.randn(16, 3, 24, 24), torch.arange(16) % 2
    gradients = []
    for native in (False, True):
        monkeypatch.setattr(precision, "native_bfloat16", lambda native=native: native)
        network = small_network()
        with mixed_precision(CPU):
            logits = network(images)
        assert logits.dtype == (torch.bfloat16 if native else torch.float32)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        gradients.append([p.grad for p in network.parameters()])
        assert all(p.dtype == torch.float32 for p in network.parameters())
    for exact, quick in zip(*gradients, strict=True):
        assert exact is not None and quick is not None and quick.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact.flatten(), quick.flatten(), 0) > 0.95


def test_depthwise_convolutions_are_taken_and_others_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: True)
    taken = []
    original = precision.DepthwiseConvolution.apply
    monkeypatch.setattr(
        precision.DepthwiseConvolution, "apply", lambda *a: (taken.append(a[-1]), original(*a))[1]
    )
    with mixed_precision(CPU):
        small_network()(torch.randn(2, 3, 24, 24))
        assert taken == [8, 8]
        with torch.no_grad():
            small_network()(torch.randn(2, 3, 24, 24))
    assert taken == [8, 8]


def test_without_hardware_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    network, images = small_network(), torch.randn(2, 3, 24, 24)
    with mixed_precision(CPU):
        inside = network(images)
    assert torch.equal(inside, network(images))
