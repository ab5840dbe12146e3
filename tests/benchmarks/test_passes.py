"""The suite of passes: that it needs a GPU, what it times, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.suites import passes
from search_spaces.elastic import _conv


def test_without_a_gpu_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert passes.run(["--results", str(tmp_path)]) == 2
    assert passes.run(["--family", "mobil", "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "torch sees none" in said and "mobile" in said


@pytest.mark.slow
def test_a_step_is_timed_and_the_kernels_are_put_back() -> None:
    before = _conv._kernels
    found = passes.step_seconds(
        "mobile", "torch", torch.device("cpu"), 32, batch=2, classes=3, steps=2, seed=0
    )
    assert 0 < found["low"] <= found["median"] <= found["high"]
    assert _conv._kernels is before


def test_the_table_compares_with_torchs_better_layout() -> None:
    rows = [
        {"side": 64, "way": "torch, channels last", "median": 0.08, "low": 0.07, "high": 0.09},
        {"side": 64, "way": "torch", "median": 0.1, "low": 0.1, "high": 0.1},
        {"side": 64, "way": "kernels, graphs", "median": 0.02, "low": 0.02, "high": 0.03},
    ]
    summary = {
        "family": "mobile", "batch": 8, "steps": 2, "seed": 0, "gpu": "some GPU", "rows": rows,
        "environment": {"cpu": "c", "cores": 2, "ram_gb": 1.0, "platform": "p", "python": "3", "packages": {},
                        "gpus": [], "commit": "abc"},
    }  # fmt: skip
    text = passes.to_markdown(summary)
    assert "| 64 | kernels, graphs | 20.0 | 20.0 to 30.0 | 4.00 |" in text
    assert "| 64 | torch | 100.0 | 100.0 to 100.0 | 0.80 |" in text
