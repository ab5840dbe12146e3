from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from automl.records import INTERRUPTED
from automl.search import Proposer, SearchEnd, TrialStore, prestart, shutdown
from tests.search.driver_process import PRELOAD
from tests.search.fake_trials import value_of
from tests.search.runs import SPACE, Run, Watcher, candidate, numbered, pool_only

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    prestart(2, gpus=0, preload=PRELOAD)
    yield
    shutdown()


@pytest.fixture
def run(_ray: None, tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def search(run: Run, proposer: Any, trial: str, *, concurrency: int = 2, **options: Any) -> SearchEnd:
    return run.search(proposer, trial, mode="ray", concurrency=concurrency, **options)


def pids(run: Run) -> list[int]:
    return [outcome.metrics["pid"] for _, outcome in run.results]


# Trials in workers


def test_all_trials_run_and_are_on_disk(run: Run) -> None:
    watcher = Watcher()
    end = search(run, pool_only(numbered(8)), "empty", listener=watcher)
    assert end == SearchEnd(interrupted=False, trials=8)
    assert sorted(run.tried) == sorted(c.id for c in numbered(8))
    assert all(outcome.score == value_of(spec) for spec, outcome in run.results)
    assert sorted(run.results, key=lambda pair: pair[0].trial_id) == TrialStore(run.folder).finished()
    assert sorted(watcher.begun) == sorted(watcher.ended) == run.store.trial_ids()


def test_workers_are_other_processes_and_are_used_again(run: Run) -> None:
    search(run, pool_only(numbered(8)), "empty")
    assert len(set(pids(run))) <= 2
    assert os.getpid() not in pids(run)


def test_trials_run_at_the_same_time(run: Run) -> None:
    # They report until both have, however long the second worker takes to start.
    watcher = Watcher()
    search(run, pool_only(numbered(2)), "endless", listener=watcher, should_stop=lambda: watcher.most == 2)
    assert watcher.most == 2
    assert run.statuses == ["stopped"] * 2


def test_a_trial_that_wants_more_than_there_is_gets_what_there_is(run: Run) -> None:
    search(run, pool_only(numbered(2)), "empty", resources={"cpu": 64, "gpu": 1.0}, deadline=60.0)
    assert run.statuses == ["completed"] * 2


def test_no_more_trials_run_than_are_asked_for(run: Run) -> None:
    watcher = Watcher()
    search(run, pool_only(numbered(2)), "steady", concurrency=1, listener=watcher)
    assert watcher.most == 1


def test_reports_arrive(run: Run) -> None:
    watcher = Watcher()
    search(run, pool_only(numbered(1)), "steady", listener=watcher)
    epochs = [report.epoch for report in watcher.reports]
    assert epochs
    assert epochs == sorted(epochs)
    assert all(0 < report.fraction <= 1 for report in watcher.reports)


def test_rounds_do_not_depend_on_who_ends_first(run: Run, tmp_path: Path) -> None:
    sequences = []
    for number in range(2):
        run = Run(tmp_path / str(number))
        proposer = Proposer(
            [candidate(name, 32) for name in "abc"],
            space=SPACE,
            pool_first=3,
            deterministic_batch=2,
            max_trials=10,
        )
        search(run, proposer, "jitter")
        by_id = {spec.trial_id: spec.candidate.id for spec, _ in run.results}
        sequences.append([by_id[trial_id] for trial_id in sorted(by_id)])
    assert sequences[0] == sequences[1]
    assert len(sequences[0]) == 10


# Failures


def test_failures_are_outcomes_and_the_search_goes_on(run: Run) -> None:
    kinds = ["raises", "killed", "exits", "nothing", "nan", "good"]
    search(run, pool_only(candidate(strategy=kind) for kind in kinds), "mixed")
    ends = run.by_strategy()
    assert {kind: ends[kind].status for kind in kinds} == {
        **dict.fromkeys(kinds[:4], "failed"),
        "nan": "completed",
        "good": "completed",
    }
    assert ends["killed"].error == "worker died"
    assert str(ends["raises"].error).startswith("ValueError: bad value t0")
    assert ends["exits"].error == "SystemExit: 3"
    assert ends["nan"].usable_score is None
    assert len(run.store.outcomes()) == len(kinds)


def test_a_killed_worker_is_replaced(run: Run) -> None:
    pool = [candidate(strategy=kind) for kind in ("good", "killed", "better")]
    search(run, pool_only(pool), "mixed", concurrency=1)
    assert run.statuses == ["completed", "failed", "completed"]
    ends = run.by_strategy()
    assert ends["good"].metrics["pid"] != ends["better"].metrics["pid"]


def test_a_worker_that_ran_out_of_memory_is_replaced(run: Run) -> None:
    pool = [candidate(strategy=kind) for kind in ("good", "memory", "better")]
    search(run, pool_only(pool), "mixed", concurrency=1)
    assert run.statuses == ["completed", "failed", "completed"]
    ends = run.by_strategy()
    assert ends["memory"].error == "MemoryError: out of memory"
    assert ends["good"].metrics["pid"] != ends["better"].metrics["pid"]


def test_a_trial_that_ignores_its_own_time_is_killed(run: Run) -> None:
    run.seconds = 0.2
    pool = [candidate(strategy=kind) for kind in ("hangs", "good")]
    search(run, pool_only(pool), "hanging_once", concurrency=1)
    ends = run.by_strategy()
    assert (ends["hangs"].status, ends["hangs"].score) == ("timeout", None)
    assert "beyond its 0.2 s; its worker was killed" in str(ends["hangs"].error)
    assert ends["good"].status == "completed"


def test_errors_of_callbacks_end_the_search_and_are_raised(run: Run) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("the history is gone")

    with pytest.raises(LookupError, match="the history is gone"):
        search(run, pool_only(numbered(20)), "empty", on_result=broken)
    assert len(run.store.trial_ids()) < 20


# Ends


def test_running_trials_save_what_they_have_at_the_end(run: Run) -> None:
    watcher = Watcher()
    end = search(
        run,
        pool_only(numbered(9)),
        "saving",
        listener=watcher,
        deadline=60.0,
        should_stop=lambda: len(watcher.under_way) == 2,
    )
    assert end == SearchEnd(interrupted=False, trials=2)
    for spec, outcome in run.results:
        assert (outcome.status, outcome.score, outcome.error) == ("stopped", 0.7, INTERRUPTED)
        assert (Path(spec.folder) / "saved").exists()
        assert run.store.outcome(spec.trial_id) == outcome


def test_a_trial_that_does_not_stop_at_the_end_is_killed(run: Run) -> None:
    search(run, pool_only(numbered(9)), "hanging", deadline=4.0)
    assert run.results
    assert set(run.statuses) == {"stopped"}
    for spec, outcome in run.results:
        assert (outcome.score, outcome.error) == (None, INTERRUPTED)
        assert run.store.outcome(spec.trial_id) == outcome


def test_the_deadline_ends_the_search(run: Run) -> None:
    end = search(run, pool_only(numbered(99)), "endless", deadline=4.0)
    assert not end.interrupted
    assert set(run.statuses) <= {"stopped"}
    assert len(run.store.outcomes()) == end.trials == len(run.store.trial_ids()) <= 2


def test_ctrl_c_ends_the_search_in_order(run: Run) -> None:
    watcher = Watcher(
        lambda spec, report: os.kill(os.getpid(), signal.SIGINT) if len(watcher.reports) == 1 else None
    )
    end = search(run, pool_only(numbered(9)), "saving", listener=watcher)
    assert end.interrupted
    assert set(run.statuses) == {"stopped"}
    assert {outcome.error for _, outcome in run.results} == {INTERRUPTED}


def test_weak_trials_are_stopped_early(run: Run) -> None:
    pool = [candidate("a", side) for side in range(1000, 0, -100)]
    search(run, pool_only(pool), "late_bloomers", first_rung=2.0)
    ends = [
        (spec.candidate.resolution, outcome.status, outcome.epochs, outcome.error)
        for spec, outcome in run.results
    ]
    assert len(ends) == 10
    assert {status for _, status, _, _ in ends[:6]} == {"completed"}, ends  # nothing is judged before
    stopped = [end for end in ends if end[1] == "stopped"]
    assert stopped, ends
    for _, _, epochs, error in stopped:
        assert epochs < 12
        assert error is None  # a resumed search does not run it again


# Drivers that are interrupted or killed


class DriverProcess:
    """``tests.search.driver_process`` in a session of its own."""

    def __init__(self, folder: Path, trial: str, count: int) -> None:
        command = [sys.executable, "-m", "tests.search.driver_process", str(folder), trial, str(count)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )

    def wait_for_report(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "report\n", line + (self.process.stderr.read() if self.process.stderr else "")

    def end(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        assert "Traceback" not in err
        found = json.loads(out.splitlines()[-1])
        assert isinstance(found, dict)
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def drive(folder: Path) -> Iterator[Any]:
    started: list[DriverProcess] = []

    def begin(trial: str, count: int) -> DriverProcess:
        started.append(DriverProcess(folder, trial, count))
        return started[-1]

    yield begin
    for driver in started:
        if driver.process.poll() is None:
            driver.process.kill()
            driver.process.wait()


def test_ctrl_c_of_a_process_keeps_what_is_finished(drive: Any, folder: Path) -> None:
    driver = drive("steady", 50)
    driver.wait_for_report()
    while not TrialStore(folder).outcomes():
        driver.wait_for_report()
    os.killpg(driver.process.pid, signal.SIGINT)  # as a terminal does: everyone in the group gets it
    end = driver.end()
    assert end["interrupted"]
    ended = {outcome.status for outcome in TrialStore(folder).outcomes()}
    assert ended == {"completed", "stopped"}
    assert len(TrialStore(folder).outcomes()) == end["trials"]


def test_a_killed_process_is_resumed_without_repeating_anything(drive: Any, folder: Path) -> None:
    driver = drive("steady", 6)
    driver.wait_for_report()
    while not TrialStore(folder).outcomes():
        driver.wait_for_report()
    driver.process.kill()
    driver.process.wait()
    finished = {spec.candidate.id for spec, _ in TrialStore(folder).finished()}
    again = drive("empty", 6)
    end = again.end()
    assert not end["interrupted"]
    pairs = TrialStore(folder).finished()
    candidates = [spec.candidate.id for spec, _ in pairs]
    assert sorted(candidates) == sorted(c.id for c in numbered(6))
    assert finished
    assert end["trials"] <= 6 - len(finished)


def test_no_core_is_lost_to_a_placement_group(run: Run) -> None:
    import ray
    from ray.util import placement_group_table

    search(run, pool_only(numbered(6)), "steady")
    assert not placement_group_table()
    until = time.monotonic() + 20.0
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"] and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]


def test_servers_that_one_machine_does_not_need_are_not_started(run: Run) -> None:
    from ray._private.node import Node

    search(run, pool_only(numbered(1)), "empty")
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert any("raylet" in line for line in commands)
    assert not [c for c in commands if "dashboard.py" in c or "monitor.py" in c]
    # As it was, for others of this process.
    assert Node.start_api_server.__qualname__ == "Node.start_api_server"
