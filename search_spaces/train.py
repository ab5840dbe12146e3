"""Training of a supernet: all its subnets at once, and the statistics that one subnet needs afterwards."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from search_spaces._captured import Captured, direct
from search_spaces.supernet import Subnet, Supernet

#: Of logits ``[N, classes]`` and labels.
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        images: ``[N, 3, H, W]``, normalised.
        labels: ``[N]`` classes, or ``[N, classes]`` shares of the classes.
        teacher: logits of a teacher for these very images, ``[N, classes]``, or ``[N, T]`` for classes of its own, which
            the last T outputs of the supernet's classifier then learn beside the labels; None without one.
        weights: how much each image counts in the gradient, ``[N]``; None where all count alike.
        told: is given how wrong the first subnet of the step finds each image, the cross-entropy of the labels ``[N]``;
            see :class:`search_spaces.pruning.InfoBatch`.
    """

    images: Tensor
    labels: Tensor
    teacher: Tensor | None = None
    weights: Tensor | None = None
    told: Callable[[Tensor], None] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained.

    Attributes:
        mode: ``sandwich``: each step trains the largest, the smallest and ``draws`` random subnets, the others
            taught by the largest (Yu et al. 2020, BigNAS, section 3.1); ``random``: each step trains one
            random subnet, four times cheaper, for small data on a processor; ``largest``: each step trains the largest
            alone, which another training then begins with, so that what the others learn from it is good from their first
            step on (Cai et al. 2020, Once-for-All, section 3.3).
        draws: random subnets of a step in sandwich mode.
        pool: so many subnets are drawn once, and the random ones of a step from these; on a GPU each is then captured
            as a graph, so that its kernels are not launched one by one. 0 to draw anew for every step.
        coupled: share of the drawn subnets whose stages have all their dimensions drawn together (CompOFA); searches draw
            half of theirs so, and what was never trained looks worse than it is.
        shrinking: share of the training over which the subnets that are drawn shrink: at first each dimension has its
            largest choice, later with a probability that falls to none (after Cai et al. 2020, Once-for-All, section 3,
            whose dimensions join one after another); 0 to draw all alike from the start. Without a pool.
        learning_rate: peak of AdamW's.
        weight_decay: of weights, not of norms and biases.
        warmup: share of the training in which the learning rate rises.
        clip: largest norm of the gradient.
        teacher_weight: share of the teacher in what the largest learns.
        dropout: before the classifier of the largest, of no other.
        ema: decay of the average of the weights; 0 for the last weights.
        smoothing: of the labels.
    """

    mode: Literal["sandwich", "random", "largest"] = "sandwich"
    draws: int = 2
    pool: int = 0
    coupled: float = 0.5
    shrinking: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float = 1.0
    teacher_weight: float = 0.8
    dropout: float = 0.1
    ema: float = 0.998
    smoothing: float = 0.1


@dataclass(frozen=True)
class Step:
    """What a step came to.

    Attributes:
        number: from 1.
        progress: share of the training that is done.
        largest, smallest: losses of the two, NaN where the step did not train it.
        learning_rate: of the step.
        net: the supernet as it would be returned now.
    """

    number: int
    progress: float
    largest: float
    smallest: float
    learning_rate: float
    net: Supernet

    def to_dict(self) -> dict[str, float]:
        """Return the numbers."""
        return {
            "number": self.number,
            "progress": self.progress,
            "largest": self.largest,
            "smallest": self.smallest,
            "learning_rate": self.learning_rate,
        }


def train_supernet(
    net: Supernet,
    batches: Iterator[Batch],
    recipe: Recipe,
    progress: Callable[[int], float],
    *,
    seed: int = 0,
    precision: torch.dtype | None = None,
    loss: Loss | None = None,
    report_every: int = 50,
) -> Generator[Step, None, Supernet]:
    """Train a supernet until ``progress`` reaches 1, a step at least.

    Args:
        net: the supernet, with a classifier, on the device of the batches.
        batches: gives batches for as long as it is asked.
        recipe: how.
        progress: from the number of steps done to the share of the training that is done, so that a training
            lasts a number of steps or a time, as the caller likes.
        seed: of the subnets that are drawn.
        precision: the lower precision of the arithmetic, e.g. ``torch.bfloat16``; None for the weights' own.
        loss: of logits ``[N, classes]`` and labels, or shares of the classes; cross-entropy with the recipe's smoothing
            by default. What one subnet learns from another is cross-entropy in any case.
        report_every: steps between two reports.

    Yields:
        every ``report_every`` steps and after the last one, the step with the supernet as it would be returned now.

    Returns:
        The trained supernet: the average of its weights where the recipe asks for one, else ``net``.
        The running statistics of its norms are no subnet's: :func:`recalibrate` before evaluating one.

    Raises:
        FloatingPointError: a loss is no longer a number; looked at every ``report_every`` steps.
    """
    rng = np.random.default_rng(seed)
    cuda = next(net.parameters()).is_cuda
    optimizer = torch.optim.AdamW(_groups(net, recipe.weight_decay), lr=recipe.learning_rate, fused=cuda)
    learner = _Learner(net, recipe, rng, precision, loss)
    averaged = None
    if recipe.ema:
        averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
    step, done = 0, progress(0)
    net.train()
    while not step or done < 1.0:
        rate = recipe.learning_rate * _schedule(min(done, 1.0), recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = next(batches)
        learner.forget()
        learner.progress = done
        largest, smallest = learner.learn(batch)
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(net)
        step += 1
        done = progress(step)
        if step % report_every and done < 1.0:
            continue
        losses = [float(loss) for loss in (largest, smallest) if loss is not None]
        if not all(math.isfinite(loss) for loss in losses):
            raise FloatingPointError(f"a loss is {losses} after {step} steps: lower the learning rate")
        each = [math.nan if loss is None else float(loss) for loss in (largest, smallest)]
        yield Step(step, min(done, 1.0), each[0], each[1], rate, _result(net, averaged))
        net.train()
    return _result(net, averaged)


def _result(net: Supernet, averaged: AveragedModel | None) -> Supernet:
    found: Any = net if averaged is None else averaged.module
    return cast(Supernet, found)


class _Learner:
    """Adds the gradients of the subnets of a step."""

    def __init__(
        self,
        net: Supernet,
        recipe: Recipe,
        rng: np.random.Generator,
        precision: torch.dtype | None,
        by_labels: Loss | None,
    ) -> None:
        self._net, self._recipe, self._rng, self._precision = net, recipe, rng, precision
        self._by_labels = by_labels or self._smoothed
        if recipe.pool and recipe.shrinking:
            raise ValueError("subnets of a pool do not shrink: give one of the two")
        self._drawn = [self._sample() for _ in range(recipe.pool)]
        captured = bool(self._drawn) and next(net.parameters()).is_cuda
        self._run = Captured() if captured else direct
        self._kept = captured
        self.progress = 0.0

    def forget(self) -> None:
        """Drop the gradients; where passes are captured, zero them."""
        if not self._kept:
            self._net.zero_grad(set_to_none=True)
            return
        for parameter in self._net.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch._foreach_zero_([p.grad for p in self._net.parameters() if p.grad is not None])

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Add the gradients of one step; return the losses of the largest and of the smallest subnet."""
        space, recipe = self._net.space, self._recipe
        weights = batch.weights if batch.weights is not None else batch.images.new_ones(len(batch.images))
        given = [batch.images, batch.labels, weights]
        if batch.teacher is not None:
            given.append(batch.teacher.float().softmax(1))
        if recipe.mode == "random":
            loss, wrong, _ = self._run(self._labelled, self._draw(), *given)
            self._tell(batch, wrong)
            return loss, None
        largest, wrong, target = self._run(self._largest, space.largest(), *given)
        self._tell(batch, wrong)
        if recipe.mode == "largest":
            return largest, None
        smallest, *_ = [
            self._run(self._taught, subnet, batch.images, target, *given[2:])[0]
            for subnet in (space.smallest(), *(self._draw() for _ in range(recipe.draws)))
        ]
        return largest, smallest

    @staticmethod
    def _tell(batch: Batch, wrong: Tensor) -> None:
        if batch.told is not None:
            batch.told(wrong)

    def _draw(self) -> Subnet:
        if self._drawn:
            return self._drawn[int(self._rng.integers(len(self._drawn)))]
        shrinking = self._recipe.shrinking
        return self._sample(max(0.0, 1 - self.progress / shrinking) if shrinking else 0.0)

    def _sample(self, largest: float = 0.0) -> Subnet:
        coupled = self._rng.random() < self._recipe.coupled
        return self._net.space.sample(self._rng, coupled=coupled, largest=largest)

    def _largest(
        self, subnet: Subnet, images: Tensor, labels: Tensor, weights: Tensor, *opinion: Tensor
    ) -> tuple[Tensor, ...]:
        return self._pass(subnet, images, labels, weights, self._by_labels, opinion, self._recipe.dropout)

    def _labelled(
        self, subnet: Subnet, images: Tensor, labels: Tensor, weights: Tensor, *opinion: Tensor
    ) -> tuple[Tensor, ...]:
        return self._pass(subnet, images, labels, weights, self._by_labels, opinion)

    def _taught(
        self, subnet: Subnet, images: Tensor, target: Tensor, weights: Tensor, *opinion: Tensor
    ) -> tuple[Tensor, ...]:
        return self._pass(subnet, images, target, weights, F.cross_entropy, opinion)

    def _pass(
        self,
        subnet: Subnet,
        images: Tensor,
        labels: Tensor,
        weights: Tensor,
        by_labels: Loss,
        opinion: tuple[Tensor, ...],
        dropout: float = 0.0,
    ) -> tuple[Tensor, ...]:
        """Learn from labels and a teacher's opinion.

        Returns:
            the loss, how wrong each image is, and what others are to learn from this subnet.
        """
        plain = self._logits(subnet, images, dropout)
        # The gradients of an image's logits are those of its part of the mean, whatever the loss is.
        logits = plain.detach() + (plain - plain.detach()) * weights[:, None]
        of_labels, of_teacher = logits, logits
        if opinion and opinion[0].shape[1] != logits.shape[1]:
            of_labels, of_teacher = logits.split(
                [logits.shape[1] - opinion[0].shape[1], opinion[0].shape[1]], 1
            )
        loss = by_labels(of_labels, labels)
        if opinion:
            weight = self._recipe.teacher_weight
            loss = (1 - weight) * loss + weight * F.cross_entropy(of_teacher, opinion[0])
        loss.backward()
        seen = of_labels.detach()
        return loss.detach(), F.cross_entropy(seen, labels, reduction="none"), seen.softmax(1)

    def _logits(self, subnet: Subnet, images: Tensor, dropout: float) -> Tensor:
        self._net.activate(subnet)
        self._net.dropout.p = dropout
        lower = torch.autocast(images.device.type, self._precision or torch.bfloat16)
        with lower if self._precision is not None else contextlib.nullcontext():
            logits: Tensor = self._net(images)
        return logits.float()

    def _smoothed(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self._recipe.smoothing)


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    weights = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _schedule(progress: float, warmup: float) -> float:
    """Linear rise, then half a cosine (Loshchilov & Hutter 2017)."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


@torch.no_grad()
def recalibrate(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Estimate the running statistics of a network's batch norms anew, as averages over batches.

    A subnet's statistics are its own (Yu & Huang 2019, universally slimmable networks, section 3.2). Use
    the same fixed batches of training images for every subnet.

    Args:
        model: a supernet with the subnet active, or a network that was built of one.
        images: batches ``[N, 3, H, W]``, normalised, at the resolution of use.

    Raises:
        ValueError: there is no batch.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    batches = 0
    try:
        for batch in images:
            model(batch)
            batches += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
    if not batches:
        raise ValueError("no batch of images to estimate the statistics from")
