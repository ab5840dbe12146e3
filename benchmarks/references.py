"""What a practitioner does without the engine: logistic regression on frozen features, and plain fine-tuning.

Both see the pictures of the same :class:`automl.data.Dataset`, choose on validation images only, train at last
on training and validation images, and look at the test images once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.device import cores
from benchmarks.comparison import balanced_accuracy

if TYPE_CHECKING:
    import torch

    from automl.data import Dataset
    from search_spaces.backbones import Backbone

PROBE_SIDE = 224
PLAIN_SIDE = 128
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
WEIGHTINGS = (None, "balanced")
#: Beside kept features: how long they took.
_SECONDS_FILE = "seconds.json"


@dataclass(frozen=True)
class Answer:
    """What a method says.

    Attributes:
        predicted: class of each test image, int64 ``[n]``, in the order of ``dataset.indices("test")``.
        details: plain JSON values that tell how it came about.
        seconds: that it took, where not all that was done is its own; None where it is.
    """

    predicted: np.ndarray
    details: dict[str, Any]
    seconds: float | None = None


def device() -> str:
    """``cuda:0`` where torch has it, else ``cpu``."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


# --- logistic regression on frozen features ---------------------------------------------------------


def probe_features(dataset: Dataset, backbone: Backbone, folder: Path, side: int = PROBE_SIDE) -> np.ndarray:
    """Pooled features of the last stage of every image, float32 ``[N, F]``; kept in ``folder``."""
    from automl.training import frozen_features

    own = folder / f"{backbone.name.replace('/', '_')}-{side}"
    threads, began = cores(), time.monotonic()
    there = (own / _SECONDS_FILE).is_file()
    if not there:
        shutil.rmtree(
            own, ignore_errors=True
        )  # of a run that was broken off, or did not say how long it took
    found = np.asarray(
        frozen_features(dataset, backbone, side, "last", own, threads=threads, device=device())
    )
    if not there:
        (own / _SECONDS_FILE).write_text(json.dumps(time.monotonic() - began))
    return found


def features_seconds(backbones: Sequence[Backbone], folder: Path, side: int = PROBE_SIDE) -> float:
    """Seconds that the features of all backbones took when they were computed; see :func:`probe_features`."""
    files = [folder / f"{b.name.replace('/', '_')}-{side}" / _SECONDS_FILE for b in backbones]
    return float(sum(json.loads(file.read_text()) for file in files))


