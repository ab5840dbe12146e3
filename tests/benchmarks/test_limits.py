"""Random limits: the sets, one submit, measuring again, and the verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from automl.errors import AutomlError, InputError
from automl.task import Constraint
from benchmarks import remeasure
from benchmarks.suites import _limits_cell, limits
from tests.benchmarks.fakes import ENVIRONMENT, replace_child

MODULE = "benchmarks.suites._limits_cell"


def write_model(path: Path, width: int = 8) -> Path:
    """A small file with the engine's interface: ``width`` decides its size."""
    make = onnx.helper.make_node
    nodes = [
        make("Cast", ["images"], ["x"], to=onnx.TensorProto.FLOAT),
        make("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        make("MatMul", ["m", "w"], ["h"]),
        make("Softmax", ["h"], ["probabilities"], axis=1),
        make("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    weights = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    graph = onnx.helper.make_graph(
        nodes, "g",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["N", 16, 24, 3])],
        [
            onnx.helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["N", width]),
            onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, ["N"]),
        ],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


# --- the program that measures ----------------------------------------------------------------------


def test_the_program_imports_nothing_of_the_project(tmp_path: Path) -> None:
    files = [str(write_model(tmp_path / f"{width}.onnx", width)) for width in (4, 400)]
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['remeasure', '--rounds', '3', '--seconds', '0.01', *{files!r}]\n"
        "try:\n"
        f"    runpy.run_path({remeasure.__file__!r}, run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('automl', 'benchmarks', 'torch')])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    answer, imported = done.stdout.strip().splitlines()
    assert imported == "[]"
    found = json.loads(answer)
    assert list(found["files"]) == files
    for path, values in found["files"].items():
        assert values["bytes"] == os.path.getsize(path)
        assert len(values["rounds_ms"]) == 3
        assert values["median_ms"] == np.median(values["rounds_ms"]) > 0
    assert found["threads"] == 1


# --- the sets of limits -----------------------------------------------------------------------------


def test_limits_are_seeded_and_in_their_ranges() -> None:
    ranges = (1.0, 20.0), (0.5, 20.0)
    sets = [limits.draw_limits(3, number, *ranges) for number in range(200)]
    assert sets == [limits.draw_limits(3, number, *ranges) for number in range(200)]
    assert sets != [limits.draw_limits(4, number, *ranges) for number in range(200)]
    assert sum(kind == "impossible" for kind, _ in sets) == 20
    kinds = set()
    for kind, texts in sets:
        parsed = {c.name: c.limit for c in map(Constraint.parse, texts)}
        kinds.add(tuple(parsed))
        hard = [v for v in parsed.values() if v <= 1e-3]
        assert len(hard) == (kind == "impossible")
        if not hard:
            assert 1 <= parsed.get("latency_ms", 1) <= 20
            assert 0.5 <= parsed.get("size_mb", 1) <= 20
    assert kinds == {("latency_ms", "size_mb"), ("latency_ms",), ("size_mb",)}


# --- one submit -------------------------------------------------------------------------------------


def _spec(tmp_path: Path) -> dict[str, Any]:
    return {
        "identity": {"dataset": "parts", "number": 4, "kind": "possible"}, "source": "data", "weights_dirs": ["w"], "weights": [],
        "settings": {"budget": 60.0, "backbones": [], "columns": {"label": "kind"}, "submit_seed": 4,
                     "constraints": ["latency_ms<=5", "size_mb<=4"]},
        "work": str(tmp_path),
    }  # fmt: skip


def _submit(code: int, seen: list[list[str]]) -> Any:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        if code in (0, 3):
            folder = Path(command[command.index("--out") + 1])
            write_model(folder / "model.onnx")
            (folder / "result.json").write_text(
                json.dumps(
                    {
                        "status": "ok",
                        "model": "model.onnx",
                        "costs": {"latency_ms": 3.0, "size_mb": 2.0},
                        "constraints": [
                            {"expression": "latency_ms<=5", "measured": 3.0, "satisfied": True, "low": 1, "high": 4}
                        ],
                        "metrics": {"test": {"balanced_accuracy": {"value": 0.9, "low": 0.8, "high": 1, "n": 9}}},
                        "winner": {}, "members": [1], "trials": {}, "seconds": {},
                    }
                )
            )  # fmt: skip
        return subprocess.CompletedProcess(command, code, "", "error: it is so")

    return run


