"""Bad input beside the data, case by case: the exit code, one clear line, and nothing lost or left half-done."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from automl import home
from automl.data import _build, load_dataset
from automl.device import cores
from automl.errors import InputError
from automl.run import Run
from automl.task import Task

from ._command import Done, automl, contents, refused
from .data._pictures import class_folders


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, which a submit starts in the background before it reads the data; nothing is measured or tried."""

    def started(*_args: object, **_options: object) -> None:
        raise AssertionError("a submit that cannot go on has gone on")

    monkeypatch.setattr("automl.search.prestart", lambda *_args, **_options: None)
    monkeypatch.setattr("automl.search.shutdown", lambda: None)
    monkeypatch.setattr("automl.feasibility.measure", started)
    monkeypatch.setattr(Run, "search", started)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two classes of six pictures."""
    return class_folders(tmp_path / "parts", {"bad": 6, "ok": 6})


def submit(data: object, run: Path, *more: object) -> Done:
    return automl("submit", data, "--out", run, "--budget", "1m", *more)


# --- limits, objective, budget, device ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-c", "latency<=5"], ["unknown metric 'latency'", "did you mean 'latency_ms'?"]),
        (["-c", "recall>=0.9"], ["recall needs a class"]),
        (["-c", "recall[defct]>=0.9"], ["no class 'defct'", "known: bad, ok"]),
        (["-c", "recall[OK]>=0.9"], ["no class 'OK'", "did you mean 'ok'?"]),
        (["--objective", "precision[bd]"], ["no class 'bd'", "did you mean 'bad'?"]),
        (["--objective", "latency_ms"], ["latency_ms is a limit, not a goal"]),
        (["--objective", "acuracy"], ["did you mean 'accuracy'?"]),
        (["-c", "latency_ms<=5mb"], ["unit 'mb' does not fit latency_ms"]),
        (["-c", "accuracy>=101%"], ["share between 0 and 1"]),
        (["-c", "accuracy>=95"], ["95 % is written 0.95"]),
        (["-c", "size_mb<=4", "-c", "size_mb<=2"], ["contradictory", "'size_mb<=4'", "'size_mb<=2'"]),
        (["-c", "latency_ms>=5"], ["latency_ms is a cost", "'latency_ms<=5'"]),
        (["-c", "latency_ms<=-5"], ["must be above 0"]),
        (["--device", "gpu:0"], ["'gpu:0' is not known", "did you mean 'cuda:0'?"]),
        (["--device", f"cpu:{cores() + 1}"], ["this machine has", "cores"]),
        (["--device", "cuda:99"], ["'cuda:99'", "this machine has", "GPU"]),
        (["--budget", "3s"], ["3 seconds", "at least 10"]),
        (["--budget", "20x"], ["unit 'x' is not known"]),
        (["--weights-dir", "no-such-folder"], ["weights folder 'no-such-folder' does not exist"]),
        (["--limits", "no-such-file"], ["limits file 'no-such-file' cannot be read"]),
    ],
)
def test_wrong_arguments(arguments: list[str], words: list[str], parts: Path, tmp_path: Path) -> None:
    before = contents(parts)
    refused(submit(parts, tmp_path / "run", *arguments), *words)
    assert contents(parts) == before
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["holds no set of limits"]),
        ("# nothing yet\n", ["holds no set of limits"]),
        ("fast and small\n", ["set 1", "has not the form"]),
        ("size_mb<=4\nrecall[defct]>=0.9\n", ["no class 'defct'"]),
        ("size_mb<=4, size_mb<=2\n", ["set 1", "contradictory"]),
    ],
)
def test_wrong_limits_files(content: str, words: list[str], parts: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.txt").write_text(content)
    refused(submit(parts, tmp_path / "run", "--limits", tmp_path / "limits.txt"), *words)


def test_limits_file_beside_a_constraint(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "limits.txt").write_text("size_mb<=4\n")
    before = contents(tmp_path)
    done = submit(parts, tmp_path / "run", "--limits", tmp_path / "limits.txt", "-c", "size_mb<=2")
    refused(done, "--limits and --constraint exclude each other", "every line")
    assert contents(tmp_path) == before


# --- run folders ------------------------------------------------------------------------------------------------


def test_out_that_cannot_be_written(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(submit(parts, tmp_path / "file"), "--out", "cannot be written", "choose a folder")
    refused(submit(parts, tmp_path / "file" / "run"), "--out", "cannot be written")
    if Path("/proc/self").exists():
        refused(submit(parts, Path("/proc/run")), "--out /proc/run cannot be written")
    assert (tmp_path / "file").read_text() == "mine"


def begun(parts: Path, run: Path) -> None:
    """A run folder as a submit leaves it that was killed while it searched."""
    state = Run(Task.make(parts, budget="1m"), run, False, (), True)
    state.open()
    state.read(None)


def test_out_that_is_no_utf_8(parts: Path, tmp_path: Path) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/T\xfcren"))
    refused(submit(parts, out), "--out", "ren is not UTF-8; choose a folder")
    assert not out.exists()


def test_out_that_holds_a_run_already(parts: Path, tmp_path: Path) -> None:
    begun(parts, tmp_path / "run")
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "result.json").write_text("{}")
    for name in ("run", "done"):
        before = contents(tmp_path / name)
        refused(submit(parts, tmp_path / name), f"{name} holds a run already", "another --out", "--resume")
        assert contents(tmp_path / name) == before


def test_what_lay_in_the_folder_before_stays_there(tmp_path: Path) -> None:
    class_folders(tmp_path / "parts", {"ok": 6})
    (tmp_path / "run" / "search").mkdir(parents=True)
    (tmp_path / "run" / "search" / "mine.txt").write_text("mine")
    refused(submit(tmp_path / "parts", tmp_path / "run"), "one class only")
    assert (tmp_path / "run" / "search" / "mine.txt").read_text() == "mine"


def test_resume_of_a_folder_that_is_no_run(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("other", "none"):
        before = contents(tmp_path)
        refused(automl("submit", parts, "--resume", tmp_path / name), name, "is no run that could be resumed")
        assert contents(tmp_path) == before


def test_resume_with_other_data_or_another_seed(parts: Path, tmp_path: Path) -> None:
    begun(parts, tmp_path / "run")
    other = class_folders(tmp_path / "other", {"bad": 6, "ok": 6}, seed=40)
    before = contents(tmp_path / "run")
    refused(automl("submit", other, "--resume", tmp_path / "run"), str(parts), "resume it with that")
    refused(
        automl("submit", parts, "--resume", tmp_path / "run", "--seed", 5), "seed 0", "resume it with that"
    )
    assert contents(tmp_path / "run") == before


def test_resume_after_the_images_have_changed(parts: Path, tmp_path: Path) -> None:
    begun(parts, tmp_path / "run")
    class_folders(parts, {"rare": 4}, seed=60)
    before = contents(tmp_path / "run")
    refused(automl("submit", parts, "--resume", tmp_path / "run"), str(parts), "changed")
    assert contents(tmp_path / "run") == before


def test_resume_with_a_wrong_class_keeps_the_old_task(parts: Path, tmp_path: Path) -> None:
    begun(parts, tmp_path / "run")
    before = contents(tmp_path / "run")
    refused(automl("submit", parts, "--resume", tmp_path / "run", "-c", "recall[x]>=0.9"), "no class 'x'")
    assert contents(tmp_path / "run") == before


def test_resume_of_a_damaged_run(parts: Path, tmp_path: Path) -> None:
    begun(parts, tmp_path / "run")
    (tmp_path / "run" / "search" / "task.json").write_text('{"data": ')
    refused(automl("submit", parts, "--resume", tmp_path / "run"), "task.json", "damaged")


@pytest.mark.parametrize("inside", ["", "run"])
def test_out_in_the_midst_of_the_images(inside: str, parts: Path) -> None:
    before = contents(parts)
    refused(submit(parts, parts / inside), "--out")
    assert contents(parts) == before


# --- pretrained weights -----------------------------------------------------------------------------------------


def model_folder(folder: Path, config: object, weights: bytes | None) -> Path:
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def tensors() -> bytes:
    from safetensors.numpy import save as to_bytes

    return to_bytes({"w": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("config", "weights", "words"),
    [
        ({"architecture": "resnet18"}, None, ["no model.safetensors", "can run code"]),
        (None, tensors(), ["no config.json"]),
        ({"architecture": "resnet18"}, b"no safetensors at all", ["model.safetensors cannot be read"]),
        ({"architecture": "resnet18"}, pickle.dumps({"w": 1}), ["model.safetensors cannot be read"]),
        ({"architecture": "resnet18"}, b"", ["model.safetensors cannot be read"]),
        ({"architecture": "resnet81"}, tensors(), ["no architecture 'resnet81'", "did you mean", "'resnet18'"]),
        ({"architecture": "zzz"}, tensors(), ["no architecture 'zzz'", "install a newer timm"]),
        ("{", tensors(), ["config.json cannot be used"]),
        ([1], tensors(), ["config.json cannot be used"]),
        ({}, tensors(), ["config.json cannot be used", "architecture"]),
        ({"architecture": "resnet18", "mean": ["a", "b", "c"]}, tensors(), ["config.json cannot be used"]),
        ({"architecture": "resnet18", "mean": None}, tensors(), ["config.json cannot be used"]),
        ({"architecture": "resnet18", "std": [1, 1]}, tensors(), ["config.json cannot be used", "three"]),
        ({"architecture": "resnet18", "std": [1, 0, 1]}, tensors(), ["config.json cannot be used", "above 0"]),
        ({"architecture": "resnet18", "pretrained_cfg": 5}, tensors(), ["config.json cannot be used"]),
    ],
)  # fmt: skip
def test_a_broken_model_is_left_out_and_named(
    config: object, weights: bytes | None, words: list[str], tmp_path: Path
) -> None:
    from search_spaces.backbones import find_backbones

    folder = model_folder(tmp_path / "weights" / "net", config, weights)
    before = contents(tmp_path)
    for skipped in (
        find_backbones([tmp_path / "weights"])[1],
        find_backbones([], [f"local-dir:{folder}"])[1],
    ):
        assert len(skipped) == 1
        assert "\n" not in skipped[0]
        assert "is left out" in skipped[0]
        assert all(word in skipped[0] for word in words), skipped[0]
    found, _ = find_backbones([tmp_path / "weights"])
    assert not any(backbone.name == "net" for backbone in found)
    assert contents(tmp_path) == before


def test_weights_folder_without_any_model(tmp_path: Path) -> None:
    from search_spaces.backbones import find_backbones

    (tmp_path / "README").write_text("")
    found, skipped = find_backbones([tmp_path])
    assert found
    assert len(skipped) == 1
    assert f"{tmp_path} holds no model" in skipped[0]


def test_backbones_that_cannot_be_had(parts: Path, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "net", {"architecture": "resnet18"}, None)
    done = submit(parts, tmp_path / "run", "--backbone", f"local-dir:{folder}", "--backbone", "small_cnn_sx")
    refused(
        done, "none of the backbones", "no model.safetensors", "did you mean 'small_cnn_s'", "small_cnn_xs"
    )


# --- the machine ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "home"])
def test_home_that_cannot_be_written(
    below: str, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "file" / below))
    refused(submit(parts, tmp_path / "run"), "cannot be written", "AUTOML_HOME")
    refused(automl("check", parts), "cannot be written", "AUTOML_HOME")
    refused(automl("history", "summary"), "cannot be written", "AUTOML_HOME")
    assert (tmp_path / "file").read_text() == "mine"


def test_where_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AUTOML_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert home.home_folder() == tmp_path.resolve() / ".cache" / "automl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home.home_folder() == tmp_path.resolve() / "cache" / "automl"
    assert load_dataset(class_folders(tmp_path / "s", {"a": 6, "b": 6})).folder.is_relative_to(
        tmp_path / "cache"
    )
    monkeypatch.setenv("AUTOML_HOME", "~/mine")
    assert home.cache_folder("x") == tmp_path.resolve() / "mine" / "x"
    monkeypatch.setenv("AUTOML_HOME", "~no-such-user-here/x")
    monkeypatch.chdir(tmp_path)
    assert home.home_folder().is_dir()  # a folder of that name, as the shell takes it


@pytest.mark.parametrize("value", ["lots", "0", "-1", "nan", "inf"])
def test_cache_bound_that_is_no_number(value: str, parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_CACHE_GB", value)
    refused(automl("check", parts), f"AUTOML_CACHE_GB is '{value}'", "above 0")


def fill(place: Path) -> None:
    with open(place / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_a_small_disk_is_seen_before_anything_is_decoded(
    small_disk: Path, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(small_disk / "home"))
    refused(automl("check", parts), "free some space", "AUTOML_HOME")
    assert not list((small_disk / "home" / "datasets").glob("[!.]*"))


def test_a_disk_that_runs_full_while_images_are_decoded(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = class_folders(tmp_path / "large", {"bad": 6, "ok": 6}, side=256)
    monkeypatch.setenv("AUTOML_HOME", str(small_disk / "home"))
    monkeypatch.setattr(_build, "need_space", lambda *_args: None)
    refused(automl("check", data), "is full", "free some space")
    assert not list((small_disk / "home" / "datasets").glob("[!.]*"))


def test_a_full_disk_below_out(small_disk: Path, parts: Path) -> None:
    fill(small_disk)
    refused(submit(parts, small_disk / "run"), "--out", "No space left on device")
    assert not (small_disk / "run" / "search").exists()


def test_a_history_on_a_full_disk_is_not_exported_half(small_disk: Path) -> None:
    (small_disk / "h.parquet").write_text("old")
    fill(small_disk)
    done = automl("history", "export", small_disk / "h.parquet")
    refused(done, "h.parquet", "No space left on device")
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "h.parquet"]
    assert (small_disk / "h.parquet").read_text() == "old"


# --- the history ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo://host/name", ["foo://host/name", "cannot be opened"]),
        ("postgresql://me:secret@127.0.0.1:1/db", ["cannot be opened"]),
        ("://", ["not a database URL", "sqlite:////path/history.db"]),
        (" ", ["empty"]),
        ("sqlite:///FILE/h.db", ["cannot be opened"]),
        ("sqlite:///FILE", ["file is not a database", "move this one away"]),
        ("FILE", ["file is not a database"]),
    ],
)
def test_a_history_that_cannot_be_opened(url: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("this is no database, but long enough to be looked at. " * 40)
    before = contents(tmp_path)
    done = automl("history", "summary", "--history", url.replace("FILE", str(tmp_path / "file")))
    refused(done, "history", *words)
    assert "secret" not in done.err
    assert contents(tmp_path) == before


def test_a_submit_looks_at_the_history_before_it_measures(parts: Path, tmp_path: Path) -> None:
    done = submit(parts, tmp_path / "run", "--history", "foo://host/name")
    refused(done, "foo://host/name", "cannot be opened")


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no more", b"text"])
def test_files_that_are_no_exported_history(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "h.parquet").write_bytes(content)
    done = automl("history", "import", tmp_path / "h.parquet", "--history", tmp_path / "h.db")
    refused(done, "h.parquet", "cannot be imported")
    assert automl("history", "summary", "--history", tmp_path / "h.db", "--json").last_json["trials"] == 0


def test_a_table_that_is_no_exported_history(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "h.parquet")
    done = automl("history", "import", tmp_path / "h.parquet", "--history", tmp_path / "h.db")
    refused(done, "h.parquet", "not an exported history")
    refused(automl("history", "export", tmp_path, "--history", tmp_path / "h.db"), "cannot be exported")


@pytest.mark.slow
def test_bad_data_in_a_process_of_its_own(tmp_path: Path) -> None:
    """With Ray started in the background, as a user has it: no traceback of it, and no process left."""
    class_folders(tmp_path / "parts", {"ok": 6})
    done = subprocess.run(
        [sys.executable, "-m", "automl", "submit", str(tmp_path / "parts"), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    refused(Done(done.returncode, done.stdout, done.stderr), "one class only")


def test_what_is_refused_by_python_is_refused_in_the_same_words(tmp_path: Path) -> None:
    import automl as package

    (tmp_path / "parts").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        package.submit(tmp_path / "parts", out=tmp_path / "run", quiet=True)
