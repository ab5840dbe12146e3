"""One candidate on one task: fit it, score it on held-out images, leave everything on disk.

``iterate_trial`` is a generator, so that whoever drives it (Ray Tune, a plain loop, a test) sees the
progress and may stop it at any report; closing the generator ends the trial as ``stopped`` with what
it had. The trial watches its own deadline. The worker writes the result itself; the outcome file comes
last, so a folder with an outcome is complete.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from automl.errors import AutomlError
from automl.records import Outcome, Progress, TrialSpec

_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 1e-4, 10.0)
_NEIGHBOURS = (1, 3, 5, 10, 20)
#: Share of an int8 candidate's time that its training gets; the rest is for quantising and scoring the files.
_QUANTISED_SHARE = 0.75
#: Learning rate of a refit that goes on from a trained model, as a share of its recipe's: a full one can
#: undo what was learned, and there are no held-out images to notice it by.
_REFIT_RATE = 0.25
#: Images that set the ranges of an int8 file.
_CALIBRATION = 128


def run_trial(spec: TrialSpec, report: Callable[[Progress], bool] | None = None) -> Outcome:
    """Run a trial to its end.

    Args:
        spec: what to run.
        report: called after each evaluation; a false return stops the trial.
    """
    steps = iterate_trial(spec)
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        if report is not None and not report(progress):
            steps.close()
            return read_outcome(Path(spec.folder))


def read_outcome(folder: Path) -> Outcome:
    """Read what a finished trial left."""
    return Outcome.from_dict(json.loads((folder / "outcome.json").read_text()))


def iterate_trial(spec: TrialSpec) -> Generator[Progress, None, Outcome]:
    """Run a trial step by step; see the module's text.

    Yields:
        Progress after each evaluation.

    Returns:
        The outcome, which is on disk by then. Errors of the candidate itself (a loss that diverges, a
        backbone that cannot be built, no memory) become a ``failed`` outcome; only interrupts pass through.
    """
    began = time.monotonic()
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "spec.json", spec.to_dict())
    state = _State(spec, folder, began)
    try:
        yield from _fit(spec, state)
        late = spec.seconds is not None and time.monotonic() - began > spec.seconds
        unscored = state.score is None and spec.purpose == "search"
        outcome = state.outcome("timeout" if late and unscored else "completed")
    except GeneratorExit:
        state.finish(state.outcome("stopped"))
        raise
    except Exception as error:  # whatever a candidate does wrong is its own failure, not the search's
        status = "timeout" if type(error).__name__ == "OutOfTime" else "failed"
        outcome = state.outcome(status, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return state.finish(outcome)


@dataclass(frozen=True)
class Held:
    """A network for images that it was not trained on.

    Attributes:
        model: makes it; its outputs are the classes, once for each fold.
        folds: images that it was trained on and images that it was not, per fold.
    """

    model: Callable[[], Any]
    folds: list[tuple[np.ndarray, np.ndarray]]


class _State:
    """What a trial knows about itself at any moment, so that it can end at any moment."""

    def __init__(self, spec: TrialSpec, folder: Path, began: float) -> None:
        self.spec, self.folder, self.began = spec, folder, began
        self.score: float | None = None
        self.metrics: dict[str, Any] = {}
        self.curve: list[list[float]] = []
        self.epochs = 0
        self.index: np.ndarray | None = None
        self.probabilities: np.ndarray | None = None
        self.save: Callable[[], None] | None = None
        self.held: list[Held] = []

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def scored(self, index: np.ndarray, probabilities: np.ndarray, score: float, epoch: int) -> None:
        order = np.argsort(index)
        self.index, self.probabilities = (
            np.asarray(index)[order],
            np.asarray(probabilities, np.float32)[order],
        )
        self.score, self.epochs = score, epoch
        self.curve.append([epoch, score, round(self.seconds(), 3)])

    def trained(self, epochs: float) -> None:
        """Note progress of a refit, which has no images to be scored on."""
        self.epochs = math.ceil(epochs)

    def outcome(self, status: str, error: str | None = None) -> Outcome:
        return Outcome(
            trial_id=self.spec.trial_id,
            candidate_id=self.spec.candidate.id,
            status=status,
            score=self.score,
            metrics=self.metrics,
            seconds=round(self.seconds(), 3),
            epochs=self.epochs,
            curve=self.curve,
            error=error,
        )

    def finish(self, outcome: Outcome) -> Outcome:
        """Write scores and model, then the outcome, which is ``failed`` where they cannot be written."""
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        try:
            if self.probabilities is not None and self.index is not None:
                with open(self.folder / "scores.npz.part", "wb") as handle:
                    np.savez(handle, index=self.index, probabilities=self.probabilities)
                os.replace(self.folder / "scores.npz.part", self.folder / "scores.npz")
            if self.save is not None:
                self.save()
        except Exception as error:
            outcome = replace(
                outcome, status="failed", score=None, error=f"{type(error).__name__}: {str(error)[:300]}"
            )
        _write(self.folder / "outcome.json", outcome.to_dict())
        return outcome


def _fit(spec: TrialSpec, state: _State) -> Generator[Progress, None, None]:
    import torch

    from automl.data import Dataset
    from automl.training import FROZEN
    from search_spaces.backbones import Backbone

    threads = max(1, spec.threads)
    torch.set_num_threads(threads)
    # A worker's libraries were loaded before it was known how many threads a trial has, and with one per core two
    # trials at a time would spend their time waiting for each other's threads.
    with threadpool_limits(threads):
        dataset = Dataset.open(spec.dataset_folder)
        if spec.images is not None:
            dataset = dataset.sample(spec.images)
        backbone = Backbone.from_dict(spec.backbone)
        if spec.purpose == "supernet":
            yield from _supernet(spec, state, dataset, backbone)
        elif spec.strategy["method"] in FROZEN:
            yield from _frozen(spec, state, dataset, backbone)
        else:
            yield from _tuned(spec, state, dataset, backbone)
        if _quantised(spec):
            _score_quantised(spec, state, dataset)
            yield state_progress(state, 1.0)


def _quantised(spec: TrialSpec) -> bool:
    """Whether what is judged is an int8 file."""
    return spec.candidate.precision == "int8" and spec.purpose == "search"


def training_device(device: str) -> str:
    """Where a trial trains: a GPU when there is one, whatever the model will run on later."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    # A worker sees only the GPUs that it was given, numbered from 0.
    kind, _, number = device.partition(":")
    seen = kind == "cuda" and int(number or 0) < torch.cuda.device_count()
    return device if seen else "cuda:0"


