"""Where a training step's inputs come from: augmented pixels, or cached activations of a frozen trunk."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from automl.evaluation.quiet import working
from automl.training._augment import Augment
from automl.training._frozen import CHUNK, OutOfTime, images_at_once, inference_runner, new_table
from automl.training._model import VisionModel, collected, pool
from automl.training._precision import layout
from search_spaces.stages import trunk_split

#: Bytes that the cached activations of one trial may take on disk.
_BANK_BYTES = 1.5e9
#: Share of the trial's time that computing them may take.
_BANK_SHARE = 0.35


class Batches(Protocol):
    """Inputs of a training step and probabilities of images."""

    def training(self, rows: np.ndarray, progress: float) -> tuple[Tensor, ...]:
        """Inputs of a step for these images, ``progress`` (0..1) into the training."""

    def forward(self, model: VisionModel, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits ``[n, C]``."""

    def probabilities(self, model: VisionModel, rows: np.ndarray) -> np.ndarray:
        """Class probabilities of these images without augmentation, float32 ``[n, C]``."""

    def close(self) -> None:
        """Free what was kept."""


class PixelBatches:
    """Augmented images; with ``progressive`` the resolution grows from 70 % to full over the first 60 %.

    Progressive resizing: EfficientNetV2 (Tan & Le 2021, section 4).
    """

    def __init__(
        self,
        model: VisionModel,
        dataset: Any,
        strategy: dict[str, Any],
        resolution: int,
        generator: torch.Generator,
        place: torch.device,
    ) -> None:
        self.resolution = resolution
        self.progressive = bool(strategy["progressive"]) and resolution >= 64
        self.augment = Augment(strategy["augmentation"], generator)
        self.source = dataset.images(_source_side(dataset.size, resolution, strategy["augmentation"]))
        self.plain = dataset.images(resolution)
        self.place = place

    def training(self, rows: np.ndarray, progress: float) -> tuple[Tensor, ...]:
        side = self.resolution
        if self.progressive and progress < 0.6:
            side = max(32, round(self.resolution * (0.7 + 0.3 * progress / 0.6) / 16) * 16)
        images = self.augment(torch.from_numpy(self.source[rows]), min(side, self.resolution))
        return (images.to(self.place).contiguous(memory_format=layout(self.place)),)

    def forward(self, model: VisionModel, inputs: tuple[Tensor, ...]) -> Tensor:
        logits: Tensor = model(inputs[0])
        return logits

    @torch.inference_mode()
    def probabilities(self, model: VisionModel, rows: np.ndarray) -> np.ndarray:
        model.eval()
        parts = []
        step = images_at_once(self.resolution) if self.place.type == "cpu" else CHUNK
        for begin in range(0, len(rows), step):
            with working():
                x = torch.from_numpy(self.plain[rows[begin : begin + step]]).permute(0, 3, 1, 2).float()
                x = x.to(self.place).contiguous(memory_format=layout(self.place))
                parts.append(model(x).float().softmax(1).cpu().numpy())
        return np.concatenate(parts)

    def close(self) -> None:
        return None


