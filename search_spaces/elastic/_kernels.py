"""Depthwise convolution and batch normalisation on GPUs, forward and backward, written in Triton.

What torch has for them in lower precision takes most of the time of a training step of a network of inverted residual
blocks, though both hardly compute. Here a depthwise convolution is a product with a band matrix of the
kernel, which the GPU's matrix units do beside reading each value a few times; the normalisation reads in order and
splits what one channel has among many programs. Both add in float32.

Maps are contiguous ``[N, C, H, W]``; a program works on one channel.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Positions of a program of the normalisation, and programs that keep a large GPU busy.
_BLOCK, _PROGRAMS = 1024, 4096
#: Smallest side of a matrix product of Triton.
_LEAST = 16
#: Maps of so many positions are multiplied whole; of others each row.
_WHOLE = 64
#: Widest map.
WIDEST = 128
#: Arguments that differ from layer to layer: kernels are not made anew for them.
_SHAPES = ("images", "channels", "height", "out_height", "padding")
_AREA = ("images", "channels", "area")


@triton.jit(do_not_specialize=_SHAPES)
def _by_rows(
    x, weight, y, images, channels, height, width, out_height, out_width, padding,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, BACK: tl.constexpr,
    WIDE: tl.constexpr, OUT_WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """y = x convolved, or with BACK the gradient for what was convolved, where x is the gradient that is given.

    A row of y is the sum of K rows of x, each times a band matrix of one row of the kernel.
    """
    channel = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = rows % out_height
    plane = (rows // out_height).to(tl.int64) * channels + channel
    inside = rows < images * out_height
    column, out_column = tl.arange(0, WIDE), tl.arange(0, OUT_WIDE)
    total = tl.zeros([ROWS, OUT_WIDE], tl.float32)
    for i in tl.static_range(KERNEL):
        if BACK:
            at = (row + padding - i) // STRIDE
            there = inside & (row + padding >= i) & ((row + padding - i) % STRIDE == 0)
            j = out_column[None, :] + padding - column[:, None] * STRIDE
        else:
            at = row * STRIDE - padding + i
            there = inside & (at >= 0)
            j = column[:, None] + padding - out_column[None, :] * STRIDE
        there = there & (at < height)
        value = tl.load(
            x + ((plane * height + at) * width)[:, None] + column[None, :],
            mask=there[:, None] & (column < width)[None, :],
            other=0.0,
        )
        band = tl.load(weight + (channel * KERNEL + i) * KERNEL + j, mask=(j >= 0) & (j < KERNEL), other=0.0)
        total = tl.dot(value, band, total)
    tl.store(
        y + ((plane * out_height + row) * out_width)[:, None] + out_column[None, :],
        total.to(y.dtype.element_ty),
        mask=inside[:, None] & (out_column < out_width)[None, :],
    )


@triton.jit(do_not_specialize=_SHAPES)
def _by_rows_weight(
    x, gradient, parts, images, channels, height, width, out_height, out_width, padding,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    WIDE: tl.constexpr, OUT_WIDE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """parts ``[splits, C, K, K]`` = shares of the gradient for the weight; a program has one row of it, sums of diagonals."""
    channel, i, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column, out_column = tl.arange(0, WIDE), tl.arange(0, OUT_WIDE)
    total = tl.zeros([WIDE, OUT_WIDE], tl.float32)
    for start in range(split * ROWS, images * out_height, tl.num_programs(2) * ROWS):
        rows = start + tl.arange(0, ROWS)
        row = rows % out_height
        plane = (rows // out_height).to(tl.int64) * channels + channel
        inside = rows < images * out_height
        own = tl.load(
            gradient + ((plane * out_height + row) * out_width)[:, None] + out_column[None, :],
            mask=inside[:, None] & (out_column < out_width)[None, :],
            other=0.0,
        )
        at = row * STRIDE - padding + i
        there = inside & (at >= 0) & (at < height)
        value = tl.load(
            x + ((plane * height + at) * width)[:, None] + column[None, :],
            mask=there[:, None] & (column < width)[None, :],
            other=0.0,
        )
        total = tl.dot(tl.trans(value), own, total)
    for j in range(KERNEL):
        diagonal = column[:, None] == out_column[None, :] * STRIDE + j - padding
        found = tl.sum(tl.sum(tl.where(diagonal, total, 0.0), 1), 0)
        tl.store(parts + ((split * channels + channel) * KERNEL + i) * KERNEL + j, found)


@triton.jit(do_not_specialize=_SHAPES)
def _whole(
    x, weight, y, images, channels, height, width, out_height, out_width, padding,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, BACK: tl.constexpr,
    AREA: tl.constexpr, OUT_AREA: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The same for small maps: a map of y is a map of x times one matrix of the kernel."""
    channel = tl.program_id(1)
    place, out_place = tl.arange(0, AREA), tl.arange(0, OUT_AREA)
    known, out_known = place < height * width, out_place < out_height * out_width
    row, column = (place // width)[:, None], (place % width)[:, None]
    out_row, out_column = (out_place // out_width)[None, :], (out_place % out_width)[None, :]
    if BACK:
        i, j = out_row + padding - row * STRIDE, out_column + padding - column * STRIDE
    else:
        i, j = row + padding - out_row * STRIDE, column + padding - out_column * STRIDE
    touched = (i >= 0) & (i < KERNEL) & (j >= 0) & (j < KERNEL) & known[:, None] & out_known[None, :]
    matrix = tl.load(weight + (channel * KERNEL + i) * KERNEL + j, mask=touched, other=0.0)
    for start in range(tl.program_id(0) * ROWS, images, tl.num_programs(0) * ROWS):
        image = start + tl.arange(0, ROWS)
        plane = image.to(tl.int64) * channels + channel
        value = tl.load(
            x + (plane * (height * width))[:, None] + place[None, :],
            mask=(image < images)[:, None] & known[None, :],
            other=0.0,
        )
        out = tl.dot(value, matrix)
        tl.store(
            y + (plane * (out_height * out_width))[:, None] + out_place[None, :],
            out.to(y.dtype.element_ty),
            mask=(image < images)[:, None] & out_known[None, :],
        )


@triton.jit(do_not_specialize=_SHAPES)
def _whole_weight(
    x, gradient, parts, images, channels, height, width, out_height, out_width, padding,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr,
    AREA: tl.constexpr, OUT_AREA: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """parts ``[splits, C, K, K]`` = shares of the gradient for the weight, for small maps."""
    channel, split = tl.program_id(0), tl.program_id(1)
    place, out_place = tl.arange(0, AREA), tl.arange(0, OUT_AREA)
    known, out_known = place < height * width, out_place < out_height * out_width
    total = tl.zeros([AREA, OUT_AREA], tl.float32)
    for start in range(split * ROWS, images, tl.num_programs(1) * ROWS):
        image = start + tl.arange(0, ROWS)
        plane = image.to(tl.int64) * channels + channel
        value = tl.load(
            x + (plane * (height * width))[:, None] + place[None, :],
            mask=(image < images)[:, None] & known[None, :],
            other=0.0,
        )
        own = tl.load(
            gradient + (plane * (out_height * out_width))[:, None] + out_place[None, :],
            mask=(image < images)[:, None] & out_known[None, :],
            other=0.0,
        )
        total = tl.dot(tl.trans(value), own, total)
    i = (place // width)[:, None] + padding - (out_place // out_width)[None, :] * STRIDE
    j = (place % width)[:, None] + padding - (out_place % out_width)[None, :] * STRIDE
    for tap in range(KERNEL * KERNEL):
        touched = (i == tap // KERNEL) & (j == tap % KERNEL)
        found = tl.sum(tl.sum(tl.where(touched, total, 0.0), 1), 0)
        tl.store(parts + (split * channels + channel) * KERNEL * KERNEL + tap, found)


@triton.jit(do_not_specialize=_AREA)
def _sums(
    x, gradient, parts, images, channels, area,
    BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """parts ``[2, splits, C]`` = shares of the sums of x and x², or of the gradient and of it times x."""
    channel, split = tl.program_id(0), tl.program_id(1)
    splits = tl.num_programs(1)
    across = tl.cdiv(area, COLUMNS)
    first = tl.zeros([ROWS, COLUMNS], tl.float32)
    second = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tile in range(split, tl.cdiv(images, ROWS) * across, splits):
        image = (tile // across) * ROWS + tl.arange(0, ROWS)
        place = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
        at = ((image.to(tl.int64) * channels + channel) * area)[:, None] + place[None, :]
        inside = (image < images)[:, None] & (place < area)[None, :]
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if BACK:
            own = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        else:
            own = value
        first += own
        second += own * value
    tl.store(parts + split * channels + channel, tl.sum(tl.sum(first, 1), 0))
    tl.store(parts + (splits + split) * channels + channel, tl.sum(tl.sum(second, 1), 0))


@triton.jit(do_not_specialize=_AREA)
def _affine(
    x, gradient, y, by_gradient, by_x, shift, images, channels, area,
    BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y = x · by_x + shift, with the gradient · by_gradient added on the way back; all three of one channel."""
    channel, tile = tl.program_id(1), tl.program_id(0)
    across = tl.cdiv(area, COLUMNS)
    image = (tile // across) * ROWS + tl.arange(0, ROWS)
    place = (tile % across) * COLUMNS + tl.arange(0, COLUMNS)
    at = ((image.to(tl.int64) * channels + channel) * area)[:, None] + place[None, :]
    inside = (image < images)[:, None] & (place < area)[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    out = value * tl.load(by_x + channel) + tl.load(shift + channel)
    if BACK:
        own = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        out += own * tl.load(by_gradient + channel)
    tl.store(y + at, out.to(y.dtype.element_ty), mask=inside)


def _tiles(images: int, area: int) -> tuple[int, dict[str, int]]:
    """How many tiles of images and positions there are, and their sides."""
    columns = min(triton.next_power_of_2(area), _BLOCK)
    rows = _BLOCK // columns
    return triton.cdiv(images, rows) * triton.cdiv(area, columns), {"ROWS": rows, "COLUMNS": columns}


def _splits(programs: int, blocks: int) -> int:
    """Among how many programs the blocks of each of so many programs are split."""
    return max(1, min(_PROGRAMS // programs, blocks))


def _sides(side: int, out_side: int) -> tuple[int, int]:
    return tuple(max(triton.next_power_of_2(n), _LEAST) for n in (side, out_side))


def _convolve(x: Tensor, weight: Tensor, y: Tensor, stride: int, padding: int, *, back: bool) -> Tensor:
    """Fill y with the convolution of x, or with the gradient for what was convolved."""
    images, channels, height, width = x.shape
    out_height, out_width = y.shape[2:]
    sizes = (images, channels, height, width, out_height, out_width, padding)
    fixed = {"KERNEL": weight.shape[-1], "STRIDE": stride, "BACK": back}
    if max(height * width, out_height * out_width) <= _WHOLE:
        area, out_area = _sides(height * width, out_height * out_width)
        split = _splits(channels, triton.cdiv(images, 64))
        _whole[(split, channels)](x, weight, y, *sizes, **fixed, AREA=area, OUT_AREA=out_area, ROWS=64)
        return y
    wide, out_wide = _sides(width, out_width)
    rows = 128 if wide <= 32 else 64
    grid = (triton.cdiv(images * out_height, rows), channels)
    _by_rows[grid](x, weight, y, *sizes, **fixed, WIDE=wide, OUT_WIDE=out_wide, ROWS=rows)
    return y


def _gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """The gradient for the weight, float32 ``[C, 1, K, K]``."""
    images, channels, height, width = x.shape
    out_height, out_width = gradient.shape[2:]
    sizes = (images, channels, height, width, out_height, out_width, padding)
    fixed = {"KERNEL": kernel, "STRIDE": stride, "ROWS": 64}
    if max(height * width, out_height * out_width) <= _WHOLE:
        area, out_area = _sides(height * width, out_height * out_width)
        splits = _splits(channels, triton.cdiv(images, 64))
        parts = x.new_empty(splits, channels, 1, kernel, kernel, dtype=torch.float32)
        _whole_weight[(channels, splits)](x, gradient, parts, *sizes, **fixed, AREA=area, OUT_AREA=out_area)
    else:
        wide, out_wide = _sides(width, out_width)
        splits = _splits(channels * kernel, triton.cdiv(images * out_height, 64))
        parts = x.new_empty(splits, channels, 1, kernel, kernel, dtype=torch.float32)
        grid = (channels, kernel, splits)
        _by_rows_weight[grid](x, gradient, parts, *sizes, **fixed, WIDE=wide, OUT_WIDE=out_wide)
    return parts.sum(0)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        x, taps = x.contiguous(), weight.detach().to(x.dtype).contiguous()
        images, channels, *sides = x.shape
        out_sides = ((side + 2 * padding - weight.shape[-1]) // stride + 1 for side in sides)
        ctx.save_for_backward(x, taps)
        ctx.stride, ctx.padding, ctx.dtype = stride, padding, weight.dtype
        return _convolve(x, taps, x.new_empty(images, channels, *out_sides), stride, padding, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, taps = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        dx = _convolve(gradient, taps, torch.empty_like(x), ctx.stride, ctx.padding, back=True)
        dweight = _gradient(x, gradient, taps.shape[-1], ctx.stride, ctx.padding)
        return dx, dweight.to(ctx.dtype), None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        images, channels, height, width = x.shape
        area, count = height * width, images * height * width
        tiles, sides = _tiles(images, area)
        splits = _splits(channels, tiles)
        parts = torch.empty(2, splits, channels, device=x.device)
        _sums[(channels, splits)](x, x, parts, images, channels, area, BACK=False, **sides)
        mean, square = (parts.sum(1) / count).unbind()
        variance = (square - mean * mean).clamp_(min=0)
        factor = (variance + eps).rsqrt()
        by_x = weight.detach() * factor
        shift = bias.detach() - mean * by_x
        y = torch.empty_like(x)
        _affine[(tiles, channels)](x, x, y, by_x, by_x, shift, images, channels, area, BACK=False, **sides)
        ctx.save_for_backward(x, by_x, mean, factor)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, by_x, mean, factor = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        images, channels, height, width = x.shape
        area, count = height * width, images * height * width
        tiles, sides = _tiles(images, area)
        splits = _splits(channels, tiles)
        parts = torch.empty(2, splits, channels, device=x.device)
        _sums[(channels, splits)](x, gradient, parts, images, channels, area, BACK=True, **sides)
        dbias, times_x = parts.sum(1).unbind()
        dweight = (times_x - mean * dbias) * factor
        back = -by_x * factor * dweight / count
        shift = -by_x * dbias / count - back * mean
        dx = torch.empty_like(x)
        _affine[(tiles, channels)](
            x, gradient, dx, by_x, back, shift, images, channels, area, BACK=True, **sides
        )
        return dx, dweight, dbias, None


def depthwise(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Depthwise convolution without bias.

    Args:
        x: ``[N, C, H, W]`` in half precision of either kind, W at most :data:`WIDEST`.
        weight: ``[C, 1, K, K]``, K odd.
        stride: of rows and columns.
        padding: zeros on each side.

    Returns:
        ``[N, C, H', W']`` of x's precision.
    """
    out: Tensor = _Depthwise.apply(x, weight, stride, padding)
    return out


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalisation by the statistics of the batch (Ioffe & Szegedy 2015).

    Args:
        x: ``[N, C, H, W]``.
        weight, bias: ``[C]``, float32.
        eps: added to the variance.

    Returns:
        ``[N, C, H, W]`` of x's precision; mean and variance (without Bessel's correction) of the channels, float32.
    """
    found: tuple[Tensor, Tensor, Tensor] = _BatchNorm.apply(x, weight, bias, eps)
    return found
