"""``automl latency evaluate``: what it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ._command import automl, refused


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Networks whose latency their kernels and width tell, measured on two devices."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "k0": rng.choice([3, 5, 7], 120),
            "k1": rng.choice([3, 5, 7], 120),
            "width": rng.choice([8, 16], 120),
        }
    )
    frame["cpu_a"] = (0.5 + 0.1 * frame["k0"] + 0.05 * frame["k1"]) * frame["width"] + rng.normal(
        0, 1e-3, 120
    )
    frame["cpu_b"] = 3 * frame["cpu_a"] + rng.normal(0, 1e-3, 120)
    frame.to_csv(tmp_path / "measured.csv", index=False)
    return tmp_path / "measured.csv"


def test_the_last_line_is_the_contract(table: Path) -> None:
    done = automl(
        "latency", "evaluate", "--table", table, "--target", "cpu_a", "--train", 80, "--seeds", 2, "--json"
    )
    assert done.code == 0, done.err
    found = done.last_json
    assert {"n_train", "n_test", "seeds", "model", "mape", "within_5", "within_10", "kendall_tau"} <= set(
        found
    )
    assert (found["n_train"], found["n_test"], found["seeds"]) == (80, 40, 2)
    assert found["mape"]["mean"] < 0.02 and found["mape"]["se"] >= 0.0
    assert found["within_10"] >= found["within_5"] > 0.9
    assert found["kendall_tau"] > 0.9
    assert "not used to predict cpu_a: cpu_b" in done.err
    assert "40 judged" in done.out


def test_a_column_can_be_left_out(table: Path) -> None:
    options = ("--table", table, "--target", "cpu_a", "--seeds", 1, "--without", "width", "--json")
    found = automl("latency", "evaluate", *options).last_json
    assert found["mape"]["mean"] > 0.1
    assert found["mape"]["se"] is None


def test_what_is_wrong_is_one_line(table: Path, tmp_path: Path) -> None:
    evaluate = ("latency", "evaluate", "--table", table)
    refused(automl(*evaluate, "--target", "cpu_c"), "has no column 'cpu_c'")
    refused(automl(*evaluate, "--target", "cpu_a", "--without", "widht"), "did you mean 'width'")
    refused(automl(*evaluate, "--target", "cpu_a", "--train", 120), "leaves none of the 120 rows")
    refused(automl(*evaluate, "--target", "cpu_a", "--train", 5), "5 networks are too few")
    refused(automl("latency", "evaluate", "--table", tmp_path / "no.csv", "--target", "x"), "cannot be read")
