"""The process beside the engine's own: it measures what this process would, and never takes the run with it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from automl import feasibility
from automl.aside import Aside
from automl.device import Device
from automl.task import Constraint
from search_spaces.backbones import Backbone, scratch

NETWORKS = [scratch("small_cnn_xs"), Backbone("odd", "none", "no_such_network", pretrained=False)]


def asked(cache: Path, *expressions: str) -> tuple[Any, ...]:
    sets = [[Constraint.parse(e) for e in expressions]]
    return NETWORKS, [32, 64], ("fp32",), 3, sets, Device.parse("cpu:1"), cache


def same(found: feasibility.FeasibilityTable, expected: feasibility.FeasibilityTable) -> None:
    timed = [*feasibility.TIMED, "latency_upper_ms"]  # another time it is another figure
    assert list(found.frame) == list(expected.frame)
    pd.testing.assert_frame_equal(found.frame.drop(columns=timed), expected.frame.drop(columns=timed))
    assert (found.frame[timed].isna() == expected.frame[timed].isna()).all(axis=None)


def number_of(aside: Aside) -> int:
    assert aside._child is not None
    return aside._child.pid


def test_the_table_is_the_one_that_this_process_would_make(tmp_path: Path) -> None:
    questions = [asked(tmp_path), asked(tmp_path, "size_mb<=4"), asked(tmp_path, "macs_m<=1", "params_m<=9")]
    with Aside() as aside:
        answers = [aside.measure(*question) for question in questions]
        there = number_of(aside)
        assert running(there)
    assert not running(there)
    for question, answer in zip(questions, answers, strict=True):
        same(answer, feasibility.measure(*question))
    assert answers[0].frame["feasible"].tolist() == [True, True, False, False]
    assert answers[2].frame["feasible"].sum() == 0


def test_where_the_process_dies_this_one_measures(tmp_path: Path) -> None:
    with Aside() as aside:
        aside.start(())
        os.kill(number_of(aside), signal.SIGKILL)
        same(aside.measure(*asked(tmp_path)), feasibility.measure(*asked(tmp_path)))


def test_where_no_process_can_be_started_this_one_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with Aside() as aside:
        aside.start()
        same(aside.measure(*asked(tmp_path)), feasibility.measure(*asked(tmp_path)))


def test_what_cannot_be_imported_there_is_no_reason_to_stop(tmp_path: Path) -> None:
    with Aside() as aside:
        aside.start(("no_such_module",))
        aside.measure(*asked(tmp_path))
        assert running(number_of(aside))


def test_one_that_is_busy_ends_with_the_context() -> None:
    with Aside() as aside:
        aside.start()
        there = number_of(aside)
    assert not running(there)


def running(number: int) -> bool:
    for _ in range(50):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True
