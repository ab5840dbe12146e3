"""The history: many writers, exchange, migrations, damage and secrets."""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from strategy_pool._database import HEAD, VERSION_TABLE, Database, alembic_config
from strategy_pool._tables import metadata
from strategy_pool.history import History, HistoryError, default_url


def trial(uid: str, task: str = "task", **more: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        index=np.arange(3),
        probabilities=np.full((3, 2), 0.5, np.float16),
        labels=np.array([0, 1, 1], np.int32),
        class_names=np.array(["bad", "good"]),
    )
    return {
        "uid": uid,
        "task_id": task,
        "run": "run",
        "trial_id": "t0001",
        "candidate": "net@64/fp32/full_plain",
        "architecture": "net",
        "resolution": 64,
        "precision": "fp32",
        "strategy": "full_plain",
        "overrides": {"lr": 0.01},
        "device": "cpu:1",
        "constraints": ["latency_ms<=5"],
        "score": 0.75,
        "seconds": 12.5,
        "epochs": 3,
        "curve": [[1, 0.5, 4.0], [3, 0.75, 12.0]],
        "status": "completed",
        "error": None,
        "source": "pool",
        "seed": 7000,
        "metrics": {"fold0": {"steps": 10}},
        "scores": buffer.getvalue(),
        "versions": {"torch": "2.8"},
        **more,
    }


@pytest.fixture
def history(tmp_path: Path) -> Any:
    with History(default_url(tmp_path)) as opened:
        opened.add_task(
            "task", {"name": "parts", "objective": "balanced_accuracy", "features": {"images": 40.0}}
        )
        yield opened


def test_a_trial_comes_back_as_it_was_put_in(history: History) -> None:
    assert history.add_trial(trial("u1"))
    found = history.trial("u1")
    assert {name: found[name] for name in trial("u1") if name != "scores"} == {
        name: value for name, value in trial("u1").items() if name != "scores"
    }
    scores = history.scores("u1")
    assert scores is not None
    assert scores.index.dtype == np.int64 and scores.index.tolist() == [0, 1, 2]
    assert scores.probabilities.dtype == np.float32 and scores.probabilities.shape == (3, 2)
    assert scores.labels.tolist() == [0, 1, 1] and scores.class_names == ("bad", "good")
    frame = history.trials()
    assert frame["score"].tolist() == [0.75] and "scores" not in frame
    assert json.loads(frame["curve"][0])[1] == [3, 0.75, 12.0]
    assert history.task("task")["features"] == {"images": 40.0}


def test_adding_twice_keeps_the_first(history: History) -> None:
    assert history.add_trial(trial("u1")) is True
    assert history.add_trial(trial("u1", score=0.1)) is False
    assert history.trials()["score"].tolist() == [0.75]
    assert history.add_task("task", {"name": "parts 2", "features": {"images": 41.0}}) is False
    task = history.task("task")
    assert (task["name"], task["objective"]) == ("parts 2", "balanced_accuracy")
    assert task["features"] == {"images": 41.0}


def test_numbers_that_are_not_finite_and_numpy_ones(history: History) -> None:
    history.add_trial(
        trial(
            "u1",
            score=float("nan"),
            seconds=np.float64(2.0),
            epochs=np.int64(4),
            seed=2**40,
            curve=[[1, float("inf"), 2.0]],
            metrics={"a": np.float32(0.5), "b": np.arange(2)},
            error="bad\0name \udcff",
            scores=None,
        )
    )
    found = history.trial("u1")
    assert found["score"] is None and found["seed"] == 2**40 and found["epochs"] == 4
    assert found["curve"] == [[1, None, 2.0]] and found["metrics"] == {"a": 0.5, "b": [0, 1]}
    assert found["error"] == "badname ?"
    assert history.scores("u1") is None
    frame = history.trials()
    assert frame["score"].isna().all() and frame["error"].tolist() == ["badname ?"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scor": 1.0}, "did you mean 'score'"),
        ({"strategy": None}, "has no strategy"),
        ({"task_id": "other"}, "task 'other' is not in the history"),
        ({"resolution": 1.5}, "not a whole number"),
        ({"scores": "text"}, "bytes are needed"),
        ({"metrics": {"x": object()}}, "not something that JSON holds"),
        ({"candidate": 3}, "a text is needed"),
        ({"score": "high"}, "score of a row"),
    ],
)
def test_wrong_rows_are_errors_of_one_line(history: History, values: dict[str, Any], message: str) -> None:
    with pytest.raises(HistoryError) as caught:
        history.add_trial(trial("u1", **values))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert history.trials().empty


