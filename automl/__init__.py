"""AutoML for images: a dataset plus limits in, a measured ONNX model out.

Example:
    >>> import automl
    >>> result = automl.submit("data/parts", constraints=["latency_ms<=5"], budget="20m")  # doctest: +SKIP
    >>> result.predict(["new.png"])  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_result", "submit"]


def submit(
    data: str | os.PathLike[str],
    *,
    constraints: Sequence[str] = (),
    objective: str = "balanced_accuracy",
    budget: str | float = "10m",
    max_trials: int | None = None,
    device: str = "cpu:1",
    seed: int = 0,
    weights_dirs: Sequence[str | os.PathLike[str]] = (),
    backbones: Sequence[str] = (),
    limits: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Any:
    """Search, train, export and measure; the same as ``automl submit``.

    Args:
        data: image folder, CSV or Parquet manifest, or npz.
        constraints: for instance ``["latency_ms<=5", "recall[defect]>=0.995"]``.
        objective: metric that is maximised within the limits.
        budget: wall-clock time, for instance ``"20m"``.
        max_trials: number of trials instead of the clock; then the run is repeatable.
        device: where the model will run, ``cpu:THREADS`` or ``cuda:INDEX``.
        seed: of splits and everything random.
        weights_dirs: folders with pretrained models.
        backbones: models by name; empty for all that can be had.
        limits: file with many sets of limits, answered from one search.
        out: run folder; by default a new one below ``automl-runs``.
        options: further ones of :func:`automl.engine.submit`.

    Returns:
        :class:`automl.result.Result`; with ``limits`` a list of them.

    Raises:
        automl.errors.InputError: the input is wrong; nothing was started.
        automl.errors.AutomlError: no model could be trained.
    """
    from automl.engine import submit as run
    from automl.task import Task, parse_limits_file

    task = Task.make(
        data,
        constraints=constraints,
        objective=objective,
        budget=budget,
        max_trials=max_trials,
        device=device,
        seed=seed,
        weights_dirs=weights_dirs,
        backbones=backbones,
    )
    sets = parse_limits_file(limits) if limits is not None else ()
    return run(task, out=out if out is not None else new_run_folder(data), limits=sets, **options)


def load_result(run_folder: str | os.PathLike[str]) -> Any:
    """Open the result of an earlier submit."""
    from automl.result import Result

    return Result.open(run_folder)


def new_run_folder(data: str | os.PathLike[str]) -> str:
    """Name of a run folder that does not exist yet: ``automl-runs/NAME-DATE-TIME-XXXX``, the end by chance.

    Bytes of the data's name that are no UTF-8 become ``_``, as no file could be written there.
    """
    import re
    import secrets
    import time
    from pathlib import Path

    path = Path(data).resolve()
    name = re.sub("[\ud800-\udfff]", "_", path.stem if path.is_file() else path.name)
    return str(Path("automl-runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
