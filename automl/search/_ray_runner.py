"""Runs a search with Ray Tune: trials in parallel worker processes that are reused.

Tune asks a searcher for trials, schedules them and notices dead workers. What it lacks is added here:
trials end by themselves when a stop file appears in their folder (early stopping, deadline, Ctrl-C), so
that each leaves an outcome; one that does not within a grace has its worker killed.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from automl import _container
from automl.machine import places
from automl.records import WORKER_DIED, Outcome, Progress
from automl.search._driver import Driver
from automl.search._freight import Folders, start_porter
from automl.search._halving import Halving
from automl.search._ray_cluster import machines
from automl.search._ray_trainable import TrialTrainable
from strategy_pool.strategy import FROZEN_METHODS

#: Seconds that a trial told to stop, or whose own time is over, has before its worker is killed.
GRACE_SECONDS = 2.0
#: Extra seconds beyond its own time, as its clock starts a little later than the driver's.
OWN_TIME_SLACK = 3.0


class _Searcher(Searcher):
    """Hands the driver's trials to Tune and the ends of trials to the driver."""

    def __init__(self, driver: Driver, room: Callable[[], int], config: dict[str, Any]) -> None:
        super().__init__(metric="score", mode="max")
        self.driver = driver
        self.names: dict[str, str] = {}
        self._room = room
        self._config = config

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        # Tune asks one trial ahead; a trial chosen before there is a worker would be chosen too early.
        if len(self.driver.running) >= self._room() and not self.driver.ending:
            return None
        spec = self.driver.next_trial()
        if spec is None:
            return cast(Any, Searcher.FINISHED) if self.driver.over else None
        self.names[trial_id] = spec.trial_id
        return {**self._config, "folder": spec.folder}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        outcome = None
        if result and not error and "outcome" in result:
            outcome = Outcome.from_dict(json.loads(result["outcome"]))
        self.driver.finished(self.names[trial_id], outcome, WORKER_DIED)

    # The run folder is the truth; Tune's own snapshots are never read.
    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...


class _Room:
    """How many trials there is room for: called by the searcher.

    Tune counts the cores of the cluster once. Where a machine goes, a trial beyond what the others hold would wait for
    it, while the workers that become free are taken by trials that come later.

    Args:
        most: trials at a time.
        bundle: what each occupies, by Ray's names.
        changes: whether machines may go.
    """

    def __init__(self, most: int, bundle: dict[str, float], changes: bool) -> None:
        self._most, self._bundle, self._changes = most, bundle, changes
        self._now, self._looked = most, time.monotonic()

    def __call__(self) -> int:
        if self._changes and time.monotonic() - self._looked > 1.0:
            self._now = max(1, min(self._most, places(self._bundle, machines())))
            self._looked = time.monotonic()
        return self._now


class _Watch(Callback):
    """Called by Tune's loop at every turn: passes reports on, polls the driver, kills what does not stop."""

    def __init__(self, driver: Driver, names: dict[str, str]) -> None:
        self._driver = driver
        self._names = names
        self._live: dict[str, Any] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = self._names[trial.trial_id]
        self._live[name] = trial
        if not self._driver.machines_go:
            self._driver.began(name)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "taken_up" in result:
            self._driver.began(self._names[trial.trial_id])
        if "report" in result:
            report = Progress.from_dict(json.loads(result["report"]))
            self._driver.progressed(self._names[trial.trial_id], report)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._driver.poll()
        now = time.monotonic()
        for name, item in list(self._driver.running.items()):
            if item.killed is not None:
                continue
            if self._driver.ending and now - (self._driver.ending_since or now) > GRACE_SECONDS:
                self._kill(name, "the search ended")
            elif item.since is not None and item.spec.seconds is not None:
                late = now - item.since - item.spec.seconds
                if late > GRACE_SECONDS + OWN_TIME_SLACK:
                    self._kill(
                        name, f"ran {late:.1f} s beyond its {item.spec.seconds:g} s; its worker was killed"
                    )
        for name in [name for name in self._live if name not in self._driver.running]:
            del self._live[name]

    def _kill(self, name: str, why: str) -> None:
        item = self._driver.running[name]
        item.killed = why
        trial = self._live.get(name)
        actor = getattr(getattr(trial, "temporary_state", None), "ray_actor", None)
        if actor is not None:
            ray.kill(actor)
        if self._driver.ending:
            self._driver.finished(name, None)


