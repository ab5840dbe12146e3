"""Training: recipes from the strategy pool run on images; frozen features, fine-tuning, losses, augmentation."""

from __future__ import annotations

from automl.training._affinity import affinity_upside_down
from automl.training._finetune import Fold, fine_tune
from automl.training._frozen import OutOfTime, frozen_features, inference_runner
from automl.training._heads import (
    SideBySide,
    coordinates,
    fit_logistic,
    fit_neighbours,
    iterations_within,
)
from automl.training._losses import make_loss
from automl.training._methods import FINE_TUNING, FROZEN
from automl.training._model import Features, VisionModel, load_model, new_model, save_model
from automl.training._precision import mixed_precision
from automl.training._supernet import subnet_probabilities, supernet_of

__all__ = [
    "FINE_TUNING",
    "FROZEN",
    "Features",
    "Fold",
    "OutOfTime",
    "SideBySide",
    "VisionModel",
    "affinity_upside_down",
    "coordinates",
    "fine_tune",
    "fit_logistic",
    "fit_neighbours",
    "frozen_features",
    "inference_runner",
    "iterations_within",
    "load_model",
    "make_loss",
    "mixed_precision",
    "new_model",
    "save_model",
    "subnet_probabilities",
    "supernet_of",
]