def choose_probe(
    dataset: Dataset, backbones: Sequence[Backbone], folder: Path, side: int = PROBE_SIDE
) -> dict[str, Any]:
    """Backbone, strength C and class weighting with the best balanced accuracy on validation images.

    Ties go to the earlier backbone and the smaller C. The choice is kept in ``folder`` for each split and side.

    Returns:
        ``backbone`` (name), ``C``, ``class_weight``, ``validation`` (its score), ``backbones`` (name → best score) and
        ``seconds`` that all fits took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = hashlib.sha256(np.ascontiguousarray(dataset.split).tobytes()).hexdigest()[:12]
    memory = folder / f"choice-{dataset.seed}-{side}-{parts}.json"
    if memory.exists():
        choice: dict[str, Any] = json.loads(memory.read_text())
        if list(choice["backbones"]) == [b.name for b in backbones] and "seconds" in choice:
            return choice
    labels = np.asarray(dataset.labels)
    train, validation = dataset.indices("train"), dataset.indices("validation")
    best: dict[str, Any] = {"validation": -1.0}
    scores, fitting = {}, 0.0
    for backbone in backbones:
        features = probe_features(dataset, backbone, folder, side)
        began = time.monotonic()
        scores[backbone.name] = -1.0
        for weighting in WEIGHTINGS:
            path = make_logistic(weighting)
            for strength in STRENGTHS:  # warm start: each fit begins where the one before ended
                fit_logistic(path, strength, features[train], labels[train])
                score = balanced_accuracy(labels[validation], path.predict(features[validation]))
                scores[backbone.name] = max(scores[backbone.name], score)
                if score > best["validation"]:
                    best = {
                        "backbone": backbone.name,
                        "C": strength,
                        "class_weight": weighting,
                        "validation": score,
                    }
        fitting += time.monotonic() - began
    best["backbones"], best["seconds"] = scores, round(fitting, 3)
    temporary = memory.with_suffix(".part")
    temporary.write_text(json.dumps(best))
    os.replace(temporary, memory)
    return best


def logistic_reference(
    dataset: Dataset, backbones: Sequence[Backbone], folder: Path, side: int = PROBE_SIDE
) -> Answer:
    """Standardised frozen features and multinomial logistic regression, chosen by :func:`choose_probe`.

    Args:
        dataset: with its split.
        backbones: pretrained ones to choose from.
        folder: for features of this dataset; they do not depend on the split.
        side: resolution.
    """
    began = time.monotonic()
    choice = choose_probe(dataset, backbones, folder, side)
    chosen = time.monotonic() - began
    backbone = next(b for b in backbones if b.name == choice["backbone"])
    features, labels = probe_features(dataset, backbone, folder, side), np.asarray(dataset.labels)
    development = dataset.indices("development")
    model = make_logistic(choice["class_weight"])
    fit_logistic(model, choice["C"], features[development], labels[development])
    # What was kept of an earlier split was not for free.
    kept = features_seconds(backbones, folder, side) + choice["seconds"]
    took = time.monotonic() - began - chosen + kept
    predicted = model.predict(features[dataset.indices("test")]).astype(np.int64)
    return Answer(predicted, {**choice, "resolution": side}, round(took, 2))


def make_logistic(weighting: str | None) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), LogisticRegression(class_weight=weighting, max_iter=500, warm_start=True)
    )


def fit_logistic(model: Any, strength: float, features: np.ndarray, labels: np.ndarray) -> None:
    from sklearn.exceptions import ConvergenceWarning

    model.set_params(logisticregression__C=strength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest penalties on separable classes
        model.fit(features.astype(np.float64), labels)


# --- plain fine-tuning ------------------------------------------------------------------------------


def plain_reference(
    dataset: Dataset,
    backbone: Backbone,
    seconds: float,
    *,
    seed: int = 0,
    side: int = PLAIN_SIDE,
    batch: int = 32,
) -> Answer:
    """Fine-tune the whole network for the whole time, with one recipe that is known to do well.

    AdamW (learning rate 1e-3, weight decay 0.01), cosine to zero at the end of the time, random resized
    crops and flips, logit-adjusted cross entropy (Menon et al. 2021, eq. 10 with tau = 1), all cores.
    Loading the network counts; predicting the test images does not.

    Args:
        dataset: with its split; training and validation images are trained on.
        backbone: pretrained network.
        seconds: of training.
        seed: of everything random.
        side: resolution of training and test.
        batch: images in a step.
    """
    import torch
    import torch.nn.functional as F

    began = time.monotonic()
    torch.manual_seed(seed)
    torch.set_num_threads(cores())
    rng, place = np.random.default_rng(seed), torch.device(device())
    labels, classes = np.asarray(dataset.labels), len(dataset.class_names)
    rows, pictures = dataset.indices("development"), dataset.images()
    model = plain_network(backbone, classes).to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    counts = np.bincount(labels[rows], minlength=classes)
    prior = torch.from_numpy(np.log(np.maximum(counts, 0.5) / len(rows))).float().to(place)
    batch = min(batch, len(rows))
    steps, order = 0, rows[:0]
    model.train()
    while (share := (time.monotonic() - began) / seconds) < 1:
        if len(order) < batch:  # what is left of an epoch is too few for batch statistics
            order = rng.permutation(rows)
        now, order = np.sort(order[:batch]), order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * share))
        crops = np.stack([random_crop(picture, side, rng) for picture in pictures[now]])
        logits = model(as_tensor(crops, place))
        loss = F.cross_entropy(logits + prior, torch.from_numpy(labels[now]).to(place))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
    details = {
        "backbone": backbone.name,
        "resolution": side,
        "epochs": round(steps * batch / len(rows), 2),
        "training_seconds": round(took := time.monotonic() - began, 2),
    }
    model.eval()
    test, level, parts = dataset.indices("test"), dataset.images(side), []
    with torch.inference_mode():
        for begin in range(0, len(test), 64):
            parts.append(model(as_tensor(level[test[begin : begin + 64]], place)).argmax(1).cpu().numpy())
    return Answer(np.concatenate(parts).astype(np.int64), details, round(took, 2))


def random_crop(picture: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Random resized crop (35–100 % of the area, aspect 3:4 to 4:3) and flips; uint8 ``[H, W, 3]`` → ``[side, side, 3]``."""
    from PIL import Image

    height, width = picture.shape[:2]
    area, aspect = (
        rng.uniform(0.35, 1.0) * height * width,
        math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3))),
    )
    w, h = min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    crop = Image.fromarray(picture).resize(
        (side, side), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h)
    )
    pixels = np.asarray(crop)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if rng.random() < 0.5:
        pixels = pixels[::-1]
    return pixels


def plain_network(backbone: Backbone, classes: int) -> torch.nn.Module:
    """A pretrained network with a linear head, float ``[n, 3, H, W]`` in 0..255 → logits ``[n, C]``."""
    import torch

    from search_spaces.backbones import create_backbone

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = create_backbone(backbone)
            self.register_buffer("mean", 255 * torch.tensor(backbone.mean).view(1, 3, 1, 1))
            self.register_buffer("std", 255 * torch.tensor(backbone.std).view(1, 3, 1, 1))
            with torch.inference_mode():
                width = self.body.eval()(torch.zeros(1, 3, PLAIN_SIDE, PLAIN_SIDE)).shape[1]
            self.head = torch.nn.Linear(width, classes)

        mean: torch.Tensor
        std: torch.Tensor

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.body((images - self.mean) / self.std))
            return logits

    return Network()


def as_tensor(images: np.ndarray, place: torch.device) -> torch.Tensor:
    """uint8 ``[n, H, W, 3]`` → float ``[n, 3, H, W]`` in 0..255."""
    import torch

    moved = torch.from_numpy(np.ascontiguousarray(images)).to(place).permute(0, 3, 1, 2).float()
    return moved.contiguous(memory_format=torch.channels_last)
