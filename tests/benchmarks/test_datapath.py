"""The data path suite: files by reference, figures, and the table of a small measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from automl.data import load_dataset
from benchmarks.suites import _datapath_probe, datapath
from benchmarks.suites._datapath_files import gather


def test_files_are_named_again_without_being_copied(tmp_path: Path, tiny_folder: Path) -> None:
    files = gather(str(tiny_folder), tmp_path / "scratch")
    assert len(files.names) == 45
    assert all((files.folder / name).is_symlink() for name in files.names)
    table = files.spread(100).table(files.folder / "table.csv")
    data = load_dataset(table, cache_dir=tmp_path / "cache")
    assert (len(data), data.report.stored) == (100, 45)
    assert data.class_names == ["bar", "disc", "square"]


@pytest.mark.parametrize("kind", ["arrays", "encoded"])
def test_files_of_an_npz(tmp_path: Path, tiny_folder: Path, kind: str) -> None:
    paths = sorted(tiny_folder.rglob("*.png"))
    labels = np.array([path.parent.name for path in paths])
    if kind == "arrays":
        np.savez(
            tmp_path / "d.npz", images=np.stack([np.asarray(Image.open(p)) for p in paths]), labels=labels
        )
    else:
        raw = [path.read_bytes() for path in paths]
        offsets = np.cumsum([0, *map(len, raw)])
        np.savez(
            tmp_path / "d.npz", data=np.frombuffer(b"".join(raw), np.uint8), offsets=offsets, labels=labels
        )
    files = gather(str(tmp_path / "d.npz"), tmp_path / "scratch")
    assert files.labels == labels.tolist()
    assert np.array_equal(np.asarray(Image.open(files.paths()[7])), np.asarray(Image.open(paths[7])))


def test_the_slope_is_per_image() -> None:
    assert datapath.slope(
        [(100, 5e6 + 100 * 80), (200, 5e6 + 200 * 80), (400, 5e6 + 400 * 80)]
    ) == pytest.approx(80)
    assert datapath.slope([(100, 1.0)]) is None


def test_a_probe_measures(tmp_path: Path, tiny_folder: Path) -> None:
    listed = tmp_path / "paths"
    listed.write_text("\0".join(str(path) for path in tiny_folder.rglob("*.png")))
    alone = _datapath_probe.answer({"do": "bare", "paths": str(listed), "side": 16, "threads": 2})
    assert alone["images"] == 45
    assert alone["seconds"] > 0
    taken = {"do": "intake", "source": str(tiny_folder), "cache": str(tmp_path / "cache")}
    first, again = _datapath_probe.answer(taken), _datapath_probe.answer(taken)
    assert first["decoding"] <= first["seconds"]
    assert again["decoding"] is None
    assert (first["images"], first["stored"], first["side"]) == (45, 45, 32)


def _probe(self: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Answers in this process, with memory of 100 bytes per image."""
    answer = _datapath_probe.answer(spec)
    return {**answer, "base": 1000, "peak": 1000 + 100 * answer["images"], "uss": 5, "process": 1.0}


def test_table_and_resume(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(datapath._Steps, "probe", _probe)
    arguments = [
        "--data", f"shapes={tiny_folder}", "--parts", "1", "--sizes", "30,45", "--repeat", "90,180",
        "--work", str(tmp_path / "out"), "--results", str(tmp_path / "results"),
    ]  # fmt: skip
    assert datapath.run(arguments) == 0
    found = json.loads((tmp_path / "results" / "datapath.json").read_text())
    (cell,) = found["datasets"]
    assert cell["growth"]["repeat"]["bytes_per_image"] == pytest.approx(100)
    assert cell["growth"]["size"]["bytes_per_image"] == pytest.approx(100)
    assert [step["stored"] for step in cell["growth"]["repeat"]["steps"]] == [45, 45]
    assert cell["speed"]["median"]["intake_ratio"] > 0
    text = (tmp_path / "results" / "datapath.md").read_text()
    assert "| 180 | 45 |" in text
    assert str(tmp_path) not in text + json.dumps(found)

    monkeypatch.setattr(datapath._Steps, "probe", None)
    assert datapath.run(arguments) == 0  # everything is there
    assert datapath.run([*arguments, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--repeat", "10,x"], "--repeat"),
        (["--parts", "0"], "at least 1"),
        (["--submit", "soon"], "is not a time"),
        (["--data", "nothing-here"], "does not exist"),
        (["--weights-dir", "nowhere"], "does not exist"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    tmp_path: Path, tiny_folder: Path, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert datapath.run(["--data", str(tiny_folder), "--work", str(tmp_path / "out"), *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
