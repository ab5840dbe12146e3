"""The report: one HTML file that tells a person what was found, how good it is, and why."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["build_report"]


def build_report(run_folder: str | os.PathLike[str], dataset: Any = None) -> Path:
    """Write ``report.html`` into a run folder.

    The file needs nothing else: styles, script and pictures are inside, and it loads nothing.

    Args:
        run_folder: a finished run.
        dataset: :class:`automl.data.Dataset` the run was made on, for the pictures of mistakes; without it they are
            listed without pictures.

    Returns:
        path of the file.

    Raises:
        InputError: the folder has no ``result.json``.
    """
    from automl.report._page import render
    from automl.report._run import load_run

    folder = Path(run_folder)
    text = render(load_run(folder, dataset))
    path = folder / "report.html"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".report-", suffix=".html")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
