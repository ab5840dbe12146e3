from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from automl.candidate import Candidate
from automl.records import INTERRUPTED, Outcome, Progress, TrialSpec
from automl.search import Proposer, SearchEnd, TrialStore
from tests.search.fake_trials import value_of
from tests.search.runs import SPACE, Run, Watcher, candidate, numbered, pool_only


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def interrupt(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


# Whole searches


def test_all_trials_run_one_after_another(run: Run) -> None:
    watcher = Watcher()
    end = run.search(pool_only(numbered(3)), "empty", listener=watcher)
    assert end == SearchEnd(interrupted=False, trials=3)
    assert run.tried == [c.id for c in numbered(3)]
    assert run.statuses == ["completed"] * 3
    assert watcher.begun == watcher.ended == ["t0001", "t0002", "t0003"]


def test_what_was_told_is_on_disk(run: Run) -> None:
    run.search(pool_only(numbered(3)), "empty")
    assert TrialStore(run.folder).finished() == run.results


def test_reports_reach_the_listener(run: Run) -> None:
    watcher = Watcher()
    run.search(pool_only([candidate(strategy="good")]), "mixed", listener=watcher)
    assert watcher.reports == []  # the trial was over before a report was due
    run.search(pool_only(numbered(1)), "saving", listener=watcher, should_stop=lambda: bool(watcher.reports))
    assert watcher.reports
    assert watcher.ticks > 0


def test_failing_trials_do_not_end_the_search(run: Run) -> None:
    kinds = ["raises", "memory", "exits", "nothing", "nan", "good"]
    run.search(pool_only(candidate(strategy=kind) for kind in kinds), "mixed")
    ends = run.by_strategy()
    assert [ends[kind].status for kind in kinds] == ["failed"] * 4 + ["completed"] * 2
    assert ends["raises"].error == "ValueError: bad value t0001"
    assert ends["nan"].usable_score is None
    assert ends["good"].usable_score == value_of(run.results[-1][0])


def test_nothing_to_try_ends_at_once(run: Run) -> None:
    assert run.search(pool_only([]), "empty") == SearchEnd(interrupted=False, trials=0)


def test_rounds_with_failures_give_the_same_sequence(tmp_path: Path) -> None:
    pool = [candidate(name, 32, how) for name in "abc" for how in ("raises", "good", "nan")]
    sequences = []
    for number in range(2):
        run = Run(tmp_path / str(number))
        space = {**SPACE, "strategies": ["raises", "good", "tune"]}
        run.search(Proposer(pool, space=space, deterministic_batch=2, max_trials=16), "mixed")
        sequences.append(run.tried)
    assert sequences[0] == sequences[1]
    assert len(sequences[0]) == 16


def test_a_search_goes_on_where_another_ended(run: Run) -> None:
    pool = numbered(5)
    run.search(pool_only(pool, max_trials=3), "empty")
    resumed = pool_only(pool)
    for spec, outcome in run.store.finished():
        resumed.observe(spec.candidate, outcome.usable_score)
    run.search(resumed, "empty")
    assert run.tried == [c.id for c in pool]
    assert run.store.trial_ids() == ["t0001", "t0002", "t0003", "t0004", "t0005"]


# What the proposer is told


class Told(Proposer):
    """A proposer that remembers what it was told."""

    def __init__(self, *pool: Candidate) -> None:
        super().__init__(list(pool), explore_share=0.0)
        self.told: list[tuple[Any, ...]] = []

    def observe(self, *arguments: Any, **named: Any) -> None:
        self.told.append((*arguments[1:], named))
        super().observe(*arguments, **named)


def test_the_proposer_is_told_score_violations_and_error(run: Run) -> None:
    proposer = Told(candidate(strategy="good"), candidate(strategy="raises"))
    run.search(proposer, "mixed", violations=lambda spec, outcome: {"size_mb<=1": 2.0})
    assert proposer.told == [
        (value_of(run.results[0][0]), {"size_mb<=1": 2.0}, "completed", {"error": None, "epochs": 0}),
        (
            None,
            {"size_mb<=1": 2.0},
            "failed",
            {"error": "ValueError: bad value t0002", "epochs": 1},
        ),
    ]


def with_violations(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    metrics = {"violations": {"size_mb<=1": -0.5} if spec.trial_id == "t0001" else "unreadable"}
    return Outcome(spec.trial_id, spec.candidate.id, "completed", 0.5, metrics)
    yield


def test_violations_come_from_the_outcome_where_nobody_says(run: Run) -> None:
    proposer = Told(*numbered(2))
    run.search(proposer, f"{__name__}:with_violations")
    assert [told[1] for told in proposer.told] == [{"size_mb<=1": -0.5}, {}]


def test_the_proposer_knows_the_time_that_is_left(run: Run) -> None:
    lefts: list[float] = []

    class Asked(Proposer):
        def propose(self, busy: Any = (), seconds_left: float | None = None) -> Candidate | None:
            assert seconds_left is not None
            lefts.append(seconds_left)
            return super().propose(busy, seconds_left)

    run.search(Asked(numbered(2), explore_share=0.0), "empty", deadline=100.0)
    assert 100.0 >= lefts[0] > lefts[1] > lefts[2] > 0.0


# Ends before the last candidate


def test_a_trial_that_runs_at_the_deadline_is_stopped(run: Run) -> None:
    end = run.search(pool_only(numbered(3)), "endless", deadline=0.5)
    assert not end.interrupted
    assert run.statuses == ["stopped"]
    outcome = run.results[0][1]
    assert (outcome.score, outcome.error) == (0.6, INTERRUPTED)
    assert run.store.outcome("t0001") == outcome


def test_a_deadline_may_move(run: Run) -> None:
    began = time.monotonic()
    ends = lambda: began + (-1.0 if run.results else 120.0)  # noqa: E731
    end = run.search(pool_only(numbered(9)), "steady", deadline=ends)
    assert 1 <= end.trials < 9


def test_a_deadline_in_the_past_starts_nothing(run: Run) -> None:
    assert run.search(pool_only(numbered(3)), "empty", deadline=-1.0).trials == 0
    assert run.store.trial_ids() == []


def test_a_trial_that_ends_by_its_own_time_counts(run: Run) -> None:
    run.seconds = 0.25
    run.search(pool_only(numbered(2)), "steady")
    assert run.statuses == ["timeout", "timeout"]
    assert all(outcome.usable_score is not None for _, outcome in run.results)


def test_should_stop_ends_the_search_and_lets_the_trial_save(run: Run) -> None:
    watcher = Watcher()
    run.search(pool_only(numbered(3)), "saving", listener=watcher, should_stop=lambda: bool(watcher.reports))
    assert run.statuses == ["stopped"]
    assert (run.store.folder("t0001") / "saved").exists()
    assert run.results[0][1].error == INTERRUPTED


def test_a_trial_stopped_by_the_end_runs_again_after_a_resume(run: Run) -> None:
    run.search(pool_only(numbered(2)), "endless", deadline=0.5)
    resumed = pool_only(numbered(2))
    for spec, outcome in run.store.finished():
        resumed.observe(spec.candidate, outcome.usable_score, None, outcome.status, error=outcome.error)
    run.search(resumed, "empty")
    first, second = (c.id for c in numbered(2))
    assert run.tried == [first, first, second]
    assert run.statuses == ["stopped", "completed", "completed"]


# Ctrl-C


def test_ctrl_c_ends_the_search_in_order(run: Run) -> None:
    before = signal.getsignal(signal.SIGINT)
    end = run.search(pool_only(numbered(3)), "saving", listener=_once(interrupt))
    assert end == SearchEnd(interrupted=True, trials=1)
    assert run.results[0][1].error == INTERRUPTED
    assert (run.store.folder("t0001") / "saved").exists()
    assert signal.getsignal(signal.SIGINT) is before


def _once(action: Callable[..., None]) -> Watcher:
    """Do it at the first report."""
    watcher = Watcher()
    watcher.on_report = lambda spec, progress: action() if len(watcher.reports) == 1 else None
    return watcher


def test_the_second_ctrl_c_aborts(run: Run) -> None:
    before = signal.getsignal(signal.SIGINT)

    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        run.search(pool_only(numbered(3)), "saving", listener=_once(twice))
    assert run.results == []
    assert signal.getsignal(signal.SIGINT) is before
    left = run.store.outcome("t0001")
    assert left is not None
    assert left.error == INTERRUPTED  # a resumed run tries it again


def interrupts_itself(spec: TrialSpec) -> Generator[Progress, Any, Outcome]:
    yield Progress(1, 0.1, 0.5, 0.1)
    interrupt()
    interrupt()
    raise RuntimeError("not reached")


def test_ctrl_c_twice_within_a_report_aborts_too(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.search(pool_only(numbered(3)), f"{__name__}:interrupts_itself")
    left = run.store.outcome("t0001")
    assert left is not None
    assert left.error == INTERRUPTED


def test_outside_the_main_thread_signals_are_left_alone(run: Run) -> None:
    before = signal.getsignal(signal.SIGINT)
    ends: list[SearchEnd] = []
    thread = threading.Thread(target=lambda: ends.append(run.search(pool_only(numbered(2)), "empty")))
    thread.start()
    thread.join()
    assert ends == [SearchEnd(interrupted=False, trials=2)]
    assert signal.getsignal(signal.SIGINT) is before


# Errors of those who are called back


class Broken(Exception):
    pass


def broken(*_: Any) -> Any:
    raise Broken


@pytest.mark.parametrize("which", ["on_result", "should_stop", "violations"])
def test_errors_of_callbacks_end_the_search_and_are_raised(run: Run, which: str) -> None:
    with pytest.raises(Broken):
        run.search(pool_only(numbered(3)), "empty", **{which: broken})
    assert len(run.store.trial_ids()) <= 1
    assert len(run.store.outcomes()) == len(run.store.trial_ids())  # what ran is on disk all the same


@pytest.mark.parametrize("which", ["started", "progressed", "finished", "tick"])
def test_errors_of_the_listener_end_the_search_and_are_raised(run: Run, which: str) -> None:
    watcher = Watcher()
    setattr(watcher, which, broken)
    with pytest.raises(Broken):
        run.search(
            pool_only(numbered(3)), "steady", listener=watcher, should_stop=lambda: bool(watcher.reports)
        )
    assert len(run.store.trial_ids()) <= 1


def test_an_error_of_the_proposer_is_raised(run: Run) -> None:
    proposer = pool_only(numbered(3))
    proposer.propose = broken  # type: ignore[method-assign]
    with pytest.raises(Broken):
        run.search(proposer, "empty")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "threads"}, "mode is 'threads'; known: ray, inprocess"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"trial": "tests.search.fake_trials:no_such"}, "cannot be imported"),
    ],
)
def test_parameters_are_checked(run: Run, options: dict[str, Any], words: str) -> None:
    trial = options.pop("trial", "empty")
    with pytest.raises(ValueError, match=words):
        run.search(pool_only(numbered(1)), trial, **options)
    assert run.store.trial_ids() == []
