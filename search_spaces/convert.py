"""A pretrained timm model becomes a supernet: the model itself is the largest subnet, its channels sorted by importance.

Elastic are the widths inside blocks (expansions, bottlenecks, hidden layers of perceptrons), heads of attention, and the
number of blocks of each stage; of MobileNetV1, whose blocks have no inside, the widths of the stages. What flows between
stages keeps its width elsewhere, so that the residual stream stays what was trained (Muñoz et al. 2022, BootstrapNAS;
sorting by importance: Cai et al. 2020, Once-for-All, section 3.3).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.elastic import ElasticAttention
from search_spaces.elastic._sliced import Shortened, Sliced, harden, permute, shorten, slice_layer
from search_spaces.supernet import Dimension, Space, Subnet, Supernet

#: Shares of a width, and of the heads, that can be chosen.
RATIOS = (1 / 3, 1 / 2, 2 / 3, 1.0)
#: Fewest blocks of a stage, as a share.
_LEAST_DEPTH = 1 / 3
#: Widths are multiples of this where they are large enough.
_STEP = 8


class ConversionError(ValueError):
    """A network cannot become a supernet; the message is one line."""


@dataclass
class Tied:
    """Channels that have to be the same ones in several layers.

    Attributes:
        writers: layers that put them out.
        channelwise: layers that work on each by itself.
        readers: layers that take them in.
        pairs: layers that say how large the channels are (a norm, or a writer), each with a reader that weighs them.
    """

    writers: list[Sliced] = field(default_factory=list)
    channelwise: list[Sliced] = field(default_factory=list)
    readers: list[Sliced] = field(default_factory=list)
    pairs: list[tuple[Sliced, Sliced]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.writers[0].most_out

    def set(self, width: int) -> None:
        """Activate so many."""
        for layer in (*self.writers, *self.channelwise):
            layer.write(width)
        for layer in self.readers:
            layer.read(width)

    def choices(self) -> tuple[int, ...]:
        """Widths that can be chosen."""
        return _choices(self.size, _STEP if self.size >= 3 * _STEP else 1)

    def importance(self) -> Tensor:
        """How much of what the readers get comes through each channel, float [size]: its size times their weights'."""
        total = torch.zeros(self.size, dtype=torch.float64)
        for gain, reader in self.pairs:
            scale, weight = gain.stored("weight"), reader.stored("weight")
            if scale is None or weight is None:
                continue
            own = (
                scale.detach().double().flatten(1).norm(dim=1)
                if scale.ndim > 1
                else scale.detach().double().abs()
            )
            total += own.cpu() * weight.detach().double().transpose(0, 1).flatten(1).norm(dim=1).cpu()
        return total

    def sort(self) -> None:
        """Put the important ones first; what the network computes stays the same."""
        order = torch.argsort(self.importance(), descending=True, stable=True)
        for layer in (*self.writers, *self.channelwise):
            permute(layer, order, inputs=False)
        for layer in self.readers:
            permute(layer, order, inputs=True)


@dataclass
class _Depth:
    sequence: Shortened

    def set(self, depth: int) -> None:
        self.sequence.depth = depth


@dataclass
class _HeadCount:
    attention: ElasticAttention

    def set(self, heads: int) -> None:
        self.attention.activate(heads=heads)


class Classified(nn.Module):
    """A network that gives features, and a classifier.

    Args:
        model: ``[N, 3, H, W]`` → features ``[N, F]``.
        classifier: from features to logits; None gives the features.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.dropout = nn.Dropout(0.0)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` → ``[N, F]``, or ``[N, classes]`` with a classifier."""
        features: Tensor = self.model(x)
        if self.classifier is None:
            return features
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


