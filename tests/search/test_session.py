from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from automl.records import INTERRUPTED, Outcome, Progress, TrialSpec
from automl.search._session import TrialSession, import_trial_function, one_line, outcome_of, request_stop
from automl.search.store import read_outcome, write_outcome
from tests.search import fake_trials
from tests.search.runs import candidate, make_spec

Steps = Generator[Progress, Any, Outcome]


@pytest.fixture
def spec(tmp_path: Path) -> TrialSpec:
    (tmp_path / "t0001").mkdir()
    return make_spec(tmp_path / "t0001")


def report(epoch: int, score: float = 0.5) -> Progress:
    return Progress(epoch, epoch / 10, score, float(epoch))


def ended(spec: TrialSpec, status: str = "completed", score: float | None = 0.9, **fields: Any) -> Outcome:
    return Outcome(spec.trial_id, spec.candidate.id, status, score, **fields)


def reporting(spec: TrialSpec) -> Steps:
    for epoch in (1, 2, 3):
        yield report(epoch)
    return ended(spec)


def run(spec: TrialSpec, function: Callable[[TrialSpec], Any]) -> Outcome:
    session = TrialSession(spec, function)
    while not isinstance(step := session.advance(), Outcome):
        pass
    return step


def on_disk(spec: TrialSpec) -> Outcome:
    outcome = read_outcome(spec.folder)
    assert outcome is not None
    return outcome


# Ends of their own


def test_reports_come_one_by_one_and_then_the_outcome(spec: TrialSpec) -> None:
    session = TrialSession(spec, reporting)
    assert [session.advance() for _ in range(4)] == [report(1), report(2), report(3), ended(spec)]
    assert session.curve == [[1, 0.5, 1.0], [2, 0.5, 2.0], [3, 0.5, 3.0]]
    assert on_disk(spec) == ended(spec)


def test_an_ended_trial_stays_ended(spec: TrialSpec) -> None:
    session = TrialSession(spec, fake_trials.empty)
    outcome = session.advance()
    assert session.advance() == session.stop() == outcome


def test_reports_are_taken_together_for_a_while(spec: TrialSpec) -> None:
    assert TrialSession(spec, reporting).advance(at_least=3600.0) == ended(spec)


def test_what_the_trial_wrote_itself_is_its_outcome(spec: TrialSpec) -> None:
    def writing(spec: TrialSpec) -> Steps:
        yield report(1)
        write_outcome(spec.folder, ended(spec, score=0.75))
        return None  # type: ignore[return-value]

    assert run(spec, writing).score == on_disk(spec).score == 0.75


def test_what_is_on_disk_counts_more_than_what_is_returned(spec: TrialSpec) -> None:
    # A trial whose model could not be saved says so on disk; a resumed run would read the same.
    def unsaved(spec: TrialSpec) -> Steps:
        yield report(1)
        write_outcome(spec.folder, ended(spec, "failed", None, error="OSError: no space"))
        return ended(spec)

    assert run(spec, unsaved) == on_disk(spec)
    assert on_disk(spec).status == "failed"


def test_a_score_that_is_no_number_stays_unusable(spec: TrialSpec) -> None:
    outcome = run(
        spec, lambda spec: fake_trials.mixed(make_spec(Path(spec.folder), candidate(strategy="nan")))
    )
    assert outcome.usable_score is None
    assert on_disk(spec).score is None


# Failures


@pytest.mark.parametrize(
    ("strategy", "error"),
    [
        ("raises", "ValueError: bad value t0001"),
        ("memory", "MemoryError: out of memory"),
        ("exits", "SystemExit: 3"),
        ("nothing", "the trial returned NoneType instead of an outcome"),
    ],
)
def test_whatever_goes_wrong_is_a_failed_outcome(tmp_path: Path, strategy: str, error: str) -> None:
    spec = make_spec(tmp_path / "t0001", candidate(strategy=strategy))
    outcome = run(spec, fake_trials.mixed)
    assert (outcome.status, outcome.score, outcome.error) == ("failed", None, error)
    assert outcome.curve == [[1, 0.1, 0.0]]
    assert on_disk(spec) == outcome


def test_a_function_that_does_not_even_start_is_a_failed_outcome(spec: TrialSpec) -> None:
    def broken(spec: TrialSpec) -> Steps:
        raise RuntimeError("no such backbone")

    assert run(spec, broken).error == "RuntimeError: no such backbone"


def test_a_report_of_the_wrong_kind_is_a_failed_outcome(spec: TrialSpec) -> None:
    def confused(spec: TrialSpec) -> Any:
        yield "half way"

    assert run(spec, confused).status == "failed"


def test_an_error_after_the_outcome_was_written_changes_nothing(spec: TrialSpec) -> None:
    def late(spec: TrialSpec) -> Steps:
        yield report(1)
        write_outcome(spec.folder, ended(spec))
        raise RuntimeError("while cleaning up")

    assert run(spec, late) == ended(spec)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ValueError("bad"), False),
    ],
)
def test_a_lack_of_memory_is_noticed(spec: TrialSpec, error: Exception, expected: bool) -> None:
    def failing(spec: TrialSpec) -> Steps:
        raise error

    def reporting_it(spec: TrialSpec) -> Steps:
        return ended(spec, "failed", None, error=one_line(error))
        yield

    for function in (failing, reporting_it):
        session = TrialSession(spec, function)
        session.advance()
        assert session.memory_error is expected
        (Path(spec.folder) / "outcome.json").unlink()


def test_interrupts_pass_through(spec: TrialSpec) -> None:
    def interrupted(spec: TrialSpec) -> Steps:
        yield report(1, 0.25)
        raise KeyboardInterrupt

    session = TrialSession(spec, interrupted)
    session.advance()
    with pytest.raises(KeyboardInterrupt):
        session.advance()
    session.abort()
    assert (on_disk(spec).status, on_disk(spec).error) == ("stopped", INTERRUPTED)


