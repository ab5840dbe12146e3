from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import pytest

from automl.candidate import Candidate
from automl.plan import LEAST_TUNING, SEARCH_SHARE, Clock, PhasedProposer, Refit, finishing_seconds, most_macs
from automl.records import INTERRUPTED
from automl.search import Proposer


def candidate(name: str, strategy: str = "tune") -> Candidate:
    return Candidate(name, 32, "fp32", strategy)


LANDMARKS = [candidate("a", "probe"), candidate("b", "probe")]
POOL = [candidate("a"), candidate("b"), candidate("c")]
REFITS = [Refit(candidate("a"), "t0003"), Refit(candidate("b"), "t0004")]


class Phases:
    """A proposer of all phases whose parts remember when they were called."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        landmarks: Sequence[Candidate] = LANDMARKS,
        pool: Sequence[Candidate] = POOL,
        refits: Sequence[Refit] = REFITS,
        **options: Any,
    ) -> None:
        self.clock = clock or Clock(time.monotonic(), None)
        self.calls: list[str] = []
        self.told: list[tuple[str, float | None, str]] = []
        self.lefts: list[float | None] = []
        self._pool, self._refits = pool, refits
        self.proposer = PhasedProposer(
            landmarks, self._make_proposer, self._choose_refits, self.clock, **options
        )

    def _make_proposer(self) -> Proposer:
        self.calls.append("search")
        outer = self

        class Inner(Proposer):
            def propose(self, busy: Any = (), seconds_left: float | None = None) -> Candidate | None:
                outer.lefts.append(seconds_left)
                return super().propose(busy, seconds_left)

            def observe(
                self, tried: Any, score: Any, violations: Any = None, status: str = "completed", **named: Any
            ) -> None:
                outer.told.append((tried.id, score, status))
                super().observe(tried, score, violations, status, **named)

        return Inner(list(self._pool), explore_share=0.0)

    def _choose_refits(self) -> list[Refit]:
        self.calls.append("refits")
        return list(self._refits)

    def next(self) -> Candidate | None:
        return self.proposer.propose()

    def end(self, tried: Candidate | None, status: str = "completed", error: str | None = None) -> None:
        assert tried is not None
        self.proposer.observe(tried, 0.5, {}, status, error=error)

    def run(self) -> list[Candidate]:
        """One trial after another until none comes."""
        tried: list[Candidate] = []
        while (given := self.next()) is not None:
            tried.append(given)
            self.end(given)
        return tried


def soon(budget: float = 1000.0, used: float = 0.0, **fields: Any) -> Clock:
    """A clock of which some seconds are used."""
    return Clock(time.monotonic() - used, budget, **fields)


# Phases


def test_landmarks_then_the_pool_then_refits() -> None:
    phases = Phases()
    assert phases.run() == [*LANDMARKS, *POOL, *(refit.candidate for refit in REFITS)]
    assert phases.calls == ["search", "refits"]
    assert phases.proposer.done


def test_the_search_begins_when_all_landmarks_are_known() -> None:
    phases = Phases()
    first, second = phases.next(), phases.next()
    assert [first, second] == LANDMARKS
    assert phases.next() is None
    phases.end(second)
    assert phases.next() is None
    assert phases.calls == []
    phases.end(first)
    assert phases.next() == POOL[0]
    assert phases.calls == ["search"]


def test_without_landmarks_the_search_begins_at_once() -> None:
    phases = Phases(landmarks=[])
    assert phases.next() == POOL[0]


@pytest.mark.parametrize("status", ["failed", "stopped", "timeout"])
def test_landmarks_that_end_badly_hold_nothing_up(status: str) -> None:
    phases = Phases()
    for _ in LANDMARKS:
        phases.end(phases.next(), status)
    assert phases.next() == POOL[0]


def test_refits_wait_for_the_last_trial_of_the_search() -> None:
    phases = Phases(landmarks=[])
    given = [phases.next() for _ in POOL]
    assert given == POOL
    for tried in given:
        assert phases.next() is None
        assert phases.calls == ["search"]
        phases.end(tried)
    assert phases.next() == REFITS[0].candidate


def test_which_refit_was_given_is_known_at_once() -> None:
    phases = Phases(landmarks=[], pool=POOL[:1])
    phases.end(phases.next())
    assert phases.proposer.current is None
    for refit in REFITS:
        assert phases.next() == refit.candidate
        assert phases.proposer.current == refit
    assert phases.next() is None
    assert phases.proposer.current is None


def test_refits_may_be_left_out() -> None:
    phases = Phases(refits=REFITS)
    phases.proposer.refits = False
    assert phases.run() == [*LANDMARKS, *POOL]
    assert phases.calls == ["search"]
    assert phases.proposer.done


def test_nothing_to_do_is_done_at_once() -> None:
    phases = Phases(landmarks=[], pool=[], refits=[])
    assert phases.next() is None
    assert phases.proposer.done


def test_done_is_not_said_too_early() -> None:
    phases = Phases()
    seen = []
    while (given := phases.next()) is not None:
        seen.append(phases.proposer.done)
        phases.end(given)
    assert not any(seen)


# What the search is told


def test_the_search_is_told_its_own_results_only() -> None:
    phases = Phases()
    phases.run()
    # Landmarks are known to it when it is made; a refit has no score.
    assert phases.told == [(tried.id, 0.5, "completed") for tried in POOL]


def test_an_interrupted_trial_is_no_result() -> None:
    phases = Phases(landmarks=[], refits=[])
    first, second, third = (phases.next() for _ in POOL)
    phases.end(first, "stopped", INTERRUPTED)
    phases.end(second, "stopped")
    phases.end(third)
    assert [told[0] for told in phases.told] == [POOL[1].id, POOL[2].id]
    assert phases.next() is None
    assert phases.proposer.done


def test_without_a_budget_the_search_has_no_deadline() -> None:
    phases = Phases(landmarks=[])
    phases.next()
    assert phases.lefts == [None]


def test_with_a_budget_the_search_knows_its_time() -> None:
    phases = Phases(soon(1000.0), landmarks=[])
    phases.next()
    (left,) = phases.lefts
    assert left is not None
    assert 0 < left <= 1000.0 * SEARCH_SHARE


# Time


def test_without_a_budget_nothing_ends() -> None:
    clock = Clock(time.monotonic() - 10**6, None)
    assert clock.final == math.inf
    assert clock.search_end == math.inf
    assert clock.allotment() is None


def test_all_trials_end_before_the_reserve() -> None:
    clock = Clock(100.0, 60.0, reserve=15.0)
    assert clock.final == 145.0


def test_the_search_has_a_share_of_what_is_left_at_the_first_trial() -> None:
    clock = Clock(100.0, 60.0, reserve=10.0, first_trial=110.0)
    assert clock.search_end == pytest.approx(110.0 + SEARCH_SHARE * 40.0)
    clock.extended = True
    assert clock.search_end == clock.final == 150.0


def test_used_counts_what_an_interrupted_run_had_used() -> None:
    assert Clock(time.monotonic() - 500.0, 600.0).used() >= 500.0


@pytest.mark.parametrize("budget", [1.0, 10.0, 60.0, 240.0, 900.0, 7200.0, 86400.0])
def test_an_allotment_is_a_part_of_the_budget(budget: float) -> None:
    allotment = Clock(0.0, budget).allotment()
    assert allotment is not None
    assert LEAST_TUNING <= allotment <= max(LEAST_TUNING, 0.5 * budget)


def test_longer_budgets_give_more_to_each_but_more_trials_too() -> None:
    budgets = [60.0, 120.0, 240.0, 480.0, 3600.0, 36000.0]
    allotments = [Clock(0.0, budget).allotment() or 0.0 for budget in budgets]
    assert allotments == sorted(allotments)
    shares = [allotment / budget for allotment, budget in zip(allotments, budgets, strict=True)]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(shares))


def test_the_first_trial_starts_the_clock_of_the_search() -> None:
    phases = Phases(soon(1000.0, used=100.0))
    before = time.monotonic()
    phases.next()
    first = phases.clock.first_trial
    assert first is not None
    assert before <= first <= time.monotonic()
    phases.next()
    assert phases.clock.first_trial == first


def test_when_the_time_of_the_search_is_over_landmarks_are_left_out() -> None:
    phases = Phases(soon(1000.0, used=850.0, first_trial=time.monotonic() - 750.0))
    assert phases.next() == REFITS[0].candidate
    assert phases.calls == ["search", "refits"]


def test_a_search_whose_time_is_over_waits_for_what_runs() -> None:
    phases = Phases(soon(1000.0), landmarks=[])
    running = phases.next()
    assert running == POOL[0]
    phases.clock.first_trial = time.monotonic() - 990.0
    phases.clock.began = time.monotonic() - 990.0
    assert phases.next() is None
    phases.end(running)
    assert phases.next() == REFITS[0].candidate


# With nothing to refit the search goes on


def over(budget: float = 1000.0, used: float = 800.0) -> Clock:
    """A clock on which the search's share is over, but not all time."""
    return soon(budget, used=used, first_trial=time.monotonic() - used)


