"""Supernets of stages, each of convolutions or of attention, laid out by a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from search_spaces.elastic import ElasticLinear
from search_spaces.families._blocks import AttentionBlock, ConvNorm, InvertedResidual
from search_spaces.supernet import Dimension, Network, Space, Stage, Subnet, Supernet


@dataclass(frozen=True)
class ConvStage:
    """Inverted residual blocks.

    Attributes:
        widths: choices of the channels that come out.
        depths: choices of the number of blocks.
        stride: of the first block.
        kernels: choices of each block's depthwise kernel.
        expansions: choices of each block's expansion.
        squeeze: whether blocks have squeeze and excite.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stride: int
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 4, 6)
    squeeze: bool = False

    def dimensions(self, name: str) -> Iterator[Dimension]:
        """Give the stage's dimensions."""
        yield Dimension(f"{name}.width", self.widths, name)
        yield Dimension(f"{name}.depth", self.depths, name)
        for place in range(self.depths[-1]):
            for what, choices in (("kernel", self.kernels), ("expansion", self.expansions)):
                yield Dimension(f"{name}.b{place}.{what}", choices, name, (f"{name}.depth", place))

    def build(self, inside: int) -> Stage:
        """Make the elastic stage for at most ``inside`` input channels."""
        width = self.widths[-1]
        return Stage(
            [
                InvertedResidual.elastic(
                    inside if place == 0 else width,
                    width,
                    self.expansions[-1],
                    self.kernels[-1],
                    self.stride if place == 0 else 1,
                    place > 0,
                    self.squeeze,
                )
                for place in range(self.depths[-1])
            ]
        )

    def activate(self, stage: Any, name: str, inside: int, subnet: Subnet) -> None:
        """Activate a subnet's choices in the stage that was built, for ``inside`` input channels."""
        width, stage.depth = subnet[f"{name}.width"], subnet[f"{name}.depth"]
        for place, block in enumerate(stage.active()):
            choice = f"{name}.b{place}."
            block.activate(
                inside if place == 0 else width,
                width,
                subnet[choice + "expansion"],
                subnet[choice + "kernel"],
            )


@dataclass(frozen=True)
class AttentionStage:
    """A convolution that halves the map, then blocks of attention.

    Attributes:
        widths: choices of the channels.
        depths: choices of the number of blocks.
        heads: choices of each block's heads.
        key_widths: choices of the features of a query and a key of one head.
        value_widths: choices of the features of a value of one head.
        ratios: choices of how much the perceptron widens.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    key_widths: tuple[int, ...] = (8, 16)
    value_widths: tuple[int, ...] = (16, 32)
    ratios: tuple[int, ...] = (1, 2, 3)

    def dimensions(self, name: str) -> Iterator[Dimension]:
        """Give the stage's dimensions."""
        yield Dimension(f"{name}.width", self.widths, name)
        yield Dimension(f"{name}.depth", self.depths, name)
        for place in range(self.depths[-1]):
            for what, choices in (
                ("heads", self.heads),
                ("key_width", self.key_widths),
                ("value_width", self.value_widths),
                ("ratio", self.ratios),
            ):
                yield Dimension(f"{name}.b{place}.{what}", choices, name, (f"{name}.depth", place))

    def build(self, inside: int) -> Stage:
        """Make the elastic stage for at most ``inside`` input channels."""
        width = self.widths[-1]
        largest = (self.heads[-1], self.key_widths[-1], self.value_widths[-1], self.ratios[-1])
        blocks: list[nn.Module] = [ConvNorm.elastic(inside, width, 3, 2, activation=False)]
        blocks.extend(AttentionBlock.elastic(width, *largest) for _ in range(self.depths[-1]))
        return Stage(blocks)

    def activate(self, stage: Any, name: str, inside: int, subnet: Subnet) -> None:
        """Activate a subnet's choices in the stage that was built."""
        width = subnet[f"{name}.width"]
        stage.depth = 1 + subnet[f"{name}.depth"]
        entry, *blocks = stage.active()
        entry.conv.activate(width=width)
        for place, block in enumerate(blocks):
            choice = f"{name}.b{place}."
            names = ("heads", "key_width", "value_width", "ratio")
            block.activate(width, *(subnet[choice + what] for what in names))


@dataclass(frozen=True)
class Layout:
    """A family's table.

    Attributes:
        stem: choices of the channels of the first convolution, which halves the image.
        stages: from the image to the features.
        last: choices of the features.
    """

    stem: tuple[int, ...]
    stages: tuple[ConvStage | AttentionStage, ...]
    last: tuple[int, ...]

    def dimensions(self) -> Iterator[Dimension]:
        """Give all dimensions."""
        yield Dimension("stem.width", self.stem, "stem")
        for number, stage in enumerate(self.stages):
            yield from stage.dimensions(f"s{number}")
        yield Dimension("last.width", self.last, "last")


class StagedSupernet(Supernet, Network):
    """The supernet of a layout, with an elastic classifier where ``classes`` is given.

    Args:
        layout: the table.
        classes: outputs of the classifier; None for a network that gives features.
    """

    def __init__(self, layout: Layout, classes: int | None = None) -> None:
        stages, inside = [], layout.stem[-1]
        for stage in layout.stages:
            stages.append(stage.build(inside))
            inside = stage.widths[-1]
        super().__init__(
            ConvNorm.elastic(3, layout.stem[-1], 3, 2),
            stages,
            ConvNorm.elastic(inside, layout.last[-1]),
            None if classes is None else _Classifier(layout.last[-1], classes),
        )
        self.layout = layout
        self.space = Space(tuple(layout.dimensions()))
        self.apply(_initialise)

    def activate(self, subnet: Subnet) -> None:
        """Make a subnet the active one.

        Raises:
            ValueError: it is not one of the space.
        """
        self.space.check(subnet)
        inside = subnet["stem.width"]
        self.stem.conv.activate(width=inside)
        for number, (spec, stage) in enumerate(zip(self.layout.stages, self.stages, strict=True)):
            spec.activate(stage, f"s{number}", inside, subnet)
            inside = subnet[f"s{number}.width"]
        self.last.conv.activate(width=subnet["last.width"])

    def build(self, subnet: Subnet) -> Network:
        """Return a subnet as a plain static network with weights of its own."""
        self.activate(subnet)
        stem, inside = _build(self.stem, 3)
        stages = []
        stage: Any
        for stage in self.stages:
            blocks = []
            for block in stage.active():
                built, inside = _build(block, inside)
                blocks.append(built)
            stages.append(nn.Sequential(*blocks))
        last, inside = _build(self.last, inside)
        classifier = None if self.classifier is None else _build(self.classifier, inside)[0]
        return Network(stem, stages, last, classifier).train(self.training)


def _build(module: Any, inside: int) -> tuple[nn.Module, int]:
    """Build the active slice of an elastic module for so many input channels, and say how many go out."""
    return module.build(inside), module.outside(inside)


class _Classifier(ElasticLinear):
    """The linear layer from the active features to the classes."""

    def outside(self, inside: int) -> int:
        return self.width


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 for convolutions; small normal weights for linear layers."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
