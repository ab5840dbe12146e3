"""A run folder for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.run_folders import Pictures, make_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pictures]:
    """A run folder that no test changes, and the pictures it was made on."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, make_run(folder)


@pytest.fixture
def run_folder(finished: tuple[Path, Pictures], tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    import shutil

    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture(scope="session")
def pictures(finished: tuple[Path, Pictures]) -> Pictures:
    """The pictures behind :func:`run_folder`."""
    return finished[1]
