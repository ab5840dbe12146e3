"""Where the stages of a network are: their outputs, their parameters, and a cut behind one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def feature_stages(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose outputs mark the network's stages, from the input to the head.

    Known layouts are taken by name; otherwise the children of the longest ``Sequential`` or ``ModuleList``.
    """
    inner = getattr(model, "wrapped", model)
    blocks = _stage_container(inner)
    stages = list(blocks.children()) if blocks is not None else []
    if len(stages) > 8:  # a transformer: a few of its many equal blocks
        picks = sorted({round((i + 1) * len(stages) / 4) - 1 for i in range(4)})
        stages = [stages[i] for i in picks]
    return stages


def _stage_container(model: nn.Module) -> nn.Module | None:
    for name in ("blocks", "stages", "layers", "features"):
        child = getattr(model, name, None)
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child) > 1:
            return child
    for prefix in ("layer", "s"):  # ResNets; RegNets
        layers = [getattr(model, f"{prefix}{i}", None) for i in range(1, 5)]
        if all(isinstance(layer, nn.Module) for layer in layers):
            return nn.ModuleList([layer for layer in layers if layer is not None])
    candidates = [m for m in model.children() if isinstance(m, nn.Sequential | nn.ModuleList)]
    return max(candidates, key=len, default=None)


def stage_groups(model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters, grouped from stem to head: ``[stem, stage 1, …, rest]``."""
    container = _stage_container(model)
    stages = list(container.children()) if container is not None else []
    of = {id(p): level for level, stage in enumerate(stages) for p in stage.parameters()}
    groups: list[list[str]] = [[] for _ in range(len(stages) + 2)]
    inside = False
    for name, parameter in model.named_parameters():
        level = of.get(id(parameter))
        if level is not None:
            inside = True
            groups[level + 1].append(name)
        else:
            groups[-1 if inside else 0].append(name)
    return [group for group in groups if group]


class _Trunk(nn.Module):
    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class _Tail(_Trunk):
    """The stages after the trunk and the network's own pooling (timm's ``forward_head``)."""

    def __init__(self, parts: Sequence[nn.Module], owner: nn.Module) -> None:
        super().__init__(parts)
        self._owner = [owner]  # in a list so that the whole network is not registered below its own tail

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._owner[0].forward_head(super().forward(x))  # type: ignore[operator]
        return out


def trunk_split(model: nn.Module, stages: int) -> tuple[nn.Module, nn.Module] | None:
    """Cut a network behind its first ``stages`` stages: (trunk, tail), sharing its modules.

    ``tail(trunk(x))`` equals ``model(x)``, which is checked on random input in evaluation mode; None where
    the layout is not known or the check fails.
    """
    container = getattr(model, "blocks", None)
    if not isinstance(container, nn.Sequential) or not hasattr(model, "forward_head"):
        return None
    blocks = list(container.children())
    if not 1 <= stages < len(blocks):
        return None
    before = [getattr(model, name) for name in ("conv_stem", "bn1") if hasattr(model, name)]
    after = [getattr(model, name) for name in ("conv_head", "bn2") if hasattr(model, name)]
    after = [] if hasattr(model, "conv_norm_first") else after
    if not hasattr(model, "conv_stem"):
        return None
    if "MobileNetV3" in type(model).__name__:
        after = []  # its conv_head comes after the pooling, inside forward_head
    trunk, tail = _Trunk([*before, *blocks[:stages]]), _Tail([*blocks[stages:], *after], model)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
            x = x.to(next(model.parameters()).device)
            same = torch.allclose(model(x), tail(trunk(x)), atol=1e-4, rtol=1e-3)
    except Exception:
        same = False
    finally:
        model.train(training)
    return (trunk, tail) if same else None