class _Stopper(tune.Stopper):
    """Ends Tune's loop when the driver is ending and nothing runs, or what runs was killed."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.ending and not self._driver.running


class _Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving of fine-tunings that asks them to stop instead of dropping them.

    Li et al., *A System for Massively Parallel Hyperparameter Tuning*, MLSys 2020. Time is the
    trial's own training seconds.
    """

    def __init__(
        self, driver: Driver, names: dict[str, str], first_rung: int, longest: int, rule: Halving
    ) -> None:
        super().__init__(
            time_attr="used",
            metric="score",
            mode="max",
            grace_period=first_rung,
            max_t=max(longest, first_rung),
            reduction_factor=rule.factor,
            brackets=rule.brackets,
            stop_last_trials=False,
        )
        self._driver = driver
        self._names = names
        self._least_ended = rule.least_ended
        self._reported: set[str] = set()
        self._ended = 0

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        score = result.get("score")
        item = self._driver.running.get(self._names[trial.trial_id])
        if "report" not in result or score is None or score != score or item is None:
            return str(self.CONTINUE)
        # Models on frozen features are over in seconds, and no measure for the others.
        if item.spec.strategy.get("method") in FROZEN_METHODS:
            return str(self.CONTINUE)
        self._reported.add(trial.trial_id)
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.STOP and self._ended >= self._least_ended:
            self._driver.stop(self._names[trial.trial_id])
        return str(self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._ended += trial.trial_id in self._reported


def run(
    driver: Driver,
    trial_fn: str,
    *,
    concurrency: int,
    resources: dict[str, float],
    first_rung: float | None,
    halving: Halving,
    scratch: Path,
    folders: Folders | None = None,
) -> None:
    """Run trials on a Ray that has been started, until the driver has none left.

    Args:
        driver: gives out trials and takes in outcomes.
        trial_fn: importable name of the trial function.
        concurrency: trials at a time.
        resources: what Ray sets aside for each, for instance ``{"cpu": 1, "gpu": 0.5}``.
        first_rung: seconds of training after which halving may stop trials that look weak; None for never.
        halving: its other settings.
        scratch: folder in which Tune's files lie while it runs.
        folders: what is brought to workers that do not see this process's files; None where all see them.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    storage = Path(tempfile.mkdtemp(prefix="tune-", dir=scratch))
    config = {"trial_fn": trial_fn, "memory_limit": _memory_limit(concurrency)}
    if folders is not None:
        config["porter"] = start_porter(folders)
    bundle = _bundle(resources)
    searcher = _Searcher(driver, _Room(concurrency, bundle, driver.machines_go), config)
    left = max(driver.deadline - time.monotonic(), 1.0)
    scheduler = (
        FIFOScheduler()
        if first_rung is None
        else _Halving(driver, searcher.names, max(1, round(first_rung)), math.ceil(left), halving)
    )
    _prepare_workers(scheduler, concurrency)
    try:
        tune.run(
            tune.with_resources(TrialTrainable, tune.PlacementGroupFactory([bundle])),
            name="search",
            num_samples=-1,
            search_alg=searcher,
            scheduler=scheduler,
            stop=_Stopper(driver),
            callbacks=[_Watch(driver, searcher.names)],
            storage_path=str(storage),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            max_failures=0,
            fail_fast=False,
            reuse_actors=True,
            raise_on_failed_trial=False,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            verbose=0,
        )
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _bundle(resources: dict[str, float]) -> dict[str, float]:
    return {
        {"cpu": "CPU", "gpu": "GPU"}.get(name.lower(), name): amount for name, amount in resources.items()
    }


def _memory_limit(concurrency: int) -> int:
    """Half of a worker's fair share of the machine, or of the container that it runs in."""
    import psutil

    return int(min(psutil.virtual_memory().total, _container.memory()) * 0.5 / max(concurrency, 1))


def _prepare_workers(scheduler: Any, concurrency: int) -> None:
    """Let Tune take the worker processes that Ray started ahead, and keep as many as there are trials at a time.

    Tune gives its actors a runtime environment, for which Ray starts a fresh process that imports everything anew; the
    same variables are in the environment of every local worker already. While a round waits for its last trial, Tune
    would end all idle workers but one and pay seconds for new ones. And it reserves a placement group for each worker
    ahead: one that is given up before Ray has committed it keeps its cores for ever, and the rest of the search runs on
    fewer. There is no setting for any of these, so this reaches into Tune, and goes without where a release of Ray has
    it otherwise.
    """
    add = scheduler.on_trial_add
    done: list[bool] = []

    def on_trial_add(tune_controller: Any, trial: Any) -> None:
        add(tune_controller, trial)
        if done:
            return
        done.append(True)
        with suppress(AttributeError, ImportError):
            from ray.air.execution.resources import FixedResourceManager

            manager = tune_controller._actor_manager
            if manager._resource_manager is not None:
                manager._resource_manager = FixedResourceManager()
        with suppress(AttributeError):
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=concurrency)
        with suppress(AttributeError):
            trainable = trial.get_trainable_cls()
            tune_controller._class_cache._cache.setdefault(trainable, ray.remote(trainable))

    scheduler.on_trial_add = on_trial_add
