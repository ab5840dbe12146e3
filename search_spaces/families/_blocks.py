"""Blocks of the families' supernets, written once for elastic and for plain layers.

A block is made of the layers that it is given; ``build`` makes the same block of the plain layers that its
elastic ones build.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from search_spaces.elastic import (
    ElasticAttention,
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticLayerNorm,
    ElasticLinear,
)

#: Channels between the two layers of squeeze and excite, as a share.
_SQUEEZED = 0.25


def rounded(value: float, step: int = 8) -> int:
    """Return a number of channels that is a multiple of ``step``, at least one of it."""
    return max(step, int(value / step + 0.5) * step)


class ConvNorm(nn.Module):
    """Convolution, normalisation and, where it has one, activation."""

    def __init__(self, conv: Any, norm: Any, activation: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.activation = nn.ReLU(inplace=True) if activation else nn.Identity()

    @classmethod
    def elastic(
        cls,
        inside: int,
        outside: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        depthwise: bool = False,
        activation: bool = True,
    ) -> ConvNorm:
        """Make one of elastic layers."""
        conv = ElasticConv2d(inside, outside, kernel, stride, depthwise=depthwise)
        return cls(conv, ElasticBatchNorm2d(outside), activation)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C', H', W']``."""
        out: Tensor = self.activation(self.norm(self.conv(x)))
        return out

    def outside(self, inside: int) -> int:
        """Return how many channels come out."""
        return inside if self.conv.depthwise else int(self.conv.width)

    def build(self, inside: int) -> ConvNorm:
        """Return the active slice as a plain block."""
        norm = self.norm.build(self.outside(inside))
        return ConvNorm(self.conv.build(inside), norm, isinstance(self.activation, nn.ReLU))


class SqueezeExcite(nn.Module):
    """Weights of the channels from their means (Hu et al. 2018, section 3)."""

    def __init__(self, reduce: Any, expand: Any) -> None:
        super().__init__()
        self.reduce, self.expand = reduce, expand
        self.activation, self.gate = nn.ReLU(inplace=True), nn.Hardsigmoid()

    @classmethod
    def elastic(cls, width: int) -> SqueezeExcite:
        """Make one of elastic layers for at most ``width`` channels."""
        hidden = rounded(width * _SQUEEZED)
        return cls(ElasticConv2d(width, hidden, bias=True), ElasticConv2d(hidden, width, bias=True))

    def activate(self, width: int) -> None:
        """Set for how many channels it is."""
        self.reduce.activate(width=rounded(width * _SQUEEZED))
        self.expand.activate(width=width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → the same shape."""
        weight = self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True))))
        out: Tensor = x * self.gate(weight)
        return out

    def build(self, inside: int) -> SqueezeExcite:
        """Return the active slice as a plain block."""
        return SqueezeExcite(self.reduce.build(inside), self.expand.build(self.reduce.width))


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise, project 1×1 (Sandler et al. 2018, MobileNetV2, section 3.3).

    Args:
        expand: the expansion; None where the depthwise convolution takes the input as it is.
        depthwise: the depthwise convolution.
        squeeze: squeeze and excite behind it; None for none.
        project: the projection, without activation.
        shortcut: whether the input is added.
    """

    def __init__(self, expand: Any, depthwise: Any, squeeze: Any, project: Any, shortcut: bool) -> None:
        super().__init__()
        self.expand, self.depthwise, self.squeeze, self.project = expand, depthwise, squeeze, project
        self.shortcut = shortcut

    @classmethod
    def elastic(
        cls,
        inside: int,
        outside: int,
        expansion: int,
        kernel: int,
        stride: int,
        shortcut: bool,
        squeeze: bool,
    ) -> InvertedResidual:
        """Make one of elastic layers for the largest of everything."""
        hidden = rounded(inside * expansion)
        return cls(
            ConvNorm.elastic(inside, hidden) if expansion > 1 else None,
            ConvNorm.elastic(hidden, hidden, kernel, stride, depthwise=True),
            SqueezeExcite.elastic(hidden) if squeeze else None,
            ConvNorm.elastic(hidden, outside, activation=False),
            shortcut,
        )

    def activate(self, inside: int, outside: int, expansion: int, kernel: int) -> None:
        """Set what is active, for an input of ``inside`` channels."""
        hidden = rounded(inside * expansion) if self.expand is not None else inside
        if self.expand is not None:
            self.expand.conv.activate(width=hidden)
        self.depthwise.conv.activate(kernel=kernel)
        if self.squeeze is not None:
            self.squeeze.activate(hidden)
        self.project.conv.activate(width=outside)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → ``[N, C', H', W']``."""
        out = x if self.expand is None else self.expand(x)
        out = self.depthwise(out)
        if self.squeeze is not None:
            out = self.squeeze(out)
        out = self.project(out)
        return x + out if self.shortcut else out

    def outside(self, inside: int) -> int:
        """Return how many channels come out."""
        return int(self.project.outside(inside))

    def build(self, inside: int) -> InvertedResidual:
        """Return the active slice as a plain block."""
        hidden = inside if self.expand is None else self.expand.outside(inside)
        return InvertedResidual(
            None if self.expand is None else self.expand.build(inside),
            self.depthwise.build(hidden),
            None if self.squeeze is None else self.squeeze.build(hidden),
            self.project.build(hidden),
            self.shortcut,
        )


class AttentionBlock(nn.Module):
    """Attention over all positions of a map, then a two-layer perceptron, each added to its input.

    A depthwise convolution before tells where a position is (Chu et al. 2023, conditional positional
    encodings, section 3.2), so that any resolution works.

    Args:
        position: the depthwise convolution.
        before_attention, before_mlp: layer normalisation.
        attention: attention over tokens.
        widen, narrow: the perceptron's layers.
    """

    def __init__(
        self, position: Any, before_attention: Any, attention: Any, before_mlp: Any, widen: Any, narrow: Any
    ) -> None:
        super().__init__()
        self.position, self.attention = position, attention
        self.before_attention, self.before_mlp = before_attention, before_mlp
        self.widen, self.activation, self.narrow = widen, nn.GELU(), narrow

    @classmethod
    def elastic(cls, width: int, heads: int, key_width: int, value_width: int, ratio: int) -> AttentionBlock:
        """Make one of elastic layers for the largest of everything."""
        return cls(
            ElasticConv2d(width, width, 3, depthwise=True, bias=True),
            ElasticLayerNorm(width),
            ElasticAttention(width, heads, key_width, value_width),
            ElasticLayerNorm(width),
            ElasticLinear(width, width * ratio),
            ElasticLinear(width * ratio, width),
        )

    def activate(self, width: int, heads: int, key_width: int, value_width: int, ratio: int) -> None:
        """Set what is active, for maps of ``width`` channels."""
        self.attention.activate(heads=heads, key_width=key_width, value_width=value_width)
        self.widen.activate(width=width * ratio)
        self.narrow.activate(width=width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` → the same shape."""
        x = x + self.position(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.before_attention(tokens))
        tokens = tokens + self.narrow(self.activation(self.widen(self.before_mlp(tokens))))
        return tokens.transpose(1, 2).unflatten(2, x.shape[2:])

    def outside(self, inside: int) -> int:
        """Return how many channels come out."""
        return inside

    def build(self, inside: int) -> AttentionBlock:
        """Return the active slice as a plain block."""
        return AttentionBlock(
            self.position.build(inside),
            self.before_attention.build(inside),
            self.attention.build(inside),
            self.before_mlp.build(inside),
            self.widen.build(inside),
            self.narrow.build(self.widen.width),
        )
