"""The fine-tuning loop: one fold of one recipe, as a generator that reports after each evaluation."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automl.evaluation.quiet import working
from automl.training._augment import mix
from automl.training._frozen import OutOfTime, frozen_features
from automl.training._heads import LinearHead, fit_logistic, iterations_within
from automl.training._losses import make_loss
from automl.training._methods import choose_parameters, freeze_early, merge_low_rank, parameter_groups
from automl.training._model import VisionModel, new_model
from automl.training._precision import gpu_precision, layout, mixed_precision
from automl.training._sources import Batches, PixelBatches, TrunkBatches
from search_spaces.backbones import Backbone

#: Images at which the linear probe that starts a fine-tuning is fitted at most.
_PROBE_IMAGES = 20_000
_EVALUATIONS = 6
#: Time of scoring images over that of training on as many, until it was measured.
_FORWARD_SHARE = 0.4


@dataclass
class Fold:
    """One training run: which images, and what came out.

    Attributes:
        train, validation: image indices; validation may be empty (a refit).
        probabilities: of the validation images, float32 ``[n, C]``, from the last evaluation.
        model: the model of that evaluation.
        steps, epochs: done so far.
        fraction: of the planned training that is done.
    """

    train: np.ndarray
    validation: np.ndarray
    probabilities: np.ndarray | None = None
    model: VisionModel | None = None
    steps: int = 0
    epochs: float = 0.0
    fraction: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)


def fine_tune(
    dataset: Any,
    fold: Fold,
    backbone: Backbone,
    strategy: dict[str, Any],
    *,
    resolution: int,
    seed: int,
    shared: Path,
    scratch: Path,
    threads: int = 1,
    device: str = "cpu",
    deadline: float | None = None,
    max_epochs: float | None = None,
    initial: VisionModel | None = None,
) -> Iterator[Fold]:
    """Train on ``fold.train``; yield the fold after each evaluation on ``fold.validation``.

    The learning-rate schedule runs over the planned steps: the strategy's epochs, or fewer when the
    time to the deadline, at the speed seen so far, does not suffice; so every run ends annealed.

    Args:
        dataset: an opened dataset.
        fold: images to train and validate on; filled in place.
        backbone, strategy, resolution: the candidate.
        seed: of weights, order and augmentation.
        shared: folder with frozen features.
        scratch: folder for this trial's temporary files.
        threads, device: where it runs.
        deadline: ``time.monotonic()`` by which the last evaluation is done.
        max_epochs: bound on the strategy's epochs.
        initial: a trained model to go on from with a new cycle of the schedule (warm restart, Loshchilov &
            Hutter 2017), instead of the strategy's own start.

    Raises:
        OutOfTime: not even one step fits.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    order = np.random.default_rng(seed)
    place = torch.device("cpu" if device.startswith("cpu") else device)
    classes = len(dataset.class_names)
    labels = torch.from_numpy(np.array(dataset.labels, dtype=np.int64))
    model = initial or _start(
        dataset, fold, backbone, strategy, resolution, shared, threads, device, deadline
    )
    torch.manual_seed(seed)  # building and exporting the frozen network may have drawn, or not
    choose_parameters(model.body.backbone, strategy)
    model.to(place, memory_format=layout(place))  # type: ignore[call-overload]
    batches: Batches
    if strategy["method"] == "cached_trunk":
        batches = TrunkBatches.build(
            model, dataset, fold, strategy, resolution, generator, scratch, threads, device, deadline
        ) or PixelBatches(model, dataset, strategy, resolution, generator, place)
        # What cannot be kept is computed anew each time, and stays frozen too.
        if isinstance(batches, PixelBatches):
            freeze_early(model.body.backbone, int(strategy["trunk_stages"]))
    else:
        batches = PixelBatches(model, dataset, strategy, resolution, generator, place)
    counts = np.bincount(np.asarray(dataset.labels)[fold.train], minlength=classes)
    loss_of = make_loss(
        strategy["loss"], counts, smoothing=float(strategy["label_smoothing"]), device=str(place)
    )
    groups = parameter_groups(model, model.body.backbone, strategy)
    optimizer = _optimizer(groups, strategy)
    average = copy.deepcopy(model) if float(strategy["ema"]) > 0 else None
    scaled = place.type == "cuda" and gpu_precision() == torch.float16
    scaler = torch.amp.GradScaler(place.type, enabled=scaled)
    batch = max(2, min(int(strategy["batch_size"]), len(fold.train)))
    per_epoch = max(1, len(fold.train) // batch)
    epochs = float(strategy["epochs"]) if max_epochs is None else min(float(strategy["epochs"]), max_epochs)
    planned = max(1, round(epochs * per_epoch))
    clock = _Clock(deadline, evaluation_steps=_FORWARD_SHARE * len(fold.validation) / batch)
    next_evaluation = 1.0 / _EVALUATIONS
    done = 0
    while done < planned:
        shuffled = order.permutation(fold.train)
        for begin in range(0, per_epoch * batch, batch):
            with working():
                progress = max(done / planned, clock.fraction())
                rate = _rate(strategy, progress, done)
                for group in optimizer.param_groups:
                    group["lr"] = float(strategy["lr"]) * group["base"] * rate
                model.train()
                if strategy.get("norm") == "frozen":
                    freeze_norms(model.body.backbone)
                chosen = shuffled[begin : begin + batch]
                targets = nn.functional.one_hot(labels[chosen], classes).float()
                inputs = batches.training(chosen, progress)
                inputs, targets = mix_inputs(inputs, targets, strategy, generator)
                with mixed_precision(place):
                    logits = batches.forward(model, inputs)
                loss = loss_of(logits.float(), targets.to(place))
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
                scaler.step(optimizer)
                scaler.update()
                done += 1
                if average is not None:
                    _follow(average, model, min(float(strategy["ema"]), (1 + done) / (10 + done)))
            fold.steps, fold.epochs = done, done / per_epoch
            clock.step(planned - done)
            if done >= planned or clock.over():
                break
        if not math.isfinite(float(loss.detach())):
            raise FloatingPointError("the loss is not a finite number; a lower learning rate is needed")
        fold.fraction = 1.0 if done >= planned or clock.over() else max(done / planned, clock.fraction())
        if fold.fraction >= min(1.0, next_evaluation):
            next_evaluation = fold.fraction + 1.0 / _EVALUATIONS
            best = average if average is not None else model
            began = time.monotonic()
            if len(fold.validation):
                # What the last evaluation says is of the network as it will be delivered.
                quick = mixed_precision(place) if fold.fraction < 1.0 else contextlib.nullcontext()
                with quick:
                    fold.probabilities = batches.probabilities(best, fold.validation)
            clock.evaluated(time.monotonic() - began)
            fold.model = best
            yield fold
        if fold.fraction >= 1.0:
            break
    batches.close()
    if fold.model is None:
        fold.model = average if average is not None else model
    if strategy["method"] == "lora":
        merge_low_rank(fold.model.body.backbone)
    fold.model.eval().cpu()
    fold.notes = {
        "planned_steps": planned,
        "steps": done,
        "out_of_time": clock.over() and done < planned,
        "cached": isinstance(batches, TrunkBatches),
    }


def freeze_norms(module: nn.Module) -> None:
    """Keep batch statistics as they are: pretrained ones are better than those of small, similar batches."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()


def mix_inputs(
    inputs: tuple[Tensor, ...], targets: Tensor, strategy: dict[str, Any], generator: torch.Generator
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Mixup or cutmix of a batch; cached activations are mixed as a whole (manifold mixup, Verma et al. 2019)."""
    mixup, cutmix = float(strategy["mixup"]), float(strategy["cutmix"])
    if not (mixup or cutmix):
        return inputs, targets
    if len(inputs) == 1:
        mixed, targets = mix(inputs[0], targets, mixup=mixup, cutmix=cutmix, generator=generator)
        return (mixed,), targets
    flat = torch.cat([part.flatten(1) for part in inputs], dim=1)
    flat, targets = mix(flat, targets, mixup=mixup or cutmix, cutmix=0.0, generator=generator)
    widths = [part[0].numel() for part in inputs]
    parts = flat.split(widths, dim=1)
    return tuple(part.view_as(old) for part, old in zip(parts, inputs, strict=True)), targets


def _start(
    dataset: Any,
    fold: Fold,
    backbone: Backbone,
    strategy: dict[str, Any],
    resolution: int,
    shared: Path,
    threads: int,
    device: str,
    deadline: float | None,
) -> VisionModel:
    """The model before the first step: with a head fitted on frozen features where the method asks for it.

    Starting from a probe keeps the pretrained features from being distorted by a random head
    (LP-FT, Kumar et al. 2022, section 4).
    """
    classes = len(dataset.class_names)
    rank = int(strategy["rank"]) if strategy["method"] == "conv_adapter" else 0
    taps = strategy["taps"]
    probed = backbone.pretrained and strategy["method"] in (
        "probe_then_full",
        "cached_trunk",
        "norm_bias",
        "last_stages",
        "lora",
        "conv_adapter",
    )
    if probed:
        rows = fold.train
        if len(rows) > _PROBE_IMAGES:
            rows = np.sort(np.random.default_rng(0).choice(rows, _PROBE_IMAGES, replace=False))
        table = frozen_features(
            dataset,
            backbone,
            resolution,
            taps,
            shared,
            indices=rows,
            threads=threads,
            device=device,
            deadline=deadline,
        )
        balanced = strategy["loss"] in ("logit_adjusted", "class_balanced")
        left = math.inf if deadline is None else deadline - time.monotonic()
        fitted = fit_logistic(
            np.asarray(table[rows]),
            np.asarray(dataset.labels)[rows],
            classes,
            strength=0.02,
            balanced=balanced,
            max_iterations=iterations_within(left / 4, len(rows), table.shape[1], classes),
        )
        head = LinearHead(fitted.linear.in_features, classes, dropout=float(strategy["dropout"]))
        head.load_state_dict(fitted.state_dict())
        return new_model(backbone, head, taps=taps, adapter_rank=rank)
    model = new_model(backbone, LinearHead(1, classes), taps=taps, adapter_rank=rank)
    with torch.no_grad():
        width = model.body.eval()(torch.zeros(1, 3, resolution, resolution)).shape[1]
    model.head = LinearHead(width, classes, dropout=float(strategy["dropout"]))
    return model


def _optimizer(groups: list[dict[str, Any]], strategy: dict[str, Any]) -> torch.optim.Optimizer:
    if strategy["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=float(strategy["lr"]), momentum=0.9, nesterov=True)
    if strategy["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=float(strategy["lr"]))
    raise ValueError(f"unknown optimizer {strategy['optimizer']!r}; known: adamw, sgd")


def _rate(strategy: dict[str, Any], progress: float, done: int) -> float:
    """Multiplier of the learning rate after ``progress`` (0..1) of the training."""
    warmup = float(strategy["warmup"])
    rise = min(1.0, (progress + 1e-9) / warmup) if warmup > 0 else 1.0
    rise = min(rise, (done + 1) / 10)
    if strategy["schedule"] == "constant":
        return rise
    past = max(0.0, (progress - warmup) / max(1e-9, 1 - warmup))
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, past)))


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; integer buffers are copied."""
    kept, new = average.state_dict(), model.state_dict()
    floats = [name for name, value in kept.items() if value.is_floating_point()]
    torch._foreach_lerp_([kept[n] for n in floats], [new[n] for n in floats], 1 - decay)
    for name in kept.keys() - set(floats):
        kept[name].copy_(new[name])


class _Clock:
    """How much of the time to the deadline is used, with what the evaluations still to come need set aside."""

    def __init__(self, deadline: float | None, evaluation_steps: float = 0.0) -> None:
        """``evaluation_steps``: training steps that take as long as an evaluation, until one was timed."""
        self.deadline = deadline
        self.began = time.monotonic()
        self.reserve = 0.0
        self.timed = False
        self.evaluation_steps = evaluation_steps
        self.steps = 0
        self.projected = 0.0

    def step(self, left: int) -> None:
        self.steps += 1
        if self.deadline is None or self.steps < 3:
            return
        now = time.monotonic()
        each = (now - self.began) / self.steps
        if not self.timed:
            self.reserve = 1.2 * each * self.evaluation_steps + 0.2
        needed = each * left
        available = self.deadline - self.reserve - now
        self.projected = 0.0 if needed <= available else 1.0

    def fraction(self) -> float:
        """Elapsed share of the time, 0 as long as the planned steps fit."""
        if self.deadline is None or not self.projected:
            return 0.0
        span = self.deadline - self.reserve - self.began
        return min(1.0, (time.monotonic() - self.began) / max(span, 1e-6))

    def evaluated(self, seconds: float) -> None:
        self.reserve = max(self.reserve if self.timed else 0.0, 1.2 * seconds + 0.2)
        self.timed = True

    def over(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline - self.reserve


__all__ = ["Fold", "OutOfTime", "fine_tune", "freeze_norms"]
