"""What is brought to workers that do not see the driver's disk, and what comes back."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from automl.records import Outcome
from automl.search import _freight
from automl.search._freight import Freight, Porter, hold
from automl.search._session import STOP_FILE
from automl.search.store import read_outcome, read_spec, write_outcome, write_spec
from tests.search.runs import make_spec


class There:
    """The driver's side in this process: a data set, weights, and trials."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "cache" / "d41d" / "views" / "seed-0"
        self.data.mkdir(parents=True)
        (self.data / "split.npy").write_bytes(b"split")
        (folder / "cache" / "d41d" / "images.u8").write_bytes(bytes(range(256)) * 40)
        (folder / "weights" / "net").mkdir(parents=True)
        (folder / "weights" / "net" / "model.safetensors").write_bytes(b"weights")
        (folder / "trials").mkdir()
        self.porter = Porter(
            [str(folder / "cache" / "d41d"), str(folder / "weights" / "net")], str(folder / "trials")
        )
        self.calls: list[str] = []

    def call(self, name: str, *arguments: Any) -> Any:
        self.calls.append(name)
        return getattr(self.porter, name)(*arguments)

    def trial(self, name: str, initial: str | None = None) -> Path:
        folder = self.folder / "trials" / name
        folder.mkdir()
        spec = dataclasses.replace(
            make_spec(folder),
            folder=str(folder),
            dataset_folder=str(self.data),
            shared_folder=str(self.folder / "shared"),
            backbone={"name": "net", "source": f"local-dir:{self.folder / 'weights' / 'net'}"},
            initial=initial,
        )
        write_spec(spec)
        return folder


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> There:
    monkeypatch.setattr(_freight, "CHUNK", 1000)
    return There(tmp_path / "driver")


def test_all_that_a_trial_reads_is_on_its_node_once(there: There, tmp_path: Path) -> None:
    first, second = (Freight(there.call, tmp_path / "node") for _ in range(2))
    spec = first.take_up(str(there.trial("t0001")))
    assert spec == read_spec(spec.folder)
    for path in (spec.folder, spec.dataset_folder, spec.shared_folder):
        assert Path(path).is_dir() and tmp_path / "node" in Path(path).parents
    data = Path(spec.dataset_folder)
    assert (data / "split.npy").read_bytes() == b"split"
    assert (data.parent.parent / "images.u8").read_bytes() == bytes(range(256)) * 40
    weights = Path(spec.backbone["source"].removeprefix("local-dir:"))
    assert (weights / "model.safetensors").read_bytes() == b"weights"
    brought = there.calls.count("listing")
    second.take_up(str(there.trial("t0002")))
    assert there.calls.count("listing") == brought


def test_what_a_trial_leaves_comes_back_with_the_outcome_last(there: There, tmp_path: Path) -> None:
    theirs = there.trial("t0001")
    freight = Freight(there.call, tmp_path / "node")
    spec = freight.take_up(str(theirs))
    own = Path(spec.folder)
    (own / "subnets").mkdir()
    (own / "subnets" / "model.safetensors").write_bytes(b"x" * 2500)
    (own / "empty").write_bytes(b"")
    (own / "model.json").write_text(json.dumps({"backbone": spec.backbone}))
    outcome = Outcome(spec.trial_id, spec.candidate.id, "completed", 0.5)
    write_outcome(own, outcome)
    before = (theirs / "spec.json").read_text()
    written: list[str] = []
    write = there.porter.write

    def noted(file: str, *arguments: Any) -> None:
        written.append(Path(file).name)
        write(file, *arguments)

    there.porter.write = noted  # type: ignore[method-assign]
    freight.send(own)
    assert written[-1] == "outcome.json" and read_outcome(theirs) == outcome
    assert (theirs / "subnets" / "model.safetensors").read_bytes() == b"x" * 2500
    assert (theirs / "empty").read_bytes() == b"" and (theirs / "spec.json").read_text() == before
    source = json.loads((theirs / "model.json").read_text())["backbone"]["source"]
    assert source == f"local-dir:{there.folder / 'weights' / 'net'}"
    assert not own.exists()
    count = len(written)
    freight.send(own)
    assert len(written) == count  # nothing is sent twice


def test_an_earlier_trial_that_is_trained_on_names_the_weights_of_the_node(
    there: There, tmp_path: Path
) -> None:
    earlier = there.trial("t0001")
    backbone = read_spec(earlier).backbone
    (earlier / "model.json").write_text(json.dumps({"backbone": backbone}))
    spec = Freight(there.call, tmp_path / "node").take_up(str(there.trial("t0002", initial=str(earlier))))
    assert spec.initial is not None
    told = json.loads((Path(spec.initial) / "model.json").read_text())
    assert told["backbone"]["source"] == spec.backbone["source"]


def test_the_drivers_wish_to_stop_arrives(there: There, tmp_path: Path) -> None:
    theirs = there.trial("t0001")
    freight = Freight(there.call, tmp_path / "node")
    own = Path(freight.take_up(str(theirs)).folder)
    freight.obey(own)
    assert not (own / STOP_FILE).exists()
    (theirs / STOP_FILE).touch()
    freight.obey(own)
    assert (own / STOP_FILE).exists()


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("read", ("{}/secret", 0)),
        ("read", ("{}/trials/../secret", 0)),
        ("listing", ("{}",)),
        ("write", ("{}/weights/net/model.safetensors", 0, b"", True)),
        ("write", ("{}/trials/../secret", 0, b"", True)),
        ("asked_to_stop", ("{}/cache/d41d",)),
    ],
)
def test_nothing_outside_the_folders_is_read_or_written(
    there: There, method: str, arguments: tuple[Any, ...]
) -> None:
    (there.folder / "secret").write_text("secret")
    filled = [a.format(there.folder) if isinstance(a, str) else a for a in arguments]
    with pytest.raises(PermissionError, match="outside the folders of this run"):
        getattr(there.porter, method)(*filled)
    assert (there.folder / "secret").read_text() == "secret"


def test_another_run_with_the_same_paths_has_another_name(there: There) -> None:
    other = Porter([], str(there.folder / "trials"))
    assert there.porter.name() == there.porter.name() != other.name()


def test_a_link_out_of_a_folder_is_not_followed(there: There) -> None:
    (there.folder / "secret").write_text("secret")
    (there.folder / "trials" / "link").symlink_to(there.folder / "secret")
    with pytest.raises(PermissionError):
        there.porter.read(str(there.folder / "trials" / "link"), 0)


def test_the_folders_of_runs_that_nobody_uses_go(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from automl.search._freight import hold; "
        "(hold(Path(sys.argv[1]), sys.argv[2]) / 'x').touch(); print('held', flush=True); sys.stdin.read()"
    )

    def user(name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    def runs() -> set[str]:
        return {path.name for path in tmp_path.iterdir() if path.is_dir()}

    with user("one") as one, user("two") as two:
        assert runs() == {"one", "two"}
        one.communicate()
        with user("three") as three:
            assert runs() == {"two", "three"}
            two.communicate()
            three.communicate()
    assert hold(tmp_path, "four") == hold(tmp_path, "four") and runs() == {"four"}


def test_what_comes_and_goes_is_not_brought(
    there: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = there.data.parent.parent
    (base / "levels").mkdir()
    for name in ("levels/96.u8", "levels/64.part", "x.lock", "y.tmp"):
        (base / name).write_bytes(b"1")
    names = {name for name, _ in there.porter.listing(str(base))}
    assert names == {"images.u8", "views/seed-0/split.npy"}
