"""The regression watch: what counts as worse, and that a slower machine does not."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import check
from benchmarks.calibration import calibrate


def runs(**changed: object) -> pd.DataFrame:
    row = {
        "task": "digits", "method": "engine", "seed": 0, "status": "ok", "score": 0.95, "low": 0.92, "seconds": 31.0,
        "budget": 30.0, "first_seconds": 6.0, "trials": 12, "calibration": 0.1,
    }  # fmt: skip
    other = {**row, "method": "random", "score": 0.1}
    return pd.DataFrame([{**row, **changed}, other])


def worse(now: pd.DataFrame) -> list[str]:
    return [one.what for one in check.compare(runs(), now) if not one.fine]


def test_the_same_again_is_fine() -> None:
    found = check.compare(runs(), runs())
    assert len(found) == 5 and all(one.fine for one in found)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"score": 0.91}, "digits, seed 0: balanced accuracy"),
        ({"score": float("nan")}, "digits, seed 0: balanced accuracy"),
        ({"status": "infeasible"}, "digits, seed 0: limits kept"),
        ({"seconds": 33.5}, "digits, seed 0: time of the run / budget"),
        ({"first_seconds": 9.5}, "digits, seed 0: first result, calibrated"),
        ({"first_seconds": float("nan")}, "digits, seed 0: first result, calibrated"),
        ({"trials": 7}, "digits, seed 0: trials per time, calibrated"),
        ({"seed": 1}, "digits, seed 0: run"),
    ],
)
def test_what_got_worse_is_named(changed: dict[str, object], what: str) -> None:
    assert worse(runs(**changed)) == [what]


def test_a_machine_of_half_the_speed_is_no_worse_engine() -> None:
    assert worse(runs(first_seconds=12.0, trials=6, calibration=0.2)) == []
    assert worse(runs(score=0.925)) == []


def test_without_a_committed_table_it_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--against", str(tmp_path)]) == 2
    assert "automl bench quick" in capsys.readouterr().err


def test_the_calibration_is_a_time() -> None:
    assert 0 < calibrate() < 60
