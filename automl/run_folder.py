"""The folder of a run: whether it can be used, and what an interrupted run was asked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from automl.errors import InputError
from automl.task import Constraint, Task, check_constraints, read_task

#: What a run writes into its folder.
WRITTEN = (
    "model.onnx", "labels.json", "result.json", "trials.parquet", "report.html", "MODEL_CARD.md", "checkpoints",
    "limits.json", "supernet.safetensors",
)  # fmt: skip

#: Names of how is searched, of those that :func:`automl.engine.submit` takes.
HOW = ("use_pool", "use_search", "use_supernet", "explore")
#: Names of what a run remembers, as :meth:`automl.task.Task.make` and :func:`automl.engine.submit` call them.
REMEMBERED = (
    "constraints", "objective", "budget", "max_trials", "device", "seed", "weights_dirs", "backbones",
    "limits", "columns", *HOW,
)  # fmt: skip


#: Seconds that a process which is just ending may still hold its run folder.
_PATIENCE = 5.0


class RunFolder:
    """A run folder that this process alone writes, until :meth:`close`.

    Args:
        folder: new or empty, or with ``resume`` that of a run that is gone on with; of an earlier run nothing is changed.
        data: that is submitted.
        resume: whether a run is gone on with.

    Attributes:
        begun: the ``task.json`` of a run that is gone on with, else empty.
        run_id: of the run, the same after a resume.

    Raises:
        InputError: the folder cannot be used.
    """

    def __init__(self, folder: Path, data: Path, resume: bool) -> None:
        from automl.home import require_writable

        search = folder / "search"
        self._folder = folder
        self._made: list[Path] = []
        self.begun: dict[str, Any] = {}
        if resume:
            self.begun = read_task(search / "task.json", folder)
        else:
            require_free(folder, data)
            self._made = [path for path in (search, folder) if not path.exists()]
            require_writable(folder, "--out")
        self._lock: TextIO | None = _hold(folder)
        try:
            if not resume:
                require_free(folder, data)  # of two that began at the same time one has it now
        except BaseException:
            self.close()
            raise
        # Runs of earlier versions are known by their folder.
        known = str(folder) if self.begun else uuid.uuid4().hex
        self.run_id = str(self.begun.get("run_id", known))

    def undo(self) -> None:
        """Remove what was made: the submit is refused, and nothing was tried yet."""
        for path in self._made:
            if path == self._folder:
                with contextlib.suppress(OSError):
                    path.rmdir()
            else:
                shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _hold(folder: Path) -> TextIO:
    path = folder / "search" / ".lock"
    until = time.monotonic() + _PATIENCE
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "w")  # noqa: SIM115 - open until the run ends
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):  # whoever had it may have removed the folder
                if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                    return handle
        except BlockingIOError:
            if time.monotonic() > until:
                handle.close()
                raise InputError(
                    f"another process writes to {folder}; wait until it has ended, or use another --out"
                ) from None
        except OSError:
            return handle  # a file system without locks
        handle.close()
        time.sleep(0.1)


def as_asked(folder: Path, now: Mapping[str, Any], typed: Collection[str]) -> dict[str, Any]:
    """The arguments of a run: what was typed now, the rest as it was when the run began.

    Args:
        folder: of the run.
        now: argument → value, of all :data:`REMEMBERED`.
        typed: those of them that the user gave now.

    Raises:
        InputError: there is no run that could be gone on with.
    """
    begun = read_task(folder / "search" / "task.json", folder)
    if {"constraints", "limits"} & set(typed):  # one takes the place of the other
        typed = {*typed, "constraints", "limits"}
    if "budget" in typed:  # it takes the place of a number of trials, which would go before it
        typed = {*typed, "max_trials"}
    if "use_pool" in typed:  # the command line has one option for both
        typed = {*typed, "use_search"}
    asked = {name: now[name] if name in typed or name not in begun else begun[name] for name in REMEMBERED}
    if asked["limits"] is begun.get("limits"):
        asked["limits"] = parse_sets(asked["limits"] or [])
    return asked


def parse_sets(sets: Collection[Collection[str]]) -> list[tuple[Constraint, ...]]:
    """Sets of limits as ``task.json`` holds them."""
    return [check_constraints(tuple(Constraint.parse(text) for text in limits)) for limits in sets]


def told_sets(sets: Collection[Collection[Constraint]]) -> list[list[str]]:
    """Sets of limits for ``task.json``."""
    return [[limit.expression for limit in limits] for limits in sets]


def require_free(folder: Path, data: Path) -> None:
    """Check that a new run overwrites nothing.

    Raises:
        InputError: the folder lies among the images, or holds a run or files that have the same names.
    """
    if data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise InputError(f"--out {folder} lies among the images of {data}; name a folder outside")
    if (folder / "search" / "task.json").exists() or (folder / "result.json").exists():
        raise InputError(f"{folder} holds a run already; use another --out, or --resume {folder}")
    there = [name for name in WRITTEN if (folder / name).exists()]
    if there:
        raise InputError(f"{folder} holds {', '.join(there)}, which would be overwritten; use another --out")


def changed_limits(begun: Mapping[str, Any], task: Task, sets: Sequence[Sequence[Constraint]]) -> bool:
    """Whether a resumed run has other limits than it began with.

    Args:
        begun: its ``task.json``.
        task, sets: what is asked now.

    Raises:
        InputError: it is asked for something that its trials do not fit.
    """
    for name in ("data", "seed", "objective"):
        was, now = begun[name], task.to_dict()[name]
        if was != now and (name != "data" or os.path.realpath(was) != os.path.realpath(now)):
            raise InputError(f"the run was begun with {name} {was}; resume it with that, not with {now}")
    return parse_sets([begun["constraints"], *begun.get("limits", [])]) != [task.constraints, *sets]


def require_same_data(
    begun: Mapping[str, Any], dataset: Any, folder: Path, say: Callable[[str], None]
) -> None:
    """Check that the trials of a resumed run fit the images: they refer to them by number, and to their split.

    Args:
        begun: its ``task.json``; empty for a new run.
        dataset: the :class:`automl.data.Dataset` that was read now.
        folder: of the run, for the message.
        say: tells the user something.

    Raises:
        InputError: they do not.
    """
    if begun.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
        raise InputError(
            f"the images of {dataset.source} have changed since {folder} was begun, so its trials do not fit them; "
            "submit them with another --out"
        )
    before = begun.get("digests")
    if before is None:
        if begun:
            say(
                "  an earlier version began this run and did not write down the split: its trials fit only if the table, "
                "its split and its groups are the same now"
            )
        return
    changed = [name for name, digest in dataset.digests.items() if before.get(name) != digest]
    if "order" in changed:  # all others follow from it
        changed = ["order"]
    if changed:
        raise InputError(
            f"the {' and '.join(changed)} of the images of {dataset.source} changed since {folder} was begun, so its trials "
            "do not fit them; resume it with the same table and the same --column, or submit with another --out"
        )


def brought_folders(run: Any) -> Any:
    """What is brought to workers on other machines: the data set, the weights, and the trials of the run.

    Args:
        run: the :class:`automl.run.Run`, whose data are read.
    """
    from automl.search import Folders

    mark = "local-dir:"
    weights = [b.source.removeprefix(mark) for b in run.backbones if b.source.startswith(mark)]
    return Folders(str(run.store.root), (str(Path(run.dataset.folder).parent.parent), *weights))
