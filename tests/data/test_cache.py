from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from automl.data import Dataset, default_cache_dir, load_dataset
from automl.data import _cache as cache_module
from automl.data._cache import InUse, cache_limit, datasets_folder, evict
from automl.errors import InputError

from ._pictures import class_folders


def fake(folder: Path, name: str, size: int, age: float) -> Path:
    base = folder / name
    base.mkdir()
    (base / "images.u8").write_bytes(b"\1" * size)
    os.utime(base, (time.time() - age, time.time() - age))
    return base


def test_root_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("AUTOML_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "automl"


@pytest.mark.parametrize("value", ["x", "0", "-3", "nan"])
def test_bound_must_be_a_number(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AUTOML_CACHE_GB", value)
    with pytest.raises(InputError, match="AUTOML_CACHE_GB"):
        cache_limit()


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    folder = datasets_folder(tmp_path)
    for age, name in enumerate(["new", "middle", "old"]):
        fake(folder, name, 100_000, age * 100.0)
    assert evict(folder, keep=250_000) == ["old"]
    assert evict(folder, keep=250_000) == []
    assert evict(folder, keep=0) == ["middle", "new"]


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    folder = datasets_folder(tmp_path)
    base = fake(folder, "busy", 1000, 100.0)
    use = InUse(base)
    assert evict(folder, keep=0) == []
    use.close()
    assert evict(folder, keep=0) == ["busy"]


def test_left_overs_of_dead_builds_are_removed(tmp_path: Path) -> None:
    folder = datasets_folder(tmp_path)
    fake(folder, "abc.tmp", 1000, 0.0)
    with cache_module.building(folder / "abc"):
        evict(folder, keep=10**9)
        assert (folder / "abc.tmp").exists()
    evict(folder, keep=10**9)
    assert not (folder / "abc.tmp").exists()


def test_an_open_dataset_is_not_evicted(tmp_path: Path) -> None:
    data = load_dataset(class_folders(tmp_path / "s", {"a": 6, "b": 6}), cache_dir=tmp_path / "c")
    folder = tmp_path / "c" / "datasets"
    assert evict(folder, keep=0) == []
    assert data.images(8)[0].shape == (8, 8, 3)
    where = data.folder
    del data
    assert len(evict(folder, keep=0)) == 1
    with pytest.raises(InputError, match="holds no data set"):
        Dataset.open(where)
    assert load_dataset(tmp_path / "s", cache_dir=tmp_path / "c").folder == where


def test_bound_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_CACHE_GB", "0.00001")
    with pytest.raises(InputError, match="AUTOML_CACHE_GB"):
        load_dataset(class_folders(tmp_path / "s", {"a": 6, "b": 6}), cache_dir=tmp_path / "c")
    assert not list((tmp_path / "c" / "datasets").glob("*"))[1:]


def test_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(InputError, match="free some space"):
        load_dataset(class_folders(tmp_path / "s", {"a": 6, "b": 6}), cache_dir=tmp_path / "c")


def test_levels_without_room_are_derived_on_the_fly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = class_folders(tmp_path / "s", {"a": 6, "b": 6})
    kept = load_dataset(source, cache_dir=tmp_path / "c").images(12)[np.arange(12)]
    data = load_dataset(source, cache_dir=tmp_path / "d")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    assert (data.images(12)[np.arange(12)] == kept).all()
    assert not list((tmp_path / "d").rglob("12.u8"))
    assert list((tmp_path / "c").rglob("12.u8"))


def test_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="AUTOML_HOME"):
        datasets_folder(tmp_path / "file")


def test_killed_while_decoding_leaves_nothing_half(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "s", {"a": 40, "b": 40})
    code = (
        "import sys, time\nfrom automl.data import load_dataset\n"
        "def stop(done, total):\n    if done:\n        print(done, flush=True)\n        time.sleep(60)\n"
        "load_dataset(sys.argv[1], cache_dir=sys.argv[2], progress=stop)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "c")]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    folder = tmp_path / "c" / "datasets"
    assert [p.suffix for p in folder.iterdir() if p.name != ".locks"] == [".tmp"]
    assert len(load_dataset(source, cache_dir=tmp_path / "c")) == 80
    assert not list(folder.glob("*.tmp"))


def test_a_file_that_could_not_be_read_for_a_while_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automl.data import _decode

    source = class_folders(tmp_path / "data", {"a": 4, "b": 4})
    lost = sorted(source.rglob("*.png"))[1]
    stream = _decode._stream

    def fails(file: object) -> object:
        if str(file) == str(lost):
            raise OSError(5, "Input/output error")
        return stream(file)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(_decode, "_stream", fails)
        first = load_dataset(source, cache_dir=tmp_path / "cache")
        assert len(load_dataset(source, cache_dir=tmp_path / "cache")) == len(first)
    [aside] = first.report.unreadable
    assert "Input/output error" in aside["reason"]
    count = len(first)
    assert len(load_dataset(source, cache_dir=tmp_path / "cache")) == count  # another still uses it
    del first
    whole = load_dataset(source, cache_dir=tmp_path / "cache")
    assert len(whole) == count + 1 and not whole.report.unreadable


@pytest.mark.parametrize("name", ["near.npy", "images.u8", "labels.npy"])
def test_a_data_set_of_which_a_file_is_gone_is_decoded_again(tmp_path: Path, name: str) -> None:
    source = class_folders(tmp_path / "data", {"a": 4, "b": 4})
    first = load_dataset(source, cache_dir=tmp_path / "cache")
    fingerprint, base = first.fingerprint, first.folder.parent.parent
    del first
    (base / name).unlink()
    again = load_dataset(source, cache_dir=tmp_path / "cache", seed=1)
    assert again.fingerprint == fingerprint and (base / name).is_file()


def test_a_data_set_that_was_cut_off_is_decoded_again(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "data", {"a": 4, "b": 4})
    base = load_dataset(source, cache_dir=tmp_path / "cache").folder.parent.parent
    size = (base / "images.u8").stat().st_size
    os.truncate(base / "images.u8", size // 2)
    load_dataset(source, cache_dir=tmp_path / "cache")
    assert (base / "images.u8").stat().st_size == size
