"""A pretrained backbone becomes a supernet on the user's images: one training, models for many limits."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from automl.evaluation import metrics
from automl.evaluation.quiet import working
from automl.task import Objective
from automl.training._augment import Augment
from automl.training._frozen import frozen_features, images_at_once
from automl.training._heads import fit_logistic, iterations_within
from automl.training._losses import make_loss
from automl.training._precision import layout
from search_spaces.backbones import Backbone, create_backbone
from search_spaces.convert import convert
from search_spaces.stored import CONVERTED, RESOLUTION, About, Known, Stored, check_rebuilt
from search_spaces.supernet import Subnet, Supernet
from search_spaces.train import Batch, Recipe, train_supernet

#: Share of the time in which is trained; in the rest subnets are judged.
_TRAINING = 0.75
#: Training images that subnets' statistics are estimated from.
_CALIBRATION = 128
#: Fewest and most subnets that are judged, and how many are counted besides at least.
_JUDGED, _COUNTED = (16, 120), 30
_BATCH = 32
#: Steps between two reports.
_REPORT_EVERY = 20
#: How a converted network is trained: from weights that are good already, on few images.
RECIPE = Recipe(
    mode="random", coupled=0.0, learning_rate=5e-4, weight_decay=0.02, dropout=0.1, ema=0.99, smoothing=0.05
)


def supernet_of(
    dataset: Any,
    train: np.ndarray,
    validation: np.ndarray,
    backbone: Backbone,
    *,
    resolutions: Sequence[int],
    objective: Objective,
    seconds: float,
    seed: int,
    shared: Path,
    threads: int = 1,
    recipe: Recipe = RECIPE,
    augmentation: str = "medium",
) -> Generator[float, None, Stored]:
    """Convert a backbone and train all its subnets on a dataset.

    Args:
        dataset: an opened dataset.
        train: images that are learned from.
        validation: images that the scores of subnets are measured on.
        backbone: a pretrained one of timm's.
        resolutions: sides that are trained, rising.
        objective: what the scores are.
        seconds: for everything.
        seed: of order, augmentation and subnets.
        shared: folder with frozen features.
        threads: where it runs.
        recipe: of the training.
        augmentation: of the images.

    Yields:
        the share that is done, now and then.

    Returns:
        The supernet with what is known of its subnets.

    Raises:
        ConversionError: the backbone cannot become a supernet.
        StoredError: a file of it would hold another one.
        OutOfTime: not even the features can be computed in time.
    """
    from search_spaces.forecast import judge_subnets, learn_forecast  # whose learners take a second to import

    began = time.monotonic()
    torch.manual_seed(seed)
    classes, labels = len(dataset.class_names), np.asarray(dataset.labels)
    network = create_backbone(backbone)
    convert(network)  # what cannot become a supernet is refused before anything is computed
    fitted = _probe(dataset, train, backbone, resolutions[-1], shared, threads, began + seconds)
    net: Supernet = convert(network, fitted=fitted)
    net = net.to(memory_format=layout(torch.device("cpu")))
    about = About(
        CONVERTED,
        tuple(dataset.class_names),
        tuple(resolutions),
        objective.expression,
        backbone.architecture,
        backbone.mean,
        backbone.std,
        backbone.licence,
        f"{backbone.name}, {len(train)} images",
        dict(backbone.arguments),
        dataset.ranges,
        dataset.size,
    )
    check_rebuilt(about, net)
    loss = make_loss(
        "logit_adjusted", np.bincount(labels[train], minlength=classes), smoothing=recipe.smoothing
    )
    batches = _batches(dataset, train, about, augmentation, seed)
    span = _TRAINING * seconds
    training = train_supernet(
        net,
        batches,
        recipe,
        lambda _step: (time.monotonic() - began) / span,
        seed=seed,
        loss=loss,
        report_every=_REPORT_EVERY,
    )
    for step in training:
        net = step.net
        yield _TRAINING * step.progress
    rows = np.sort(np.random.default_rng(seed).permutation(train)[:_CALIBRATION])
    pixels = torch.from_numpy(np.ascontiguousarray(dataset.images(resolutions[-1])[rows]))
    stored = Stored(about, net.eval(), pixels.permute(0, 3, 1, 2).contiguous())

    def judge(known: Known) -> Known:
        return judged(stored, known, dataset, validation, objective)

    for done in judge_subnets(stored, judge, _JUDGED[1], _COUNTED, seed):
        share = (time.monotonic() - began) / seconds
        if done >= _JUDGED[0] and share > 0.95:
            break
        yield min(1.0, share)
    learn_forecast(stored, seed)
    return stored


def judged(stored: Stored, known: Known, dataset: Any, rows: np.ndarray, objective: Objective) -> Known:
    """Measure the score of a subnet on some images, by the label with the highest probability."""
    probabilities = subnet_probabilities(stored, known.subnet, dataset, rows)
    value = metrics.compute(
        objective.name,
        objective.class_name,
        np.asarray(dataset.labels)[rows],
        probabilities,
        probabilities.argmax(1),
        dataset.class_names,
    )
    return dataclasses.replace(known, score=float(value) if np.isfinite(value) else 0.0, images=len(rows))


@torch.inference_mode()
def subnet_probabilities(stored: Stored, subnet: Subnet, dataset: Any, rows: np.ndarray) -> np.ndarray:
    """Class probabilities of a subnet with its own statistics, float32 ``[n, C]``."""
    side = subnet[RESOLUTION]
    model, images, parts = stored.build(subnet), dataset.images(side), []
    step = images_at_once(side)
    for begin in range(0, len(rows), step):
        with working():
            pixels = torch.from_numpy(images[rows[begin : begin + step]]).permute(0, 3, 1, 2).float()
            parts.append(model(_normalised(pixels, stored.about)).softmax(1).numpy())
    return np.concatenate(parts)


def _normalised(pixels: Tensor, about: About) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255.0 for values in (about.mean, about.std))
    return ((pixels - mean) / std).contiguous(memory_format=layout(torch.device("cpu")))


def _batches(dataset: Any, rows: np.ndarray, about: About, augmentation: str, seed: int) -> Iterator[Batch]:
    """Augmented batches without end, each at a resolution that is drawn."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    augment = Augment(augmentation, generator)
    source = dataset.images(min(dataset.size, int(1.25 * about.resolutions[-1])))
    labels = torch.from_numpy(np.asarray(dataset.labels).astype(np.int64))
    size, classes = max(2, min(_BATCH, len(rows))), len(about.classes)
    while True:
        order = rng.permutation(rows)
        for begin in range(0, len(order) - size + 1, size):
            with working():
                chosen = np.sort(order[begin : begin + size])
                side = int(rng.choice(about.resolutions))
                images = augment(torch.from_numpy(source[chosen]), side)
                shares = nn.functional.one_hot(labels[chosen], classes).float()
                batch = Batch(_normalised(images, about), shares)
            yield batch


def _probe(
    dataset: Any,
    rows: np.ndarray,
    backbone: Backbone,
    resolution: int,
    shared: Path,
    threads: int,
    deadline: float,
) -> nn.Linear:
    """A classifier that was fitted on frozen features, so that a random one does not distort them (LP-FT)."""
    labels, classes = np.asarray(dataset.labels), len(dataset.class_names)
    table = frozen_features(
        dataset, backbone, resolution, "last", shared, indices=rows, threads=threads, deadline=deadline
    )
    left = max(0.0, deadline - time.monotonic())
    head = fit_logistic(
        np.asarray(table[rows]),
        labels[rows],
        classes,
        strength=0.02,
        balanced=True,
        max_iterations=iterations_within(left / 8, len(rows), table.shape[1], classes),
    )
    weight = head.linear.weight.detach() / head.scale
    fitted = nn.Linear(table.shape[1], classes)
    fitted.load_state_dict({"weight": weight, "bias": head.linear.bias.detach() - weight @ head.center})
    return fitted
