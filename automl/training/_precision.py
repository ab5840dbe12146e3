"""Mixed precision: bfloat16 where it is multiplied in hardware, float16 on older GPUs, float32 on other CPUs.

Weights, gradients and the optimizer stay in float32 (Micikevicius et al., Mixed Precision Training, ICLR 2018,
section 3.1; Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019, section 3: bfloat16 needs no
scaling of the loss). On a CPU the gradients of strided and of large depthwise convolutions are slower in bfloat16
than in float32, so they are computed in other ways; ``automl bench training`` compares that with plain autocast.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_backward = torch.ops.aten.convolution_backward


@functools.cache
def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked is not None and asked())


def gpu_precision() -> torch.dtype:
    """The half precision to train in on a GPU; float16 needs its loss scaled."""
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def layout(place: torch.device) -> torch.memory_format:
    """How images and weights lie in memory: channels last on a CPU, contiguous on a GPU.

    On a GPU cuDNN makes kernels for channels last anew for every shape, which a short training has no time for.
    """
    return torch.channels_last if place.type == "cpu" else torch.contiguous_format


@contextlib.contextmanager
def mixed_precision(place: torch.device) -> Iterator[None]:
    """Run the network in the precision that is quickest on a device; results are float32 again after ``.float()``.

    Args:
        place: ``cpu`` or a GPU.
    """
    if place.type == "cuda":
        with torch.autocast("cuda", dtype=gpu_precision()):
            yield
    elif native_bfloat16():
        with _Depthwise(), torch.autocast("cpu", dtype=torch.bfloat16):
            yield
    else:
        yield


class _Depthwise(TorchFunctionMode):
    """Routes depthwise convolutions that are trained through :class:`DepthwiseConvolution`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and torch.is_grad_enabled():
            found = _depthwise(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


def _depthwise(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if groups == 1 or groups != input.shape[1] or bias is not None or isinstance(padding, str):
        return None
    made: Tensor = DepthwiseConvolution.apply(
        input, weight, _pair(stride), _pair(padding), _pair(dilation), groups
    )
    return made


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    first, *rest = value
    return int(first), int(rest[0] if rest else first)


class DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution in bfloat16 whose gradients are computed in whatever way is quick.

    Inputs ``[N, C, H, W]`` and weights ``[C * M, 1, k, k]``; the output is bfloat16.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Tensor:
        half = x.to(torch.bfloat16)
        ctx.save_for_backward(half, weight)
        ctx.shape = stride, padding, dilation, groups
        ctx.kind = x.dtype
        return torch.conv2d(half, weight.to(torch.bfloat16), None, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.shape
        rest = stride, padding, dilation, False, [0, 0], groups
        gradient = gradient.to(torch.bfloat16)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            kind = torch.bfloat16 if max(stride) == 1 else torch.float32
            operands = gradient.to(kind), x.to(kind), weight.to(kind)
            of_x = _backward(*operands, None, *rest, [True, False, False])[0].to(ctx.kind)
        if ctx.needs_input_grad[1]:
            if max(weight.shape[2:]) > 3 and len(weight) == groups:
                of_weight = _weight_gradient(gradient, x, weight.shape, stride, padding, dilation)
            else:
                operands = gradient, x, weight.to(torch.bfloat16)
                of_weight = _backward(*operands, None, *rest, [False, True, False])[1]
            of_weight = of_weight.to(weight.dtype)
        return of_x, of_weight, None, None, None, None


def _weight_gradient(
    gradient: Tensor,
    x: Tensor,
    shape: torch.Size,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """The weight gradient as a depthwise convolution of each image's channels with their output gradients.

    ``dw[i] = sum_o x[o * stride + i * dilation - padding] g[o]``: the batch becomes channels, the gradient the
    kernel, and stride and dilation change places.
    """
    n, c, height, width = x.shape
    high, wide = gradient.shape[2:]
    image = x.permute(2, 3, 0, 1).reshape(1, height, width, n * c).permute(0, 3, 1, 2)
    kernel = gradient.permute(2, 3, 0, 1).reshape(high, wide, n * c).permute(2, 0, 1).unsqueeze(1)
    each = torch.conv2d(image, kernel, None, dilation, padding, stride, n * c)
    return (
        each[..., : shape[2], : shape[3]].reshape(n, c, *shape[2:]).sum(0, dtype=torch.float32).unsqueeze(1)
    )