def test_without_refits_the_rest_of_the_time_is_the_searchs() -> None:
    phases = Phases(over(), landmarks=[], refits=[])
    first = phases.next()
    assert first == POOL[0]
    assert phases.clock.search_end == phases.clock.final
    phases.end(first)
    assert phases.run() == POOL[1:]
    assert phases.proposer.done


def test_the_search_is_opened_again_once() -> None:
    phases = Phases(over(), landmarks=[], refits=[])
    phases.run()
    assert phases.calls.count("search") == 1
    assert phases.calls.count("refits") <= 2
    assert phases.next() is None


def test_refits_chosen_after_the_search_was_opened_again_take_place() -> None:
    phases = Phases(over(), landmarks=[], refits=[])
    tried = phases.next()
    phases._refits = REFITS
    phases.end(tried)
    assert phases.run() == [*POOL[1:], *(refit.candidate for refit in REFITS)]


def test_who_has_nothing_to_refit_goes_on_searching() -> None:
    others = [candidate("c"), candidate("d")]
    phases = Phases(over(), landmarks=[], pool=others)
    assert [phases.next() for _ in REFITS] == [refit.candidate for refit in REFITS]
    assert phases.proposer.current is not None
    beside = phases.next()
    assert beside == others[0]
    assert phases.proposer.current is None
    assert phases.clock.search_end == phases.clock.final
    assert phases.lefts[-1] == pytest.approx(200.0, abs=5.0)
    phases.end(beside)
    assert phases.told == [(others[0].id, 0.5, "completed")]
    assert phases.run() == others[1:]
    assert phases.proposer.done
    assert phases.calls == ["search", "refits"]


