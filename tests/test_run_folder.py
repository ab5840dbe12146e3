"""Which folders a run may use, and what a resumed run remembers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from automl import engine, new_run_folder
from automl.errors import InputError
from automl.run_folder import (
    HOW,
    REMEMBERED,
    WRITTEN,
    RunFolder,
    as_asked,
    changed_limits,
    require_free,
    require_same_data,
    told_sets,
)
from automl.task import Constraint, Task

from ._command import automl, refused

SETS = [
    (Constraint.parse("size_mb<=2"),),
    (Constraint.parse("latency_ms<=5"), Constraint.parse("size_mb<=4")),
]


def begun(data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """Write what a run leaves of its task, and return it."""
    task = Task.make(data, constraints=["latency_ms<=5"], objective="accuracy", budget="3m", seed=4)
    values = {**task.to_dict(), "limits": [], "columns": {"label": "kind"}, "fingerprint": "f", **more}
    (folder / "search").mkdir(parents=True)
    (folder / "search" / "task.json").write_text(json.dumps(values))
    return values


def defaults() -> dict[str, Any]:
    names = dict.fromkeys(REMEMBERED)
    return {
        **names,
        "constraints": [],
        "objective": "balanced_accuracy",
        "budget": "10m",
        "seed": 0,
        "limits": [],
    }


def test_what_is_not_typed_again_is_remembered(tmp_path: Path) -> None:
    begun(tmp_path, tmp_path / "run")
    asked = as_asked(tmp_path / "run", {**defaults(), "budget": "5m"}, {"budget", "json"})
    assert asked["budget"] == "5m"
    assert asked["constraints"] == ["latency_ms<=5"]
    assert (asked["objective"], asked["seed"], asked["columns"]) == ("accuracy", 4, {"label": "kind"})
    assert asked["limits"] == []
    assert (
        Task.make(tmp_path, **{k: v for k, v in asked.items() if k not in ("limits", "columns", *HOW)}).seed
        == 4
    )


@pytest.mark.parametrize(
    ("typed", "trials", "seconds"),
    [({}, 7, 180.0), ({"budget": "2h"}, None, "2h"), ({"max_trials": 9}, 9, 180.0), ({"budget": "2h", "max_trials": 9}, 9, "2h")],
)  # fmt: skip
def test_a_budget_takes_the_place_of_a_number_of_trials(
    tmp_path: Path, typed: dict[str, Any], trials: int | None, seconds: float | str
) -> None:
    begun(tmp_path, tmp_path / "run", max_trials=7)
    asked = as_asked(tmp_path / "run", {**defaults(), **typed}, set(typed))
    assert (asked["max_trials"], asked["budget"]) == (trials, seconds)
    begun(tmp_path, tmp_path / "timed", max_trials=None)
    asked = as_asked(tmp_path / "timed", {**defaults(), **typed}, set(typed))
    assert asked["max_trials"] == typed.get("max_trials")


def test_how_was_searched_is_remembered(tmp_path: Path) -> None:
    begun(tmp_path, tmp_path / "run", use_pool=False, use_search=False, use_supernet=False, explore=0.1)
    now = {**defaults(), "use_pool": True, "use_search": True, "use_supernet": True, "explore": 0.4}
    asked = as_asked(tmp_path / "run", now, {"explore"})
    assert [asked[name] for name in HOW] == [False, False, False, 0.4]
    begun(tmp_path, tmp_path / "other", use_pool=True, use_search=True, use_supernet=True, explore=0.1)
    now = {**now, "use_pool": False, "use_search": False}
    assert [as_asked(tmp_path / "other", now, {"use_pool"})[name] for name in HOW] == [
        False,
        False,
        True,
        0.1,
    ]


@pytest.mark.parametrize("device", ["cpu:4096", "cuda:77", "gone.json"])
def test_the_device_of_the_run_matters_only_where_it_is_used(
    tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = begun(tmp_path, tmp_path / "run", device=device)
    folder = RunFolder(tmp_path / "run", tmp_path, True)
    folder.close()
    task = Task.make(tmp_path, constraints=["latency_ms<=5"], objective="accuracy", seed=4)
    assert folder.begun == values and not changed_limits(folder.begun, task, [])
    assert as_asked(tmp_path / "run", {**defaults(), "device": "cpu:1"}, {"device"})["device"] == "cpu:1"
    seen: list[Task] = []

    def submit(task: Task, **_options: Any) -> Any:
        seen.append(task)
        raise InputError("seen")

    monkeypatch.setattr(engine, "submit", submit)
    resume = ("submit", tmp_path, "--resume", tmp_path / "run")
    refused(automl(*resume, "--device", "cpu:1"), "seen")
    assert str(seen[0].device) == "cpu:1"
    refused(automl(*resume), device)
    assert len(seen) == 1


def test_sets_of_limits_are_remembered_and_give_way_to_a_limit(tmp_path: Path) -> None:
    begun(tmp_path, tmp_path / "run", limits=told_sets(SETS), constraints=[])
    assert as_asked(tmp_path / "run", defaults(), set())["limits"] == SETS
    typed = as_asked(tmp_path / "run", {**defaults(), "constraints": ["size_mb<=1"]}, {"constraints"})
    assert (typed["constraints"], typed["limits"]) == (["size_mb<=1"], [])


def test_a_run_of_an_older_version_keeps_what_it_knows(tmp_path: Path) -> None:
    values = begun(tmp_path, tmp_path / "run")
    del values["limits"], values["columns"]
    (tmp_path / "run" / "search" / "task.json").write_text(json.dumps(values))
    asked = as_asked(tmp_path / "run", defaults(), set())
    assert (asked["limits"], asked["columns"], asked["seed"]) == ([], None, 4)


def test_the_command_line_resumes_with_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def submit(task: Task, **options: Any) -> Any:
        seen.update(options, task=task)
        raise InputError("seen")

    begun(tmp_path, tmp_path / "run")
    monkeypatch.setattr(engine, "submit", submit)
    refused(automl("submit", tmp_path, "--resume", tmp_path / "run", "--budget", "7m"), "seen")
    task = seen["task"]
    assert [c.expression for c in task.constraints] == ["latency_ms<=5"]
    assert (task.seed, task.objective.expression, task.budget.seconds) == (4, "accuracy", 420.0)
    assert seen["columns"] == {"label": "kind"}
    assert (seen["out"], seen["resume"]) == (str(tmp_path / "run"), True)
    refused(automl("submit", tmp_path, "--resume", tmp_path / "run", "-c", "size_mb<=1"), "seen")
    assert [c.expression for c in seen["task"].constraints] == ["size_mb<=1"]


def test_changed_limits_are_noticed_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    values = begun(tmp_path, tmp_path / "run", limits=told_sets(SETS))
    same = Task.from_dict(values)
    assert not changed_limits(values, same, SETS)
    assert changed_limits(values, same, SETS[:1])
    other = {**values, "constraints": ["size_mb<=1"]}
    assert changed_limits(values, Task.from_dict(other), SETS)
    for name, value in (("objective", "macro_f1"), ("seed", 5), ("data", "/elsewhere")):
        with pytest.raises(InputError, match=f"begun with {name} {values[name]}; resume it with that"):
            changed_limits(values, Task.from_dict({**values, name: value}), SETS)
    (tmp_path / "link").symlink_to(tmp_path)
    assert not changed_limits(values, Task.from_dict({**values, "data": str(tmp_path / "link")}), SETS)


def test_trials_of_another_split_are_not_resumed(tmp_path: Path) -> None:
    digests = dict.fromkeys(("order", "labels", "groups", "split", "folds"), "a")
    data = SimpleNamespace(fingerprint="f", digests=digests, source=tmp_path / "parts.csv")
    said: list[str] = []

    def resume(**begun: Any) -> None:
        require_same_data(begun, data, tmp_path / "run", said.append)

    resume()
    resume(fingerprint="f", digests=digests)
    assert not said
    for now, told in (
        ({"split": "b", "folds": "b"}, r"the split and folds of the images of .*parts\.csv changed since"),
        ({"order": "b", "split": "b"}, "the order of the images"),
    ):
        with pytest.raises(InputError, match=rf"{told}.*the same --column, or submit with another --out"):
            resume(fingerprint="f", digests={**digests, **now})
    with pytest.raises(InputError, match=r"the images of .* have changed"):
        resume(fingerprint="g", digests=digests)
    resume(fingerprint="f")
    assert "earlier version" in said[0]


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_of_the_user_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    require_free(tmp_path / "run", tmp_path / "data")
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(InputError, match="use another --out"):
        require_free(tmp_path / "run", tmp_path / "data")
    require_free(tmp_path / "new", tmp_path / "data")


def test_a_run_may_not_lie_among_the_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lies among the images"):
        require_free(tmp_path / "runs" / "one", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for folder, data in (("data", "link"), ("link", "data")):
        with pytest.raises(InputError, match="lies among the images"):
            require_free(tmp_path / folder / "one", tmp_path / data)


def test_a_demonstration_replaces_only_a_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automl.demo import run_demo

    kept = tmp_path / "run" / "result.json"
    begun(tmp_path, tmp_path / "run")
    kept.write_text("{}")
    with pytest.raises(InputError, match="holds a run already"):
        run_demo(tmp_path / "run", "30s")
    assert kept.exists()
    refused(automl("demo", "--out", tmp_path / "run", "--budget", "soon"), "'soon' is not a time")
    assert kept.exists()

    monkeypatch.setattr("automl.submit", lambda data, **options: (data, options["out"]))
    data, _ = run_demo(tmp_path / "new", "30s")
    begun(data, tmp_path / "demo")
    (tmp_path / "demo" / "old.txt").write_text("old")
    run_demo(tmp_path / "demo", "30s")
    assert not (tmp_path / "demo").exists()


# --- one process at a time --------------------------------------------------------------------------


def test_a_folder_belongs_to_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("automl.run_folder._PATIENCE", 0.3)
    first = RunFolder(tmp_path / "run", tmp_path / "data", False)
    with pytest.raises(InputError, match="another process writes to"):
        RunFolder(tmp_path / "run", tmp_path / "data", False)
    first.close()
    second = RunFolder(tmp_path / "run", tmp_path / "data", False)
    assert second.run_id != first.run_id
    second.close()


@contextmanager
def another_waits(tmp_path: Path) -> Iterator[Future[RunFolder]]:
    """One that wants the folder that somebody else has."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(RunFolder, tmp_path / "run", tmp_path / "data", False)
        time.sleep(0.3)
        yield waiting


