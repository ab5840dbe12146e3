"""Which weights a fine-tuning method trains, and with which learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.stages import feature_stages, stage_groups

#: Methods that update the backbone or add to it.
FINE_TUNING = (
    "full",
    "probe_then_full",
    "norm_bias",
    "last_stages",
    "lora",
    "conv_adapter",
    "cached_trunk",
    "scratch",
)
#: Methods on frozen features.
FROZEN = ("knn", "logistic", "linear_probe")


class LowRankAdapter(nn.Module):
    """A frozen linear or convolution layer plus a trained low-rank update (LoRA, Hu et al. 2022, eq. 3).

    The update's second factor starts at zero, so training starts from the pretrained function. A
    grouped (depthwise) convolution is left as it is.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down: nn.Module
        self.up: nn.Module
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, rank, bias=False)
            self.up = nn.Linear(rank, layer.out_features, bias=False)
        else:
            convolution: Any = nn.Conv2d
            shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
            self.down = convolution(layer.in_channels, rank, *shape, bias=False)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    @property
    def weight(self) -> Tensor:
        """The layer's weight with the update, for modules that read it instead of calling the layer."""
        up, down = self.up.weight, self.down.weight
        assert isinstance(up, Tensor) and isinstance(down, Tensor)
        if isinstance(self.layer, nn.Linear):
            return self.layer.weight + up @ down
        return self.layer.weight + torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.up(self.down(x))
        return out

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return the plain layer with the update added to its weight."""
        self.layer.weight.copy_(self.weight)
        return self.layer.requires_grad_(True)


class ConvAdapter(nn.Module):
    """A residual bottleneck behind a stage: depthwise 3×3, then 1×1 (Conv-Adapter, Chen et al. 2024, section 3)."""

    def __init__(self, stage: nn.Module, channels: int, rank: int) -> None:
        super().__init__()
        self.stage = stage
        hidden = max(8, rank)
        self.adapter = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )
        nn.init.zeros_(self.adapter[3].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out = self.stage(x)
        return out + self.adapter(out) if out.ndim == 4 else out


def add_low_rank(module: nn.Module, rank: int) -> int:
    """Wrap every dense linear and convolution layer below ``module``; return how many."""
    wrapped = 0
    for name, child in list(module.named_children()):
        # Other kinds of convolution (with padding of their own) are left alone, and so are grouped ones.
        dense = isinstance(child, nn.Linear) or (type(child) is nn.Conv2d and child.groups == 1)
        if isinstance(child, nn.Linear | nn.Conv2d) and dense and min(child.weight.shape[:2]) > 2 * rank:
            setattr(module, name, LowRankAdapter(child, rank))
            wrapped += 1
        else:
            wrapped += add_low_rank(child, rank)
    return wrapped


def add_conv_adapters(backbone: nn.Module, rank: int) -> None:
    """Put a :class:`ConvAdapter` behind every stage whose output is a map."""
    stages = list(feature_stages(backbone))
    example = torch.zeros(1, 3, 80, 80)  # its maps are 40, 20, 10 … wide: no usual number of channels
    was_training = backbone.training
    with collected_channels(stages) as channels, torch.no_grad():
        backbone.eval()(example)
    backbone.train(was_training)
    # Listed before anything is replaced: the walk would find each stage again inside its own adapter.
    places = [
        (parent, name, child)
        for parent in backbone.modules()
        for name, child in parent.named_children()
        if id(child) in channels
    ]
    for parent, name, stage in places:
        setattr(parent, name, ConvAdapter(stage, channels[id(stage)], rank))


@contextmanager
def collected_channels(stages: Sequence[nn.Module]) -> Iterator[dict[int, int]]:
    """While the block runs, note the channels of each stage's output map, keyed by the stage's ``id``.

    Maps are ``[N, C, S, S]``; a stage that puts its channels last is left out.
    """
    channels: dict[int, int] = {}

    def note(stage: nn.Module, _inputs: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] == out.shape[3]:
            channels[id(stage)] = out.shape[1]

    handles = [stage.register_forward_hook(note) for stage in stages]
    try:
        yield channels
    finally:
        for handle in handles:
            handle.remove()


def freeze_early(backbone: nn.Module, stages: int) -> None:
    """Train no weight before the end of the first ``stages`` stages; the last stage is trained in any case."""
    groups = stage_groups(backbone)  # the stem, the stages, and what is left
    frozen = {name for group in groups[: min(stages + 1, max(1, len(groups) - 2))] for name in group}
    for name, parameter in backbone.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def merge_low_rank(module: nn.Module) -> None:
    """Replace every :class:`LowRankAdapter` by its merged layer."""
    for name, child in list(module.named_children()):
        if isinstance(child, LowRankAdapter):
            setattr(module, name, child.merged())
        else:
            merge_low_rank(child)


def choose_parameters(backbone: nn.Module, strategy: dict[str, Any]) -> None:
    """Set ``requires_grad`` of the backbone's weights as the method asks.

    Raises:
        ValueError: the method is not one of :data:`FINE_TUNING`.
    """
    method = strategy["method"]
    if method not in FINE_TUNING:
        raise ValueError(f"method {method!r} does not train a backbone; known: {', '.join(FINE_TUNING)}")
    backbone.requires_grad_(method in ("full", "probe_then_full", "scratch", "cached_trunk"))
    if method == "norm_bias":
        for module in backbone.modules():
            normalises = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm)
            for name, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(normalises or name == "bias")
    elif method == "last_stages":
        groups = stage_groups(backbone)
        names = {name for group in groups[-max(1, int(strategy["last_stages"])) :] for name in group}
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in names)
    elif method == "lora":
        add_low_rank(backbone, int(strategy["rank"]))
    elif method == "conv_adapter":
        for module in backbone.modules():
            if isinstance(module, ConvAdapter):
                module.adapter.requires_grad_(True)


def parameter_groups(model: nn.Module, backbone: nn.Module, strategy: dict[str, Any]) -> list[dict[str, Any]]:
    """Optimiser groups: no decay on vectors, the learning rate falls by ``layer_decay`` per stage towards the input.

    Layer-wise decay as in ULMFiT (Howard & Ruder 2018, section 3.2) and BEiT's fine-tuning recipe.
    """
    decay = float(strategy["layer_decay"])
    depth: dict[str, int] = {}
    groups = stage_groups(backbone) if decay < 1 else []
    for level, names in enumerate(groups):
        for name in names:
            depth[name] = len(groups) - level
    inner = {id(parameter): name for name, parameter in backbone.named_parameters()}
    collected: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        scale = decay ** depth.get(inner.get(id(parameter), ""), 0) if decay < 1 else 1.0
        collected.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": params, "base": scale, "weight_decay": float(strategy["weight_decay"]) if decays else 0.0}
        for (scale, decays), params in collected.items()
    ]
