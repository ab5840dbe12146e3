"""Trials that do nothing, through the same search as real ones: what a trial costs besides its training."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from automl.candidate import Candidate
from automl.records import Outcome, Progress, TrialSpec


def empty_trial(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    """End at once; workers import this by its name."""
    return Outcome(spec.trial_id, spec.candidate.id, "completed", 0.5)
    yield  # type: ignore[unreachable]  # makes it a generator


def run_empty(count: int, folder: Path, workers: int, mode: str = "ray") -> dict[str, Any]:
    """Run ``count`` empty trials and return seconds to the first result and per trial beyond it.

    Args:
        count: trials, 2 or more.
        folder: of the run.
        workers: trials at a time.
        mode: as in :func:`automl.search.run_search`.

    Returns:
        ``trials``, ``workers``, ``mode``, ``first`` (seconds from the call, Ray's start among them) and
        ``each`` (seconds from the first result to the last, divided by the trials between).
    """
    from automl.search import Proposer, TrialStore, run_search, shutdown

    store = TrialStore(folder)
    pool = [Candidate("none", side, "fp32", "none", ()) for side in range(1, count + 1)]
    ends: list[float] = []
    failed: list[str] = []

    def make_spec(candidate: Candidate, _left: float) -> TrialSpec:
        name = store.new_trial_id()
        return TrialSpec(
            trial_id=name, candidate=candidate, dataset_folder="", backbone={}, folder=str(store.folder(name)),
            seconds=None, max_epochs=None, seed=0, threads=1, device="cpu:1", objective="accuracy",
            constraints=[], shared_folder="", strategy={},
        )  # fmt: skip

    def on_result(_spec: TrialSpec, outcome: Outcome) -> None:
        ends.append(time.perf_counter())
        if outcome.status != "completed":
            failed.append(f"{outcome.trial_id}: {outcome.error}")

    began = time.perf_counter()
    try:
        run_search(
            Proposer(pool, explore_share=0.0),
            make_spec,
            deadline=time.monotonic() + 60.0 + 2.0 * count,
            concurrency=workers,
            on_result=on_result,
            mode=mode,
            trial_fn="benchmarks.suites._overhead_empty:empty_trial",
        )
    finally:
        if mode == "ray":
            shutdown()
    if failed or len(ends) != count:
        raise RuntimeError(
            f"{len(ends)} of {count} empty trials ended; {'; '.join(failed[:3]) or 'none failed'}"
        )
    return {
        "trials": count,
        "workers": workers,
        "mode": mode,
        "first": round(ends[0] - began, 3),
        "each": round((ends[-1] - ends[0]) / (count - 1), 5),
    }


def main(arguments: list[str]) -> int:
    """``COUNT FOLDER WORKERS``; prints one JSON object."""
    count, folder, workers = int(arguments[0]), Path(arguments[1]), int(arguments[2])
    print(json.dumps(run_empty(count, folder, workers)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