def state_progress(state: _State, fraction: float) -> Progress:
    """The report that goes with the state."""
    score = state.score if state.score is not None else math.nan
    return Progress(epoch=state.epochs, fraction=fraction, score=score, seconds=state.seconds())


def _deadline(spec: TrialSpec, state: _State, share: float = 1.0) -> float | None:
    return None if spec.seconds is None else state.began + spec.seconds * share


def score_of(objective: str, dataset: Any, index: np.ndarray, probabilities: np.ndarray) -> float:
    """The objective's value on these images, with the label of the highest probability; 0 where it has none.

    A class without any validation image has no recall; the likelihood that goes with the value then decides.
    """
    from automl.evaluation import metrics
    from automl.task import Objective

    wanted = Objective.parse(objective)
    labels = np.asarray(dataset.labels)[index]
    value = metrics.compute(
        wanted.name, wanted.class_name, labels, probabilities, probabilities.argmax(1), dataset.class_names
    )
    return float(value) if math.isfinite(value) else 0.0


def smooth_score(objective: float, labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The objective plus a little of the class-balanced likelihood, which ranks when images are few."""
    return objective + 0.25 * likelihood(labels, probabilities)


def likelihood(labels: np.ndarray, probabilities: np.ndarray, *, balanced: bool = True) -> float:
    """Geometric mean of the probability of the right label, 0..1; over classes of their means where ``balanced``."""
    logs = np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-4, 1.0))
    if not balanced:
        return float(np.exp(logs.mean()))
    return float(np.exp(np.mean([logs[labels == c].mean() for c in np.unique(labels)])))


def _frozen(spec: TrialSpec, state: _State, dataset: Any, backbone: Any) -> Generator[Progress, None, None]:
    """A classical model on frozen features; scored out of fold, then fitted on all development images."""
    from automl.landmarks import landmarks
    from automl.training import (
        SideBySide,
        affinity_upside_down,
        coordinates,
        fit_logistic,
        fit_neighbours,
        frozen_features,
        iterations_within,
        new_model,
        save_model,
    )

    strategy, classes = spec.strategy, len(dataset.class_names)
    labels = np.asarray(dataset.labels)
    development = np.asarray(dataset.indices("development"))
    deadline = _deadline(spec, state)
    table = frozen_features(
        dataset,
        backbone,
        spec.candidate.resolution,
        strategy["taps"],
        Path(spec.shared_folder),
        indices=development,
        threads=spec.threads,
        device=training_device(spec.device),
        deadline=deadline,
    )
    state.metrics["features_seconds"] = round(state.seconds(), 3)
    folds = dataset.folds
    balanced = strategy["loss"] in ("class_balanced", "logit_adjusted")
    tuned = int(strategy["neighbours"]) if strategy["method"] == "knn" else float(strategy.get("strength", 0))
    grid: tuple[Any, ...] = (
        (tuned,) if tuned else (_NEIGHBOURS if strategy["method"] == "knn" else _STRENGTHS)
    )
    best: tuple[float, Any] | None = None
    best_heads: list[Any] = []
    index = np.concatenate([validation for _train, validation in folds])
    nearest = strategy["method"] == "knn"

    def prepare(rows: np.ndarray) -> Any:
        return np.asarray(table[rows]) if nearest else coordinates(np.asarray(table[rows]))

    prepared = [prepare(train) for train, _validation in folds]

    def fit(x: Any, y: np.ndarray, value: Any) -> Any:
        if nearest:
            return fit_neighbours(x, y, classes, int(value))
        left = math.inf if deadline is None else deadline - time.monotonic()
        steps = iterations_within(left / (4 * len(folds)), len(y), table.shape[1], classes)
        return fit_logistic(x, y, classes, strength=float(value), balanced=balanced, max_iterations=steps)

    slowest = 0.0
    for step, value in enumerate(grid):
        if best is not None and deadline is not None and time.monotonic() + 2.5 * slowest > deadline:
            break
        began = time.monotonic()
        heads, parts = [], []
        for fold, (train, validation) in enumerate(folds):
            heads.append(fit(prepared[fold], labels[train], value))
            parts.append(_apply(heads[-1], np.asarray(table[validation])))
        slowest = max(slowest, time.monotonic() - began)
        probabilities = np.concatenate(parts)
        score = score_of(spec.objective, dataset, index, probabilities)
        smooth = smooth_score(score, labels[index], probabilities)
        if best is None or smooth > best[0]:
            best, best_heads = (smooth, value), heads
            state.scored(index, probabilities, score, step + 1)
            state.metrics["hyperparameter"] = value
            yield state_progress(state, (step + 1) / (len(grid) + 1))
    if best is None:
        raise AutomlError("no setting could be fitted")
    if _quantised(spec):
        joint = new_model(backbone, SideBySide(best_heads), taps=strategy["taps"])
        state.held = [Held(lambda: joint, [(np.asarray(t), np.asarray(v)) for t, v in folds])]
    if spec.affinity:
        state.metrics["affinity"] = affinity_upside_down(
            dataset,
            folds,
            backbone,
            best_heads,
            taps=strategy["taps"],
            resolution=spec.candidate.resolution,
            deadline=deadline,
        )
    prepared.clear()
    if not nearest:
        state.metrics["landmarks"] = landmarks(table, labels, development)
    head = fit(prepare(development), labels[development], best[1])
    model = new_model(backbone, head, taps=strategy["taps"])
    state.metrics["refitted"] = True
    state.metrics["head_mb"] = sum(t.numel() * t.element_size() for t in head.state_dict().values()) / 1e6
    state.save = lambda: save_model(
        model, state.folder, resolution=spec.candidate.resolution, whole=not backbone.pretrained
    )
    yield state_progress(state, 1.0)


def _apply(head: Any, features: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        parts = [
            head(torch.from_numpy(np.ascontiguousarray(features[begin : begin + 1024]))).softmax(1).numpy()
            for begin in range(0, len(features), 1024)
        ]
    return np.concatenate(parts)


def _tuned(spec: TrialSpec, state: _State, dataset: Any, backbone: Any) -> Generator[Progress, None, None]:
    """Fine-tune on each fold in turn; the scores are of images that the fold did not see."""
    from automl.training import Fold, fine_tune, load_model, save_model

    folds = [Fold(np.asarray(train), np.asarray(validation)) for train, validation in dataset.folds]
    if spec.purpose == "refit":
        folds = [Fold(np.asarray(dataset.indices("development")), np.zeros(0, dtype=np.int64))]
    strategy = dict(spec.strategy)
    if spec.initial:
        strategy["lr"] = _REFIT_RATE * float(strategy["lr"])
    training_share = _QUANTISED_SHARE if _quantised(spec) else 1.0
    for number, fold in enumerate(folds):
        share = training_share * (number + 1) / len(folds)
        steps = fine_tune(
            dataset,
            fold,
            backbone,
            strategy,
            resolution=spec.candidate.resolution,
            seed=spec.seed + number,
            shared=Path(spec.shared_folder),
            scratch=state.folder / "scratch",
            threads=spec.threads,
            device=training_device(spec.device),
            deadline=_deadline(spec, state, share),
            max_epochs=spec.max_epochs,
            initial=load_model(spec.initial) if spec.initial else None,
        )
        for _ in steps:
            model = fold.model
            state.save = lambda model=model: save_model(
                _merged(model), state.folder, resolution=spec.candidate.resolution, whole=True
            )
            if fold.probabilities is None:
                state.trained(fold.epochs)
                yield state_progress(state, fold.fraction)
                continue
            ended = [f for f in folds[: number + 1] if f.probabilities is not None]
            index = np.concatenate([f.validation for f in ended])
            probabilities = np.concatenate([f.probabilities for f in ended if f.probabilities is not None])
            score = score_of(spec.objective, dataset, index, probabilities)
            epochs = math.ceil(sum(f.epochs for f in folds) / len(folds))
            state.scored(index, probabilities, score, epochs)
            yield state_progress(state, (number + fold.fraction) / len(folds))
        if _quantised(spec):
            kept = state.folder / "scratch" / f"fold-{number}"
            kept.mkdir(parents=True)
            save_model(_merged(fold.model), kept, resolution=spec.candidate.resolution, whole=True)
            state.held.append(Held(partial(load_model, kept), [(fold.train, fold.validation)]))
        state.metrics[f"fold{number}"] = fold.notes
        state.metrics["epochs"] = round(float(np.mean([f.epochs for f in folds[: number + 1]])), 3)


def _supernet(spec: TrialSpec, state: _State, dataset: Any, backbone: Any) -> Generator[Progress, None, None]:
    """Train a supernet; it has no score of its own, its subnets have."""
    from automl.supernet_trial import fit_supernet

    steps = fit_supernet(spec, state.folder, dataset, backbone)
    while True:
        try:
            fraction = next(steps)
        except StopIteration as end:
            state.metrics.update(end.value)
            break
        yield state_progress(state, fraction)
    yield state_progress(state, 1.0)


def _merged(model: Any) -> Any:
    from automl.training._methods import merge_low_rank

    merge_low_rank(model.body.backbone)
    return model


def _score_quantised(spec: TrialSpec, state: _State, dataset: Any) -> None:
    """Replace the scores by those of int8 files, each of images that its weights were not made from."""
    from automl.export import export_onnx, run_onnx

    if not state.held or state.save is None:
        raise AutomlError("nothing was trained that could be quantised")
    state.save()
    state.save = None
    side, classes = spec.candidate.resolution, len(dataset.class_names)
    images = dataset.images(side)
    path = state.folder / "scratch" / "int8.onnx"
    path.parent.mkdir(exist_ok=True)
    index: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    for held in state.held:
        rows = np.random.default_rng(spec.seed).permutation(held.folds[0][0])[:_CALIBRATION]
        export_onnx(held.model(), side, path, precision="int8", calibration=images[np.sort(rows)])
        for number, (_train, validation) in enumerate(held.folds):
            found = run_onnx(path, images, validation)[0][:, number * classes : (number + 1) * classes]
            total = found.sum(axis=1, keepdims=True)
            parts.append(np.where(total > 0, found / np.maximum(total, 1e-30), 1.0 / classes))
            index.append(validation)
    rows, probabilities = np.concatenate(index), np.concatenate(parts)
    state.metrics["fp32_score"] = state.score
    score = score_of(spec.objective, dataset, rows, probabilities)
    state.scored(rows, probabilities, score, state.epochs)


def _write(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_suffix(path.suffix + ".part")
    with open(temporary, "w") as handle:
        json.dump(value, handle)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
