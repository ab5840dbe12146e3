"""The trials of a run, on disk: the truth that a resumed run starts from.

Every trial has a folder ``RUN/search/trials/tNNNN``. Its ``spec.json`` is written before it starts and
``outcome.json`` last and atomically, by the process that ran it, so a finished trial survives whatever
happens to the driver. A folder without an outcome is an orphan: its trial never finished.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automl.records import Outcome, TrialSpec

SPEC_FILE = "spec.json"
OUTCOME_FILE = "outcome.json"
ORPHAN_FILE = "orphan.json"
LOST_FILE = "lost.json"

_TRIAL_ID = re.compile(r"t([0-9]{4,})")


class TrialStore:
    """Trials of one run folder.

    Args:
        run_folder: the run's folder; ``search/trials`` below it is created.
    """

    def __init__(self, run_folder: str | os.PathLike[str]) -> None:
        self.root = Path(run_folder).resolve() / "search" / "trials"
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def trial_ids(self) -> list[str]:
        """Return the ids that were ever given out, in order."""
        found = [
            entry.name
            for entry in os.scandir(self.root)
            if entry.is_dir() and _TRIAL_ID.fullmatch(entry.name)
        ]
        return sorted(found, key=lambda name: int(name[1:]))

    def new_trial_id(self) -> str:
        """Reserve the next id by creating its folder; ids are never given twice, also not after a resume."""
        with self._lock:
            ids = self.trial_ids()
            number = int(ids[-1][1:]) + 1 if ids else 1
            while True:
                trial_id = f"t{number:04d}"
                try:
                    (self.root / trial_id).mkdir()
                    return trial_id
                except FileExistsError:
                    number += 1

    def folder(self, trial_id: str) -> Path:
        """Return the folder of a trial.

        Raises:
            ValueError: not an id that :meth:`new_trial_id` could have given.
        """
        if not _TRIAL_ID.fullmatch(trial_id):
            raise ValueError(f"trial id is {trial_id!r}; it has the form t0001")
        return self.root / trial_id

    def spec(self, trial_id: str) -> TrialSpec:
        """Return the specification a trial was started with.

        Raises:
            FileNotFoundError: the trial never got one.
            ValueError: the file is damaged.
        """
        return read_spec(self.folder(trial_id))

    def outcome(self, trial_id: str) -> Outcome | None:
        """Return how a trial ended, None while it has not; a damaged file is set aside with a warning."""
        return read_outcome(self.folder(trial_id))

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of all finished trials in the order of their ids."""
        found = (self.outcome(trial_id) for trial_id in self.trial_ids())
        return [outcome for outcome in found if outcome is not None]

    def finished(self) -> list[tuple[TrialSpec, Outcome]]:
        """Return specification and outcome of every finished trial whose files can both be read."""
        pairs = []
        for outcome in self.outcomes():
            try:
                pairs.append((self._here(self.spec(outcome.trial_id)), outcome))
            except (OSError, ValueError) as error:
                warnings.warn(f"trial {outcome.trial_id} is left out: {error}", stacklevel=2)
        return pairs

    def _here(self, spec: TrialSpec) -> TrialSpec:
        """The specification with its folders where they are now: a run folder may have been moved."""
        initial = spec.initial if spec.initial is None else str(self.root / Path(spec.initial).name)
        return dataclasses.replace(spec, folder=str(self.folder(spec.trial_id)), initial=initial)

    def clean_orphans(self) -> list[str]:
        """Empty the folders of trials that never finished; call it before a resumed search starts.

        The empty folder stays, with a marker, so that its id is not given to another trial.

        Returns:
            the ids cleaned now.
        """
        cleaned = []
        for trial_id in self.trial_ids():
            folder = self.folder(trial_id)
            if self.outcome(trial_id) is not None or (folder / ORPHAN_FILE).exists():
                continue
            _empty(folder)
            write_json(folder / ORPHAN_FILE, {"trial_id": trial_id})
            cleaned.append(trial_id)
        return cleaned


def mark_lost(folder: Path) -> None:
    """Empty the folder of a trial that was lost with its worker, before it is run again; a marker says so."""
    _empty(folder)
    write_json(folder / LOST_FILE, {"trial_id": folder.name})


def _empty(folder: Path) -> None:
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object so that readers see the old file or the whole new one; NaN and infinity become null."""
    text = json.dumps(_plain(values), allow_nan=False)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_spec(spec: TrialSpec) -> None:
    """Write ``spec.json`` into the trial's own folder, which is created."""
    folder = Path(spec.folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SPEC_FILE, spec.to_dict())


def read_spec(folder: str | os.PathLike[str]) -> TrialSpec:
    """Read ``spec.json``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    path = Path(folder) / SPEC_FILE
    try:
        return TrialSpec.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def write_outcome(folder: str | os.PathLike[str], outcome: Outcome) -> None:
    """Write ``outcome.json`` atomically; it marks the trial as finished, so write it last."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_json(Path(folder) / OUTCOME_FILE, outcome.to_dict())


def read_outcome(folder: str | os.PathLike[str]) -> Outcome | None:
    """Read ``outcome.json``; None where there is none. A damaged file is renamed aside with a warning."""
    path = Path(folder) / OUTCOME_FILE
    try:
        return Outcome.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (TypeError, KeyError, ValueError) as error:
        aside = path.with_name(f"{OUTCOME_FILE}.damaged")
        os.replace(path, aside)
        warnings.warn(
            f"{path} is damaged ({error}); set aside as {aside.name}, the trial counts as unfinished",
            stacklevel=2,
        )
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays
        return _plain(value.tolist())
    return value
