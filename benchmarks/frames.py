"""The finished cells of a suite as frames: one row per run, and one per trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Cell = Mapping[str, Any]


def runs_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per run, as :func:`benchmarks.page.page` reads them; ``trained``: seconds after which the last model was."""
    import pandas as pd

    return pd.DataFrame([_row(cell) for cell in cells])


def _row(cell: Cell) -> dict[str, Any]:
    import numpy as np

    from automl.evaluation.metrics import interval

    if "failed" in cell:
        return _failed_row(cell)
    labels, predicted = cell["labels"], cell["predicted"]
    classes = list(cell["classes"])
    shares = np.full((len(labels), len(classes)), 1 / len(classes))
    score = interval("balanced_accuracy", None, labels, shares, predicted, classes, cell["groups"])
    details, limits = cell["details"], cell["settings"]["limits"]
    found = details.get("run") or {}
    again = found.get("again") or details.get("again")
    costs = found.get("costs") or again or {}
    trials = found.get("trials", [])
    ended = [one["ended"] for one in trials if one["status"] == "completed"]
    broken, nothing = _broken(limits, again), float("nan")
    return {
        "task": cell["dataset"], "method": cell["method"], "seed": cell["split"],
        "budget": float(cell["settings"]["budget"]), "seconds": float(cell["seconds"]),
        "trained": max((float(one["ended"]) for one in trials), default=float(cell["seconds"])),
        "status": found.get("status") or _status(limits, again), "score": score.value, "low": score.low, "high": score.high,
        "n_test": len(labels), "limits": json.dumps(limits), "broken": broken,
        **{name: float(costs.get(name, nothing)) for name in ("latency_ms", "size_mb", "macs_m")},
        "first_seconds": min(ended, default=nothing), "trials": len(ended),
        "calibration": float(details.get("calibration", nothing)),
        "curve": json.dumps(found.get("curve") or [[float(cell["seconds"]), None, score.value]]),
        "commit": cell["environment"]["commit"],
    }  # fmt: skip


def _failed_row(cell: Cell) -> dict[str, Any]:
    nothing = float("nan")
    return {
        "task": cell["dataset"], "method": cell["method"], "seed": cell["split"],
        "budget": float(cell["settings"]["budget"]), "seconds": float(cell["seconds"]), "trained": nothing,
        "status": "failed",
        **dict.fromkeys(("score", "low", "high", "n_test"), nothing),
        "limits": json.dumps(cell["settings"]["limits"]), "broken": -1,
        **dict.fromkeys(("latency_ms", "size_mb", "macs_m", "first_seconds"), nothing), "trials": 0,
        "calibration": nothing, "curve": "[]", "commit": cell["environment"]["commit"],
    }  # fmt: skip


def _broken(limits: Sequence[str], again: Mapping[str, float] | None) -> int:
    """How many limits on latency and size a file breaks that was measured again; -1 where none was."""
    from automl.task import Constraint

    if again is None:
        return -1
    parsed = [Constraint.parse(text) for text in limits]
    return sum(not limit.satisfied(again[limit.name]) for limit in parsed if limit.name in again)


def _status(limits: Sequence[str], again: Mapping[str, float] | None) -> str:
    """Of a method that does not say whether it keeps the limits."""
    from automl.task import Constraint

    if _broken(limits, again) > 0:
        return "infeasible"
    return "ok" if all(Constraint.parse(text).name in (again or {}) for text in limits) else "unchecked"


def trials_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per trial."""
    import pandas as pd

    columns = [
        "task", "method", "seed", "trial_id", "candidate", "purpose", "status", "score", "began", "ended",
    ]  # fmt: skip
    rows = [
        {"task": cell["dataset"], "method": cell["method"], "seed": cell["split"], **trial}
        for cell in cells
        for trial in (cell.get("details", {}).get("run") or {}).get("trials", [])
    ]
    return pd.DataFrame(rows, columns=columns)
