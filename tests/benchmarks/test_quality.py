"""The quality, ablation, supernet and carried suites: plan, resume, refuse mixed settings, and make the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.suites import ablation, carried, quality, supernet
from tests.benchmarks.fakes import judged, replace_child

MODULE = "benchmarks.suites._quality_cell"
RIGHT = {"engine": 0.9, "logreg": 0.6, "plain": 0.75, "no-pool": 0.7, "no-supernet": 0.7, "scratch": 0.5}


def carried_name() -> str:
    from search_spaces.carried import backbones

    return backbones()[0].name


def _cell(spec: dict[str, Any]) -> dict[str, Any]:
    identity = spec["identity"]
    if identity["method"] == "plain" and identity["dataset"] == "broken":
        raise RuntimeError("it fell over")
    cell = judged(spec, RIGHT[identity["method"]], [identity["split"]])
    own = identity["method"] == "engine"
    kept = own or (identity["method"] == "no-supernet" and identity["split"] == 1)
    winner = {"source": "pool", "backbone": "small_cnn_xs"}
    if own:  # by a subnet of the run's supernet, and by one of the carried supernet
        winner["backbone" if identity["split"] else "source"] = (
            carried_name() if identity["split"] else "supernet"
        )
    return {**cell, "details": {"status": "ok" if kept else "infeasible", "winner": winner, "supernet": own}}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the child process; tells which cells were run."""
    return replace_child(monkeypatch, MODULE, _cell)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "parts").mkdir()
    return [
        "--data", str(tmp_path / "parts"), "--splits", "2", "--resamples", "200",
        "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"),
    ]  # fmt: skip


