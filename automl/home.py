"""Where the engine keeps what outlives a run, and whether a folder can be written."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from automl.errors import InputError


def home_path() -> Path:
    """``$AUTOML_HOME``, else ``automl`` in the user's cache folder; not created."""
    base = os.environ.get("AUTOML_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(base or os.path.join(cache, "automl")))


def home_folder() -> Path:
    """:func:`home_path`, created.

    Raises:
        InputError: it cannot be made or written.
    """
    folder = home_path().resolve()
    require_writable(folder, "AUTOML_HOME")
    return folder


def cache_folder(name: str) -> Path:
    """A folder of that name below the home folder; created."""
    folder = home_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def require_writable(folder: Path, what: str) -> None:
    """Create a folder and write into it once.

    Raises:
        InputError: it cannot be made or written, or libraries could not write there as its name is no UTF-8.
    """
    if re.search("[\ud800-\udfff]", str(folder)):
        raise InputError(f"{what} {folder} is not UTF-8; choose a folder of which the whole path is")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(b"x" * 4096)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{what} {folder} cannot be written ({reason}); choose a folder with space that is yours"
        ) from None