class Converted(Supernet, Classified):
    """The supernet of a timm model; made by :func:`convert`."""

    def __init__(
        self, model: nn.Module, classifier: nn.Module | None, space: Space, parts: dict[str, list[Any]]
    ) -> None:
        super().__init__(model, classifier)
        self.space = space
        self._parts = parts

    def activate(self, subnet: Subnet) -> None:
        """Make a subnet the active one.

        Raises:
            ValueError: it is not one of the space.
        """
        self.space.check(subnet)
        for name, parts in self._parts.items():
            for part in parts:
                part.set(subnet[name])

    def build(self, subnet: Subnet) -> Classified:
        """Return a subnet as a plain static network with weights of its own: timm's modules, but for attention."""
        self.activate(subnet)
        built = copy.deepcopy(Classified(self.model, self.classifier))
        harden(built, _plain_attention)
        return built.train(self.training)


def convert(model: nn.Module, classes: int | None = None, *, fitted: nn.Linear | None = None) -> Converted:
    """Make a supernet of a timm model: ResNet, MobileNetV1, V2 or V3, EfficientNet, ConvNeXt, ViT or DeiT.

    The features themselves are sorted where they are the last stage's channels, so a classifier that was fitted on them
    has to be sorted with them.

    Args:
        model: stays as it is.
        classes: outputs of a new classifier; None for the fitted one, or else the model's own, if it has one.
        fitted: a classifier of the model's features; stays as it is.

    Raises:
        ConversionError: none of its blocks is of a known kind.
    """
    kind = type(model).__name__
    network: Any = copy.deepcopy(model)
    own = network.get_classifier() if hasattr(network, "get_classifier") else None
    if classes is None and fitted is None and not isinstance(own, nn.Linear | nn.Identity | None):
        raise ConversionError(
            f"the classifier of a {kind} is a {type(own).__name__}; give the number of classes"
        )
    width = (
        own.in_features
        if isinstance(own, nn.Linear)
        else int(getattr(network, "head_hidden_size", network.num_features))
    )
    network.reset_classifier(0)
    classifier = own if isinstance(own, nn.Linear) and classes is None else None
    if fitted is not None:
        classifier = copy.deepcopy(fitted)
    elif classes is not None:
        reference = next(network.parameters())
        classifier = nn.Linear(width, classes).to(reference)
        nn.init.trunc_normal_(classifier.weight, std=0.02)
        nn.init.zeros_(classifier.bias)
    stages = _stages(network)
    parts: dict[str, list[Any]] = {}
    dimensions: list[Dimension] = []

    def add(
        name: str, choices: tuple[int, ...], part: list[Any], inside: tuple[str, int] | None = None
    ) -> None:
        if len(choices) > 1:
            parts[name] = part
            dimensions.append(Dimension(name, choices, name.split(".", 1)[0], inside))

    chain = _chain(stages, network, classifier)
    for number, stage in enumerate(stages):
        name, blocks = f"s{number}", list(stage.children())
        if number < len(chain):
            chain[number].sort()
            add(f"{name}.width", chain[number].choices(), [chain[number]])
        least = max(len(blocks) - _droppable(blocks), math.ceil(len(blocks) * _LEAST_DEPTH))
        depths = tuple(range(least, len(blocks) + 1))
        add(f"{name}.depth", depths, [_Depth(shorten(stage))] if len(depths) > 1 else [])
        for place, block in enumerate(blocks):
            inside = (f"{name}.depth", place) if len(depths) > 1 else None
            tied = _inside(block)
            for one in tied:
                one.sort()
            if tied:
                add(f"{name}.b{place}.width", tied[0].choices(), list(tied), inside)
            heads = _elastic_heads(block)
            if heads is not None:
                add(f"{name}.b{place}.heads", _choices(heads.query.most[0], 1), [_HeadCount(heads)], inside)
    if not dimensions:
        raise ConversionError(f"a {kind} cannot become a supernet: none of its blocks is of a known kind")
    return Converted(network, classifier, Space(tuple(dimensions)), parts).train(model.training)


def _choices(size: int, step: int) -> tuple[int, ...]:
    return tuple(
        sorted({min(size, max(step, round(size * ratio / step) * step)) for ratio in RATIOS[:-1]} | {size})
    )


# --- which layers belong together, block by block ----------------------------------------------------------