def test_table_and_resume(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.run(arguments) == 0
    assert len(called) == 6
    found = json.loads((tmp_path / "results" / "quality.json").read_text())
    (row,) = found["datasets"]
    assert row["better_reference"] == "plain"
    gap = row["differences"]["plain"]
    scores = {name: value["balanced_accuracy"] for name, value in row["methods"].items()}
    assert gap["mean"] == pytest.approx(scores["engine"] - scores["plain"], abs=2e-5)
    assert 0 < gap["low"] < gap["mean"] < gap["high"]
    assert found["overall"]["engine - better"] == gap
    assert found["commits"] == ["abc"]
    text = (tmp_path / "results" / "quality.md").read_text()
    assert "| parts | 3 | 120 + 120 |" in text
    assert "some processor" in text
    assert str(tmp_path) not in text + json.dumps(found)
    assert text in capsys.readouterr().out

    (tmp_path / "results" / "cells" / "quality" / "parts-1-engine.json").unlink()
    assert quality.run(arguments) == 0
    assert called[6:] == ["parts-1-engine"]


def test_cells_made_elsewhere_are_enough_for_the_table(
    tmp_path: Path, arguments: list[str], called: list[str]
) -> None:
    assert quality.run(arguments) == 0
    first = (tmp_path / "results" / "quality.md").read_text()
    elsewhere = ["--cells", str(tmp_path / "moved"), "--work", str(tmp_path / "nowhere"), "--table-only"]
    (tmp_path / "results" / "cells" / "quality").rename(tmp_path / "moved")
    assert quality.run([*arguments, *elsewhere]) == 0
    assert (tmp_path / "results" / "quality.md").read_text() == first
    assert len(called) == 6
    next((tmp_path / "moved").glob("images-*.json")).unlink()
    assert quality.run([*arguments, *elsewhere]) == 2


def test_a_failed_cell_is_told_and_the_others_go_on(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments[1] = f"broken={tmp_path / 'parts'}"
    assert quality.run(arguments) == 1
    assert len(called) == 6
    assert "it fell over" in capsys.readouterr().err


def test_a_dataset_without_one_of_the_methods_does_not_count_in_the_mean(
    tmp_path: Path, arguments: list[str], called: list[str]
) -> None:
    (tmp_path / "broken").mkdir()
    arguments.insert(1, str(tmp_path / "broken"))
    assert quality.run(arguments) == 1
    found = json.loads((tmp_path / "results" / "quality.json").read_text())
    rows = {row["dataset"]: row for row in found["datasets"]}
    assert rows["parts"]["missing"] == [] and rows["broken"]["missing"] == ["plain"]
    assert found["overall"] == {"engine - better": rows["parts"]["differences"]["plain"], "datasets": 1}
    text = (tmp_path / "results" / "quality.md").read_text()
    assert "logreg (plain not run)" in text and "**mean of the 1 with all methods**" in text


def test_a_cell_that_hangs_is_ended(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(spec: dict[str, Any]) -> dict[str, Any]:
        raise TimeoutError

    called = replace_child(monkeypatch, MODULE, make)
    assert quality.run([*arguments, "--methods", "engine"]) == 1
    assert called == ["parts-0-engine", "parts-1-engine"]
    assert "it was ended after 3300 seconds" in capsys.readouterr().err


def test_other_settings_are_refused_before_anything_runs(
    arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.run([*arguments, "--methods", "logreg"]) == 0
    before = len(called)
    assert quality.run([*arguments, "--budget", "90s"]) == 2
    assert len(called) == before
    assert "other settings" in capsys.readouterr().err


def test_cells_about_different_images_are_not_compared(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_child(monkeypatch, MODULE, lambda spec: judged(spec, 0.5, [len(spec["identity"]["method"])]))
    assert quality.run(arguments) == 2
    assert "different images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--methods", "engine,logregg"], "did you mean 'logreg'"),
        (["--splits", "0"], "at least 1"),
        (["--budget", "soon"], "is not a time"),
        (["--weights-dir", "nowhere"], "does not exist"),
        (["--column", "part:label=y"], "did you mean 'parts'"),
        (["--column", "label"], "has not the form"),
        (["--data", "nothing-here"], "does not exist"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    arguments: list[str],
    extra: list[str],
    message: str,
    called: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert quality.run([*arguments, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert called == []


def test_columns_go_to_the_named_dataset(tmp_path: Path, arguments: list[str], called: list[str]) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "labels.csv").write_text("path,label\n")
    data = ["--data", str(tmp_path / "parts"), str(tmp_path / "cells" / "labels.csv")]
    columns = ["--column", "cells:split=", "--column", "label=kind"]
    assert quality.run([*arguments, *data, *columns, "--methods", "logreg"]) == 0
    work = tmp_path / "work" / "work"
    wanted = {"cells-0-logreg": {"split": "", "label": "kind"}, "parts-0-logreg": {"label": "kind"}}
    for name, value in wanted.items():
        assert json.loads((work / name / "spec.json").read_text())["settings"]["columns"] == value


def test_ablation_compares_with_and_without_the_pool(
    tmp_path: Path, arguments: list[str], called: list[str]
) -> None:
    assert ablation.run([*arguments, "--data", str(tmp_path / "parts"), f"other={tmp_path / 'parts'}"]) == 0
    assert called[:2] == ["parts-0-engine", "parts-0-no-pool"]
    assert len(called) == 8
    found = json.loads((tmp_path / "results" / "ablation.json").read_text())
    gaps = [row["differences"]["no-pool"] for row in found["datasets"]]
    overall = found["overall"]["engine - better"]
    assert overall["mean"] == pytest.approx(np.mean([gap["mean"] for gap in gaps]), abs=2e-5)
    assert overall["low"] < overall["mean"] < overall["high"]
    text = (tmp_path / "results" / "ablation.md").read_text()
    assert "| engine | no-pool | engine − no-pool [95 %] |" in text
    assert "better reference" not in text
    assert sorted(path.name for path in (tmp_path / "results" / "cells").iterdir()) == ["ablation"]


def test_carried_compares_without_weights_from_elsewhere(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert carried.run([*arguments, "--weights-dir", str(tmp_path)]) == 2
    assert "leave --weights-dir" in capsys.readouterr().err and called == []
    assert carried.run(arguments) == 0
    assert called == [f"parts-{split}-{method}" for split in (0, 1) for method in ("engine", "scratch")]
    text = (tmp_path / "results" / "carried.md").read_text()
    assert "| engine | scratch | engine − scratch [95 %] |" in text


def test_supernet_compares_under_limits_and_says_who_kept_them(
    tmp_path: Path, arguments: list[str], called: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert supernet.run([*arguments, "--limit", "latency<=3"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower() and called == []
    assert supernet.run([*arguments, "--limit", "latency_ms<=3"]) == 0
    assert called == [f"parts-{split}-{method}" for split in (0, 1) for method in ("engine", "no-supernet")]
    text = (tmp_path / "results" / "supernet.md").read_text()
    assert "| engine | no-supernet | engine − no-supernet [95 %] |" in text and "`latency_ms<=3`" in text
    assert "Pretrained networks at hand: none." in text
    # On the first split one of them does not keep the limits.
    assert "(limits kept in 2 of 2)" in text and "(limits kept in 1 of 2)" in text and "(seeds 1)" in text
    assert (
        "*engine*: of 1 runs that are compared, 1 trained a supernet on the images and in 1 a subnet won"
        in text
    )
    assert "*no-supernet*: of 1 runs that are compared, 0 trained a supernet on the images and in 0 a" in text
    assert supernet.run([*arguments, "--limit", "latency_ms<=4"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_where_limits_are_never_kept_by_both_nothing_is_compared(
    tmp_path: Path, arguments: list[str], called: list[str]
) -> None:
    assert supernet.run([*arguments, "--splits", "1", "--limit", "latency_ms<=3"]) == 0
    told = json.loads((tmp_path / "results" / "supernet.json").read_text())
    assert told["overall"]["engine - better"] is None
    assert told["datasets"][0]["kept"] == {"engine": [1, 1], "no-supernet": [0, 1]}
    text = (tmp_path / "results" / "supernet.md").read_text()
    assert "– (limits kept in 1 of 1) | – (limits kept in 0 of 1)" in text


@pytest.mark.slow
def test_a_reference_cell_in_its_own_process(tmp_path: Path, weights: Path, tiny_folder: Path) -> None:
    code = quality.run(
        [
            "--data", str(tiny_folder), "--weights-dir", str(weights), "--splits", "1",
            "--backbone", "mobilenetv2_035.keras_in1k_feat", "--budget", "10s", "--methods", "logreg,plain",
            "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"), "--resamples", "100",
        ]
    )  # fmt: skip
    assert code == 0
    (row,) = json.loads((tmp_path / "results" / "quality.json").read_text())["datasets"]
    assert row["methods"]["logreg"]["balanced_accuracy"] > 0.7
