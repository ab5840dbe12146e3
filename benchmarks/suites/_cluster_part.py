"""One sweep of the cluster suite, in a process of its own: ``python -m benchmarks.suites._cluster_part SPEC``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(text: str) -> int:
    """Run the sweep and print what came of it as one line of JSON."""
    from automl.sweep import sweep
    from automl.task import Task
    from strategy_pool.history import History

    spec = json.loads(text)
    out = Path(spec["out"])
    url = f"sqlite:///{out.parent}/history.db"
    task = Task.make(
        spec["data"], max_trials=spec["candidates"], seed=spec["seed"], weights_dirs=spec["weights_dirs"],
        backbones=spec["backbones"],
    )  # fmt: skip
    busy = time.process_time()
    task_id = sweep(
        task, out=out, candidates=spec["candidates"], seconds=spec["seconds"], history_url=url,
        workers=spec["workers"], ray_address=spec["address"], quiet=True,
    )  # fmt: skip
    busy = time.process_time() - busy
    with History(url) as history:
        recorded = set(history.trials(task_id)["trial_id"])
    print(json.dumps(told(out, recorded, busy)))
    return 0


def told(out: Path, recorded: set[str], busy: float) -> dict[str, Any]:
    """What a sweep left.

    Args:
        out: its run folder.
        recorded: trials that are in the history.
        busy: processor seconds of the driver.
    """
    from automl.search import TrialStore

    trials = TrialStore(out).finished()
    brought, speed = brought_by(out)
    return {
        "trials": [
            {
                "candidate": spec.candidate.id, "status": outcome.status, "score": outcome.usable_score,
                "seconds": outcome.seconds, "recorded": spec.trial_id in recorded,
            }
            for spec, outcome in trials
        ],
        "trial_seconds": sum(outcome.seconds for _, outcome in trials) / max(1, len(trials)),
        "driver_seconds_per_trial": busy / max(1, len(trials)),
        "bytes_per_node": brought,
        "bytes_per_second": speed,
    }  # fmt: skip


def brought_by(out: Path) -> tuple[int, float]:
    """Bytes that a node was brought before its first trial, and bytes per second while it was.

    Raises:
        RuntimeError: no node says so.
    """
    read = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("search/trials/*/brought.json")]
    if read:
        first = max(read, key=lambda one: one["bytes"])
        return int(first["bytes"]), float(first["bytes"] / first["seconds"])
    raise RuntimeError("no node was brought anything")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
