"""Whether images keep their class upside down: what a classifier of upright ones makes of them.

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
from automl.training._frozen import images_at_once
from automl.training._heads import SideBySide
from automl.training._model import new_model
from search_spaces.backbones import Backbone

#: Validation images that are turned over at most.
_MOST = 256


def affinity_upside_down(
    dataset: Any,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    backbone: Backbone,
    heads: Sequence[nn.Module],
    *,
    taps: str,
    resolution: int,
    deadline: float | None = None,
) -> float | None:
    """Accuracy on validation images that are upside down over that on the same upright ones, 0 and up.

    Args:
        dataset: an opened dataset.
        folds: training and validation images of each head.
        backbone: whose frozen features the heads were fitted on.
        heads: one for each fold, fitted on its training images.
        taps: of the features.
        resolution: side of the images.
        deadline: ``time.monotonic()`` after which it is given up.

    Returns:
        None without the time, and where no upright image is classified.
    """
    labels = np.asarray(dataset.labels)
    model = new_model(backbone, SideBySide(heads), taps=taps).eval()
    owner = np.concatenate([np.full(len(rows), at) for at, (_train, rows) in enumerate(folds)])
    rows = np.concatenate([rows for _train, rows in folds])
    chosen = np.sort(proportional_order(labels[rows], dataset.seed)[:_MOST])
    rows, owner = rows[chosen], owner[chosen]
    images, step = dataset.images(resolution), images_at_once(resolution)
    right = [0, 0]
    for begin in range(0, len(rows), step):
        at = slice(begin, begin + step)
        upright = torch.from_numpy(images[rows[at]]).permute(0, 3, 1, 2).float()
        for turned, pixels in enumerate((upright, upright.flip(2))):
            if deadline is not None and time.monotonic() > deadline:
                return None
            with working(), torch.inference_mode():
                logits = model(pixels).numpy()
            of = logits.reshape(len(logits), len(heads), -1)[np.arange(len(logits)), owner[at]]
            right[turned] += int((of.argmax(1) == labels[rows[at]]).sum())
    return round(right[1] / right[0], 4) if right[0] else None
