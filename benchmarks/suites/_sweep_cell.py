"""One dataset of the sweep, run in a process of its own.

``python -m benchmarks.suites._sweep_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import child
from benchmarks.child import Spec


def run_cell(spec: Spec) -> dict[str, Any]:
    """Run the candidates that are missing; returns the trials and the task as the history keeps them."""
    from automl.sweep import sweep
    from automl.task import Task
    from strategy_pool.history import History

    settings = spec["settings"]
    # Trials of other settings are those of another cell.
    told = json.dumps([settings, spec["weights"]], sort_keys=True)
    work = Path(spec["work"]) / hashlib.sha256(told.encode()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{work}/history.db"
    task = Task.make(
        spec["source"],
        max_trials=settings["candidates"],
        seed=settings["seed"],
        weights_dirs=spec["weights_dirs"],
        backbones=settings["backbones"],
    )
    task_id = sweep(
        task,
        out=work / "run",
        candidates=settings["candidates"],
        seconds=settings["budget"],
        history_url=url,
        columns=settings["columns"] or None,
    )
    with History(url) as history:
        trials = history.trials(task_id)
        known = history.task(task_id)
    kept = trials.drop(columns=["uid", "run", "error", "versions", "curve", "constraints"])
    kept["metrics"] = [
        json.dumps({"landmarks": (json.loads(text) or {}).get("landmarks", {})}) for text in kept["metrics"]
    ]
    return {
        "seconds": round(float(trials["seconds"].sum()), 1),
        "task": {
            "name": spec["identity"]["dataset"],
            "features": known["features"],
            "sketch": known["sketch"],
        },
        "trials": json.loads(kept.to_json(orient="records")),
    }


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1], run_cell))
