"""How the time of a submit is shared out, and the three phases that give out trials.

Phase 1 fits one model per backbone on frozen features: seconds each, a first usable model, and a landmark that
orders the pool. Phase 2 tries the ranked pool and what Optuna proposes. Phase 3 trains the members of the best
choice on with all development images; workers without one go on searching. All three run in one search, so that
workers stay warm.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automl.candidate import Candidate
from automl.records import INTERRUPTED
from automl.supernets import SUPERNET

#: Share of the time between the first trial and the end of all trials that the search gets; refits get the rest.
SEARCH_SHARE = 0.7
#: Share of the same time that the first models on frozen features may take.
LANDMARK_SHARE = 0.12
#: Share of a budget for measuring what the tried networks cost where no limit asked for it, and seconds at most.
COSTS_SHARE, MOST_COSTS = 0.02, 60.0
#: When measuring what networks cost has to end, as a share of a budget, and the share that it gets in any case.
FEASIBILITY_END, FEASIBILITY_SHARE = 0.25, 0.2
#: Share of a budget beyond which not even a model that keeps the limits is looked for.
OVERDUE = 1.05
#: Share of a fine-tuning's time before which its score does not tell enough to stop it.
RUNG_SHARE = 0.3
#: Share of a budget that may be kept for the end.
MOST_FINISHING = 0.4
#: Seconds for the report and whatever else is done once, and for the export and the measuring of each set of limits.
_ENDING, _PER_SET = 2.0, 3.5
#: Test images that are scored however late it is.
LEAST_TESTED = 2000
#: Test images that time is kept for in any case, and the share of a budget that more of them may take.
ENOUGH_TESTED, MORE_TESTED = 20_000, 0.1
#: Million multiply-accumulates per second of scoring test images on one core, and seconds per image besides.
_SCORING_RATE, _PER_IMAGE = 28_000.0, 0.002
#: Scores per second of computing and storing metrics.
_EVALUATING_RATE = 2.5e6
#: Least seconds in which a fine-tuning gets anywhere.
LEAST_TUNING = 6.0


@dataclass
class Clock:
    """Deadlines of one submit, on ``time.monotonic()``; all None where trials are counted instead.

    Attributes:
        began: start of the submit, moved back by what an interrupted run had used.
        budget: seconds, None where ``max_trials`` rules.
        reserve: seconds kept for export, measuring and the test images.
        workers: trials at a time.
    """

    began: float
    budget: float | None
    reserve: float = 0.0
    workers: int = 1
    first_trial: float | None = None
    extended: bool = False

    @property
    def measured_by(self) -> float | None:
        """When measuring what networks cost, begun now, has to be over; None where trials are counted."""
        if self.budget is None:
            return None
        return max(
            self.began + FEASIBILITY_END * self.budget, time.monotonic() + FEASIBILITY_SHARE * self.budget
        )

    @property
    def final(self) -> float:
        """When the last trial has to be over."""
        return math.inf if self.budget is None else self.began + self.budget - self.reserve

    @property
    def search_end(self) -> float:
        """When phase 2 has to be over."""
        if self.budget is None or self.extended:
            return self.final
        start = self.first_trial if self.first_trial is not None else time.monotonic()
        return start + SEARCH_SHARE * (self.final - start)

    def keep(self, seconds: float, most: float = 0.5) -> None:
        """Keep this for the end, but leave the trials half of what is left: without a model there is nothing to end.

        Args:
            seconds: to keep.
            most: of what is left, as a share.
        """
        if self.budget is not None:
            seconds = min(seconds, most * max(0.0, self.budget - self.used()))
        self.reserve = seconds

    def keep_for(self, images: int, macs_m: float, sets: int, most: float = 0.5) -> None:
        """Keep what :func:`finishing_seconds` says."""
        self.keep(finishing_seconds(self.budget, images, macs_m, sets=sets, workers=self.workers), most)

    def most_macs(self, images: int, sets: int) -> float:
        """What :func:`most_macs` says."""
        return most_macs(self.budget, images, sets=sets, workers=self.workers)

    def tested(self, sets: int, classes: int) -> Callable[[int], bool]:
        """What tells, of a number of test images that were scored, whether there is no time for more.

        Args:
            sets: of limits that are unfinished, this one among them.
            classes: of which each image has a score, all of which go into the metrics.
        """
        if self.budget is None:
            return lambda _images: False
        now = time.monotonic()
        left = self.began + self.budget - _ENDING - now - (sets - 1) * _PER_SET
        until, each = now + max(0.0, left / sets), classes / _EVALUATING_RATE
        return lambda images: images >= LEAST_TESTED and time.monotonic() + images * each > until

    def used(self) -> float:
        """Seconds since the submit began."""
        return time.monotonic() - self.began

    def late(self) -> bool:
        """Whether the whole budget is used up."""
        return self.budget is not None and self.used() > self.budget

    def overdue(self) -> bool:
        """Whether so much more than the budget is used up that nothing more may begin."""
        return self.budget is not None and self.used() > OVERDUE * self.budget

    def allotment(self) -> float | None:
        """Seconds that one fine-tuning may take: a third of short budgets, less of long ones."""
        if self.budget is None:
            return None
        return max(LEAST_TUNING, 0.36 * min(self.budget, 240.0) * math.sqrt(max(self.budget, 240.0) / 240.0))

    def first_rung(self) -> float | None:
        """Seconds of a fine-tuning before which it is never stopped for being weak; None where none is."""
        seconds = self.allotment()
        return None if seconds is None else RUNG_SHARE * seconds


def finishing_seconds(
    budget: float | None, images: int, macs_m: float, *, sets: int = 1, workers: int = 1
) -> float:
    """Seconds to keep for export, measuring, test images and report; a bounded share of a budget, 0 without one.

    Beyond :data:`ENOUGH_TESTED` the test images get what :data:`MORE_TESTED` allows; as many of them are scored as
    there is time for.

    Args:
        budget: seconds, None where trials are counted.
        images: test images.
        macs_m: million multiply-accumulates of the networks that answer together.
        sets: of limits, each with a model of its own.
        workers: cores that score test images.
    """
    if budget is None:
        return 0.0
    each = (macs_m / _SCORING_RATE + _PER_IMAGE) / max(1, workers)
    scoring = min(images * each, max(ENOUGH_TESTED * each, MORE_TESTED * budget / sets))
    return min(MOST_FINISHING * budget, sets * (_PER_SET + scoring) + _ENDING + costs_seconds(budget))


def costs_seconds(budget: float | None) -> float:
    """Seconds for measuring what the tried networks cost, with a budget or where trials are counted."""
    return MOST_COSTS if budget is None else min(COSTS_SHARE * budget, MOST_COSTS)


def most_macs(budget: float | None, images: int, *, sets: int = 1, workers: int = 1) -> float:
    """Million MACs of networks that answer together for which :func:`finishing_seconds` has the time.

    That is, the time for :data:`ENOUGH_TESTED` of the test images.
    """
    if budget is None or not images:
        return math.inf
    scoring = (MOST_FINISHING * budget - costs_seconds(budget) - _ENDING) / sets - _PER_SET
    images = min(images, ENOUGH_TESTED)
    return max(0.0, (scoring * max(1, workers) / images - _PER_IMAGE) * _SCORING_RATE)


@dataclass(frozen=True)
class Refit:
    """A search trial whose recipe is trained on with all development images."""

    candidate: Candidate
    source: str


@dataclass
class PhasedProposer:
    """Gives out the trials of all phases; has the interface of :class:`automl.search.Proposer`.

    Attributes:
        landmarks: candidates of phase 1.
        make_proposer: called once phase 1 is over; returns the proposer of phase 2, which has been told
            everything that is known.
        choose_refits: called once phase 2 is over.
        clock: deadlines.
        refits: whether phase 3 takes place.
        choose_supernet: called once phase 1 is over; the candidate of a supernet's trial, None for none.
    """

    landmarks: Sequence[Candidate]
    make_proposer: Callable[[], Any]
    choose_refits: Callable[[], list[Refit]]
    clock: Clock
    refits: bool = True
    choose_supernet: Callable[[], Candidate | None] = lambda: None
    current: Refit | None = None
    phase: int = 1
    _landmarks_waiting: set[str] = field(default_factory=set)
    _given: int = 0
    _inner: Any = None
    _refits: list[Refit] | None = None
    _refits_waiting: dict[str, Refit] = field(default_factory=dict)
    _search_waiting: set[str] = field(default_factory=set)
    _supernet: Candidate | None = None
    _supernet_waiting: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing will come any more."""
        return self.phase == 4

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        """Give out the next trial; None while none is to be given."""
        self.current = None
        now = time.monotonic()
        if self.clock.first_trial is None:
            self.clock.first_trial = now
        if self.phase == 1:
            if self._given < len(self.landmarks) and now < self.clock.search_end:
                candidate = self.landmarks[self._given]
                self._given += 1
                self._landmarks_waiting.add(candidate.id)
                return candidate
            if self._landmarks_waiting:
                return None
            self._inner = self.make_proposer()
            self._supernet = self.choose_supernet()
            self.phase = 2
        while True:
            if self.phase == 2:
                found = self._search(busy, now)
                if found is not None or self.phase == 2:
                    return found
            if self.phase == 3:
                if self._refits is None:
                    self._refits = self._affordable(self.choose_refits() if self.refits else [])
                    if not self._refits and self._reopen(now):
                        continue
                if self._refits:
                    refit = self._refits.pop(0)
                    self._refits_waiting[refit.candidate.id] = refit
                    self.current = refit
                    return refit.candidate
                return self._beside_refits(busy, now)
            return None

    def _affordable(self, refits: Sequence[Refit]) -> list[Refit]:
        """As many as get anywhere in the time that is left, the first ones."""
        left = self.clock.final - time.monotonic()
        if math.isinf(left):
            return list(refits)
        return list(refits)[: self.clock.workers * int(max(0.0, left) // LEAST_TUNING)]

    def _beside_refits(self, busy: Sequence[Candidate], now: float) -> Candidate | None:
        """Who has nothing to refit goes on searching, to the end of all trials."""
        if self._search_waiting or LEAST_TUNING <= self.clock.final - now < math.inf:
            self.clock.extended = True
            found = self._search(busy, now)
            if found is not None or self._search_waiting:
                return found
        self.phase = 4
        return None

    def _search(self, busy: Sequence[Candidate], now: float) -> Candidate | None:
        left = self.clock.search_end - now
        candidate = None
        if self._supernet is not None:
            candidate, self._supernet, self._supernet_waiting = self._supernet, None, True
            return candidate
        if left > 2.0:
            candidate = self._inner.propose(busy, None if math.isinf(left) else left)
            if candidate is not None:
                self._search_waiting.add(candidate.id)
                return candidate
        if not self._search_waiting and not self._supernet_waiting:
            self.phase = 3
        return None

    def _reopen(self, now: float) -> bool:
        """With nothing to refit, the rest of the time belongs to the search, once."""
        if self.clock.extended or self.clock.budget is None or self.clock.final - now < LEAST_TUNING:
            return False
        self.clock.extended = True
        self.phase, self._refits = 2, None
        return not self._inner.done

    def observe(
        self,
        candidate: Candidate,
        score: float | None,
        violations: Mapping[str, float] | None = None,
        status: str = "completed",
        *,
        error: str | None = None,
        epochs: int = 0,
    ) -> None:
        """Take in how a trial ended."""
        if self._refits_waiting.pop(candidate.id, None) is not None:
            return
        if candidate.strategy == SUPERNET:
            self._supernet_waiting = False
            return
        self._landmarks_waiting.discard(candidate.id)
        self._search_waiting.discard(candidate.id)
        if self._inner is not None and not (status == "stopped" and error == INTERRUPTED):
            self._inner.observe(candidate, score, violations, status, error=error, epochs=epochs)

    def refit_seconds(self) -> float | None:
        """Seconds that each refit may take: all that is left, as many rounds as there are refits per worker."""
        if self.clock.budget is None:
            return None
        rounds = math.ceil((1 + len(self._refits or [])) / max(1, self.clock.workers))
        return max(1.0, (self.clock.final - time.monotonic()) / rounds)
