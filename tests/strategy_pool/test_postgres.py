"""The history in a real PostgreSQL server, which the tests start by themselves where there is one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from strategy_pool.history import History, HistoryError
from tests.strategy_pool.test_history import _KILLED, _WRITER, check_tables, trial


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, as Debian lays it out, or of those on the path."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").is_file():
            return folder
    found = shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL, without a database, of a server that listens on a socket of its own."""
    pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
    folder = programs()
    if folder is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
    if user is not None and not any(entry.pw_name == user for entry in pwd.getpwall()):
        pytest.skip("needs a user 'postgres', as root cannot run the server")
    # A path short enough for a socket; pytest's own are not open to another user.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as place:
        if user is not None:
            shutil.chown(place, user)
        data = f"{place}/data"

        def run(*words: str) -> None:
            done = subprocess.run(
                [str(folder / words[0]), *words[1:]],
                user=user, cwd=place, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr

        run("initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        options = (
            f"-c listen_addresses= -c unix_socket_directories={place} -c fsync=off -c max_connections=60"
        )
        run("pg_ctl", "-D", data, "-w", "-l", f"{place}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://tester@/{{}}?host={place}"
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a new, empty database."""
    name = request.node.name.replace("test_", "db_", 1)
    admin = sa.create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    yield server.format(name)


def test_tables_and_a_trial_come_back(url: str, tmp_path: Path) -> None:
    with History(url) as history:
        history.add_task("task", {"name": "parts", "features": {"images": 40.0}})
        assert history.add_trial(trial("one", error="a \0 and a \ud800"))
        assert not history.add_trial(trial("one", score=0.1))
        row = history.trial("one")
        assert (
            row["score"] == 0.75 and row["overrides"] == {"lr": 0.01} and row["curve"][1] == [3, 0.75, 12.0]
        )
        with pytest.raises(HistoryError, match="is not in the history"):
            history.add_trial(trial("two", task="unknown"))
        history.export(tmp_path / "out.parquet")
        assert len(history.ranking_trials([])) == 1 and len(history.tasks()) == 1
    with History(tmp_path / "other.db") as other:
        assert other.import_(tmp_path / "out.parquet")["trials"] == 1
        assert other.trial("one")["curve"] == row["curve"]
    check_tables(url)


def test_ten_processes_open_and_write_at_once(url: str) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, url, str(n), "12"]) for n in range(10)]
    assert [writer.wait(timeout=300) for writer in writers] == [0] * 10
    with History(url) as history:
        assert history.summary()["trials"] == 10 * 12 + 12
        assert history.summary()["tasks"] == 1


def test_a_killed_writer_leaves_nothing_half(url: str) -> None:
    with History(url) as history:
        history.add_task("task", {"name": "parts"})
        history.add_trial(trial("before"))
        with subprocess.Popen([sys.executable, "-c", _KILLED, url], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"inside\n"
            assert history.trials()["uid"].tolist() == ["before"]
            writer.send_signal(signal.SIGKILL)
        assert history.add_trial(trial("after"))
        assert sorted(history.trials()["uid"]) == ["after", "before"]


def test_a_server_that_went_away_is_reached_again(url: str, server: str) -> None:
    with History(url) as history:
        history.add_task("task", {"name": "parts"})
        admin = sa.create_engine(server.format("postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                )
            )
        admin.dispose()
        assert history.add_trial(trial("after"))
