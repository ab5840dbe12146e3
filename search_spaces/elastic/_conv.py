"""Elastic convolutions and batch normalisation."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.elastic._check import within


@functools.cache
def _kernels() -> Any:
    """Kernels of our own for GPUs; None where Triton is not to be had."""
    try:
        from search_spaces.elastic import _kernels as found
    except ImportError:
        return None
    return found


def _learns(x: Tensor) -> bool:
    """Whether a gradient will be asked for that kernels of our own are faster at."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    return x.is_cuda and half and x.requires_grad and _kernels() is not None


class ElasticConv2d(nn.Conv2d):
    """A convolution, dense or depthwise, with an elastic width and an elastic kernel.

    A smaller kernel is the centre of the larger one, and its padding shrinks with it, so that the size of
    the output stays.

    Args:
        inside: most input channels.
        outside: most output channels; of a depthwise convolution the same number.
        kernel: side of the largest kernel.
        stride: of the convolution.
        depthwise: one filter per channel; the width is then the input's.
        bias: whether there is one.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        bias: bool = False,
    ) -> None:
        if depthwise and inside != outside:
            raise ValueError(f"a depthwise convolution has as many channels in ({inside}) as out ({outside})")
        groups = inside if depthwise else 1
        super().__init__(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.depthwise = depthwise
        self.width, self.kernel = outside, kernel

    def activate(self, *, width: int | None = None, kernel: int | None = None) -> None:
        """Set the output channels (dense convolutions) and the side of the kernel that are active.

        Raises:
            ValueError: they do not fit into the weight, or the kernel has no centre in the largest one.
        """
        if width is not None:
            if self.depthwise:
                raise ValueError("the width of a depthwise convolution is its input's")
            self.width = within(width, self.out_channels, "width")
        if kernel is not None:
            largest = self.kernel_size[0]
            if (largest - within(kernel, largest, "kernel")) % 2:
                raise ValueError(f"a kernel of {kernel} has no centre in one of {largest}")
            self.kernel = kernel

    def _active(self, inside: int) -> tuple[Tensor, Tensor | None, int]:
        """Weight, bias and padding of the active slice, views of the largest."""
        cut = (self.kernel_size[0] - self.kernel) // 2
        centre = slice(cut, self.kernel_size[0] - cut)
        width = inside if self.depthwise else self.width
        weight = self.weight[:width, : 1 if self.depthwise else inside, centre, centre]
        return weight, None if self.bias is None else self.bias[:width], int(self.padding[0]) - cut

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inside, H, W]`` → ``[N, width, H', W']``."""
        inside = x.shape[1]
        weight, bias, padding = self._active(inside)
        if self.depthwise and bias is None and _learns(x) and x.shape[3] <= _kernels().WIDEST:
            out: Tensor = _kernels().depthwise(x, weight, int(self.stride[0]), padding)
            return out
        groups = inside if self.depthwise else 1
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def build(self, inside: int) -> nn.Conv2d:
        """Return the active slice for an input of so many channels as a plain convolution."""
        weight, bias, padding = self._active(inside)
        conv = nn.Conv2d(
            inside,
            weight.shape[0],
            self.kernel,
            self.stride,  # type: ignore[arg-type]
            padding,
            self.dilation,  # type: ignore[arg-type]
            inside if self.depthwise else 1,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            conv.weight.copy_(weight)
            if conv.bias is not None and bias is not None:
                conv.bias.copy_(bias)
        return conv


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of the first channels.

    The running statistics are of the inputs that the layer has last seen: a subnet needs its own
    (:func:`search_spaces.train.recalibrate`) before it is evaluated.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[N, width, H, W]`` → the same shape."""
        width = x.shape[1]
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # a cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        mean, variance = self.running_mean, self.running_var
        if self.training and _learns(x):
            out: Tensor
            out, own_mean, own_variance = _kernels().batch_norm(
                x, self.weight[:width], self.bias[:width], self.eps
            )
            count = x.numel() // width
            if mean is not None and variance is not None:
                mean[:width].lerp_(own_mean, momentum)
                variance[:width].lerp_(own_variance * (count / max(count - 1, 1)), momentum)
            return out
        return F.batch_norm(
            x,
            None if mean is None else mean[:width],
            None if variance is None else variance[:width],
            self.weight[:width],
            self.bias[:width],
            self.training,
            momentum,
            self.eps,
        )

    def build(self, inside: int) -> nn.BatchNorm2d:
        """Return the slice for an input of so many channels as a plain layer, with its statistics."""
        norm = nn.BatchNorm2d(inside, self.eps, self.momentum).to(self.weight)
        with torch.no_grad():
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, name).copy_(getattr(self, name)[:inside])
        return norm.train(self.training)
