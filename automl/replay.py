"""Runs a recorded trial again, outside the search."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from automl.errors import InputError
from automl.records import Outcome
from automl.supernets import is_subnet


def replay(
    run: str | os.PathLike[str], trial: str, *, out: str | os.PathLike[str] | None = None
) -> tuple[Outcome, Outcome]:
    """Run a trial with its recorded candidate, seed, time and threads.

    A trial that was bound by its epochs repeats exactly on the same machine; one that was bound by the
    clock repeats as far as the machine is as fast.

    Args:
        run: run folder.
        trial: id such as ``t0007``.
        out: folder for what it writes; by default a temporary one.

    Returns:
        (recorded outcome, new outcome).

    Raises:
        InputError: no such run or trial, or its dataset is gone.
    """
    from automl.search import TrialStore
    from automl.trial import run_trial

    root = Path(run).expanduser().resolve()
    if not (root / "search" / "trials").is_dir():
        raise InputError(f"{run} is not a run folder; it has no search/trials")
    store = TrialStore(root)
    try:
        spec, before = store.spec(trial), store.outcome(trial)
    except (FileNotFoundError, ValueError) as error:
        known = ", ".join(store.trial_ids()[:20]) or "none"
        raise InputError(f"trial '{trial}' cannot be replayed: {error}; known: {known}") from error
    if before is None:
        raise InputError(f"trial '{trial}' never finished; submit --resume {run} runs it again")
    if spec.purpose == "search" and is_subnet(spec):
        raise InputError(
            f"trial '{trial}' is a subnet of the supernet of {before.metrics.get('supernet', 'another trial')}; "
            "replay that one"
        )
    if not Path(spec.dataset_folder).exists():
        raise InputError(
            f"the decoded images in {spec.dataset_folder} are gone; run automl check on the data first"
        )
    with tempfile.TemporaryDirectory(prefix="automl-replay-") as scratch:
        folder = Path(out).expanduser().resolve() if out is not None else Path(scratch)
        again = replace(spec, folder=str(folder / "trial"), shared_folder=str(folder / "shared"))
        return before, run_trial(again)