def test_summary_and_filter_by_task(history: History) -> None:
    empty = history.summary()
    assert (empty["tasks"], empty["trials"], empty["first"]) == (1, 0, None)
    history.add_task("other", {})
    history.add_trial(trial("u1", seconds=3600.0))
    history.add_trial(trial("u2", "other", score=None, status="failed", strategy="lora_8"))
    found = history.summary()
    counts = {
        key: found[key] for key in ("tasks", "trials", "scored", "failed", "strategies", "architectures")
    }
    assert counts == {"tasks": 2, "trials": 2, "scored": 1, "failed": 1, "strategies": 2, "architectures": 1}
    assert found["hours"] == pytest.approx(1.003)
    assert history.trials("other")["uid"].tolist() == ["u2"]
    assert history.tasks()["task_id"].tolist() == ["task", "other"]
    with pytest.raises(HistoryError, match="trial 'nope' is not in"):
        history.trial("nope")


def test_damaged_scores_are_an_error(history: History) -> None:
    history.add_trial(trial("u1", scores=b"not a zip file"))
    history.add_trial(trial("u2", scores=trial("x")["scores"][:100]))
    for uid in ("u1", "u2"):
        with pytest.raises(HistoryError, match="damaged"):
            history.scores(uid)


def test_export_and_import_merge_without_duplicates(history: History, tmp_path: Path) -> None:
    history.add_task("lonely", {"name": "no trials yet"})
    for number in range(5):
        history.add_trial(trial(f"u{number}"))
    file = tmp_path / "out" / "history.parquet"
    assert history.export(file) == 5
    assert [p.name for p in file.parent.iterdir()] == ["history.parquet"]
    with History(tmp_path / "second.db") as second:
        second.add_task("task", {"name": "kept"})
        second.add_trial(trial("u0", score=0.25))
        second.add_trial(trial("mine"))
        assert second.import_(file) == {"tasks": 1, "trials": 4, "known": 1}
        assert second.import_(file) == {"tasks": 0, "trials": 0, "known": 5}
        assert second.trial("u3") == history.trial("u3")
        assert second.trial("u0")["score"] == 0.25
        assert second.task("task")["name"] == "kept"
        assert second.summary()["trials"] == 6
        second.export(tmp_path / "back.parquet")
    assert history.import_(tmp_path / "back.parquet") == {"tasks": 0, "trials": 1, "known": 5}
    assert len(pd.read_parquet(file)) == 6


def test_an_empty_history_can_be_exchanged(tmp_path: Path) -> None:
    with History(tmp_path / "a.db") as one, History(tmp_path / "b.db") as two:
        assert one.export(tmp_path / "x.parquet") == 0
        assert two.import_(tmp_path / "x.parquet") == {"tasks": 0, "trials": 0, "known": 0}


