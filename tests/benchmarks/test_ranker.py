"""The cost of a night and of an order, on a history that is short enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.suites import ranker
from benchmarks.suites._ranker_probe import made_pool


def test_a_made_pool_has_different_candidates_of_the_catalog() -> None:
    pool = made_pool(300, 0)
    assert 290 <= len(pool) == pool["candidate"].nunique()
    assert pool["overrides"].eq("{}").mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("trials", ["", "x", "99", "1000,10"])
def test_a_history_that_is_too_short_is_refused(trials: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ranker.run(["--trials", trials, "--tasks", "5"]) == 2
    assert "--trials" in capsys.readouterr().err


@pytest.mark.slow
def test_all_steps_on_a_short_history(tmp_path: Path) -> None:
    places = ["--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    assert (
        ranker.run(["--trials", "400", "--tasks", "5", "--known", "60", "--candidates", "50", *places]) == 0
    )
    (row,) = json.loads((tmp_path / "ranker.json").read_text())["rows"]
    assert (row["trials"], row["tasks"], row["order"]["candidates"]) == (400, 5, 50)
    assert row["rerank_seconds"] > 0 and row["order"]["order_ms"] > 0 and row["rerank_gb"] > 0
    assert "| 400 | 5 |" in (tmp_path / "ranker.md").read_text()
