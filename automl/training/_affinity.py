"""Which changes of an image leave its class: what a classifier of unchanged images makes of changed ones.

Affinity is the accuracy on changed validation images over that on unchanged ones (Gontijo-Lopes et al. 2021, *Tradeoffs in
Data Augmentation: An Empirical Study*, section 3.1): far below 1 where a change hides what tells classes apart, or makes
images of a kind that does not occur.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from automl.data import proportional_order
from automl.evaluation.quiet import working
from automl.training._augment import Augment, Policy
from automl.training._frozen import images_at_once
from automl.training._heads import SideBySide
from automl.training._model import new_model
from search_spaces.backbones import Backbone

#: What is tried on its own.
CHANGES = {"none": Policy(), "upside_down": Policy(vflip=1.0)}
#: Validation images that are changed at most.
_MOST = 256


def affinities(
    dataset: Any,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    backbone: Backbone,
    heads: Sequence[nn.Module],
    *,
    taps: str,
    resolution: int,
    deadline: float | None = None,
) -> dict[str, float]:
    """Change → accuracy on changed validation images over that on the same unchanged ones, 0 and up.

    Args:
        dataset: an opened dataset.
        folds: training and validation images of each head.
        backbone: whose frozen features the heads were fitted on.
        heads: one for each fold, fitted on its training images.
        taps: of the features.
        resolution: side of the images.
        deadline: ``time.monotonic()`` after which nothing more is tried.

    Returns:
        nothing of a change for which there was no time, and nothing at all where no unchanged image is classified.
    """
    labels = np.asarray(dataset.labels)
    model = new_model(backbone, SideBySide(heads), taps=taps).eval()
    owner = np.concatenate([np.full(len(rows), at) for at, (_train, rows) in enumerate(folds)])
    rows = np.concatenate([rows for _train, rows in folds])
    chosen = np.sort(proportional_order(labels[rows], dataset.seed)[:_MOST])
    rows, owner = rows[chosen], owner[chosen]
    images = dataset.images(resolution)
    step = images_at_once(resolution)
    accuracies: dict[str, float] = {}
    for name, policy in CHANGES.items():
        augment = Augment(policy, torch.Generator().manual_seed(dataset.seed))
        right = np.zeros(len(rows), dtype=bool)
        for begin in range(0, len(rows), step):
            if deadline is not None and time.monotonic() > deadline:
                break
            at = slice(begin, begin + step)
            with working(), torch.inference_mode():
                logits = model(augment(torch.from_numpy(images[rows[at]]), resolution)).numpy()
            of = logits.reshape(len(logits), len(heads), -1)[np.arange(len(logits)), owner[at]]
            right[at] = of.argmax(1) == labels[rows[at]]
        else:
            accuracies[name] = float(right.mean())
    usual = accuracies.pop("none", 0.0)
    return {name: round(accuracy / usual, 4) for name, accuracy in accuracies.items()} if usual > 0 else {}