def test_beside_refits_nothing_is_begun_that_has_no_time() -> None:
    phases = Phases(over(used=985.0), landmarks=[])
    assert [phases.next() for _ in REFITS] == [refit.candidate for refit in REFITS]
    phases.clock.began -= 11.0
    assert phases.next() is None
    assert phases.proposer.done


def test_where_trials_are_counted_refits_come_last() -> None:
    phases = Phases(landmarks=[], pool=POOL[:1])
    assert phases.run() == [POOL[0], *(refit.candidate for refit in REFITS)]
    assert phases.proposer.done


@pytest.mark.parametrize(
    "clock",
    [
        Clock(time.monotonic(), None),  # trials are counted, not seconds
        soon(1000.0, used=999.0, first_trial=time.monotonic() - 999.0),  # too little is left
    ],
)
def test_where_there_is_no_time_to_give_the_search_stays_closed(clock: Clock) -> None:
    phases = Phases(clock, landmarks=[], pool=[], refits=[])
    assert phases.next() is None
    assert phases.proposer.done
    assert not clock.extended


def test_a_search_that_has_tried_everything_is_not_opened_again() -> None:
    phases = Phases(soon(1000.0), landmarks=[], refits=[])
    assert phases.run() == POOL
    assert phases.proposer.done


# How long a refit may take


def in_refits(workers: int, refits: Sequence[Refit], budget: float = 1000.0) -> Phases:
    """A plan that gives out refits, with the first given out."""
    clock = soon(budget, used=800.0, first_trial=time.monotonic() - 800.0, workers=workers)
    phases = Phases(clock, landmarks=[], refits=refits)
    assert phases.next() == refits[0].candidate
    return phases


FOUR = [Refit(candidate(name), f"t000{number}") for number, name in enumerate("abcd", 1)]


@pytest.mark.parametrize(
    ("workers", "refits", "rounds"), [(1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 3, 2), (4, 4, 1), (3, 4, 2)]
)
def test_refits_share_what_is_left_in_rounds(workers: int, refits: int, rounds: int) -> None:
    phases = in_refits(workers, FOUR[:refits])
    left = phases.clock.final - time.monotonic()
    seconds = phases.proposer.refit_seconds()
    assert seconds is not None
    assert seconds == pytest.approx(left / rounds, abs=5.0)


def test_a_refit_has_no_limit_where_trials_are_counted() -> None:
    phases = Phases(Clock(time.monotonic(), None), landmarks=[], pool=[])
    phases.next()
    assert phases.proposer.refit_seconds() is None


@pytest.mark.parametrize(("left", "workers", "begun"), [(5.0, 2, 0), (7.0, 1, 1), (7.0, 2, 2), (13.0, 1, 2)])
def test_refits_that_would_get_nowhere_are_not_begun(left: float, workers: int, begun: int) -> None:
    clock = soon(used=1000.0 - left, first_trial=time.monotonic() - 900.0, workers=workers)
    phases = Phases(clock, landmarks=[], pool=[])
    assert phases.run() == [refit.candidate for refit in REFITS[:begun]]
    assert phases.proposer.done


