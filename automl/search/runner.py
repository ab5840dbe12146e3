"""The front of the search: one call that runs trials until the time, the candidates or the patience end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from automl.machine import fitting
from automl.records import Outcome, TrialSpec
from automl.search._driver import Driver, Listener, MakeSpec, Violations
from automl.search._freight import Folders
from automl.search._halving import Halving
from automl.search.proposer import Proposer

MODES = ("ray", "inprocess")


@dataclass(frozen=True)
class SearchEnd:
    """How a search ended.

    Attributes:
        interrupted: whether Ctrl-C ended it.
        trials: how many trials ended in it.
    """

    interrupted: bool
    trials: int


def run_search(
    proposer: Proposer,
    make_spec: MakeSpec,
    *,
    deadline: float | Callable[[], float],
    concurrency: int = 1,
    on_result: Callable[[TrialSpec, Outcome], None],
    should_stop: Callable[[], bool] = lambda: False,
    mode: str = "ray",
    ray_address: str | None = None,
    resources: Mapping[str, float] | None = None,
    trial_fn: str = "automl.trial:iterate_trial",
    first_rung: float | None = None,
    halving: Halving = Halving(),
    violations: Violations | None = None,
    listener: Listener | None = None,
    scratch: str | os.PathLike[str] | None = None,
    folders: Folders | None = None,
) -> SearchEnd:
    """Run trials of proposed candidates until the deadline, until ``should_stop``, or until none are left.

    When the search ends, running trials are asked to stop at their next report; in mode ``ray`` a
    trial that has not within some two seconds is killed. Each trial has its own folder, in which its
    outcome is written by the process that ran it, so finished trials outlive this one.

    A worker that dies, an exception and a lack of memory are failed outcomes of that trial; the search
    goes on. The first SIGINT (in the main thread) ends the search in order, the second aborts it.

    Args:
        proposer: gives out candidates; it is told every outcome.
        make_spec: makes the specification of a trial from the candidate and the seconds that are left.
        deadline: on the clock of ``time.monotonic``; a function, where it may still move.
        concurrency: trials at a time (mode ``ray``).
        on_result: called once per ended trial, in this thread, as soon as it ends.
        should_stop: asked five times a second.
        mode: ``ray``, or ``inprocess`` for one after another in this process.
        ray_address: of an existing Ray cluster; by default a local one is started.
        resources: what each trial occupies, by default one CPU; ``{"cpu": 1, "gpu": 0.5}`` puts two on a GPU.
        trial_fn: importable name of the generator function that runs a trial.
        first_rung: seconds of training after which a weak trial may be stopped by asynchronous successive halving,
            and again after twice as many, and so on (mode ``ray``). None never stops one: where a run must be
            repeatable, as the decisions depend on timing.
        halving: its other settings.
        violations: per constraint how far an outcome is from meeting it (at most 0 where it does); by default
            ``outcome.metrics["violations"]``.
        listener: hears starts, reports and ends, for instance a :class:`automl.search.SearchDisplay`.
        scratch: folder for temporary files of Ray Tune; by default among Ray's own, which are swept up
            even after a kill.
        folders: with ``ray_address``, what is brought to workers that do not see this process's files, and a trial that
            is lost with its machine is run again, once; None where all run on this machine.

    Returns:
        how it ended.

    Raises:
        ValueError: an unknown mode, no concurrency, or a trial function that cannot be imported.
        InputError: no cluster answers at ``ray_address``.
        RuntimeError: Ray could not be started.
        KeyboardInterrupt: at the second SIGINT.
        Exception: whatever a callback raised; running trials are stopped before.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; known: {', '.join(MODES)}")
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it is at least 1")
    ended = 0

    def counted(spec: TrialSpec, outcome: Outcome) -> None:
        nonlocal ended
        ended += 1
        on_result(spec, outcome)

    driver = Driver(
        proposer,
        make_spec,
        deadline=deadline,
        on_result=counted,
        should_stop=should_stop,
        violations=violations,
        listener=listener,
        machines_go=folders is not None and ray_address is not None,
    )
    with driver.catching_interrupts():
        if mode == "inprocess":
            from automl.search import _inprocess
            from automl.search._session import import_trial_function

            _inprocess.run(driver, import_trial_function(trial_fn))
        else:
            _run_with_ray(
                driver,
                trial_fn,
                concurrency,
                ray_address,
                dict(resources or {"cpu": 1}),
                first_rung,
                halving,
                scratch,
                folders if ray_address is not None else None,
            )
    driver.raise_errors()
    return SearchEnd(driver.interrupted, ended)


def _run_with_ray(
    driver: Driver,
    trial_fn: str,
    concurrency: int,
    ray_address: str | None,
    resources: dict[str, float],
    first_rung: float | None,
    halving: Halving,
    scratch: str | os.PathLike[str] | None,
    folders: Folders | None,
) -> None:
    from automl.search import _ray_cluster

    cpus = max(1, round(concurrency * next((v for k, v in resources.items() if k.lower() == "cpu"), 1)))
    gpus = None if any(name.lower() == "gpu" for name in resources) else 0
    _ray_cluster.ensure_started(cpus, gpus=gpus, ray_address=ray_address)
    from automl.search import _ray_runner

    _ray_runner.run(
        driver,
        trial_fn,
        concurrency=concurrency,
        resources=fitting(resources, _ray_cluster.machines(), concurrency),
        first_rung=first_rung,
        halving=halving,
        scratch=Path(scratch).resolve() if scratch is not None else _ray_cluster.scratch_folder(),
        folders=folders,
    )