def _rules() -> dict[type[nn.Module], Callable[[Any], list[Tied]]]:
    from timm.models._efficientnet_blocks import (
        ConvBnAct,
        DepthwiseSeparableConv,
        EdgeResidual,
        InvertedResidual,
    )
    from timm.models.convnext import ConvNeXtBlock
    from timm.models.resnet import BasicBlock, Bottleneck
    from timm.models.vision_transformer import Block

    return {
        BasicBlock: _of_basic,
        Bottleneck: _of_bottleneck,
        ConvBnAct: _of_nothing,
        DepthwiseSeparableConv: _of_nothing,
        EdgeResidual: _of_edge,
        InvertedResidual: _of_inverted,
        ConvNeXtBlock: _of_perceptron,
        Block: _of_perceptron,
    }


def _stages(model: nn.Module) -> list[nn.Sequential]:
    """The sequences of known blocks, in the order of the network."""
    known = _rules()
    return [
        module
        for module in model.modules()
        if type(module) is nn.Sequential
        and len(module)
        and all(type(child) in known for child in module.children())
    ]


def _inside(block: nn.Module) -> list[Tied]:
    """Groups of channels inside a block, all of the same size."""
    tied = _rules()[type(block)](block)
    return tied if len({one.size for one in tied}) == 1 else []


def _of_nothing(block: Any) -> list[Tied]:
    return []


def _of_inverted(block: Any) -> list[Tied]:
    if getattr(block, "conv_s2d", None) is not None:
        return []
    return _tied(
        block.conv_pw, [block.bn1, block.conv_dw, block.bn2], block.conv_pwl, block.bn2, block.aa, block.se
    )


def _of_edge(block: Any) -> list[Tied]:
    return _tied(block.conv_exp, [block.bn1], block.conv_pwl, block.bn1, block.aa, block.se)


def _of_basic(block: Any) -> list[Tied]:
    return _tied(block.conv1, [block.bn1], block.conv2, block.bn1, block.aa)


def _of_bottleneck(block: Any) -> list[Tied]:
    if block.conv2.groups != 1:
        return []
    first = _tied(block.conv1, [block.bn1], block.conv2, block.bn1)
    second = _tied(block.conv2, [block.bn2], block.conv3, block.bn2, block.aa)
    return [*first, *second] if first and second else []


def _of_perceptron(block: Any) -> list[Tied]:
    layers = block.mlp
    if not all(hasattr(layers, name) for name in ("fc1", "fc2")) or not _is_nothing(
        getattr(layers, "norm", None)
    ):
        return []
    between = [layers.grn] if hasattr(layers, "grn") else []
    return _tied(layers.fc1, between, layers.fc2, layers.fc1)


def _tied(
    writer: nn.Module,
    channelwise: Sequence[nn.Module],
    reader: nn.Module,
    gain: nn.Module,
    *others: Any,
) -> list[Tied]:
    """One group, or none where something in between is not known.

    Args:
        writer, channelwise, reader: as in :class:`Tied`.
        gain: says how large the channels are.
        others: what else works on the channels: nothing, or squeeze and excite.
    """
    writers, readers = [writer], [reader]
    for other in others:
        if _is_nothing(other):
            continue
        if {name for name, _ in other.named_children()} != {"conv_reduce", "act1", "conv_expand", "gate"}:
            return []
        writers.append(other.conv_expand)
        readers.append(other.conv_reduce)
    try:
        made = Tied(
            [slice_layer(layer) for layer in writers],
            [slice_layer(layer) for layer in channelwise],
            [slice_layer(layer) for layer in readers],
        )
    except TypeError:
        return []
    made.pairs.append((slice_layer(gain), made.readers[0]))
    return [made]