def test_files_that_are_no_history(history: History, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="cannot be imported"):
        history.import_(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(HistoryError, match="cannot be imported"):
        history.import_(tmp_path / "text.parquet")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(HistoryError, match="no column 'uid'"):
        history.import_(tmp_path / "other.parquet")
    row = {"uid": ["u"], "task_id": ["t"], "candidate": ["c"], "strategy": ["s"], "status": ["completed"]}
    pd.DataFrame({**row, "curve": ["[["]}).to_parquet(tmp_path / "json.parquet")
    with pytest.raises(HistoryError, match="not JSON"):
        history.import_(tmp_path / "json.parquet")
    with pytest.raises(HistoryError, match="cannot be exported"):
        history.export(tmp_path / "text.parquet" / "x.parquet")
    assert history.trials().empty


_WRITER = """
import sys
from strategy_pool.history import History
url, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
history = History(url)
history.add_task("shared", {"name": "shared"})
for number in range(count):
    row = {"task_id": "shared", "candidate": "c", "strategy": "s", "status": "completed", "score": number / count}
    assert history.add_trial({"uid": f"{name}/{number}", **row})
    history.add_trial({"uid": f"same/{number}", **row})
history.close()
"""


def test_ten_processes_open_a_new_history_and_write_at_once(tmp_path: Path) -> None:
    url = default_url(tmp_path)
    writers = [subprocess.Popen([sys.executable, "-c", _WRITER, url, str(n), "12"]) for n in range(10)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 10
    with History(url) as history:
        assert history.summary()["trials"] == 10 * 12 + 12
        assert history.summary()["tasks"] == 1
    with sqlite3.connect(tmp_path / "history.db") as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert raw.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


_KILLED = """
import sys, time
from strategy_pool._database import Database
from strategy_pool._tables import encode, trials
database = Database(sys.argv[1])
def work(connection):
    row = {"uid": "half", "task_id": "task", "candidate": "c", "strategy": "s", "status": "completed", "created": "now"}
    connection.execute(trials.insert().values(encode(trials, row)))
    print("inside", flush=True)
    time.sleep(60)
database.run(work, write=True)
"""


def test_a_writer_that_is_killed_leaves_a_usable_database(history: History, tmp_path: Path) -> None:
    history.add_trial(trial("before"))
    writer = subprocess.Popen([sys.executable, "-c", _KILLED, default_url(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"inside\n"
    assert history.trials()["uid"].tolist() == ["before"]  # readers do not wait for a writer
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait(timeout=10)
    writer.stdout.close()
    assert history.add_trial(trial("after"))
    assert sorted(history.trials()["uid"]) == ["after", "before"]


def test_a_short_lock_is_waited_for(history: History, tmp_path: Path) -> None:
    code = (
        "import sqlite3, sys, time\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); time.sleep(0.5); c.execute('COMMIT')"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "history.db")], stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"locked\n"
    assert history.add_trial(trial("u1"))
    assert other.wait(timeout=10) == 0
    other.stdout.close()


def test_a_forked_child_opens_its_own_connections(history: History) -> None:
    history.add_trial(trial("parent"))
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if history.add_trial(trial("child")) else 3)
        finally:
            os._exit(4)
    assert os.waitpid(child, 0)[1] == 0
    history.add_trial(trial("parent again"))
    assert history.summary()["trials"] == 3


def check_tables(url: str | Path) -> None:
    """The migrations lead to the tables of the code."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    database = Database(url)

    def check(connection: sa.Connection) -> None:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_heads() == [HEAD]
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, metadata) == []

    database.run(check)
    database.close()


def test_the_migrations_lead_to_the_tables_of_the_code(tmp_path: Path) -> None:
    check_tables(tmp_path / "new.db")


def test_down_and_up_again(tmp_path: Path) -> None:
    from alembic import command

    database = Database(tmp_path / "new.db")
    database.run(lambda connection: command.downgrade(alembic_config(connection), "base"), write=True)
    assert database.run(lambda connection: sa.inspect(connection).get_table_names()) == [VERSION_TABLE]
    database.close()
    with History(tmp_path / "new.db") as history:
        assert history.summary()["trials"] == 0


def test_an_older_history_is_brought_up_to_date_with_all_that_it_holds(tmp_path: Path) -> None:
    from alembic import command

    with History(tmp_path / "old.db") as history:
        history.add_task("t", {"name": "cats", "features": {"images": 3}, "sketch": ["0a"]})
        history.add_trial({**trial("one"), "task_id": "t"})
    database = Database(tmp_path / "old.db")
    database.run(lambda connection: command.downgrade(alembic_config(connection), "0001"), write=True)
    database.close()
    with History(tmp_path / "old.db") as history:
        assert history.task("t") == {
            **history.task("t"),
            "name": "cats",
            "features": {"images": 3},
            "sketch": None,
        }
        assert history.trials("t")["uid"].tolist() == ["one"]
        history.add_task("t", {"sketch": ["0b", "0c"]})
        assert history.task("t")["sketch"] == ["0b", "0c"]
        history.export(tmp_path / "out.parquet")
    with History(tmp_path / "new.db") as history:
        history.import_(tmp_path / "out.parquet")
        assert history.task("t")["sketch"] == ["0b", "0c"]


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    History(tmp_path / "h.db").close()
    with sqlite3.connect(tmp_path / "h.db") as raw:
        raw.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(HistoryError, match="newer version"):
        History(tmp_path / "h.db")


def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, but long enough to be looked at " * 20)
    with pytest.raises(HistoryError, match="file is not a database"):
        History(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "foreign.db") as raw:
        raw.execute("CREATE TABLE tasks (x)")
    with pytest.raises(HistoryError, match="already exists"):
        History(tmp_path / "foreign.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="cannot be opened"):
        History(f"sqlite:///{tmp_path}/file/history.db")
    with pytest.raises(HistoryError, match="cannot be opened"):
        History(tmp_path)
    for url in ("", "not a url://", "nodialect://host/x", "sqlite:///file:x.db?uri=true"):
        with pytest.raises(HistoryError) as caught:
            History(url)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2secret@127.0.0.1:1/db",
        "postgresql+nodriver://me:hunter2secret@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=me&password=hunter2secret",
        "nodialect://me:hunter2secret@host/x",
        "://me:hunter2secret@host",
    ],
)
def test_credentials_are_never_shown(url: str) -> None:
    with pytest.raises(HistoryError) as caught:
        History(url)
    error: BaseException | None = caught.value
    assert error is not None and error.__suppress_context__
    assert "hunter2secret" not in str(error)


def test_an_sqlite_path_is_absolute_and_closing_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    history = History("sqlite:///sub/h.db")
    monkeypatch.chdir("/")
    history.add_task("t", {})
    assert (tmp_path / "sub" / "h.db").exists()
    assert repr(history) == f"History('sqlite:///{tmp_path}/sub/h.db')"
    history.close()
    history.close()
    with pytest.raises(HistoryError, match="is closed"):
        history.summary()


def test_a_history_in_memory() -> None:
    with History("sqlite://") as history:
        history.add_task("task", {})
        history.add_trial(trial("u1"))
        assert history.summary()["trials"] == 1


def test_the_ranker_reads_what_the_history_gives(history: History) -> None:
    from strategy_pool.prior import rank

    history.add_trial(trial("u1", overrides={}))
    history.add_trial(trial("u2", overrides={}, strategy="lora_8", candidate="net@64/fp32/lora_8", score=0.5))
    history.add_trial(trial("u3", overrides={}, strategy="full_sgd", score=None, status="failed"))
    pool = pd.DataFrame(
        {
            "candidate": ["net@64/fp32/full_sgd", "net@64/fp32/lora_8", "net@64/fp32/full_plain"],
            "architecture": "net",
            "strategy": ["full_sgd", "lora_8", "full_plain"],
            "order": [1, 2, 3],
        }
    )
    ranked = rank(pool, history.trials(), {"images": 40.0})
    assert ranked["strategy"].tolist()[0] == "full_plain"
    assert ranked["predicted_seconds"].tolist()[0] == 12.5
