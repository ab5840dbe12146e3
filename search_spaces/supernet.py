"""Supernets: one network that holds all of a space, and the subnets that are slices of it.

A subnet is a plain dict, dimension → choice, e.g. ``{"stem.width": 24, "s1.depth": 2, "s1.b0.kernel": 5, …}``.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from search_spaces.counts import count_macs

Subnet = Mapping[str, int]


@dataclass(frozen=True)
class Dimension:
    """One thing that differs between subnets.

    Attributes:
        name: e.g. ``s1.b0.kernel``.
        choices: from the smallest to the largest.
        stage: dimensions of the same stage are drawn together in coupled mode.
        inside: for a dimension of a block, the dimension of its stage's depth and the block's place there:
            where the stage is not so deep, the block is absent and the choice means nothing.
    """

    name: str
    choices: tuple[int, ...]
    stage: str
    inside: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        if not self.choices or list(self.choices) != sorted(set(self.choices)):
            raise ValueError(f"{self.name}: choices {self.choices} are not in rising order")


@dataclass(frozen=True)
class Space:
    """The subnets of a supernet.

    Attributes:
        dimensions: in the order of the network.
    """

    dimensions: tuple[Dimension, ...]
    _by_name: Mapping[str, Dimension] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {dimension.name: dimension for dimension in self.dimensions}
        if len(by_name) < len(self.dimensions):
            raise ValueError("two dimensions have the same name")
        object.__setattr__(self, "_by_name", by_name)

    def largest(self) -> dict[str, int]:
        """Return the subnet with the largest choice everywhere."""
        return {d.name: d.choices[-1] for d in self.dimensions}

    def smallest(self) -> dict[str, int]:
        """Return the subnet with the smallest choice everywhere."""
        return {d.name: d.choices[0] for d in self.dimensions}

    def sample(
        self, rng: np.random.Generator, *, coupled: bool = False, largest: float = 0.0
    ) -> dict[str, int]:
        """Draw a subnet.

        Args:
            rng: source of randomness.
            coupled: all dimensions of a stage rise together (Sahni et al. 2021, CompOFA, section 3.1): far
                fewer subnets, which a small budget trains better.
            largest: probability with which a dimension has its largest choice whatever was drawn.
        """
        places = {d.stage: rng.random() for d in self.dimensions} if coupled else {}
        subnet = {}
        for d in self.dimensions:
            place = places[d.stage] if coupled else rng.random()
            whole = largest > 0 and rng.random() < largest
            subnet[d.name] = d.choices[-1 if whole else min(int(place * len(d.choices)), len(d.choices) - 1)]
        return self.canonical(subnet)

    def check(self, subnet: Subnet) -> None:
        """Check that a subnet is one of this space.

        Raises:
            ValueError: a dimension is missing, unknown, or has no such choice.
        """
        missing = [d.name for d in self.dimensions if d.name not in subnet]
        unknown = [name for name in subnet if name not in self._by_name]
        if missing or unknown:
            raise ValueError(
                f"not a subnet of this space: missing {missing[:3] or 'nothing'}, unknown {unknown[:3] or 'nothing'}"
            )
        for d in self.dimensions:
            if subnet[d.name] not in d.choices:
                raise ValueError(f"{d.name} = {subnet[d.name]}; choices: {', '.join(map(str, d.choices))}")

    def canonical(self, subnet: Subnet) -> dict[str, int]:
        """Return the subnet with the smallest choice where a block is absent: equal networks, equal dicts."""
        self.check(subnet)
        return {
            d.name: d.choices[0] if d.inside and subnet[d.inside[0]] <= d.inside[1] else int(subnet[d.name])
            for d in self.dimensions
        }

    def mutate(self, subnet: Subnet, rng: np.random.Generator, rate: float) -> dict[str, int]:
        """Draw each dimension anew with a probability."""
        changed = dict(subnet)
        for d in self.dimensions:
            if rng.random() < rate:
                changed[d.name] = d.choices[int(rng.integers(len(d.choices)))]
        return self.canonical(changed)

    def encode(self, subnets: Iterable[Subnet]) -> np.ndarray:
        """Return one row of choices' ranks, scaled to 0..1, for each subnet, −1 where a block is absent."""
        rows = [
            [
                -1.0
                if d.inside and subnet[d.inside[0]] <= d.inside[1]
                else d.choices.index(subnet[d.name]) / max(len(d.choices) - 1, 1)
                for d in self.dimensions
            ]
            for subnet in subnets
        ]
        return np.asarray(rows, dtype=np.float64).reshape(-1, len(self.dimensions))

    def count(self) -> int:
        """Return how many different networks there are (absent blocks counted once)."""
        free = [d for d in self.dimensions if d.inside is None]
        total = 1
        for d in free:
            blocks: dict[int, int] = {}
            for other in self.dimensions:
                if other.inside is not None and other.inside[0] == d.name:
                    blocks[other.inside[1]] = blocks.get(other.inside[1], 1) * len(other.choices)
            if blocks:
                total *= sum(
                    _product(n for place, n in blocks.items() if place < depth) for depth in d.choices
                )
            else:
                total *= len(d.choices)
        return total


def _product(numbers: Iterable[int]) -> int:
    return functools.reduce(lambda a, b: a * b, numbers, 1)


@dataclass(frozen=True)
class Cost:
    """What a subnet costs without its classifier.

    Attributes:
        macs: multiply-accumulates for one image.
        params: parameters.
    """

    macs: int
    params: int


class Stage(nn.Module):
    """Blocks of which the first ``depth`` are active."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.depth = len(blocks)

    def active(self) -> Iterator[Any]:
        """Give the active blocks."""
        return iter(self.blocks[: self.depth])

    def forward(self, x: Tensor) -> Tensor:
        """Run the active blocks."""
        for block in self.active():
            x = block(x)
        return x


class Network(nn.Module):
    """Stem, stages, last layer, mean over positions, and a classifier where there is one.

    Args:
        stem: from images ``[N, 3, H, W]`` to maps.
        stages: from maps to maps.
        last: from maps to maps ``[N, F, h, w]``.
        classifier: from features ``[N, F]`` to logits; None gives the features.
    """

    stem: Any
    last: Any

    def __init__(
        self, stem: nn.Module, stages: Iterable[nn.Module], last: nn.Module, classifier: nn.Module | None
    ) -> None:
        super().__init__()
        self.stem, self.last = stem, last
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(0.0)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → ``[N, F]``, or ``[N, classes]`` with a classifier."""
        features: Tensor = self.last(self.stages(self.stem(x))).mean((2, 3))
        if self.classifier is None:
            return features
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


class Supernet(nn.Module, ABC):
    """A network that holds all subnets of a space.

    Attributes:
        space: of its subnets.
        dropout: before the classifier.
        classifier: from features to logits; None where the network gives features.
    """

    space: Space
    dropout: nn.Dropout

    @abstractmethod
    def activate(self, subnet: Subnet) -> None:
        """Make a subnet the one that ``forward`` runs and ``build`` copies.

        Raises:
            ValueError: it is not one of the space.
        """

    @abstractmethod
    def build(self, subnet: Subnet) -> nn.Module:
        """Return a subnet as a plain static network with weights of its own, and a ``classifier`` as here.

        In evaluation mode it computes what the supernet computes with that subnet active.
        """

    def cost(self, subnet: Subnet, resolution: int) -> Cost:
        """Count a subnet's multiply-accumulates and parameters at a resolution, without the classifier."""
        network: Any = self.build(subnet).float()
        network.classifier = None
        params = sum(p.numel() for p in network.parameters())
        return Cost(count_macs(network, resolution), params)