def test_what_waits_for_a_refused_run_gets_the_folder_whole(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", tmp_path / "data", False)
    with another_waits(tmp_path) as waiting:
        first.undo()
        first.close()
        second = waiting.result(10)
    assert (tmp_path / "run" / "search").is_dir()
    second.undo()
    second.close()


def test_of_two_that_began_at_the_same_time_the_later_is_refused(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", tmp_path / "data", False)
    with another_waits(tmp_path) as waiting:
        (tmp_path / "run" / "search" / "task.json").write_text("{}")
        first.close()
        with pytest.raises(InputError, match="holds a run already"):
            waiting.result(10)


def test_a_resumed_run_is_the_same_one_wherever_it_lies(tmp_path: Path) -> None:
    values = begun(tmp_path, tmp_path / "run")
    old = RunFolder(tmp_path / "run", tmp_path, True)
    old.close()
    assert old.run_id == str(tmp_path / "run")  # of a version that knew runs by their folders
    (tmp_path / "run" / "search" / "task.json").write_text(json.dumps({**values, "run_id": "abc"}))
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved", tmp_path, True)
    moved.close()
    assert moved.run_id == "abc"


def test_names_of_new_run_folders_differ(tmp_path: Path) -> None:
    assert len({new_run_folder(tmp_path) for _ in range(5)}) == 5


def test_a_new_run_folder_is_utf_8_whatever_the_data_are_called(tmp_path: Path) -> None:
    name = Path(new_run_folder(os.fsdecode(os.fsencode(tmp_path) + b"/T\xfcren M\xc3\xbcller"))).name
    assert name.startswith("T_ren Müller-")
    name.encode("utf-8")
