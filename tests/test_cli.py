"""The command line: help, exit codes, one line for a wrong command, and JSON on the last line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from automl import cli, engine
from automl.errors import AutomlError, InputError
from strategy_pool.history import History

from ._command import automl, refused

COMMANDS = [
    "submit", "check", "rank", "predict", "replay", "demo", "extract",
    "pool list", "pool show", "pool diff", "pool rollback", "history summary", "history export", "history import",
    "rerank evaluate", "latency evaluate", "latency measure",
]  # fmt: skip


@pytest.fixture
def history(tmp_path: Path) -> str:
    """URL of a history with one task and two trials."""
    url = f"sqlite:///{tmp_path}/past.db"
    with History(url) as store:
        store.add_task("t", {"name": "parts", "objective": "accuracy", "features": {"images": 9.0}})
        for uid in ("1", "2"):
            store.add_trial(
                {"uid": uid, "task_id": "t", "candidate": "c", "strategy": "s", "status": "ok", "score": 0.5}
            )
    return url


class Fails:
    """Stands for the engine: remembers what it was given, and fails or returns as it was told."""

    def __init__(self, end: Any) -> None:
        self.end = end
        self.given: dict[str, Any] = {}

    def __call__(self, task: Any, **given: Any) -> Any:
        self.given = {"task": task, **given}
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


def result(status: str) -> Any:
    return SimpleNamespace(
        status=status,
        constraints=[{"expression": "size_mb<=4"}],
        summary=lambda: f"status: {status}",
        to_dict=lambda: {"status": status},
    )


# --- help -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_is_a_command(command: str) -> None:
    done = automl(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Example: automl {command}" in " ".join(done.out.split())


def test_every_command_is_tested_here() -> None:
    named = [c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback]  # type: ignore[attr-defined]
    named += [f"pool {c.name}" for c in cli.pool_app.registered_commands]
    named += [f"history {c.name}" for c in cli.history_app.registered_commands]
    named += [f"rerank {c.callback.__name__}" for c in cli.rerank_app.registered_commands if c.callback]  # type: ignore[attr-defined]
    named += [f"latency {c.callback.__name__}" for c in cli.latency_app.registered_commands if c.callback]  # type: ignore[attr-defined]
    assert set(COMMANDS) == set(named)


@pytest.mark.parametrize("arguments", [[], ["pool"], ["history"]])
def test_no_command_is_answered_with_the_help(arguments: list[str]) -> None:
    done = automl(*arguments)
    shown = done.out + done.err
    assert "Commands:" in shown.splitlines()
    assert "error:" not in shown
    assert done.code in (0, 2)


# --- wrong commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sumbit", "x"], ["'sumbit'", "submit", "automl --help"]),
        (["history", "sumary"], ["'sumary'", "summary", "automl history --help"]),
        (["pool", "lst"], ["'lst'", "list"]),
        (["zzzzzz"], ["'zzzzzz'", "automl --help"]),
        (["submit"], ["argument", "data", "automl submit --help"]),
        (["submit", "x", "--budgt", "3m"], ["--budgt", "--budget"]),
        (["submit", ".", "--workers", "0"], ["--workers", "1"]),
        (["submit", ".", "--workers", "two"], ["--workers", "integer"]),
        (["submit", ".", "--seed", "1.5"], ["--seed", "integer"]),
        (["submit", ".", "--seed", "-1"], ["seed is -1"]),
        (["submit", ".", "--max-trials", "0"], ["--max-trials is 0"]),
        (["rank", ".", "--top", "0"], ["--top", "1"]),
        (["check", ".", "more"], ["more", "automl check --help"]),
        (["check", ".", "--column", "label"], ["'label'", "ROLE=NAME"]),
        (["check", ".", "--column", "lable=kind"], ["'lable'", "did you mean 'label'?"]),
        (["submit", ".", "--limits", "l", "-c", "size_mb<=4"], ["--limits and --constraint"]),
        (["submit", ".", "--resume", "a", "--out", "b"], ["--resume", "--out"]),
        (["predict", "none", "x.png"], ["none"]),
        (["replay", "none", "t0001"], ["none", "is not a run folder"]),
        (["demo", "--budget", "soon"], ["'soon' is not a time"]),
    ],
)
def test_a_wrong_command_is_one_line(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = automl(*arguments)
    refused(done, *words)
    assert done.out == ""
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "none"],
        ["submit", ".", "-c", "latency<=5"],
        ["submit", ".", "--column", "lable=kind"],
        ["check", "none"],
        ["submit", ".", "--no-such-option"],
        ["no-such-command"],
    ],
)
def test_a_wrong_command_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom automl import cli\ntry:\n    cli.main()\nfinally:\n    print([m for m in "
        "('torch', 'timm', 'ray', 'optuna', 'pandas', 'numpy', 'sqlalchemy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "[]"
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


def test_python_m_automl_is_the_same_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "automl", "check", str(tmp_path / "none")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


# --- exit codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (InputError("the data is odd"), 2, ["the data is odd"]),
        (AutomlError("no model\ncould be trained"), 1, ["no model could be trained"]),
        (KeyboardInterrupt(), 130, ["interrupted;", "--resume {run} goes on"]),
        (OSError(errno.ENOSPC, "No space left on device"), 1, ["No space left on device;", "--resume {run}"]),
        (OSError(errno.EDQUOT, "Quota", "/x"), 1, ["Quota: /x;"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, ["Permission denied: /x"]),
        (MemoryError(), 1, ["memory"]),
    ],
)
def test_errors_of_the_engine(
    end: BaseException, code: int, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / "search").mkdir(parents=True)
    (run / "search" / "task.json").write_text("{}")
    monkeypatch.setattr(engine, "submit", Fails(end))
    refused(automl("submit", tmp_path, "--out", run), *(w.format(run=run) for w in words), code=code)


def test_where_nothing_is_kept_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "submit", Fails(KeyboardInterrupt()))
    done = automl("submit", tmp_path, "--out", tmp_path / "run")
    assert (done.code, done.err) == (130, "error: interrupted\n")


def test_errors_of_the_lower_floors_are_wrong_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search_spaces.backbones import BackboneError
    from strategy_pool.history import HistoryError
    from strategy_pool.strategy import StrategyError

    for kind in (BackboneError, HistoryError, StrategyError):
        monkeypatch.setattr(engine, "submit", Fails(kind("it cannot be had")))
        refused(automl("submit", tmp_path, "--out", tmp_path / "run"), "it cannot be had")


def test_a_bug_shows_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "submit", Fails(ZeroDivisionError("by zero")))
    done = automl("submit", tmp_path, "--out", tmp_path / "run")
    assert done.code == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1] == "error: this is a bug: ZeroDivisionError: by zero"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (result("ok"), 0),
        (result("infeasible"), 3),
        ([result("ok"), result("ok")], 0),
        ([result("ok"), result("infeasible")], 3),
    ],
)
def test_the_exit_code_of_a_submit_is_its_status(
    end: Any, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "submit", Fails(end))
    (tmp_path / "limits.txt").write_text("size_mb<=4\nsize_mb<=2\n")
    limits = ["--limits", tmp_path / "limits.txt"] if isinstance(end, list) else []
    done = automl("submit", tmp_path, "--out", tmp_path / "run", "--json", *limits)
    assert (done.code, done.err) == (code, "")
    expected = [one.to_dict() for one in end] if isinstance(end, list) else end.to_dict()
    assert done.last_json == expected


def test_one_set_of_limits_in_a_file_is_a_list_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "submit", Fails([result("ok")]))
    (tmp_path / "limits.txt").write_text("size_mb<=4\n")
    done = automl("submit", tmp_path, "--limits", tmp_path / "limits.txt", "--json")
    assert done.last_json == [{"status": "ok"}]


def test_the_demonstration_that_misses_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl.demo.run_demo", lambda _out, _budget: result("infeasible"))
    assert automl("demo").code == 3


def test_what_is_typed_reaches_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fails(result("ok"))
    monkeypatch.setattr(engine, "submit", fake)
    automl(
        "submit", tmp_path, "-c", "size_mb<=4", "--constraint", "recall[a]>=90%", "--objective", "precision[a]",
        "--budget", "1m", "--max-trials", 3, "--seed", 7, "--weights-dir", tmp_path, "--backbone", "b",
        "--out", "o", "--workers", 2, "--no-pool", "--no-supernet", "--explore", 0.25, "--column", "label=kind", "--history", "sqlite:///h.db",
    )  # fmt: skip
    assert fake.given["task"].to_dict() == {
        "data": str(tmp_path.resolve()),
        "constraints": ["size_mb<=4", "recall[a]>=0.9"],
        "objective": "precision[a]",
        "budget": 60.0,
        "max_trials": 3,
        "device": "cpu:1",
        "seed": 7,
        "weights_dirs": [str(tmp_path.resolve())],
        "backbones": ["b"],
    }
    del fake.given["task"]
    assert fake.given == {
        "out": "o", "resume": False, "limits": [], "history_url": "sqlite:///h.db", "ray_address": None,
        "use_pool": False, "use_search": False, "use_supernet": False, "explore": 0.25, "workers": 2, "columns": {"label": "kind"},
    }  # fmt: skip


# --- what is printed ------------------------------------------------------------------------------------


def test_check(tiny_folder: Path) -> None:
    done = automl("check", tiny_folder, "--json")
    assert (done.code, done.err) == (0, "")
    assert "45 images, 3 classes" in done.out
    assert done.last_json["class_names"] == ["bar", "disc", "square"]
    assert done.last_json["images"] == 45
    plain = automl("check", tiny_folder)
    assert plain.out == done.out[: done.out.rindex('{"name"')]


def test_pool_list() -> None:
    done = automl("pool", "list", "--json")
    names = [strategy["name"] for strategy in done.last_json["strategies"]]
    assert done.code == 0
    assert len(set(names)) == len(names) > 5
    assert all(any(name in line for line in done.out.splitlines()) for name in names)


def test_history_summary_export_and_import(history: str, tmp_path: Path) -> None:
    summary = automl("history", "summary", "--history", history, "--json")
    assert "trials: 2" in summary.out.splitlines()
    assert (summary.last_json["tasks"], summary.last_json["trials"]) == (1, 2)
    file = tmp_path / "out" / "h.parquet"
    export = automl("history", "export", file, "--history", history, "--json")
    assert export.last_json == {"path": str(file), "trials": 2}
    other = f"sqlite:///{tmp_path}/other.db"
    first = automl("history", "import", file, "--history", other, "--json")
    assert first.last_json == {"tasks": 1, "trials": 2, "known": 0}
    again = automl("history", "import", file, "--history", other)
    assert again.out == "new tasks: 0, new trials: 0, known trials: 2\n"
    assert [done.code for done in (summary, export, first, again)] == [0] * 4


def test_the_history_is_named_by_the_environment(history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_HISTORY", history)
    assert automl("history", "summary", "--json").last_json["trials"] == 2


@pytest.mark.slow
def test_rank(tiny_folder: Path, history: str) -> None:
    done = automl(
        "rank", tiny_folder, "--backbone", "small_cnn_xs", "--history", history, "--top", 3, "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = done.last_json
    assert len(rows) == 3
    assert all(row["architecture"] == "small_cnn_xs" for row in rows)
    assert [row["expected"] for row in rows] == sorted((row["expected"] for row in rows), reverse=True)
    assert done.out.startswith("  1  ")


def test_file_names_that_are_no_unicode(tiny_folder: Path) -> None:
    path = os.fsencode(tiny_folder / "disc") + b"/\xff\xfe.png"
    try:
        with open(path, "wb") as file:
            file.write(b"no image")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    done = automl("check", tiny_folder, "--json")
    assert (done.code, done.err) == (0, "")
    assert "set aside" in done.out
    assert len(done.last_json["unreadable"]) == 1


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "automl", "submit", str(tmp_path), "--device", "cpux"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: device 'cpux'")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "automl", "pool", "list"],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(write)
    assert b"Traceback" not in done.stderr
    assert b"error:" not in done.stderr


def test_a_plugin_that_is_broken_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise ImportError("no module named x")

    point = SimpleNamespace(name="extra", load=broken)
    monkeypatch.setattr(cli, "entry_points", lambda group: [point])
    done = automl("--help")
    assert done.code == 0
    assert "command 'extra' cannot be loaded: no module named x" in done.err


def test_a_plugin_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = typer.Typer(no_args_is_help=True)

    @extra.command("run")
    def run() -> None:
        raise typer.Exit(3)

    @extra.command("other")
    def other() -> None:
        """Makes it a group."""

    monkeypatch.setattr(
        cli, "entry_points", lambda group: [SimpleNamespace(name="extra", load=lambda: extra)]
    )
    monkeypatch.setattr(cli.app, "registered_groups", list(cli.app.registered_groups))
    assert automl("extra", "run").code == 3
