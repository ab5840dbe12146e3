"""The suite of several nodes: what counts as the same table, what many workers would take, and a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suites import _cluster_part, cluster


def sweep(*trials: tuple[str, str, bool]) -> dict[str, Any]:
    return {"trials": [{"candidate": c, "status": s, "recorded": r} for c, s, r in trials]}


def test_the_order_of_ends_does_not_tell_tables_apart() -> None:
    whole = sweep(("a", "completed", True), ("b", "completed", True))
    killed = sweep(("b", "completed", True), ("a", "completed", True))
    assert cluster.compare(whole, killed) == {"same_table": True, "table": 2}


@pytest.mark.parametrize(
    "killed",
    [
        sweep(("a", "completed", True)),
        sweep(("a", "completed", True), ("b", "failed", True)),
        sweep(("a", "completed", True), ("b", "completed", True), ("b", "completed", True)),
    ],
)
def test_what_is_missing_or_ended_otherwise_is_seen(killed: dict[str, Any]) -> None:
    whole = sweep(("a", "completed", True), ("b", "completed", True))
    assert not cluster.compare(whole, killed)["same_table"]


def test_what_many_workers_would_take() -> None:
    whole = {
        "bytes_per_node": 50e6, "bytes_per_second": 100e6, "trial_seconds": 20.0, "driver_seconds_per_trial": 0.01,
    }  # fmt: skip
    found = cluster.outlook({"whole": whole}, 100)
    assert found == {"bring_seconds": 50.0, "trials_per_second": 5.0, "driver_share": pytest.approx(0.05)}


def test_the_first_bringing_of_a_node_counts(tmp_path: Path) -> None:
    for name, told in (("t0001", {"bytes": 100, "seconds": 2.0}), ("t0002", {"bytes": 1, "seconds": 1.0})):
        folder = tmp_path / "search" / "trials" / name
        folder.mkdir(parents=True)
        (folder / "brought.json").write_text(json.dumps(told))
    assert _cluster_part.brought_by(tmp_path) == (100, 50.0)
    with pytest.raises(RuntimeError, match="no node was brought anything"):
        _cluster_part.brought_by(tmp_path / "none")


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--results", str(tmp_path), "--work", str(tmp_path / "work")]
    assert cluster.run([*common, "--nodes", "1"]) == 2
    assert cluster.run([*common, "--data", str(tmp_path / "none")]) == 2
    assert cluster.run([*common, "--data", "built-in:cats"]) == 2
    assert capsys.readouterr().err.count("error:") == 3


@pytest.mark.slow
def test_a_killed_node_loses_no_finished_trial(tmp_path: Path) -> None:
    code = cluster.run(
        [
            "--data", "built-in:few-digits", "--candidates", "8", "--seconds", "5", "--backbone", "small_cnn_xs",
            "--backbone", "small_cnn_s",
            "--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"),
        ]
    )  # fmt: skip
    assert code == 0
    told = json.loads((tmp_path / "results" / "cluster.json").read_text())
    assert told["same_table"] and told["table"] >= 6
    assert not told["whole"]["lost"] and len(told["killed"]["lost"]) == 1
    assert told["whole"]["bytes_per_node"] > 100_000
    text = (tmp_path / "results" / "cluster.md").read_text()
    assert "the same ends: yes" in text and str(tmp_path) not in text + json.dumps(told)
