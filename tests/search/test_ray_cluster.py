from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from automl.errors import InputError
from automl.search import _ray_cluster, shutdown


@pytest.fixture
def dead() -> int:
    """The number of a process that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_files_of_killed_processes_are_swept_up(tmp_path: Path, dead: int) -> None:
    names = [f"amlray-{dead}-abc", f"amlray-{os.getpid()}-abc", "amlray-x-y", "other"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
    _ray_cluster._sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])


def test_a_shutdown_without_a_start_is_harmless() -> None:
    shutdown()
    shutdown()
    assert "amlray" not in str(_ray_cluster.scratch_folder())


def test_a_long_temporary_folder_is_too_long_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/very/long/temporary/folder")
    assert _ray_cluster._short_folder() == Path("/tmp")
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/scr")
    assert _ray_cluster._short_folder() == Path("/scr")


def test_ray_notes_a_command_line_that_is_no_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import utils

    def told() -> str:
        return "automl submit T\udcfcren"

    monkeypatch.setattr(utils, "get_entrypoint_name", told)
    with _ray_cluster._readable_command():
        assert utils.get_entrypoint_name() == "automl submit T\\udcfcren"
    assert utils.get_entrypoint_name is told


def test_an_address_without_a_cluster_is_wrong_input(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(InputError, match="no cluster answers there"):
        _ray_cluster.ensure_started(1, ray_address="127.0.0.1:1")
    shutdown()


def test_a_start_that_fails_is_told_and_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no room for sockets")

    monkeypatch.setattr(_ray_cluster, "_start_local", fails)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Ray did not start: OSError: no room for sockets"):
            _ray_cluster.ensure_started(1)
    shutdown()


def test_ray_of_somebody_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ended: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    _ray_cluster.ensure_started(1)
    shutdown()
    assert not ended


def test_a_cluster_is_left_before_another_one_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    told: list[object] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: told.append(options["address"]))
    monkeypatch.setattr(ray, "shutdown", lambda: told.append("left"))
    monkeypatch.setattr(_ray_cluster, "_start_local", lambda *_: told.append("local"))
    for address in ("a:1", "a:1", "b:2", None, None):
        _ray_cluster.ensure_started(1, ray_address=address)
    shutdown()
    assert told == ["a:1", "left", "b:2", "left", "local", "left"]
