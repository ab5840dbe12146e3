"""Starting and stopping the local Ray processes, quietly, fast and without leaving files behind."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from automl.errors import InputError
from automl.machine import KEEP_PAGES
from automl.search._session import one_line

#: Modules that worker processes import as they start, while the driver is still busy with the data.
PRELOAD = ("torch", "timm", "automl.search._ray_trainable")

_STORE_BYTES = 256 * 2**20
_PREFIX = "amlray-"
_ENVIRONMENT = {
    **KEEP_PAGES,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TQDM": "0",
    "RAY_worker_niceness": "0",  # trials race a clock
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**9),
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_WARN_THRESHOLD_S": "30",
}


class _Cluster:
    """The Ray that this process uses.

    Attributes:
        address: of the existing cluster that it asked for, None for a local one.
        ours: whether it connected, so that it has to leave.
        folder: of the processes that it started.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.address: str | None = None
        self.ours = False
        self.folder: Path | None = None
        self.thread: threading.Thread | None = None
        self.started = threading.Event()
        self.leave = threading.Event()
        self.error: BaseException | None = None


_cluster = _Cluster()


def prestart(
    cpus: int, *, gpus: int | None = None, ray_address: str | None = None, preload: Sequence[str] = PRELOAD
) -> None:
    """Start Ray in a background thread and return at once; the next search waits for it.

    Call it as early as a command knows that it will search: Ray and the imports of its workers take
    some seconds, in which the data can be read. Does nothing where Ray runs already or is being started; a cluster at
    another address is left.

    Args:
        cpus: processors that trials may use together (parallel trials × threads).
        gpus: GPUs that trials may use, None to look.
        ray_address: of an existing cluster to connect to instead.
        preload: modules that workers import at their start.
    """
    if _cluster.thread is not None and _cluster.address != ray_address:
        shutdown()
    with _cluster.lock:
        if _cluster.thread is not None:
            return
        _cluster.error = None
        _cluster.address, _cluster.ours = ray_address, False
        _cluster.started.clear()
        _cluster.leave.clear()
        arguments = (cpus, gpus, ray_address, tuple(preload))
        _cluster.thread = threading.Thread(target=_start, args=arguments, name="ray-start", daemon=True)
        _cluster.thread.start()


def ensure_started(cpus: int, *, gpus: int | None = None, ray_address: str | None = None) -> Any:
    """Start Ray, or wait until it has started, and return the ``ray`` module.

    Raises:
        InputError: no cluster answers at the address.
        RuntimeError: Ray could not be started.
    """
    prestart(cpus, gpus=gpus, ray_address=ray_address)
    _cluster.started.wait()
    if _cluster.error is not None:
        error, _cluster.thread = _cluster.error, None
        if ray_address is not None:
            raise InputError(
                f"--ray-address {ray_address}: no cluster answers there ({one_line(error)}); start one with 'ray "
                "start --head', or leave the option away"
            ) from error
        raise RuntimeError(f"Ray did not start: {type(error).__name__}: {error}") from error
    import ray

    return ray


def shutdown() -> None:
    """Leave the cluster that this process joined, or stop the Ray processes that it started and remove their files.

    Harmless where there are none. Ray that somebody else started in this process stays.
    """
    with _cluster.lock:
        thread, _cluster.thread = _cluster.thread, None
        if thread is None:
            return
        _cluster.started.wait()
        if _cluster.ours:
            import ray

            ray.shutdown()
        _cluster.leave.set()
        thread.join()
        if _cluster.folder is not None:
            shutil.rmtree(_cluster.folder, ignore_errors=True)
            _cluster.folder = None


def machines() -> list[dict[str, float]]:
    """What each live machine of the cluster has, by Ray's names."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def scratch_folder() -> Path:
    """Return a folder for temporary files that goes when Ray is shut down, or with the next sweep."""
    return (_cluster.folder or Path(tempfile.gettempdir())) / "scratch"


def _start(cpus: int, gpus: int | None, ray_address: str | None, preload: tuple[str, ...]) -> None:
    try:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if ray_address is not None:
            _show_token()
        import ray

        if not ray.is_initialized():
            _cluster.ours = True
            with _readable_command():
                if ray_address is not None:
                    ray.init(address=ray_address, logging_level=logging.ERROR, log_to_driver=False)
                else:
                    _start_local(ray, cpus, gpus, preload)
        import ray.tune

        for name in ("ray.tune", "ray.air", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    except BaseException as error:
        _cluster.error = error
    _cluster.started.set()
    if _cluster.error is None:
        # The kernel ends Ray's processes when the thread that started them does, so this one stays.
        _cluster.leave.wait()


def _show_token() -> None:
    """Let Ray show its token, where there is one, to a cluster that it joins.

    A cluster that ``ray start`` makes asks for it wherever one exists; a process that joins one finds that out only once
    its own settings are read.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or path.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _start_local(ray: Any, cpus: int, gpus: int | None, preload: tuple[str, ...]) -> None:
    parent = _short_folder()
    _sweep(parent)
    _cluster.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
    with _fewer_processes():
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=str(_cluster.folder),
            _system_config={
                "idle_worker_killing_time_threshold_ms": 600_000,  # they wait, with their imports done, for trials
                **({"preload_python_modules": list(preload)} if preload else {}),
            },
        )


@contextmanager
def _fewer_processes() -> Iterator[None]:
    """Start Ray without the servers that one machine does not need.

    Even without its dashboard Ray starts the dashboard's server and waits for it, before it starts any worker; beside
    it a process for autoscaling and one that passes logs on. No argument of ``ray.init`` leaves them out.
    """
    names = ("start_api_server", "start_monitor", "start_log_monitor")
    node: Any = None
    with suppress(ImportError):  # a release that has it elsewhere starts a little later
        from ray._private.node import Node as node
    kept = {name: getattr(node, name) for name in names if hasattr(node, name)}
    for name in kept:
        setattr(node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(node, name, method)


@contextmanager
def _readable_command() -> Iterator[None]:
    """Start Ray from a command line that is no UTF-8, as a file's name in it may be: Ray notes it, and fails at that."""
    utils: Any = None
    with suppress(ImportError):
        from ray._private import utils
    kept = getattr(utils, "get_entrypoint_name", None)
    if kept is None:  # a release that has it elsewhere
        yield
        return
    utils.get_entrypoint_name = lambda: kept().encode("utf-8", "backslashreplace").decode("utf-8")
    try:
        yield
    finally:
        utils.get_entrypoint_name = kept


def _short_folder() -> Path:
    # Ray's sockets lie some 75 characters below, and a socket's path may have 107.
    folder = Path(tempfile.gettempdir())
    return folder if len(str(folder)) <= 12 else Path("/tmp")


def _sweep(parent: Path) -> None:
    """Remove the files of processes that were killed before they could."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        number = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with suppress(OSError, ValueError):
            if folder.stat().st_uid == os.getuid() and not Path(f"/proc/{int(number)}").exists():
                shutil.rmtree(folder, ignore_errors=True)
