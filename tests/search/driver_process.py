"""A search in a process of its own, so that it can be interrupted or killed; started by the tests.

Usage: ``python -m tests.search.driver_process RUN_FOLDER TRIAL CANDIDATES``. Goes on where the run folder
ends. Prints ``report`` at the first report of a trial, and last how the search ended as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from automl.records import Progress, TrialSpec
from automl.search import prestart, shutdown
from tests.search.runs import Run, Watcher, numbered, pool_only

PRELOAD = ("automl.search._ray_trainable", "tests.search.fake_trials")


def main(folder: Path, trial: str, count: int) -> None:
    prestart(2, gpus=0, preload=PRELOAD)
    run = Run(folder)
    proposer = pool_only(numbered(count))
    for spec, outcome in run.store.finished():
        proposer.observe(spec.candidate, outcome.usable_score, None, outcome.status, error=outcome.error)
    run.store.clean_orphans()

    def say(spec: TrialSpec, progress: Progress) -> None:
        print("report", flush=True)

    try:
        end = run.search(proposer, trial, mode="ray", concurrency=2, listener=Watcher(say))
    finally:
        shutdown()
    print(json.dumps({"interrupted": end.interrupted, "trials": end.trials, "statuses": run.statuses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
