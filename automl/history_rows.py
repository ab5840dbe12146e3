"""A trial as the history keeps it."""

from __future__ import annotations

import io
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from automl.records import Outcome, TrialSpec


def trial_row(
    task_id: str, run_id: str, spec: TrialSpec, outcome: Outcome, *, run: str, source: str, dataset: Any
) -> dict[str, Any]:
    """Fields for :meth:`strategy_pool.history.History.add_trial`; the uid is the same however often it is asked.

    Args:
        task_id, run_id: where the trial belongs.
        spec, outcome: of the trial.
        run: name of the run for people.
        source: ``pool``, ``search``, ``refit`` or ``supernet``.
        dataset: for the labels that go with the scores.
    """
    candidate = spec.candidate
    return {
        "uid": f"{task_id}/{run_id}/{spec.trial_id}",
        "task_id": task_id,
        "run": run,
        "trial_id": spec.trial_id,
        "candidate": candidate.id,
        "architecture": candidate.architecture,
        "resolution": candidate.resolution,
        "precision": candidate.precision,
        "strategy": candidate.strategy,
        "overrides": dict(candidate.overrides),
        "device": spec.device,
        "constraints": spec.constraints,
        "score": outcome.usable_score,
        "seconds": outcome.seconds,
        "epochs": outcome.epochs,
        "curve": outcome.curve,
        "status": outcome.status,
        "error": outcome.error,
        "source": source,
        "seed": spec.seed,
        "metrics": outcome.metrics,
        "scores": _scores(Path(spec.folder), dataset),
        "versions": versions(),
    }


def _scores(folder: Path, dataset: Any) -> bytes | None:
    """Scores per image with what another objective is computed from: labels and class names."""
    path = folder / "scores.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as stored:
        index, probabilities = stored["index"], stored["probabilities"].astype(np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        index=index,
        probabilities=probabilities,
        labels=np.asarray(dataset.labels)[index].astype(np.int32),
        class_names=np.array(dataset.class_names, dtype=np.str_),
    )
    return buffer.getvalue()


@cache
def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in (
        "torch",
        "timm",
        "ray",
        "optuna",
        "onnxruntime",
        "onnx",
        "scikit-learn",
        "lightgbm",
        "numpy",
    ):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
