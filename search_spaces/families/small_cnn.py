"""Small convolutional nets for training from scratch when no pretrained weights can be had.

A dense-convolution stem and inverted residual blocks (MobileNetV2, Sandler et al. 2018, section 3.3).
Dense early layers learn faster from few images than depthwise ones, so only the later stages are depthwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Architecture name → channels and depth of each stage, and the width of the last layer.
NAMES: Mapping[str, Mapping[str, Any]] = {
    "small_cnn_xs": {"channels": (16, 24, 48, 96), "depths": (1, 1, 1, 1), "head": 128},
    "small_cnn_s": {"channels": (24, 40, 80, 160), "depths": (1, 2, 2, 1), "head": 256},
    "small_cnn_m": {"channels": (32, 64, 128, 256), "depths": (2, 2, 3, 2), "head": 512},
}


def _conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise 3×3, project 1×1, with a shortcut where the shape allows one."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int = 3) -> None:
        super().__init__()
        hidden = inside * expansion
        self.body = nn.Sequential(
            _conv(inside, hidden, 1),
            _conv(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.shortcut else out


class SmallCnn(nn.Module):
    """Images ``[N, 3, H, W]`` → pooled features ``[N, F]``; any side from 16 pixels on.

    Args:
        channels: of each stage; every stage but the first halves the side.
        depths: blocks per stage.
        head: features ``F``.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int], head: int) -> None:
        super().__init__()
        self.num_features = head
        self.stem = _conv(3, channels[0], 3, 2)
        stages: list[nn.Module] = []
        inside = channels[0]
        for number, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            blocks: list[nn.Module] = []
            for block in range(depth):
                stride = 2 if block == 0 and number > 0 else 1
                blocks.append(
                    _conv(inside, width, 3, stride) if number < 2 else InvertedResidual(inside, width, stride)
                )
                inside = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.last = _conv(inside, head, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.last(self.stages(self.stem(x)))
        return torch.flatten(out.mean(dim=(2, 3)), 1)


def create(name: str) -> SmallCnn:
    """Build one of :data:`NAMES`."""
    return SmallCnn(**NAMES[name])