class TrunkBatches:
    """The first stages stay frozen and run once per augmented view; training touches only what follows.

    On a CPU the early, high-resolution stages take most of a training step, so caching their
    output (a few augmented views of each image, half precision, on disk) makes each further epoch
    several times cheaper.
    """

    def __init__(
        self,
        model: VisionModel,
        tail: nn.Module,
        late: list[nn.Module],
        bank: list[np.memmap[Any, Any]],
        plain: list[np.memmap[Any, Any]],
        position: np.ndarray,
        generator: torch.Generator,
        files: list[Path],
        stages: int,
        place: torch.device,
    ) -> None:
        self._of: dict[int, tuple[nn.Module, list[nn.Module]]] = {id(model): (tail, late)}
        self._stages, self.place = stages, place
        self.bank, self.plain, self.position = bank, plain, position
        self.generator = generator
        self.files = files

    @classmethod
    def build(
        cls,
        model: VisionModel,
        dataset: Any,
        fold: Any,
        strategy: dict[str, Any],
        resolution: int,
        generator: torch.Generator,
        scratch: Path,
        threads: int,
        device: str,
        deadline: float | None,
    ) -> TrunkBatches | None:
        """Compute the cache; None where the architecture cannot be split, or the disk would have to hold too much.

        Raises:
            OutOfTime: the deadline passed meanwhile.
            OSError: the disk has no room for it.
        """
        stages = int(strategy.get("trunk_stages", 3))
        split = trunk_split(model.body.backbone, stages)
        if split is None:
            return None
        trunk, tail = split
        inside = {id(m) for m in trunk.modules()}
        taps = model.body._stages
        early = [stage for stage in taps if id(stage) in inside]
        late = [stage for stage in taps if id(stage) not in inside]
        runner = inference_runner(
            _Prefix(trunk, early), model.spec, resolution, threads=threads, device=device
        )
        augment = Augment(strategy["augmentation"], generator)
        source = dataset.images(_source_side(dataset.size, resolution, strategy["augmentation"]))
        flat = dataset.images(resolution)
        train, validation = fold.train, fold.validation
        began = time.monotonic()
        probe = runner(flat[train[:8]])
        probe = runner(flat[train[:8]])
        per_image = (time.monotonic() - began) / 16
        bytes_each = sum(part[0].size for part in probe) * 2
        left = _BANK_BYTES - bytes_each * len(validation)
        views = min(max(1, int(strategy.get("views", 6))), int(left / max(1, bytes_each * len(train))))
        if views < 1:
            return None
        if deadline is not None:
            affordable = _BANK_SHARE * (deadline - time.monotonic()) / max(1e-9, per_image * len(train))
            views = max(1, min(views, int(affordable)))
        scratch.mkdir(parents=True, exist_ok=True)
        files: list[Path] = []

        def table(name: str, count: int) -> list[np.memmap[Any, Any]]:
            made = []
            for index, part in enumerate(probe):
                path = scratch / f"{name}{index}.f16"
                files.append(path)
                made.append(new_table(path, np.float16, (count, *part.shape[1:])))
            return made

        bank, plain = table("views", views * len(train)), table("plain", max(1, len(validation)))

        def fill(target: list[np.memmap[Any, Any]], at: int, images: np.ndarray) -> None:
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTime("the frozen stages need more time than is left")
            with working():
                for part, values in zip(target, runner(images), strict=True):
                    part[at : at + len(images)] = np.clip(values, -65504, 65504)

        for view in range(views):
            for at in range(0, len(train), 64):
                rows = train[at : at + 64]
                images = augment(torch.from_numpy(source[rows]), resolution).round_().to(torch.uint8)
                fill(bank, view * len(train) + at, images.permute(0, 2, 3, 1).contiguous().numpy())
        for at in range(0, len(validation), 64):
            fill(plain, at, flat[validation[at : at + 64]])
        position = np.full(len(dataset.labels), -1, dtype=np.int64)
        position[train] = np.arange(len(train))
        if len(validation):
            position[validation] = np.arange(len(validation))
        for parameter in trunk.parameters():
            parameter.requires_grad_(False)
        place = next(model.parameters()).device
        self = cls(model, tail, late, bank, plain, position, generator, files, stages, place)
        self.views, self.per_view = views, len(train)
        return self

    views: int
    per_view: int

    def training(self, rows: np.ndarray, progress: float) -> tuple[Tensor, ...]:
        view = torch.randint(self.views, (len(rows),), generator=self.generator).numpy()
        at = view * self.per_view + self.position[rows]
        return self._inputs(self.bank, at)

    def _inputs(self, tables: list[np.memmap[Any, Any]], at: np.ndarray) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(part[at].astype(np.float32)).to(self.place) for part in tables)

    def forward(self, model: VisionModel, inputs: tuple[Tensor, ...]) -> Tensor:
        tail, late = self._parts(model)
        with collected(late) as outputs:
            last = tail(
                inputs[0].contiguous(memory_format=layout(self.place)) if inputs[0].ndim == 4 else inputs[0]
            )
            if model.body.taps == "last":
                logits: Tensor = model.head(last)
            else:
                pooled = [part for output in outputs for part in pool(output)]
                logits = model.head(torch.cat([last, *inputs[1:], *pooled], dim=1))
        return logits

    def _parts(self, model: VisionModel) -> tuple[nn.Module, list[nn.Module]]:
        """The tail and late stages of this model or of its moving average."""
        cached: tuple[nn.Module, list[nn.Module]] | None = self._of.get(id(model))
        if cached is None:
            trunk, tail = trunk_split(model.body.backbone, self._stages)  # type: ignore[misc]
            inside = {id(m) for m in trunk.modules()}
            cached = tail, [stage for stage in model.body._stages if id(stage) not in inside]
            self._of[id(model)] = cached
        return cached

    @torch.inference_mode()
    def probabilities(self, model: VisionModel, rows: np.ndarray) -> np.ndarray:
        model.eval()
        parts = []
        for begin in range(0, len(rows), 64):
            with working():
                at = self.position[rows[begin : begin + 64]]
                logits = self.forward(model, self._inputs(self.plain, at))
                parts.append(logits.float().softmax(1).cpu().numpy())
        return np.concatenate(parts)

    def close(self) -> None:
        self.bank, self.plain = [], []
        for path in self.files:
            path.unlink(missing_ok=True)


class _Prefix(nn.Module):
    """The trunk's output and the pooled outputs of the tapped stages inside it."""

    def __init__(self, trunk: nn.Module, early: list[nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.early = early

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with collected(self.early) as outputs:
            out = self.trunk(x)
        pooled = [part for output in outputs for part in pool(output)]
        return (out, torch.cat(pooled, dim=1)) if pooled else (out,)


def _source_side(stored: int, resolution: int, augmentation: str) -> int:
    """Side of the images that crops are taken from: some larger than what the network sees."""
    if augmentation in ("none", "flips"):
        return resolution
    return max(resolution, min(stored, math.ceil(resolution * 1.25)))