def test_what_is_kept_for_the_end() -> None:
    assert finishing_seconds(None, 1000, 300.0) == 0.0
    few, many = (finishing_seconds(240.0, images, 100.0) for images in (100, 1000))
    assert 0 < few < many <= 0.4 * 240.0
    assert finishing_seconds(240.0, 1000, 100.0, workers=2) < many
    assert finishing_seconds(240.0, 100, 100.0, sets=3) > few
    assert finishing_seconds(20.0, 10**6, 500.0, sets=9) == pytest.approx(8.0)
    enough = finishing_seconds(240.0, 20_000, 100.0, workers=2)
    assert many < enough < 0.4 * 240.0
    # More of them are scored as far as there is time, for which a tenth of a budget is kept.
    assert finishing_seconds(240.0, 10**6, 100.0, workers=2) == enough
    longer = [finishing_seconds(3600.0, images, 100.0, workers=2) for images in (20_000, 50_000, 10**6)]
    assert longer[1] - longer[0] == pytest.approx(30_000 * (100 / 28_000 + 0.002) / 2)
    assert longer[2] == pytest.approx(3.5 + 2.0 + 60.0 + 0.1 * 3600.0)
    # Measuring what networks cost takes a minute at most, however long the budget is.
    hour, day = (finishing_seconds(seconds, 100, 100.0) for seconds in (3600.0, 86400.0))
    assert hour == day < 70.0


def test_what_there_is_time_to_score() -> None:
    assert most_macs(None, 1000) == math.inf
    assert most_macs(240.0, 0) == math.inf
    assert most_macs(20.0, 10**6) == 0.0
    for sets in (1, 3):
        most = most_macs(240.0, 5000, sets=sets, workers=2)
        assert finishing_seconds(240.0, 5000, most, sets=sets, workers=2) == pytest.approx(0.4 * 240.0)


@pytest.mark.parametrize(
    ("used", "sets", "classes", "images", "over"),
    [
        (200.0, 1, 10, 5000, False),
        (237.0, 1, 10, 5000, False),
        (238.5, 1, 10, 5000, True),
        (238.5, 1, 10, 1999, False),  # so many in any case
        (200.0, 1, 1000, 90_000, False),
        (200.0, 1, 1000, 100_000, True),  # what is left goes into the metrics
        (300.0, 2, 10, 2000, True),
    ],
)
def test_test_images_are_scored_until_the_report_is_due(
    used: float, sets: int, classes: int, images: int, over: bool
) -> None:
    enough = Clock(time.monotonic() - used, 240.0).tested(sets, classes)
    assert enough(images) is over
    assert not Clock(time.monotonic() - used, None).tested(sets, classes)(images)


def test_sets_of_limits_share_the_time_for_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("automl.plan.time.monotonic", lambda: now[0])
    one, two = (Clock(800.0, 240.0).tested(sets, 2) for sets in (1, 2))
    now[0] += 20.0
    assert not one(3000) and two(3000)
    now[0] += 19.0
    assert one(3000)


def test_knowing_who_answers_moves_the_end_of_the_trials() -> None:
    clock = Clock(time.monotonic(), 240.0, workers=2)
    clock.keep_for(6000, 3 * 75.0, 1)
    before = clock.final
    clock.keep_for(6000, 47.0, 1)
    assert clock.reserve == finishing_seconds(240.0, 6000, 47.0, workers=2)
    assert clock.final - before == pytest.approx(6000 * (225.0 - 47.0) / 28_000 / 2)


def test_measuring_costs_gets_its_share_however_late_it_begins() -> None:
    began = time.monotonic()
    assert Clock(began, None).measured_by is None
    early, late = Clock(began, 100.0).measured_by, Clock(began - 60.0, 100.0).measured_by
    assert early == pytest.approx(began + 25.0, abs=1.0)
    assert late == pytest.approx(began + 20.0, abs=1.0)


def test_the_trials_get_half_of_what_is_left() -> None:
    clock = Clock(time.monotonic() - 20.0, 60.0)
    clock.keep(10.0)
    assert clock.reserve == 10.0
    clock.keep(30.0)
    assert clock.reserve == pytest.approx(20.0, abs=1.0)
    spent = Clock(time.monotonic() - 70.0, 60.0)
    spent.keep(30.0)
    assert spent.reserve == 0.0
