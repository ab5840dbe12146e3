"""Workers that do not see the driver's disk: what a trial reads is brought to them, what it leaves is sent back.

A porter, one Ray actor beside the driver, reads the data set, weights and earlier trials for those who ask, and writes
into the folders of trials. A worker keeps what was brought in a folder of its own node, once for all its trials.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from automl.errors import AutomlError
from automl.records import TrialSpec
from automl.search._session import STOP_FILE
from automl.search.store import OUTCOME_FILE, SPEC_FILE, read_spec, write_json

#: Bytes that travel at a time.
CHUNK = 16 * 2**20
#: What makes a worker use the porter even where it sees the driver's files.
ALWAYS = "AUTOML_NO_SHARED_DISK"
#: What was brought for a trial, beside what it left.
BROUGHT_FILE = "brought.json"
#: In the folder of a run on a node: locked by each process that uses it.
_HELD_FILE = ".held"
_held: dict[Path, TextIO] = {}
#: Folder of a data set with sizes that whoever needs one derives, and endings of files that come and go.
_DERIVED, _PASSING = "levels", (".part", ".tmp", ".lock")
_LOCAL = "local-dir:"
_DONE = ".complete"


@dataclass(frozen=True)
class Folders:
    """Folders of the driver's that workers need.

    Attributes:
        trials: of a run, into which trials write.
        read: that trials read.
    """

    trials: str
    read: tuple[str, ...]


class Porter:
    """Reads and writes the driver's files for workers.

    Args:
        readable: folders that may be read.
        writable: the folder of trials, into which may be written.
    """

    def __init__(self, readable: Sequence[str], writable: str) -> None:
        self._readable = [Path(folder).resolve() for folder in (*readable, writable)]
        self._writable = Path(writable).resolve()
        self._name = uuid.uuid4().hex

    def name(self) -> str:
        """Of this porter alone: a run that has the same paths later on brings its own files."""
        return self._name

    def listing(self, folder: str) -> list[tuple[str, int]]:
        """Relative path and bytes of every file below a folder that a node cannot make itself.

        Raises:
            PermissionError: it lies outside what may be read.
        """
        root = self._inside(folder, self._readable)
        found = []
        for path in sorted(root.rglob("*")):
            if path.parent.name == _DERIVED or path.suffix in _PASSING:
                continue
            with suppress(FileNotFoundError):
                if path.is_file():
                    found.append((str(path.relative_to(root)), path.stat().st_size))
        return found

    def read(self, file: str, offset: int) -> bytes:
        """:data:`CHUNK` bytes of a file, fewer at its end.

        Raises:
            PermissionError: it lies outside what may be read.
        """
        with open(self._inside(file, self._readable), "rb") as handle:
            handle.seek(offset)
            return handle.read(CHUNK)

    def write(self, file: str, offset: int, content: bytes, last: bool) -> None:
        """Part of a file, in their order; it appears under its name with the last one.

        Raises:
            PermissionError: it lies outside the folder of trials.
        """
        path = self._inside(file, [self._writable])
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with open(part, "r+b" if offset else "wb") as handle:
            handle.seek(offset)
            handle.write(content)
        if last:
            part.replace(path)

    def asked_to_stop(self, folder: str) -> bool:
        """Whether the driver asks a trial to end."""
        return (self._inside(folder, [self._writable]) / STOP_FILE).exists()

    def _inside(self, text: str, roots: Sequence[Path]) -> Path:
        path = Path(text).resolve()
        if not any(path == root or root in path.parents for root in roots):
            raise PermissionError(f"{text} lies outside the folders of this run")
        return path


class Freight:
    """A worker's side of it.

    Args:
        call: calls a method of the porter by name and returns what it returns.
        home: folder of the run on this node, from :func:`hold`.
    """

    def __init__(self, call: Callable[..., Any], home: Path) -> None:
        self._call, self._home = call, home
        #: Folders of trials on this node, and of what was brought → what the driver calls them.
        self._theirs: dict[str, str] = {}
        self._brought: dict[str, str] = {}
        self._bytes = 0

    def take_up(self, folder: str) -> TrialSpec:
        """Bring what a trial needs; its specification, with all its folders on this node.

        Args:
            folder: of the trial, as the driver names it.
        """
        began, self._bytes = time.monotonic(), 0
        own = self._place(folder)
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        self._fetch(f"{folder}/{SPEC_FILE}", own / SPEC_FILE)
        spec = read_spec(own)
        self._theirs[str(own)] = folder
        data = Path(spec.dataset_folder)
        # The folder is a view of the data set; both are read.
        base = self._bring(str(data.parent.parent))
        backbone = dict(spec.backbone)
        if str(backbone.get("source", "")).startswith(_LOCAL):
            weights = backbone["source"].removeprefix(_LOCAL)
            backbone["source"] = _LOCAL + str(self._bring(weights))
        shared = self._place(spec.shared_folder)
        shared.mkdir(parents=True, exist_ok=True)
        found = replace(
            spec,
            folder=str(own),
            dataset_folder=str(base / data.parent.name / data.name),
            backbone=backbone,
            shared_folder=str(shared),
            initial=None if spec.initial is None else str(self._bring(spec.initial)),
        )
        if found.initial is not None:
            self._rename(Path(found.initial), {theirs: here for here, theirs in self._brought.items()})
        write_json(own / SPEC_FILE, found.to_dict())
        write_json(own / BROUGHT_FILE, {"bytes": self._bytes, "seconds": time.monotonic() - began})
        return found

    def obey(self, own: Path) -> None:
        """Let the trial in a folder of this node know that the driver asks it to end."""
        if not (own / STOP_FILE).exists() and self._call("asked_to_stop", self._theirs[str(own)]):
            (own / STOP_FILE).touch()

    def send(self, own: Path) -> None:
        """Send what a trial left, its outcome last, and remove it here."""
        theirs = self._theirs.pop(str(own), None)
        if theirs is None:
            return
        self._rename(own, self._brought)
        files = [
            path for path in own.rglob("*") if path.is_file() and path.name not in (SPEC_FILE, STOP_FILE)
        ]
        for path in sorted(files, key=lambda path: (path.name == OUTCOME_FILE, str(path))):
            target = f"{theirs}/{path.relative_to(own)}"
            size, offset = path.stat().st_size, 0
            with open(path, "rb") as handle:
                while True:
                    content = handle.read(CHUNK)
                    last = offset + len(content) >= size
                    self._call("write", target, offset, content, last)
                    offset += len(content)
                    if last:
                        break
        shutil.rmtree(own, ignore_errors=True)

    @staticmethod
    def _rename(folder: Path, names: dict[str, str]) -> None:
        """Let stored models name their weights as they are called where they are read next."""
        for path in folder.rglob("model.json"):
            text = path.read_text(encoding="utf-8")
            changed = text
            for old, new in names.items():
                changed = changed.replace(json.dumps(_LOCAL + old), json.dumps(_LOCAL + new))
            if changed != text:
                path.write_text(changed, encoding="utf-8")

    def _place(self, folder: str) -> Path:
        """Where a folder of the driver's lies on this node."""
        digest = hashlib.sha256(folder.encode()).hexdigest()[:16]
        return self._home / f"{digest}-{Path(folder).name}"

    def _bring(self, folder: str) -> Path:
        """A copy of a folder on this node, made once for all workers."""
        place = self._place(folder)
        self._brought[str(place)] = folder
        with _locked(place.with_suffix(".lock")):
            if not (place / _DONE).exists():
                for relative, _size in self._call("listing", folder):
                    self._fetch(f"{folder}/{relative}", place / relative)
                place.mkdir(parents=True, exist_ok=True)
                (place / _DONE).touch()
        return place

    def _fetch(self, file: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        offset = 0
        with open(target, "wb") as handle:
            while content := self._call("read", file, offset):
                handle.write(content)
                offset += len(content)
                self._bytes += len(content)
                if len(content) < CHUNK:
                    break


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def hold(root: Path, name: str) -> Path:
    """The folder of a run on this node, for as long as this process lives; those that no process holds any more go.

    Args:
        root: of all runs on this node.
        name: of the run's porter.
    """
    place = root / name
    if place not in _held:
        with _locked(root / ".lock"):
            place.mkdir(exist_ok=True)
            _held[place] = open(place / _HELD_FILE, "w")  # noqa: SIM115 - open until the process ends
            fcntl.flock(_held[place], fcntl.LOCK_SH)
            for other in root.iterdir():
                if other.is_dir() and other != place and not _is_held(other):
                    shutil.rmtree(other, ignore_errors=True)
    return place


def _is_held(folder: Path) -> bool:
    with open(folder / _HELD_FILE, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def start_porter(folders: Folders) -> Any:
    """Start the porter beside this process, in a Ray cluster that it is connected to."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Porter).options(num_cpus=0, max_concurrency=8, scheduling_strategy=here)
    return actor.remote(list(folders.read), folders.trials)


def freight_for(porter: Any, folder: str) -> Freight | None:
    """What a worker brings and sends a trial's files with; None where it sees the driver's files itself.

    Args:
        porter: from :func:`start_porter`.
        folder: of the trial.

    Raises:
        AutomlError: the driver's node cannot be reached.
    """
    if not os.environ.get(ALWAYS) and (Path(folder) / SPEC_FILE).is_file():
        return None
    import ray

    from automl.home import cache_folder

    def call(name: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(porter, name).remote(*arguments))
        except ray.exceptions.RayActorError as error:
            raise AutomlError(f"the node of the driver cannot be reached: {error}") from error

    return Freight(call, hold(cache_folder("freight"), call("name")))
