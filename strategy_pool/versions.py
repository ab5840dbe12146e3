"""Published rankers: each in a folder of its own, and one small file that says which of them is in use.

A version appears complete or not at all, and so does the change of what is in use; whoever is killed in between leaves
the version before in use.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from strategy_pool._saved import load, save
from strategy_pool.ranker import Ranker

_NUMBER = re.compile(r"[0-9]{4,}")
_LEARNED = "learned.npy"


class VersionError(ValueError):
    """A version is not there or cannot be read; the message is one line."""


class Busy(RuntimeError):
    """Another process is publishing."""


class Versions:
    """The versions below a folder.

    Args:
        folder: made when something is published.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def numbers(self) -> list[int]:
        """All versions, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(
            int(e.name) for e in os.scandir(self.folder) if e.is_dir() and _NUMBER.fullmatch(e.name)
        )

    @property
    def in_use(self) -> int | None:
        """The version in use; None where there is none."""
        try:
            number = int((self.folder / "in_use").read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise VersionError(f"{self.folder / 'in_use'} cannot be read: {error}") from None
        return number or None

    def about(self, number: int) -> dict[str, Any]:
        """What is known of a version: ``version``, ``created``, ``data``, ``metrics`` and whatever was given.

        Raises:
            VersionError: there is none of that number.
        """
        try:
            told: dict[str, Any] = json.loads((self._of(number) / "about.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = ", ".join(map(str, self.numbers())) or "none yet"
            raise VersionError(f"there is no version {number} of the ranker; there are: {known}") from None
        except (OSError, ValueError) as error:
            raise VersionError(f"version {number} of the ranker cannot be read: {error}") from None
        return told

    def ranker(self) -> Ranker | None:
        """The ranker in use; None where there is none.

        Raises:
            SavedError: it cannot be read.
        """
        number = self.in_use
        return None if number is None else load(self._of(number))

    def data(self, number: int) -> str:
        """Hash of the trials that a version was learned from; empty where it cannot be read."""
        try:
            return str(self.about(number).get("data", ""))
        except VersionError:
            return ""

    def learned(self, number: int) -> np.ndarray:
        """By what the trials that a version was learned from are known again, uint64 [n].

        Raises:
            VersionError: it cannot be read.
        """
        try:
            found: np.ndarray = np.load(self._of(number) / _LEARNED, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise VersionError(f"version {number} of the ranker cannot be read: {error}") from None
        return found

    def publish(self, ranker: Ranker, about: Mapping[str, Any], learned: np.ndarray) -> int:
        """Add a version and use it.

        Args:
            ranker: fitted.
            about: plain values; the number is added.
            learned: by what the trials that it was learned from are known again, uint64 [n].

        Returns:
            Its number.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max(self.numbers(), default=0) + 1
        temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
        try:
            save(ranker, temporary)
            np.save(temporary / _LEARNED, learned)
            told = json.dumps({"version": number, **about}, indent=1)
            (temporary / "about.json").write_text(told, encoding="utf-8")
            for path in temporary.iterdir():
                _sync(path)
            temporary.chmod(0o755)
            os.rename(temporary, self._of(number))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync(self.folder)
        self.use(number)
        return number

    def use(self, number: int) -> None:
        """Use a version; 0 for none.

        Raises:
            VersionError: there is none of that number.
        """
        if number:
            self.about(number)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".in_use-{os.getpid()}"
        temporary.write_text(f"{number}\n", encoding="ascii")
        _sync(temporary)
        os.replace(temporary, self.folder / "in_use")
        _sync(self.folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held by who publishes; it ends with the process, however that ends. What earlier ones left half is removed.

        Raises:
            Busy: another process holds it.
        """
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w", encoding="ascii") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy(f"another process is publishing in {self.folder}") from None
            for entry in list(os.scandir(self.folder)):
                if entry.name.startswith(".new-"):
                    shutil.rmtree(entry.path, ignore_errors=True)
            yield

    def _of(self, number: int) -> Path:
        return self.folder / f"{number:04d}"


def _sync(path: Path) -> None:
    """Make sure that it is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
