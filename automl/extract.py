"""Subnets of a trained supernet for limits: proposed by predictors, exported, measured on the device, and only then reported.

supernet file → forecasts from what is known of its subnets → proposals → untrained look-alikes are exported and timed,
which the forecasts learn from → the best that keep the limits get their weights and statistics, are exported, measured
thoroughly, and written to a folder each.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from automl._subnets import Subnets, Written, missed
from automl.device import Device
from automl.errors import AutomlError, InputError
from automl.home import require_writable
from automl.machine import require_runtime
from automl.predict import LABELS_FILE, MODEL_FILE
from automl.task import Constraint, check_constraints, check_measurable
from search_spaces.carried import WEIGHTS
from search_spaces.predict import TableError
from search_spaces.stored import RESOLUTION, Stored, StoredError, load

TABLE_FILE = "subnets.csv"
#: Stands for the supernet that the package carries.
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Extracted:
    """One subnet as a file.

    Attributes:
        folder: with ``model.onnx`` and ``labels.json``.
        subnet: dimension → choice.
        score, low: predicted score, and the bound above which it lies with a probability of about 95 %.
        costs: of the file, measured, by their names in limits.
        missed: limit → share by which it is broken; empty where all are kept.
    """

    folder: Path
    subnet: Mapping[str, int]
    score: float
    low: float
    costs: Mapping[str, float]
    missed: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "folder": str(self.folder),
            "resolution": self.subnet[RESOLUTION],
            "predicted_score": self.score,
            "predicted_score_low": self.low,
            **self.costs,
            "satisfied": not self.missed,
            "missed": dict(self.missed),
            "subnet": dict(self.subnet),
        }


@dataclass(frozen=True)
class Extraction:
    """What came of it.

    Attributes:
        found: the best first; where none keeps the limits, the closest one alone.
        metric: what the scores are.
        device: on which was measured.
        evidence: of the latencies: ``measured``, or ``predicted`` for a device that is not here.
        measured: subnets that were measured for it.
        seconds: it took.
    """

    found: list[Extracted]
    metric: str
    device: str
    evidence: str
    measured: int
    seconds: float

    @property
    def satisfied(self) -> bool:
        """Whether the subnets keep all limits."""
        return all(not one.missed for one in self.found)


def extract(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    constraints: Sequence[str] = (),
    device: str = "cpu:1",
    top: int = 1,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Extraction:
    """Extract the subnets with the best predicted score that keep limits when they are measured.

    Args:
        source: file of a supernet, the folder of a run that trained one, or :data:`EMBEDDED`.
        out: folder for the subnets; new or empty.
        constraints: limits on costs, such as ``latency_ms<=2``.
        device: where the subnets will run.
        top: how many.
        seed: of the search.
        say: tells the user something.

    Raises:
        InputError: a limit, the device, the file or the folder cannot be used.
        AutomlError: no subnet can be exported.
    """
    began = time.monotonic()
    tell = say or (lambda _line: None)
    limits = check_constraints([Constraint.parse(text) for text in constraints])
    for limit in limits:
        if not limit.is_cost:
            raise InputError(
                f"'{limit.expression}': an extraction measures costs only; a submit checks {limit.metric} on images"
            )
    where = Device.parse(device)
    where.check_present()
    check_measurable(where, limits)
    require_runtime(where)
    if top < 1:
        raise InputError(f"--top is {top}; it is at least 1")
    folder = Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--out {folder} is not an empty folder; name a new one")
    try:
        stored = load(_file(source))
        subnets = Subnets(stored, where, seed)
    except (StoredError, TableError) as error:
        raise InputError(str(error)) from None
    require_writable(folder, "--out")
    with subnets:
        try:
            subnets.search(limits, top, tell)
        except TableError as error:
            raise InputError(f"too little can be learned about {source}: {error}") from None
        found = _written(subnets, limits, folder, top, tell)
    seconds = time.monotonic() - began
    extraction = Extraction(found, stored.about.metric, where.label, where.evidence, subnets.count, seconds)
    _write_table(folder, extraction)
    return extraction


def _file(source: str | os.PathLike[str]) -> Path:
    path = Path(source).expanduser()
    if str(source) == EMBEDDED and not path.exists():
        return WEIGHTS
    return path / "supernet.safetensors" if path.is_dir() else path


def _written(
    subnets: Subnets, limits: Sequence[Constraint], folder: Path, top: int, say: Callable[[str], None]
) -> list[Extracted]:
    """Write the best measured subnets with their weights; what a thorough measurement turns down makes room for the next."""
    known = subnets.measured()
    scores, lows = subnets.scores([subnet for subnet, _ in known])

    def worst(at: int) -> float:
        return max(missed(limits, known[at][1]).values(), default=0.0)

    order = sorted(range(len(known)), key=lambda at: (worst(at), -scores[at]))
    latency = min((limit.limit for limit in limits if limit.name == "latency_ms"), default=None)
    kept: list[Extracted] = []
    closest: Extracted | None = None
    broken_off: Written | None = None
    failure = "none could be measured"
    for place, at in enumerate(order):
        if len(kept) == top or (worst(at) > 0 and (kept or closest is not None)):
            break
        subnet, target = known[at][0], folder / f".{at}"
        target.mkdir()
        others = place + 1 < len(order) and worst(order[place + 1]) == 0
        try:
            file = subnets.write(subnet, target / MODEL_FILE, latency if others else None)
        except AutomlError as error:
            failure = str(error)
            say(f"  a subnet is left out: {failure}")
            shutil.rmtree(target)
            continue
        _write_labels(subnets.stored, target, subnet[RESOLUTION])
        one = Extracted(target, subnet, scores[at], lows[at], file.costs, missed(limits, file.cautious))
        if not one.missed:
            kept.append(one)
        elif closest is None or max(one.missed.values()) < max(closest.missed.values()):
            if closest is not None:
                shutil.rmtree(closest.folder)
            closest, broken_off = one, None if file.complete else file
        else:
            shutil.rmtree(target)
    if closest is not None and kept:
        shutil.rmtree(closest.folder)
    elif closest is not None:
        if broken_off is not None:
            file = subnets.write(closest.subnet, closest.folder / MODEL_FILE)
            slowest = max(one.cautious["latency_ms"] for one in (file, broken_off))
            limits_missed = missed(limits, {**file.cautious, "latency_ms": slowest})
            closest = replace(closest, costs=file.costs, missed=limits_missed)
        kept = [closest]
    if not kept:
        raise AutomlError(f"no subnet could be exported: {failure}")
    found = []
    for number, one in enumerate(kept, 1):
        target = folder / str(number)
        one.folder.rename(target)
        found.append(replace(one, folder=target))
    return found


def _write_labels(stored: Stored, folder: Path, side: int) -> None:
    about = {
        "schema_version": 1,
        "classes": list(stored.about.classes),
        "resize": stored.resize_chain(side),
        "ranges": dict(stored.about.ranges),
        "input": "images",
        "outputs": ["probabilities", "label"],
        "bias": [0.0] * len(stored.about.classes),
    }
    (folder / LABELS_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _write_table(folder: Path, extraction: Extraction) -> None:
    import pandas as pd

    rows = []
    for one in extraction.found:
        row = one.to_dict()
        row.update(folder=one.folder.name, subnet=json.dumps(row["subnet"]), missed=", ".join(row["missed"]))
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / TABLE_FILE, index=False)