# Stopping


def test_a_stopped_trial_has_the_score_it_reported_last(spec: TrialSpec) -> None:
    session = TrialSession(spec, fake_trials.endless)
    session.advance()
    outcome = session.stop()
    assert (outcome.status, outcome.score, outcome.epochs, outcome.error) == ("stopped", 0.6, 1, None)
    assert on_disk(spec) == outcome


def test_a_stop_file_stops_it_at_the_next_step(spec: TrialSpec) -> None:
    session = TrialSession(spec, fake_trials.endless)
    session.advance()
    request_stop(spec)
    outcome = session.advance()
    assert isinstance(outcome, Outcome)
    assert outcome.status == "stopped"


def test_a_stop_before_the_start_leaves_no_score(spec: TrialSpec) -> None:
    request_stop(spec)
    outcome = TrialSession(spec, fake_trials.endless).advance()
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.score, outcome.epochs) == ("stopped", None, 0)


def test_a_stop_of_a_trial_without_a_folder_is_harmless(tmp_path: Path) -> None:
    request_stop(make_spec(tmp_path / "gone"))
    assert not (tmp_path / "gone").exists()


def test_a_trial_may_save_and_return_its_own_outcome(spec: TrialSpec) -> None:
    session = TrialSession(spec, fake_trials.saving)
    session.advance()
    outcome = session.stop()
    assert (outcome.status, outcome.score) == ("stopped", 0.7)
    assert (Path(spec.folder) / "saved").exists()


def test_a_trial_may_write_its_outcome_when_it_is_stopped(spec: TrialSpec) -> None:
    def writing(spec: TrialSpec) -> Steps:
        try:
            yield report(1)
        except GeneratorExit:
            write_outcome(spec.folder, ended(spec, "stopped", 0.25))
            raise
        return ended(spec)

    session = TrialSession(spec, writing)
    session.advance()
    assert session.stop() == on_disk(spec) == ended(spec, "stopped", 0.25)


def test_a_trial_that_fails_while_it_is_stopped_has_failed(spec: TrialSpec) -> None:
    def failing(spec: TrialSpec) -> Steps:
        try:
            yield report(1)
        except GeneratorExit:
            raise OSError("no space left") from None
        return ended(spec)

    session = TrialSession(spec, failing)
    session.advance()
    assert (session.stop().status, on_disk(spec).error) == ("failed", "OSError: no space left")


def test_a_trial_that_does_not_want_to_stop_is_stopped(spec: TrialSpec) -> None:
    def stubborn(spec: TrialSpec) -> Steps:
        for _ in range(3):
            try:
                yield report(1)
            except GeneratorExit:
                continue
        return ended(spec)

    session = TrialSession(spec, stubborn)
    session.advance()
    assert session.stop().status == on_disk(spec).status == "stopped"


def test_a_score_of_a_stopped_trial_that_is_no_number_is_none(spec: TrialSpec) -> None:
    def unscored(spec: TrialSpec) -> Steps:
        yield report(1, float("nan"))
        return ended(spec)

    session = TrialSession(spec, unscored)
    session.advance()
    assert session.stop().score is None


def test_an_abort_marks_the_trial_so_that_it_runs_again(spec: TrialSpec) -> None:
    session = TrialSession(spec, fake_trials.saving)
    session.advance()
    session.abort()
    assert (on_disk(spec).status, on_disk(spec).error) == ("stopped", INTERRUPTED)


def test_an_abort_leaves_an_ended_trial_alone(spec: TrialSpec) -> None:
    session = TrialSession(spec, fake_trials.endless)
    session.advance()
    outcome = session.stop()
    session.abort()
    assert on_disk(spec) == outcome


# Small parts


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("automl.trial", "has the form package.module:function"),
        ("automl.no_such_module:run", "cannot be imported"),
        ("tests.search.fake_trials:no_such", "cannot be imported"),
        (":run", "cannot be imported"),
    ],
)
def test_a_function_that_cannot_be_imported(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        import_trial_function(name)


def test_a_function_is_imported_by_its_name() -> None:
    assert import_trial_function("tests.search.fake_trials:empty") is fake_trials.empty


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (KeyError(), "KeyError"),
        (RuntimeError("x" * 1000), "RuntimeError: " + "x" * 283 + "..."),
    ],
)
def test_errors_are_one_line(error: Exception, text: str) -> None:
    assert one_line(error) == text
    assert len(text) <= 300


@pytest.mark.parametrize(
    ("status", "scored", "last", "score"),
    [
        ("stopped", True, 0.4, 0.4),
        ("timeout", True, 0.4, 0.4),
        ("timeout", False, 0.4, None),
        ("failed", True, 0.4, None),
        ("stopped", True, float("nan"), None),
    ],
)
def test_made_up_outcomes(
    spec: TrialSpec, status: str, scored: bool, last: float, score: float | None
) -> None:
    outcome = outcome_of(spec, status, None, [[1, 0.9, 1.0], [4, last, 2.0]], 2.00049, scored=scored)
    assert (outcome.score, outcome.epochs, outcome.seconds) == (score, 4, 2.0)
    assert (outcome.trial_id, outcome.candidate_id) == (spec.trial_id, spec.candidate.id)


def test_importing_the_search_starts_no_ray() -> None:
    # Ray takes seconds to import; commands that do not search must not pay for it.
    import subprocess

    code = "import sys, automl.search; print([m for m in ('ray', 'torch', 'optuna') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ.copy()
    )
    assert done.stdout.strip() == "[]"