def _is_nothing(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _droppable(blocks: Sequence[nn.Module]) -> int:
    """How many blocks at the end keep the shape of what they get."""
    count = 0
    for block in reversed(list(blocks)):
        if not _keeps_shape(block):
            break
        count += 1
    return min(count, len(blocks) - 1)


def _keeps_shape(block: Any) -> bool:
    if hasattr(block, "downsample"):
        return block.downsample is None and block.stride == 1
    if hasattr(block, "shortcut"):
        return isinstance(block.shortcut, nn.Identity)
    if hasattr(block, "has_skip"):
        if block.has_skip or not hasattr(block, "conv_dw") or not hasattr(block, "conv_pw"):
            return bool(block.has_skip)
        plain = type(block).__name__ == "DepthwiseSeparableConv"
        same = block.conv_pw.out_channels == block.conv_dw.in_channels
        return plain and same and tuple(block.conv_dw.stride) == (1, 1)
    return True  # a block of a transformer


def _chain(stages: Sequence[nn.Sequential], model: Any, classifier: nn.Module | None) -> list[Tied]:
    """Of a network of separable convolutions without shortcuts: the channels that come out of each stage."""
    blocks: list[list[Any]] = [list(stage.children()) for stage in stages]
    for block in (block for stage in blocks for block in stage):
        separable = type(block).__name__ == "DepthwiseSeparableConv" and not block.has_skip
        if not separable or not (_is_nothing(block.se) and _is_nothing(block.aa)):
            return []
        if getattr(block, "conv_s2d", None) is not None:
            return []
    chain = []
    for number, stage in enumerate(blocks):
        takers = [*stage[1:], *(blocks[number + 1][:1] if number + 1 < len(blocks) else [])]
        tied = Tied(
            [slice_layer(block.conv_pw) for block in stage],
            [slice_layer(block.bn2) for block in stage],
        )
        for block in takers:
            tied.channelwise += [slice_layer(block.conv_dw), slice_layer(block.bn1)]
            tied.readers.append(slice_layer(block.conv_pw))
            tied.pairs.append((tied.channelwise[-1], tied.readers[-1]))
        if number + 1 == len(blocks):
            head = model.conv_head if isinstance(getattr(model, "conv_head", None), nn.Conv2d) else classifier
            if head is None:
                break  # features keep their width
            tied.readers.append(slice_layer(head))
            tied.pairs.append((slice_layer(stage[-1].bn2), tied.readers[-1]))
        chain.append(tied)
    return chain


# --- heads of attention --------------------------------------------------------------------------------------


class _Heads(nn.Module):
    """Attention in the place of timm's, which takes a mask that is never given here."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """``[N, T, C]`` → the same shape."""
        if attn_mask is not None or is_causal:
            raise ValueError("masked attention was not converted")
        out: Tensor = self.inner(x)
        return out


@torch.no_grad()
def _elastic_heads(block: Any) -> ElasticAttention | None:
    """Put elastic attention with the same weights, important heads first, into a transformer's block; None if it has none."""
    from timm.layers import Attention  # type: ignore[attr-defined]

    old = getattr(block, "attn", None)
    if type(old) is not Attention:
        return None
    between = [getattr(old, name, None) for name in ("q_norm", "k_norm", "norm", "gate")]
    if not all(_is_nothing(module) for module in between):
        return None
    heads, inner = old.num_heads, old.head_dim
    width = old.qkv.in_features
    new = ElasticAttention(width, heads, inner, inner).to(old.qkv.weight)
    rows = old.qkv.weight.unflatten(0, (3, heads, inner))
    columns = old.proj.weight.unflatten(1, (heads, inner))
    score = rows[2].flatten(1).norm(dim=1) * columns.transpose(0, 1).flatten(1).norm(dim=1)
    order = torch.argsort(score, descending=True, stable=True)
    bias = None if old.qkv.bias is None else old.qkv.bias.unflatten(0, (3, heads, inner))
    for number, layer in enumerate((new.query, new.key, new.value)):
        layer.weight.copy_(rows[number][order].flatten(0, 1))
        layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias[number][order].flatten())
    new.project.weight.copy_(columns[:, order].flatten(1))
    new.project.bias.copy_(torch.zeros_like(new.project.bias) if old.proj.bias is None else old.proj.bias)
    block.attn = _Heads(new)
    return new


def _plain_attention(module: nn.Module) -> nn.Module | None:
    """The plain form of elastic attention, None for any other module."""
    if not isinstance(module, ElasticAttention):
        return None
    return module.build(module.query.in_features)
