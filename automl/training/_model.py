"""The one shape every trained model has: pixels in, logits out, normalisation inside."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from automl.errors import AutomlError
from automl.training._heads import build_head
from automl.training._methods import add_conv_adapters
from search_spaces.backbones import Backbone, create_backbone
from search_spaces.stages import feature_stages

#: Pooled features that a head may read: the last layer alone, or several stages beside it.
TAPS = ("last", "multi")


class Features(nn.Module):
    """A backbone and the pooled activations of its stages.

    With ``taps="last"`` the output is the backbone's own pooled feature vector ``[N, F]``. With
    ``taps="multi"`` the mean and the maximum over space of each stage's output are appended: small
    or textural details are often visible in early stages only (cf. Hypercolumns, Hariharan et al.
    2015; Head2Toe, Evci et al. 2022).

    Args:
        backbone: module from :func:`search_spaces.backbones.create_backbone` with ``num_classes=0``.
        taps: one of :data:`TAPS`.
    """

    def __init__(self, backbone: nn.Module, taps: str = "last") -> None:
        super().__init__()
        if taps not in TAPS:
            raise ValueError(f"taps={taps!r}; known: {', '.join(TAPS)}")
        self.backbone = backbone
        self.taps = taps
        self._stages: list[nn.Module] = list(feature_stages(backbone)) if taps == "multi" else []

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[N, F]`` of normalised images ``[N, 3, R, R]``."""
        if self.taps == "last":
            out: Tensor = self.backbone(x)
            return out
        with collected(self._stages) as outputs:
            last = self.backbone(x)
            return torch.cat([last, *[part for output in outputs for part in pool(output)]], dim=1)


@contextmanager
def collected(stages: Sequence[nn.Module]) -> Any:
    """Collect the outputs of ``stages`` while the block runs, in the order they are computed."""
    outputs: list[Tensor] = []
    handles = [stage.register_forward_hook(lambda _m, _i, out: outputs.append(out)) for stage in stages]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def pool(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over space of a map ``[N, C, S, S]`` or ``[N, S, S, C]`` or of tokens ``[N, T, C]``: ``[N, C]``."""
    if output.ndim == 4:
        space = (2, 3) if output.shape[2] == output.shape[3] else (1, 2)
        return output.mean(dim=space), output.amax(dim=space)
    if output.ndim == 3:
        return output.mean(dim=1), output.amax(dim=1)
    return output, output


class VisionModel(nn.Module):
    """Normalisation, features and a head.

    Args:
        backbone: what :func:`create_backbone` was given.
        body: the features.
        head: features ``[N, F]`` → logits ``[N, C]``.
    """

    def __init__(self, backbone: Backbone, body: Features, head: nn.Module) -> None:
        super().__init__()
        self.spec = backbone
        self.adapter_rank = 0
        self.body = body
        self.head = head
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1) * 255.0, persistent=False)

    mean: Tensor
    std: Tensor

    def normalised(self, x: Tensor) -> Tensor:
        """Images ``[N, 3, R, R]`` in 0..255 → the backbone's own range."""
        return (x - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, C]`` of images ``[N, 3, R, R]`` in 0..255."""
        logits: Tensor = self.head(self.body(self.normalised(x)))
        return logits


def new_model(
    backbone: Backbone, head: nn.Module, *, taps: str = "last", adapter_rank: int = 0
) -> VisionModel:
    """Assemble a model; the backbone carries its pretrained weights where it has any.

    Args:
        backbone: which network.
        head: on its features.
        taps: one of :data:`TAPS`.
        adapter_rank: width of convolutional adapters behind every stage; 0 for none.
    """
    network = create_backbone(backbone, num_classes=0)
    if adapter_rank:
        add_conv_adapters(network, adapter_rank)
    model = VisionModel(backbone, Features(network, taps), head)
    model.adapter_rank = adapter_rank
    return model


def save_model(model: VisionModel, folder: Path, *, resolution: int, whole: bool, **more: Any) -> None:
    """Write ``model.safetensors`` and ``model.json``.

    Args:
        model: what to store.
        folder: where; exists.
        resolution: side of the square input.
        whole: store the backbone too; without it only the head is written and the backbone's own
            pretrained weights are taken again on loading.
        more: plain values kept beside it.
    """
    state = model.state_dict() if whole else {f"head.{k}": v for k, v in model.head.state_dict().items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    temporary = folder / "model.safetensors.part"
    save_file(tensors, temporary)
    os.replace(temporary, folder / "model.safetensors")
    description = {
        "backbone": model.spec.to_dict(),
        "taps": model.body.taps,
        "head": model.head.describe(),  # type: ignore[operator]
        "adapter_rank": model.adapter_rank,
        "resolution": resolution,
        "whole": whole,
        **more,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1))


def load_model(folder: Path | str) -> VisionModel:
    """Rebuild what :func:`save_model` wrote, in evaluation mode.

    Raises:
        AutomlError: the files are missing or do not fit together.
    """
    folder = Path(folder)
    try:
        description: Mapping[str, Any] = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except Exception as error:
        raise AutomlError(f"{folder}: the stored model cannot be read ({error})") from error
    try:
        model = new_model(
            Backbone.from_dict(description["backbone"]),
            build_head(description["head"]),
            taps=description["taps"],
            adapter_rank=description["adapter_rank"],
        )
        whole = bool(description["whole"])
    except (KeyError, TypeError, ValueError) as error:
        raise AutomlError(f"{folder}: the stored model cannot be rebuilt ({error})") from error
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise AutomlError(
            f"{folder}: the stored weights do not fit the model ({' '.join(str(error).split())[:200]})"
        ) from error
    lost = [name for name in missing if whole or name.startswith("head.")]
    if lost or unexpected:
        raise AutomlError(
            f"{folder}: the stored weights do not fit the model ({(lost + list(unexpected))[:3]} …)"
        )
    return model.eval()
