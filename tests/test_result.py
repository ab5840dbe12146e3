from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from automl.errors import InputError
from automl.report import build_report
from automl.result import Result
from tests.report.run_folders import CLASSES, edit_result, make_run, save_pictures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result") / "run"
    make_run(folder, per_class=20, trials=6)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def test_a_run_opens(run: Path) -> None:
    result = Result.open(run)
    assert (result.folder, result.status, result.model_path) == (run, "ok", run / "model.onnx")
    assert [row["expression"] for row in result.constraints] == [
        "latency_ms<=1.5",
        "size_mb<=2",
        "recall[red]>=0.6",
    ]
    assert set(result.metrics) == {"validation", "test"}
    assert result.winner["strategy"] == "full_medium"
    assert result.to_dict() == json.loads((run / "result.json").read_text())
    result.to_dict()["status"] = "changed"
    assert result.to_dict()["status"] == "ok"
    assert len(result.trials) == 6 and "score" in result.trials
    assert result.costs["latency_ms"] == 1.21


def test_the_summary_tells_what_matters(run: Path) -> None:
    before = Result.open(run).summary()
    assert "none was written" in before
    build_report(run)
    result = Result.open(run)
    text = result.summary()
    assert len(text.splitlines()) <= 25
    found = result.metrics["test"]["balanced_accuracy"]
    for wanted in (
        "Done: all 3 limits hold", str(run / "model.onnx"), "1.24 MB, 1.21 ms per image on cpu:1", f"{100 * found['value']:.1f} %",
        f"{100 * found['low']:.1f}–{100 * found['high']:.1f} %", "24 images", "holds: latency at most 1.5 ms; measured 1.21 ms",
        "recall of red at least 60 %", "best balanced_accuracy", str(run / "report.html"), "9 completed, 3 stopped early, 1 failed",
    ):  # fmt: skip
        assert wanted in text


def test_an_infeasible_summary_says_what_it_would_need(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, limits=("latency_ms<=1.2", "size_mb<=2"), per_class=10, trials=2)
    text = Result.open(run).summary()
    assert text.startswith("1 of 2 limits could not be kept; this is the closest model")
    assert "MISSED: latency at most 1.2 ms; measured 1.21 ms" in text
    assert "needs    The closest model misses" in text


def test_a_long_summary_stays_short(run: Path) -> None:
    content = json.loads((run / "result.json").read_text())
    edit_result(
        run,
        constraints=content["constraints"] * 20,
        why="reason " * 400,
        needs="more " * 400,
        interrupted=True,
    )
    lines = Result.open(run).summary().splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) < 200


def test_a_value_beside_its_limit_is_told_apart_from_it(run: Path) -> None:
    row = {
        "expression": "latency_ms<=5", "limit": 5.0, "measured": 5.0004, "low": 5.0004, "high": 5.0004, "evidence": "measured",
        "satisfied": False,
    }  # fmt: skip
    edit_result(run, constraints=[row], status="infeasible")
    assert "measured 5.0004 ms" in Result.open(run).summary()


def test_what_is_unknown_is_called_so(run: Path) -> None:
    edit_result(
        run,
        metrics={"validation": {}, "test": {"accuracy": {"value": None, "low": 0, "high": 1, "n": 0}}},
        costs={},
        constraints=[],
    )
    text = Result.open(run).summary()
    assert "latency not measured" in text
    assert "accuracy unknown (no image to measure it on)" in text
    assert "nan" not in text.lower().replace("finance", "") and "None" not in text


def test_predict_takes_files_and_arrays(run: Path, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path / "new", 4)
    result = Result.open(run)
    frame = result.predict(paths)
    assert frame["file"].tolist() == [str(p) for p in paths]
    assert result.predict(str(paths[0]))["probability"][0] == frame["probability"][0]
    assert len(result.predict(tmp_path / "new")) == 4
    arrays = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    together = result.predict(arrays)
    assert together["file"].tolist() == ["image[0]", "image[1]", "image[2]"]
    assert result.predict(list(arrays), threads=2, batch=2).equals(together)
    assert len(result.predict(arrays[0])) == 1
    mixed = result.predict([arrays[0], paths[0]])
    assert mixed["label"].tolist() == [together["label"][0], frame["label"][0]]
    assert set(frame["label"]) <= set(CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no result\.json"),
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ('{"schema_version": 1}', "cannot be used"),
        ('{"schema_version": 7}', "schema_version 7"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Result.open(tmp_path)


def test_a_hint_says_what_the_folder_is_instead(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Result.open(tmp_path / "gone")
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "task.json").write_text("{}")
    with pytest.raises(InputError, match="--resume"):
        Result.open(tmp_path)
    (tmp_path / "limits-01").mkdir()
    (tmp_path / "limits-01" / "result.json").write_text("{}")
    with pytest.raises(InputError, match="open one of limits-01"):
        Result.open(tmp_path)


def test_a_model_outside_the_folder_is_refused(run: Path) -> None:
    edit_result(run, model="../../etc/passwd")
    with pytest.raises(InputError, match="outside the run folder"):
        _ = Result.open(run).model_path


def test_a_damaged_trial_table_is_told(run: Path) -> None:
    (run / "trials.parquet").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"trials\.parquet cannot be read"):
        _ = Result.open(run).trials


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(
        run, classes=["a\x1b[2Jb", "c", "d"], limits=(), objective="recall[a\x1b[2Jb]", per_class=10, trials=2
    )
    text = Result.open(run).summary()
    assert "\x1b" not in text and "recall of a\ufffd[2Jb" in text
