"""One submit, from a folder of images to a measured ONNX file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from automl.aside import Aside
from automl.device import cores
from automl.errors import InputError
from automl.machine import require_runtime, trial_resources
from automl.run import Run
from automl.task import EXPLORE_SHARE, Constraint, Task, check_measurable

#: Seconds that the start of Ray waits at most for the list of images.
_WAIT_FOR_LIST = 0.5


def submit(
    task: Task,
    *,
    out: str | os.PathLike[str],
    resume: bool = False,
    limits: Sequence[tuple[Constraint, ...]] = (),
    history_url: str | None = None,
    ray_address: str | None = None,
    use_pool: bool = True,
    use_search: bool = True,
    use_supernet: bool = True,
    explore: float = EXPLORE_SHARE,
    workers: int | None = None,
    in_process: bool = False,
    columns: dict[str, str] | None = None,
    quiet: bool = False,
) -> Any:
    """Search, train, export and measure; see the README for what a run folder holds.

    Args:
        task: what is asked for.
        out: run folder; new or empty, or one to go on with.
        resume: go on with the run in ``out``; finished trials are not repeated.
        limits: further sets of limits answered from the same search, each in ``out/limits-NN``.
        history_url: database of past trials, by default one in the user's cache folder.
        ray_address: of an existing Ray cluster.
        use_pool: order the pool by the history; False takes the catalog's own order.
        use_search: let Optuna propose beside the pool.
        use_supernet: train a supernet where limits keep a good backbone out and the budget allows it, and take subnets of the
            one that the package carries where no pretrained weights are found.
        explore: share of the trials after the pool's first ones that Optuna proposes, 0 to 1.
        workers: trials at a time, by default one per core.
        in_process: run trials one after another in this process, without Ray.
        columns: names of a manifest's columns.
        quiet: print nothing.

    Returns:
        :class:`automl.result.Result`, or with ``limits`` a list of them.

    Raises:
        InputError: the input is wrong; nothing was started.
        AutomlError: no model could be trained.
    """
    if not 0.0 <= explore <= 1.0:
        raise InputError(f"explore is {explore}; it is a share, from 0 to 1")
    run = Run(task, Path(out).expanduser().resolve(), resume, tuple(limits), quiet)
    run.how = {
        "use_pool": use_pool, "use_search": use_search, "use_supernet": use_supernet, "explore": explore,
    }  # fmt: skip
    with prepared(run, workers, history_url, ray_address, use_pool, in_process, columns):
        run.search(ray_address=ray_address, in_process=in_process)
        return run.finish()


@contextlib.contextmanager
def prepared(
    run: Run,
    workers: int | None = None,
    history_url: str | None = None,
    ray_address: str | None = None,
    use_pool: bool = True,
    in_process: bool = False,
    columns: dict[str, str] | None = None,
) -> Iterator[None]:
    """Everything that comes before the trials of a run and, at the end, after it; arguments as for :func:`submit`."""
    task = run.task
    require_runtime(task.device)
    for limits in run.limits:
        check_measurable(task.device, limits)
    run.workers = workers or cores()
    if task.max_trials is not None and workers is None:
        run.workers = min(run.workers, 2)
    run.open()
    # Ray forks this process while the data are read, and OpenBLAS stops its threads at a fork: a product that is just
    # being computed would wait for them for ever. With one thread there is nobody to wait for.
    one_thread = threadpool_limits(1, user_api="blas")

    def start() -> None:
        if not in_process:
            from automl.search import prestart

            each = trial_resources(run.workers)
            together = round(run.workers * each["cpu"])
            prestart(together, gpus=None if "gpu" in each else 0, ray_address=ray_address)

    # What is wrong with a source mostly shows at once, and then nothing was started; a long list is read meanwhile.
    soon = threading.Timer(_WAIT_FOR_LIST, start)
    soon.daemon = True
    try:
        with Aside() as aside:
            run.aside = None if in_process else aside
            try:
                if ray_address is not None and not in_process:
                    from automl.search import ensure_started

                    ensure_started(run.workers, ray_address=ray_address)
                run.find_networks()
                soon.start()
                run.open_history(history_url)
                run.read(columns, start)
                run.build_pool(use_pool)
            except BaseException:
                run.undo()
                raise
        yield
    finally:
        soon.cancel()
        if soon.is_alive():
            soon.join()
        run.close()
        one_thread.restore_original_limits()
        if not in_process:
            from automl.search import shutdown

            shutdown()


def rank_task(
    task: Task,
    *,
    history_url: str | None = None,
    columns: dict[str, str] | None = None,
    quiet: bool = False,
) -> Any:
    """The pool in the order it would be tried, as a DataFrame with ``candidate``, ``expected`` and ``why``.

    Trains nothing; where a submit's first trials would tell which backbone suits the task, the order here
    rests on the history and the catalog alone.
    """
    import tempfile

    require_runtime(task.device)
    with tempfile.TemporaryDirectory(prefix="automl-rank-") as scratch:
        run = Run(task, Path(scratch), False, (), quiet)
        (Path(scratch) / "search").mkdir()
        try:
            run.find_networks()
            run.open_history(history_url)
            run.read(columns)
            run.build_pool(True)
            return run.ranked()
        finally:
            run.close()
