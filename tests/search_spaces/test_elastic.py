"""A slice in the supernet and the layer that is built of it compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.elastic import (
    ElasticAttention,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticLayerNorm,
    ElasticLinear,
)

_TOLERANCE = 1e-10


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _same(layer: Any, x: torch.Tensor, inside: int) -> None:
    layer.eval()
    built = layer.build(inside).eval()
    assert not any("Elastic" in type(module).__name__ for module in built.modules())
    expected = layer(x)
    torch.testing.assert_close(built(x), expected, rtol=0, atol=_TOLERANCE)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.zero_()
    torch.testing.assert_close(layer(x), expected)  # the built layer has weights of its own


@settings(max_examples=40, deadline=None)
@given(
    inside=st.integers(1, 8),
    width=st.integers(1, 12),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    side=st.integers(1, 9),
)
def test_a_dense_convolution(
    inside: int, width: int, kernel: int, stride: int, bias: bool, side: int
) -> None:
    layer = ElasticConv2d(8, 12, 7, stride, bias=bias).double()
    layer.activate(width=width, kernel=kernel)
    x = _random(2, inside, side, side)
    assert layer(x).shape == (2, width, (side - 1) // stride + 1, (side - 1) // stride + 1)
    _same(layer, x, inside)


@settings(max_examples=20, deadline=None)
@given(inside=st.integers(1, 8), kernel=st.sampled_from([1, 3, 5]), stride=st.integers(1, 2))
def test_a_depthwise_convolution(inside: int, kernel: int, stride: int) -> None:
    layer = ElasticConv2d(8, 8, 5, stride, depthwise=True).double()
    layer.activate(kernel=kernel)
    x = _random(2, inside, 6, 6)
    assert layer(x).shape[1] == inside
    _same(layer, x, inside)


def test_a_small_kernel_is_the_centre_of_the_largest() -> None:
    layer = ElasticConv2d(1, 1, 5).double()
    layer.activate(kernel=3)
    x = _random(1, 1, 8, 8)
    centre = layer.weight.detach().clone()
    centre[:, :, [0, -1], :] = 0
    centre[:, :, :, [0, -1]] = 0
    torch.testing.assert_close(layer(x), torch.nn.functional.conv2d(x, centre, padding=2))


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 10))
def test_batch_norm(width: int) -> None:
    layer = ElasticBatchNorm2d(10).double()
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean"):
            getattr(layer, name).copy_(_random(10))
        layer.running_var.copy_(_random(10).abs() + 0.1)
    _same(layer, _random(3, width, 4, 4), width)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_learns_the_statistics_of_the_slice_alone(momentum: float | None) -> None:
    layer, plain = (
        ElasticBatchNorm2d(6, momentum=momentum).double(),
        torch.nn.BatchNorm2d(4, momentum=momentum).double(),
    )
    for seed in range(3):
        x = torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 2
        torch.testing.assert_close(layer(x), plain(x))
    torch.testing.assert_close(layer.running_mean[:4], plain.running_mean)
    torch.testing.assert_close(layer.running_var[:4], plain.running_var)
    assert (layer.running_mean[4:] == 0).all() and (layer.running_var[4:] == 1).all()


@settings(max_examples=20, deadline=None)
@given(inside=st.integers(1, 8), width=st.integers(1, 9), bias=st.booleans())
def test_a_linear_layer(inside: int, width: int, bias: bool) -> None:
    layer = ElasticLinear(8, 9, bias).double()
    layer.activate(width=width)
    x = _random(2, 3, inside)
    assert layer(x).shape == (2, 3, width)
    _same(layer, x, inside)


@settings(max_examples=10, deadline=None)
@given(width=st.integers(1, 9))
def test_layer_norm(width: int) -> None:
    layer = ElasticLayerNorm(9).double()
    with torch.no_grad():
        layer.weight.copy_(_random(9))
        layer.bias.copy_(_random(9))
    _same(layer, _random(2, 3, width), width)


@settings(max_examples=40, deadline=None)
@given(
    inside=st.integers(1, 8),
    heads=st.integers(1, 4),
    key_width=st.integers(1, 6),
    value_width=st.integers(1, 5),
    tokens=st.integers(1, 7),
)
def test_attention(inside: int, heads: int, key_width: int, value_width: int, tokens: int) -> None:
    layer = ElasticAttention(8, 4, 6, 5).double()
    layer.activate(heads=heads, key_width=key_width, value_width=value_width)
    x = _random(2, tokens, inside)
    assert layer(x).shape == x.shape
    _same(layer, x, inside)


def test_a_slice_is_a_view_that_learns() -> None:
    layer = ElasticConv2d(4, 6, 3)
    layer.activate(width=2, kernel=1)
    layer(torch.randn(1, 3, 4, 4)).sum().backward()
    gradient = layer.weight.grad
    assert gradient is not None
    active = torch.zeros_like(gradient, dtype=torch.bool)
    active[:2, :3, 1, 1] = True
    assert (gradient[active] != 0).all() and (gradient[~active] == 0).all()


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda: ElasticConv2d(4, 6).activate(width=7), "width 7 is not between 1 and 6"),
        (lambda: ElasticConv2d(4, 6).activate(width=0), "width 0"),
        (lambda: ElasticConv2d(4, 6, 5).activate(kernel=4), "a kernel of 4 has no centre in one of 5"),
        (lambda: ElasticConv2d(4, 6, 5).activate(kernel=7), "kernel 7 is not between 1 and 5"),
        (lambda: ElasticConv2d(4, 4, depthwise=True).activate(width=2), "its input's"),
        (lambda: ElasticConv2d(4, 6, depthwise=True), "as many channels in"),
        (lambda: ElasticLinear(4, 6).activate(width=9), "width 9"),
        (lambda: ElasticAttention(4, 2, 4, 4).activate(heads=3), "heads 3"),
        (lambda: ElasticAttention(4, 2, 4, 4).activate(key_width=5), "width of a head 5"),
    ],
)
def test_what_does_not_fit_is_refused(ask: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ask()
