"""One sweep of the cluster suite, in a process of its own: ``python -m benchmarks.suites._cluster_part SPEC``."""

from __future__ import annotations

import json
import sys
import threading
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
    with Busy(out) as busy:
        task_id = sweep(
            task, out=out, candidates=spec["candidates"], seconds=spec["seconds"], history_url=url,
            workers=spec["workers"], ray_address=spec["address"], quiet=True,
        )  # fmt: skip
    with History(url) as history:
        recorded = set(history.trials(task_id)["trial_id"])
    print(json.dumps(told(out, recorded, busy.per_trial)))
    return 0


class Busy:
    """Processor seconds that this process spends per trial, from the end of the first to the end of the last one.

    Args:
        out: run folder.
        seconds: between two looks at it.
    """

    def __init__(self, out: Path, seconds: float = 0.2) -> None:
        self._out, self._seconds = out, seconds
        self._seen: list[tuple[int, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="busy", daemon=True)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    @property
    def per_trial(self) -> float:
        """Processor seconds.

        Raises:
            RuntimeError: no two trials were seen to end one after the other.
        """
        if len(self._seen) < 2:
            raise RuntimeError("no two trials were seen to end one after the other")
        (least, began), (most, ended) = self._seen[0], self._seen[-1]
        return (ended - began) / (most - least)

    def _watch(self) -> None:
        while not self._over.wait(self._seconds):
            self._look()

    def _look(self) -> None:
        count = len(list(self._out.glob("search/trials/*/outcome.json")))
        if count and (not self._seen or count > self._seen[-1][0]):
            self._seen.append((count, time.process_time()))


def told(out: Path, recorded: set[str], busy: float) -> dict[str, Any]:
    """What a sweep left.

    Args:
        out: its run folder.
        recorded: trials that are in the history.
        busy: processor seconds of the driver per trial.
    """
    from automl.search import TrialStore
    from automl.search.store import LOST_FILE

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
        "lost": sorted(path.parent.name for path in out.glob(f"search/trials/*/{LOST_FILE}")),
        "trial_seconds": sum(outcome.seconds for _, outcome in trials) / max(1, len(trials)),
        "driver_seconds_per_trial": busy,
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