@pytest.mark.parametrize("code", [0, 3])
def test_a_submit_becomes_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", _submit(code, seen))
    cell = _limits_cell.run_cell(_spec(tmp_path))
    (command,) = seen
    text = " ".join(command)
    for part in ("submit data", "--budget 60s", "--seed 4", "--weights-dir w", "--column label=kind",
                 "--constraint latency_ms<=5 --constraint size_mb<=4"):  # fmt: skip
        assert part in text
    assert cell["exit_code"] == code
    assert cell["model"]["bytes"] == (tmp_path / "run" / "model.onnx").stat().st_size
    assert cell["limits"] == [{"expression": "latency_ms<=5", "measured": 3.0, "satisfied": True}]
    assert str(tmp_path) not in json.dumps(cell)


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, AutomlError)])
def test_other_exit_codes_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    monkeypatch.setattr(subprocess, "run", _submit(code, []))
    with pytest.raises(kind, match="it is so"):
        _limits_cell.run_cell(_spec(tmp_path))


# --- the suite --------------------------------------------------------------------------------------


def _cell(spec: dict[str, Any]) -> dict[str, Any]:
    ok = spec["identity"]["kind"] == "possible" and spec["identity"]["number"] != 3
    model = write_model(_limits_cell.run_folder(spec) / "model.onnx", 4 + spec["identity"]["number"])
    size = model.stat().st_size
    return {
        **spec["identity"],
        "settings": spec["settings"],
        "exit_code": 0 if ok else 3,
        "status": "ok" if ok else "infeasible",
        "costs": {"latency_ms": 0.5, "size_mb": size / 1e6},
        "model": {"bytes": size, "sha256": _limits_cell.sha256(model)},
        "balanced_accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 50},
        "seconds": 60.0,
        "details": {},
        "environment": ENVIRONMENT,
    }


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "parts").mkdir()
    return [
        "--data", str(tmp_path / "parts"), f"more={tmp_path / 'parts'}", "--sets", "10",
        "--latency", "50,100", "--size", "1,2",
        "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"),
    ]  # fmt: skip


def test_files_are_measured_again_once(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = replace_child(monkeypatch, MODULE, _cell)
    assert limits.run(arguments) == 0
    assert len(called) == 10
    assert called[:2] == ["000-parts", "001-more"]
    assert "measuring 8 files again" in capsys.readouterr().err
    found = json.loads((tmp_path / "results" / "limits.json").read_text())
    total = found["overall"]
    assert total["kept"]["good"] == total["kept"]["of"] == 8
    assert 0.6 < total["kept"]["low"] < 0.7
    assert total["impossible sets with exit code 3 and a model"]["good"] == 1
    assert total["exit code 3 with a model"]["of"] == 2
    verdicts = {row["number"]: row["verdict"] for row in found["rows"]}
    assert verdicts == {n: "none, with a model" if n in (3, 9) else "kept" for n in range(10)}
    # Set 3 was given up, though files of the same dataset keep its limits.
    assert [row["number"] for row in found["rows"] if row.get("overlooked")] == [3]
    assert found["rows"][3]["overlooked"] == [1, 5, 7]
    text = (tmp_path / "results" / "limits.md").read_text()
    assert str(tmp_path) not in text + json.dumps(found)
    records = tmp_path / "results" / "cells" / "limits" / "remeasured"
    assert len(list(records.iterdir())) == 8

    assert limits.run(arguments) == 0  # nothing is new
    assert "measuring" not in capsys.readouterr().err
    (records / "002-parts.json").unlink()
    assert limits.run([*arguments, "--table-only"]) == 0
    assert json.loads((tmp_path / "results" / "limits.json").read_text())["overall"]["not measured"] == 1
    assert limits.run(arguments) == 0
    assert "measuring 8 files again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "kept"),
        ({"median_ms": 5.2}, "kept"),
        ({"median_ms": 5.3}, "latency broken"),
        ({"bytes": 3_000_001}, "size wrong"),
        ({"sha256": "other"}, "not measured"),
    ],
)
def test_verdicts(change: dict[str, Any], verdict: str) -> None:
    cell = {
        "exit_code": 0,
        "settings": {"constraints": ["latency_ms<=5", "size_mb<=3"]},
        "costs": {"latency_ms": 4.9, "size_mb": 3.0},
        "model": {"sha256": "s", "bytes": 3_000_000},
    }
    record = {"median_ms": 4.0, "bytes": 3_000_000, "sha256": "s", **change}
    assert limits.judge(cell, record) == verdict
    tight = {**cell, "settings": {"constraints": ["size_mb<=2.999"]}}
    assert limits.judge(tight, {**record, "bytes": 3_000_000, "sha256": "s"}) == "size broken"
    assert limits.judge({**cell, "exit_code": 3, "model": None}, None) == "none, without a model"
    assert limits.judge(cell, None) == "not measured"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--latency", "5"], "two numbers"),
        (["--size", "3,1"], "two numbers"),
        (["--sets", "0"], "at least 1"),
    ],
)
def test_wrong_input(
    arguments: list[str], extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert limits.run([*arguments, *extra]) == 2
    assert message in capsys.readouterr().err
