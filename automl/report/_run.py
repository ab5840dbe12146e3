"""What a report is drawn from, read from a run folder; what is missing stays empty."""

from __future__ import annotations

import io
import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from automl import wording
from automl.result import Result


@dataclass(frozen=True)
class Scores:
    """Predictions on one part of the data.

    Attributes:
        index: int64 ``[n]``, rows of the data set.
        labels, predicted: class indices ``[n]``.
        probabilities: float ``[n, C]``.
    """

    index: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Trial:
    """One row of the trial table, with None where a number is missing."""

    trial_id: str
    candidate: str
    architecture: str
    resolution: int | None
    precision: str
    strategy: str
    source: str
    status: str
    score: float | None
    seconds: float | None
    epochs: int | None
    latency_ms: float | None
    size_mb: float | None
    feasible: bool
    error: str
    curve: list[tuple[float, float, float]]


@dataclass(frozen=True)
class Run:
    """Everything a report shows.

    Attributes:
        result: the opened run.
        content: ``result.json``.
        class_names: in their order.
        trials: in the order they were started.
        test: predictions on test images, None where there are none.
        data: ``search/dataset.json``.
        dataset: the opened data set, for pictures; None if it is not at hand.
    """

    result: Result
    content: Mapping[str, Any]
    class_names: list[str]
    trials: list[Trial]
    test: Scores | None
    data: Mapping[str, Any]
    dataset: Any = None
    members: frozenset[str] = field(default_factory=frozenset)

    @property
    def name(self) -> str:
        """Of the data set."""
        source = str((self.content.get("task") or {}).get("data", ""))
        return str(self.data.get("name") or Path(source).name or self.result.folder.name)


def load_run(folder: Path, dataset: Any = None) -> Run:
    """Read a run folder.

    Raises:
        InputError: it has no ``result.json``.
    """
    result = Result.open(folder)
    content = result.to_dict()
    data = _json(folder / "search" / "dataset.json") or content.get("dataset") or {}
    names = _json(folder / "labels.json").get("classes") or data.get("class_names") or []
    members = {
        str(m.get(key))
        for m in content.get("members") or []
        if isinstance(m, Mapping)
        for key in ("trial", "refit")
    }
    return Run(
        result,
        content,
        [str(name) for name in names],
        _trials(folder / "trials.parquet"),
        _scores(folder / "search" / "test_scores.npz", len(names)),
        data,
        dataset,
        frozenset(members - {"None"}),
    )


def thumbnail(run: Run, row: int, side: int = 144) -> str | None:
    """A picture of the data set as a data URL (JPEG), None where it is not at hand."""
    from PIL import Image

    dataset = run.dataset
    if dataset is None or not 0 <= row < len(dataset.labels):
        return None
    try:
        pixels = dataset.images()[np.asarray([row])][0]
    except OSError:
        return None
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.width > side:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    elif picture.width * 2 <= side:
        times = side // picture.width
        picture = picture.resize((picture.width * times,) * 2, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode("ascii")


def file_name(run: Run, row: int) -> str:
    """What an image is called in the source."""
    if run.dataset is not None and 0 <= row < len(run.dataset.labels):
        return str(run.dataset.source_names[row])
    return f"image {row}"


def _trials(path: Path) -> list[Trial]:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except Exception:
        # A report without its trial table still tells what the model can do.
        return []
    return [_trial(row) for row in frame.to_dict("records")]


def _trial(row: Mapping[Any, Any]) -> Trial:
    epochs, resolution = _number(row.get("epochs")), _number(row.get("resolution"))
    feasible = row.get("feasible")
    return Trial(
        _text(row.get("trial_id")),
        _text(row.get("candidate")),
        _text(row.get("architecture")),
        None if resolution is None else int(resolution),
        _text(row.get("precision")),
        _text(row.get("strategy")),
        _text(row.get("source")),
        _text(row.get("status")),
        _number(row.get("score")),
        _number(row.get("seconds")),
        None if epochs is None else int(epochs),
        _number(row.get("latency_ms")),
        _number(row.get("size_mb")),
        True if feasible is None or feasible != feasible else bool(feasible),
        _text(row.get("error")),
        _curve(row.get("curve")),
    )


def _curve(text: Any) -> list[tuple[float, float, float]]:
    try:
        points = json.loads(text)
    except (TypeError, ValueError):
        return []
    return [
        (float(p[0]), float(p[1]), float(p[2]))
        for p in (points if isinstance(points, list) else [])
        if isinstance(p, list) and len(p) == 3 and all(wording.known(v) for v in p)
    ]


def _scores(path: Path, classes: int) -> Scores | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = Scores(stored["index"], stored["labels"], stored["probabilities"], stored["predicted"])
    except (OSError, ValueError, KeyError, EOFError):
        return None
    sizes = {len(found.index), len(found.labels), len(found.probabilities), len(found.predicted)}
    if (
        len(sizes) != 1
        or found.probabilities.ndim != 2
        or found.probabilities.shape[1] != classes
        or 0 in sizes
    ):
        return None
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)
