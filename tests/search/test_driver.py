"""The driver's answer to workers that go with their machine: such a trial is run again, once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from automl.records import INTERRUPTED, WORKER_DIED, Outcome, TrialSpec
from automl.search._driver import Driver
from automl.search.store import LOST_FILE, SPEC_FILE, write_outcome
from tests.search.runs import Run, Watcher, make_outcome, numbered, pool_only

Make = Callable[..., Driver]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, seconds=10.0)


@pytest.fixture
def make(run: Run) -> Make:
    def make(machines_go: bool = True, count: int = 2, **options: object) -> Driver:
        settings = {"deadline": math.inf, "should_stop": lambda: False, "violations": None, "listener": None}
        return Driver(
            pool_only(numbered(count)), run.spec, on_result=run.took, machines_go=machines_go,
            **{**settings, **options},
        )  # fmt: skip

    return make


def given(driver: Driver) -> TrialSpec:
    spec = driver.next_trial()
    assert spec is not None
    return spec


def test_a_lost_trial_is_given_out_before_others_and_counts_once(make: Make, run: Run) -> None:
    heard = Watcher()
    driver = make(listener=heard)
    first = given(driver)
    (Path(first.folder) / "model.part").write_bytes(b"half")
    driver.finished(first.trial_id, None, WORKER_DIED)
    assert not run.results and not driver.over
    assert given(driver) == first
    assert {path.name for path in Path(first.folder).iterdir()} == {SPEC_FILE, LOST_FILE}
    driver.finished(first.trial_id, make_outcome(first.trial_id))
    assert run.statuses == ["completed"]
    assert given(driver).candidate.resolution == 2
    assert heard.ended == [first.trial_id]


def test_one_that_is_lost_twice_has_failed(make: Make, run: Run) -> None:
    driver = make(count=1)
    for _ in range(2):
        driver.finished(given(driver).trial_id, None, WORKER_DIED)
    assert [outcome.error for _, outcome in run.results] == [WORKER_DIED]
    assert driver.next_trial() is None and driver.over


def test_one_whose_worker_was_told_to_leave_is_lost_too(make: Make, run: Run) -> None:
    driver = make()
    spec = given(driver)
    write_outcome(spec.folder, make_outcome(spec.trial_id, "stopped", error=INTERRUPTED))
    driver.finished(spec.trial_id, None, WORKER_DIED)
    assert not run.results and given(driver) == spec


@pytest.mark.parametrize(
    "outcome",
    [make_outcome(), make_outcome(status="failed", error="ValueError: bad"), make_outcome(status="stopped")],
)
def test_one_that_ended_is_not_lost(make: Make, run: Run, outcome: Outcome) -> None:
    driver = make()
    spec = given(driver)
    write_outcome(spec.folder, outcome)
    driver.finished(spec.trial_id, None, WORKER_DIED)  # the worker died after it
    assert [found.status for _, found in run.results] == [outcome.status]
    assert given(driver) != spec


def test_what_dies_on_this_machine_has_failed(make: Make, run: Run) -> None:
    driver = make(machines_go=False)
    driver.finished(given(driver).trial_id, None, WORKER_DIED)
    assert run.statuses == ["failed"]


def test_what_was_killed_or_asked_to_stop_is_not_lost(make: Make, run: Run) -> None:
    driver = make(count=3)
    late, weak, last = (given(driver) for _ in range(3))
    driver.running[late.trial_id].killed = "ran too long"
    driver.finished(late.trial_id, None, WORKER_DIED)
    driver.stop(weak.trial_id)
    driver.finished(weak.trial_id, None, WORKER_DIED)
    driver.end()
    driver.finished(last.trial_id, None, WORKER_DIED)
    assert run.statuses == ["timeout", "failed", "failed"]


def test_the_second_time_has_no_more_than_is_left(make: Make) -> None:
    now = 0.0
    driver = make(deadline=12.0, clock=lambda: now)
    spec = given(driver)
    now = 8.0
    driver.finished(spec.trial_id, None, WORKER_DIED)
    assert given(driver).seconds == 4.0
