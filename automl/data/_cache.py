"""The decode-once cache: where it lies, who uses what, and what goes when it is full."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from automl.errors import InputError
from automl.home import home_path

#: Rises when the files of a cached data set change their meaning.
LAYOUT = 4
#: Bytes of the disk that the cache never takes.
_SPARE = 256 << 20


def default_cache_dir() -> Path:
    """The home folder: ``$AUTOML_HOME``, else ``automl`` in the user's cache folder."""
    return home_path()


def cache_limit() -> int:
    """Bytes that the data sets of a cache may take: ``$AUTOML_CACHE_GB`` × 1e9, 20 GB by default.

    Raises:
        InputError: the variable is no positive number.
    """
    text = os.environ.get("AUTOML_CACHE_GB", "").strip() or "20"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise InputError(
            f"AUTOML_CACHE_GB is {text!r}; it must be a number of gigabytes above 0, for instance 20"
        )
    return int(value * 1e9)


def datasets_folder(cache_dir: Path) -> Path:
    """The folder of the cached data sets, made where it does not exist.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(os.path.abspath(Path(cache_dir).expanduser())) / "datasets"
    try:
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache {folder} cannot be written ({error.strerror}); set AUTOML_HOME to a folder that can"
        ) from None
    return folder


class InUse:
    """Holds a data set in the cache for as long as the object lives (a shared ``flock``)."""

    def __init__(self, base: Path) -> None:
        self._handle: int | None = None
        with contextlib.suppress(OSError):
            # A cache that only others may write is evicted by nobody here.
            self._handle = os.open(_lock_path(base, "use"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._handle, fcntl.LOCK_SH)
            mark_used(base)

    def close(self) -> None:
        """Let go."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __del__(self) -> None:
        self.close()


@contextlib.contextmanager
def building(base: Path) -> Iterator[None]:
    """Only one process at a time builds a data set; the others wait here."""
    with locked(_lock_path(base, "build")):
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive ``flock``; the kernel lets go of it when the process dies."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def mark_used(base: Path) -> None:
    """Note the time for the least-recently-used order."""
    with contextlib.suppress(OSError):
        os.utime(base)


def need_space(folder: Path, wanted: int, what: str) -> None:
    """Make room for ``wanted`` bytes, evicting what is not in use.

    Raises:
        InputError: the cache's bound or the disk is too small.
    """
    limit = cache_limit()
    if wanted > limit:
        raise InputError(
            f"{what} needs {_gb(wanted)} decoded, the cache is bounded to {_gb(limit)}; "
            f"set AUTOML_CACHE_GB to {wanted / 1e9 * 1.5:.0f} or more"
        )
    evict(folder, keep=limit - wanted)
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE > free:
        evict(folder, keep=0, until_free=wanted + _SPARE)
        free = shutil.disk_usage(folder).free
    if wanted + _SPARE > free:
        raise InputError(
            f"{what} needs {_gb(wanted + _SPARE)} decoded, {folder} has {_gb(free)} free; "
            "free some space or set AUTOML_HOME to another disk"
        )


def make_room(folder: Path, wanted: int) -> bool:
    """Whether ``wanted`` bytes can be written now, after evicting what is not in use and in the way."""
    keep = cache_limit() - wanted
    evict(folder, keep=keep)
    if sum(size for _base, size, _time in _entries(folder)) > keep:
        return False
    return shutil.disk_usage(folder).free >= wanted + _SPARE


def evict(folder: Path, *, keep: int, until_free: int | None = None) -> list[str]:
    """Remove the data sets that were not used for longest until at most ``keep`` bytes are left.

    Data sets in use stay, whatever they take. Left-overs of builds that died are removed too.

    Args:
        folder: as :func:`datasets_folder` gives it.
        keep: bytes that may stay.
        until_free: stop as soon as the disk has so many bytes free.

    Returns:
        The keys that were removed.
    """
    for left in folder.glob("*.tmp"):
        with _try_lock(_lock_path(left.with_suffix(""), "build")) as mine:
            if mine:
                shutil.rmtree(left, ignore_errors=True)
    entries = sorted(_entries(folder), key=lambda entry: entry[2])
    total = sum(size for _base, size, _time in entries)
    removed = []
    for base, size, _time in entries:
        if total <= keep or (until_free is not None and shutil.disk_usage(folder).free >= until_free):
            break
        if discard(base):
            total -= size
            removed.append(base.name)
    return removed


def discard(base: Path) -> bool:
    """Remove a data set that nobody uses; whether it is gone."""
    with _try_lock(_lock_path(base, "use")) as mine:
        if mine:
            doomed = base.with_name(f"{base.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
            with contextlib.suppress(OSError):
                os.rename(base, doomed)
                shutil.rmtree(doomed, ignore_errors=True)
                return True
    return False


@contextlib.contextmanager
def disk_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn a full or read-only disk into an :class:`InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"the disk of {folder} is full while {what} was written; free some space"
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and str(folder) in str(error.filename):
            raise InputError(
                f"{folder} cannot be written ({error.strerror}); set AUTOML_HOME to another one"
            ) from None
        raise


def _lock_path(base: Path, kind: str) -> Path:
    return base.parent / ".locks" / f"{base.name.split('.')[0]}.{kind}"


@contextlib.contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except OSError:
            mine = False
        yield mine
    finally:
        os.close(handle)


def _entries(folder: Path) -> list[tuple[Path, int, float]]:
    """(folder, bytes, time of last use) of each data set."""
    out = []
    for base in folder.iterdir():
        if base.name.startswith(".") or base.name.endswith(".tmp"):
            continue
        with contextlib.suppress(OSError):
            out.append((base, _size(base), base.stat().st_mtime))
    return out


def _size(folder: Path) -> int:
    total = 0
    for parent, _folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
    return total


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size < 10e9 else f"{size / 1e9:.0f} GB"
