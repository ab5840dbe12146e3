"""Losses for imbalanced and small data, on hard or mixed labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str, counts: np.ndarray, *, smoothing: float = 0.0, device: str = "cpu") -> Loss:
    """Return ``loss(logits [N, C], targets [N, C]) -> scalar``; targets are class probabilities.

    Args:
        name: ``cross_entropy``; ``class_balanced`` (Cui et al. 2019, effective number of samples,
            eq. 2 with beta = 0.999); ``logit_adjusted`` (Menon et al. 2021, eq. 10 with tau = 1);
            ``focal`` (Lin et al. 2017, eq. 5 with gamma = 2).
        counts: training images per class, ``[C]``.
        smoothing: label smoothing (Szegedy et al. 2016, section 7).
        device: where the constants live.

    Raises:
        ValueError: the name is unknown.
    """
    classes = len(counts)
    seen = np.maximum(counts.astype(np.float64), 0.5)

    def smooth(targets: Tensor) -> Tensor:
        return targets * (1 - smoothing) + smoothing / classes if smoothing else targets

    if name == "cross_entropy":
        return lambda logits, targets: -(smooth(targets) * F.log_softmax(logits, 1)).sum(1).mean()
    if name == "logit_adjusted":
        prior = torch.tensor(np.log(seen / seen.sum()), dtype=torch.float32, device=device)
        return lambda logits, targets: -(smooth(targets) * F.log_softmax(logits + prior, 1)).sum(1).mean()
    if name == "class_balanced":
        effective = (1 - 0.999**seen) / (1 - 0.999)
        weight = 1 / effective
        weights = torch.tensor(weight / weight.mean(), dtype=torch.float32, device=device)

        def balanced(logits: Tensor, targets: Tensor) -> Tensor:
            per_image = -(smooth(targets) * F.log_softmax(logits, 1)).sum(1)
            scale = (targets * weights).sum(1)
            return (per_image * scale).sum() / scale.sum().clamp_min(1e-8)

        return balanced
    if name == "focal":

        def focal(logits: Tensor, targets: Tensor) -> Tensor:
            log_p = F.log_softmax(logits, 1)
            return -(smooth(targets) * (1 - log_p.exp()) ** 2 * log_p).sum(1).mean()

        return focal
    raise ValueError(f"unknown loss {name!r}; known: cross_entropy, class_balanced, logit_adjusted, focal")
