"""kill -9 in the middle of an import, a migration or a nightly rerank: nothing is lost, and it can be done again."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strategy_pool._database import HEAD, VERSION_TABLE
from strategy_pool.history import _BATCH as BATCH
from strategy_pool.history import History, default_url
from strategy_pool.versions import Versions
from tests.strategy_pool.test_rerank import history as made

ROOT = Path(__file__).parents[2]

#: So many batches are written, of one more the rows are in an open transaction.
IMPORT = """
import sys, time
from strategy_pool._database import Database
from strategy_pool.history import History
history, batches, run = History(sys.argv[1]), int(sys.argv[3]), Database.run
def counted(self, work, *, write=False, doing="read"):
    global batches
    def paused(connection):
        found = work(connection)
        print("ready", flush=True)
        time.sleep(60)
        return found
    batches -= write
    return run(self, paused if write and batches < 0 else work, write=write, doing=doing)
Database.run = counted
history.import_(sys.argv[2])
"""

#: Every statement of the migration has run, none is committed.
MIGRATE = """
import sys, time
from alembic import command
from strategy_pool.history import History
upgrade = command.upgrade
def slowly(*arguments):
    upgrade(*arguments)
    print("ready", flush=True)
    time.sleep(60)
command.upgrade = slowly
History(sys.argv[1])
"""

RERANK = """
import sys
from strategy_pool.history import History
from strategy_pool.rerank import rerank
from strategy_pool.strategy import load_catalog
from strategy_pool.versions import Versions
versions, catalog = Versions(sys.argv[2]), load_catalog()
print("ready", flush=True)
with versions.lock(), History(sys.argv[1]) as history:
    print(rerank(history.ranking_trials(["logistic"]), history.tasks(), catalog, versions).reason, flush=True)
"""


@contextmanager
def started(code: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has said that it is ready; it is killed at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        yield child
        child.send_signal(signal.SIGKILL)


def filled(url: str, tasks: int, start: int = 0) -> int:
    """Add tasks and their trials to a history; returns the number of trials."""
    trials, told = made(tasks, start=start)
    with History(url) as history:
        for task in told.to_dict("records"):
            history.add_task(task["task_id"], {"name": "made", "features": json.loads(task["features"])})
        for row in trials.to_dict("records"):
            history.add_trial({**row, "overrides": json.loads(row["overrides"])})
    return len(trials)


def whole(path: Path) -> bool:
    """Whether a database is undamaged."""
    with sqlite3.connect(path) as raw:
        return (
            bool(raw.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
            and not raw.execute("PRAGMA foreign_key_check").fetchall()
        )


def test_an_import_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    count = filled(default_url(tmp_path), 60)
    with History(default_url(tmp_path)) as history:
        history.export(tmp_path / "all.parquet")
        expected = history.trials()
    other, found = tmp_path / "other", []
    other.mkdir()
    for batches in (0, 2, 3):
        with started(IMPORT, default_url(other), tmp_path / "all.parquet", batches):
            pass
        assert whole(other / "history.db")
        with History(default_url(other)) as history:
            found.append(history.summary()["trials"])
    assert found == [0, 2 * BATCH, 3 * BATCH], "what was imported stays, half a batch does not"
    with History(default_url(other)) as history:
        added = history.import_(tmp_path / "all.parquet")
        assert added["trials"] == count - found[-1] and added["known"] == found[-1]
        assert history.trials().equals(expected)


def test_a_migration_is_done_or_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE kept (value INTEGER)")
        raw.execute("INSERT INTO kept VALUES (7)")
    with started(MIGRATE, default_url(tmp_path)):
        pass
    assert whole(path)
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("kept",)]
    assert filled(default_url(tmp_path), 2) == 48
    with sqlite3.connect(path) as raw:
        assert raw.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall() == [(HEAD,)]
        assert raw.execute("SELECT value FROM kept").fetchall() == [(7,)]


def test_a_killed_rerank_leaves_the_version_before_it(tmp_path: Path) -> None:
    url, folder = default_url(tmp_path), tmp_path / "ranker"
    filled(url, 5)
    first = subprocess.run(
        [sys.executable, "-c", RERANK, url, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert "version 1 is better than the average of the history" in first.stdout, first.stderr
    count = 120 + filled(url, 2, start=50)
    generator = random.Random(0)
    for _ in range(3):
        with started(RERANK, url, folder):
            time.sleep(generator.uniform(0.0, 0.5))
        versions = Versions(folder)
        assert versions.in_use in versions.numbers() and versions.ranker() is not None
        assert whole(tmp_path / "history.db")
        with History(url) as history:
            assert history.summary()["trials"] == count
    again = subprocess.run(
        [sys.executable, "-c", RERANK, url, str(folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert again.returncode == 0 and f"version {Versions(folder).in_use}" in again.stdout, again.stderr
    assert Versions(folder).ranker() is not None
