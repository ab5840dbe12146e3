"""References for a handful of images: logistic regression and nearest neighbours on frozen features.

All that is chosen (backbone, strength, class weights, number and weight of neighbours, scaling) is chosen by
one cross-validation over the development images, whole groups at a time; test images are looked at once, at
the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.comparison import balanced_accuracy
from benchmarks.references import STRENGTHS, WEIGHTINGS, Answer, fit_logistic, make_logistic

FOLDS = 4
NEIGHBOURS = (1, 3, 5, 7, 11, 15)
#: (training features, their labels, other features) → (setting, classes of the others) for each setting,
#: always in the same order.
Sweep = Callable[[np.ndarray, np.ndarray, np.ndarray], Iterator[tuple[dict[str, Any], np.ndarray]]]


@dataclass(frozen=True)
class Few:
    """The images of one draw.

    Attributes:
        features: backbone → float32 ``[N, F]`` of all images.
        labels, groups: int64 ``[N]``.
        development, test: indices.
        seed: of the folds.
    """

    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    groups: np.ndarray
    development: np.ndarray
    test: np.ndarray
    seed: int


def logistic_by_folds(few: Few) -> Answer:
    """Standardised features and logistic regression; C, class weights and backbone by cross-validation."""
    return _by_folds(few, _logistic_sweep)


def neighbours_by_folds(few: Few) -> Answer:
    """Nearest neighbours by angle; k, votes, scaling and backbone by cross-validation."""
    return _by_folds(few, _neighbour_sweep)


def make_folds(labels: np.ndarray, groups: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training, validation) positions of up to :data:`FOLDS` stratified folds of whole groups.

    A fold whose training part would hold one class only is left out.

    Raises:
        InputError: no fold can be made.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    from automl.errors import InputError

    number = min(FOLDS, len(np.unique(groups)), int(np.bincount(labels).max()))
    folds = []
    if number > 1:
        splitter = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer images than folds
            folds = list(splitter.split(labels, labels, groups))
    folds = [(a, b) for a, b in folds if len(b) and len(np.unique(labels[a])) > 1]
    if not folds:
        raise InputError("there are too few development images to choose a reference on; use more --shots")
    return folds


def _by_folds(few: Few, sweep: Sweep) -> Answer:
    labels = few.labels[few.development]
    folds = make_folds(labels, few.groups[few.development], few.seed)
    validated = np.concatenate([inside for _, inside in folds])
    best: dict[str, Any] = {"validation": -1.0}
    scores = {}
    for name, whole in few.features.items():
        features = np.asarray(whole[few.development], np.float64)
        settings: list[dict[str, Any]] = []
        said: list[list[np.ndarray]] = []
        for train, inside in folds:
            found = list(sweep(features[train], labels[train], features[inside]))
            settings = [setting for setting, _ in found]
            said.append([predicted for _, predicted in found])
        scores[name] = -1.0
        for setting, parts in zip(settings, zip(*said, strict=True), strict=True):
            score = balanced_accuracy(labels[validated], np.concatenate(parts))
            scores[name] = max(scores[name], score)
            if score > best["validation"]:
                best = {"backbone": name, **setting, "validation": score}
    whole = few.features[best["backbone"]]
    last = sweep(
        np.asarray(whole[few.development], np.float64), labels, np.asarray(whole[few.test], np.float64)
    )
    kept = {key: value for key, value in best.items() if key not in ("backbone", "validation")}
    predicted = next(predicted for setting, predicted in last if setting == kept)
    return Answer(predicted.astype(np.int64), {**best, "folds": len(folds), "backbones": scores})


def _logistic_sweep(
    features: np.ndarray, labels: np.ndarray, others: np.ndarray
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for weighting in WEIGHTINGS:
        model = make_logistic(weighting)
        for strength in STRENGTHS:  # warm start: each fit begins where the one before ended
            fit_logistic(model, strength, features, labels)
            yield {"C": strength, "class_weight": weighting}, model.predict(others)


def _neighbour_sweep(
    features: np.ndarray, labels: np.ndarray, others: np.ndarray
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    classes, code = np.unique(labels, return_inverse=True)
    for scaled in (False, True):
        if scaled:
            spread = features.std(0)
            spread[spread == 0] = 1.0
            one, two = ((part - features.mean(0)) / spread for part in (features, others))
        else:
            one, two = features, others
        near = _unit(two) @ _unit(one).T
        order = np.argsort(-near, axis=1, kind="stable")
        for k in NEIGHBOURS:
            nearest = order[:, :k]
            for votes in ("equal", "similarity"):
                weight = np.take_along_axis(near, nearest, 1)
                # Votes that fall with the distance 1 - cosine; the nearest decides where several classes are
                # even.
                weight = (
                    1 / (1 - weight + 1e-6)
                    if votes == "similarity"
                    else 1 - 1e-9 * np.arange(weight.shape[1])
                )
                total = np.zeros((len(others), len(classes)))
                np.add.at(
                    total,
                    (np.arange(len(others))[:, None], code[nearest]),
                    np.broadcast_to(weight, nearest.shape),
                )
                yield {"k": k, "votes": votes, "scaled": scaled}, classes[total.argmax(1)]


def _unit(features: Sequence[Any] | np.ndarray) -> np.ndarray:
    values = np.asarray(features, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
