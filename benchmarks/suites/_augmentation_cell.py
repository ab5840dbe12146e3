"""One split of the augmentation suite, run in a process of its own.

``python -m benchmarks.suites._augmentation_cell SPEC`` reads the JSON file SPEC and writes the file that it names.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl.affinity import fitting_augmentation, mean_affinity
from automl.errors import AutomlError, InputError
from benchmarks import child
from benchmarks.child import Spec
from benchmarks.suites.augmentation import POLICIES

if TYPE_CHECKING:
    from automl.candidate import Candidate
    from strategy_pool.strategy import Strategy


def run_cell(spec: Spec) -> dict[str, Any]:
    """Run the first trials of a submit and one recipe with each policy, side by side.

    Returns:
        the images' affinity, what the engine makes of it, and what each training scored on validation images.

    Raises:
        InputError: the network and the recipe are not in the pool together.
        AutomlError: a training has no score.
    """
    from automl.sweep import sweep
    from automl.task import Task
    from strategy_pool.history import History

    settings, work = spec["settings"], Path(spec["work"])
    shutil.rmtree(work, ignore_errors=True)  # of a run that was broken off
    work.mkdir(parents=True)
    url = f"sqlite:///{work}/history.db"
    task = Task.make(
        spec["source"],
        max_trials=len(POLICIES),
        seed=spec["identity"]["split"],
        weights_dirs=spec["weights_dirs"],
        backbones=settings["backbones"],
    )

    def choose(pool: Sequence[Candidate], _catalog: Mapping[str, Strategy], _count: int) -> list[Candidate]:
        return arms(pool, settings["network"], settings["recipe"])

    task_id = sweep(
        task,
        out=work / "run",
        candidates=len(POLICIES),
        seconds=settings["budget"],
        history_url=url,
        columns=settings["columns"] or None,
        choose=choose,
    )
    with History(url) as history:
        trials = history.trials(task_id).to_dict("records")
        features = history.task(task_id)["features"]
    return {**told(trials), "images": round(features["images"]), "classes": round(features["classes"])}


def arms(pool: Sequence[Candidate], network: str, recipe: str) -> list[Candidate]:
    """One candidate of a network and a recipe with each policy.

    Raises:
        InputError: they are not in the pool together.
    """
    from automl.errors import did_you_mean

    named = [c for c in pool if c.architecture == network and c.precision == "fp32"]
    if not named:
        known = sorted({c.architecture for c in pool})
        raise InputError(f"no network '{network}' among the pretrained ones{did_you_mean(network, known)}")
    fitting = [c for c in named if c.strategy == recipe]
    if not fitting:
        hint = did_you_mean(recipe, sorted({c.strategy for c in named}))
        raise InputError(f"no recipe '{recipe}' for the network '{network}'{hint}")
    return [replace(fitting[0], overrides=(("augmentation", policy),)) for policy in POLICIES]


def told(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cell, from trials as the history keeps them.

    Raises:
        AutomlError: a training has no score.
    """
    asked = [json.loads(trial["metrics"] or "{}").get("affinity") for trial in trials]
    trained = {}
    for trial in trials:
        policy = json.loads(trial["overrides"] or "{}").get("augmentation")
        if policy in POLICIES:
            if trial["status"] != "completed":
                raise AutomlError(
                    f"the training with '{policy}' ended as {trial['status']}: {trial['error']}"
                )
            trained[policy] = {"score": trial["score"], "epochs": int(trial["epochs"])}
    if len(trained) < len(POLICIES):
        raise AutomlError("a training is missing")
    return {
        "seconds": round(float(sum(trial["seconds"] for trial in trials)), 1),
        "affinities": [affinity for affinity in asked if affinity is not None],
        "fitting": fitting_augmentation(mean_affinity(asked)),
        "trained": trained,
    }


if __name__ == "__main__":
    sys.exit(child.main(sys.argv[1], run_cell))
