"""The extraction suite: its limits, its figures, and all its steps on a small supernet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from automl.data import load_dataset
from automl.export import export_onnx
from automl.predict import predict_files
from benchmarks.suites import _extraction_probe, extraction
from tests._models import network, small_cnn, write_model
from tests.conftest import write_shapes


def test_limits_lie_between_the_ends_and_are_the_same_again() -> None:
    sets = extraction.draw_sets(200, 3, (1.0, 9.0), (0.5, 4.0))
    assert sets == extraction.draw_sets(200, 3, (1.0, 9.0), (0.5, 4.0))
    latencies = [float(limits[0].removeprefix("latency_ms<=")) for limits in sets]
    assert 1.0 <= min(latencies) < 1.3 and 7.0 < max(latencies) <= 9.0
    assert 50 < sum(len(limits) == 2 for limits in sets) < 110


def row(**changes: object) -> dict[str, object]:
    best = {"kept": 9, "validation": 0.8, "test": 0.75, "highest_test": 0.9}
    usual = {
        "limits": ["latency_ms<=2", "size_mb<=3"], "status": "ok", "seconds": 9.0, "again_ms": 2.05, "again_mb": 3.0,
        "test": 0.74, "validation": 0.81, "best": best, "kept": True,
    }  # fmt: skip
    return {**usual, **changes}


def test_a_file_keeps_its_limits_when_it_is_measured_again() -> None:
    assert extraction._keeps(row())
    assert not extraction._keeps(row(again_ms=2.2))
    assert not extraction._keeps(row(again_mb=3.01))
    assert extraction._keeps(row(limits=["latency_ms<=2"], again_mb=30.0))


def test_figures_over_all_sets() -> None:
    rows = [
        row(),
        row(test=0.78, seconds=20.0),
        row(status="infeasible", kept=False),
        row(best=None, kept=False),
    ]
    total = extraction.overall(rows)
    assert (total["ok"], total["kept"], total["of"], total["compared"]) == (3, 2, 4, 2)
    assert total["behind"] == pytest.approx(-0.01) and total["behind_error"] == pytest.approx(0.02)
    assert total["behind_validation"] == pytest.approx(-0.01)
    assert (total["seconds_median"], total["seconds_most"]) == (9.0, 20.0)


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_files_are_judged_on_images_that_went_the_way_that_users_images_go(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=20, side=40)
    files = sorted(data.glob("*/*.png"))
    if source == "npz":
        images = np.stack([np.asarray(Image.open(path)) for path in files])
        data = tmp_path / "shapes.npz"
        np.savez(data, images=images, labels=[sorted(("bar", "disc", "square")).index(p.parent.name) for p in files],
                 class_names=["bar", "disc", "square"])  # fmt: skip
    one = tmp_path / "one"
    one.mkdir()
    export_onnx(network(small_cnn()), 32, one / "model.onnx")
    told = {"schema_version": 1, "classes": ["bar", "disc", "square"], "resize": [8, 32]}
    (one / "labels.json").write_text(json.dumps(told))
    monkeypatch.setenv("AUTOML_HOME", str(tmp_path / "home"))
    spec = {"data": str(data), "columns": {}, "seed": 0, "files": {str(one / "model.onnx"): 32}}
    found = _extraction_probe.score(spec)["files"][str(one / "model.onnx")]
    dataset = load_dataset(data)
    for part in ("validation", "test"):
        rows = dataset.indices(part)
        frame = predict_files(one, [files[at] for at in rows])
        right = frame["label"].to_numpy() == np.asarray(dataset.class_names)[np.asarray(dataset.labels)[rows]]
        each = [right[np.asarray(dataset.labels)[rows] == label].mean() for label in range(3)]
        assert found[part] == pytest.approx(np.mean(each))


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--data", str(tmp_path), "--backbone", "x", "--work", str(tmp_path / "w")]
    assert extraction.run([*common, "--resolutions", "a,b"]) == 2
    assert extraction.run([*common, "--sets", "0"]) == 2
    assert capsys.readouterr().err.count("error:") == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_steps_on_a_small_supernet(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=40)
    write_model(tmp_path / "weights" / "tiny.random")
    code = extraction.run(
        [
            "--data", str(data), "--weights-dir", str(tmp_path / "weights"), "--backbone", "tiny", "--resolutions",
            "32,48", "--seconds", "10", "--sets", "2", "--subnets", "4", "--work", str(tmp_path / "work"), "--results",
            str(tmp_path / "results"),
        ]
    )  # fmt: skip
    assert code == 0
    told = json.loads((tmp_path / "results" / "extraction.json").read_text())
    assert len(told["rows"]) == 2 and told["drawn"] == 4
    assert all(row["status"] in ("ok", "infeasible") and 0 <= row["test"] <= 1 for row in told["rows"])
    text = (tmp_path / "results" / "extraction.md").read_text()
    assert str(tmp_path) not in text + json.dumps(told) and "2 sets were answered" in text
