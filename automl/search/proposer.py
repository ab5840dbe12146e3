"""Which candidate is tried next: the ranked pool first, then Optuna around the best."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automl.candidate import Candidate
from automl.records import INTERRUPTED
from automl.search._space import SearchSpace

#: Results that the model needs before it is asked.
_LEAST_RESULTS = 3


@dataclass(frozen=True)
class _Result:
    score: float | None
    violations: Mapping[str, float]
    status: str
    error: str | None
    epochs: int


@dataclass
class _Failures:
    """Which strategies, architectures and pairs keep failing with the same error."""

    limit: int
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    worked: set[tuple[str, str]] = field(default_factory=set)
    hopeless: set[tuple[str, str]] = field(default_factory=set)

    def note(self, candidate: Candidate, result: _Result) -> None:
        keys = self._keys(candidate)
        if result.status != "failed":
            self.worked.update(keys)
            self.hopeless.difference_update(keys)
            return
        signature = re.sub(r"\d+", "#", result.error or "")
        for kind, name in keys:
            self.counts[kind, name, signature] += 1
            if self.counts[kind, name, signature] >= self.limit and (kind, name) not in self.worked:
                self.hopeless.add((kind, name))

    def blocks(self, candidate: Candidate) -> bool:
        return any(key in self.hopeless for key in self._keys(candidate))

    @staticmethod
    def _keys(candidate: Candidate) -> list[tuple[str, str]]:
        return [
            ("strategy", candidate.strategy),
            ("architecture", candidate.architecture),
            ("pair", f"{candidate.strategy} {candidate.architecture}"),
        ]


class Proposer:
    """Gives out candidates one by one and learns from how they did.

    The first ``pool_first`` proposals are the best of the ranked pool. From then on Optuna gets
    ``explore_share`` of the proposals and the next of the pool the rest, in a fixed rotation; when one
    of the two has nothing left the other gets all. No candidate is ever given out twice.

    With ``deterministic_batch`` the proposals come in rounds of that size: a round is only opened when
    every result of the one before is known, and results are learned from in the order of the proposals.
    The sequence then depends on the seed and the results alone, never on who finished first; the time
    left and expected costs are not looked at. At most one round runs at a time, so this is also the
    largest useful number of parallel trials.

    To resume, call :meth:`observe` for every past outcome before the first :meth:`propose`. In rounds the
    past is replayed, so that the sequence goes on exactly as it would have without the interruption.

    Args:
        pool: candidates, best expected first; repeated ones are dropped.
        space: see :meth:`SearchSpace.from_mapping`; without triples or strategies only the pool is tried.
        seed: of Optuna's sampler.
        explore_share: share of Optuna's proposals after the first ``pool_first``, 0..1.
        pool_first: proposals that are the pool's without question.
        deterministic_batch: size of a round, None to propose as soon as somebody is free.
        max_trials: proposals in all, with past ones.
        cost_hint: expected seconds of a candidate; those that cannot finish in the time left are kept
            back. Ask again with more time, or with a hint that has learned, and they come.
        skip_after: identical failures of one strategy, architecture or pair of both, without any success of
            it, after which no more like it are proposed.

    Raises:
        ValueError: a parameter is outside its range.
    """

    def __init__(
        self,
        pool: Sequence[Candidate],
        *,
        space: Mapping[str, Any] | SearchSpace | None = None,
        seed: int = 0,
        explore_share: float = 0.5,
        pool_first: int = 6,
        deterministic_batch: int | None = None,
        max_trials: int | None = None,
        cost_hint: Callable[[Candidate], float] | None = None,
        skip_after: int = 3,
    ) -> None:
        if not 0.0 <= explore_share <= 1.0:
            raise ValueError(f"explore_share is {explore_share}; it lies in 0..1")
        for name, value in (("deterministic_batch", deterministic_batch), ("max_trials", max_trials)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it is at least 1, or None")
        if skip_after < 1:
            raise ValueError(f"skip_after is {skip_after}; it is at least 1")
        self.space = (
            space if isinstance(space, SearchSpace) else SearchSpace.from_mapping(space or {"ranges": {}})
        )
        self.max_trials = max_trials
        self._pool = list({candidate.id: candidate for candidate in pool}.values())
        self._ranked = {candidate.id for candidate in self._pool}
        self._seed = seed
        self._explore_share = explore_share
        self._pool_first = pool_first
        self._batch = deterministic_batch
        self._cost_hint = cost_hint
        self._model: Any = None
        self._failures = _Failures(skip_after)
        self._taken: dict[str, Candidate] = {}  # every proposal, in order
        self._waiting: dict[str, Candidate] = {}  # proposed, no result yet
        self._round: list[tuple[Candidate, _Result | None]] = []
        self._past: dict[str, tuple[Candidate, _Result]] = {}  # to be replayed in rounds
        self._scored = 0
        self._explored = 0
        self._fruitless: int | None = None  # results known when Optuna last found nothing new
        self._learned = 0
        self._space_empty = not (self.space.triples and self.space.strategies)

    @property
    def done(self) -> bool:
        """Whether no candidate will come any more, whatever the results still awaited are."""
        if self.max_trials is not None and len(self._taken) >= self.max_trials:
            return True
        # Results that are awaited, or known but not learned from yet, may unblock candidates of the pool
        # and let Optuna find new ones.
        open_results = bool(self._waiting or self._round)
        pool_left = any(
            c.id not in self._taken and (open_results or not self._failures.blocks(c)) for c in self._pool
        )
        may_explore = not self._space_empty and self._explore_share > 0
        may_explore = may_explore and (open_results or self._fruitless != self._learned)
        return not pool_left and not may_explore

    @property
    def waiting(self) -> tuple[Candidate, ...]:
        """Candidates given out whose results are awaited."""
        return tuple(self._waiting.values())

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        """Give out the next candidate.

        Args:
            busy: candidates that run elsewhere; they are not proposed.
            seconds_left: time until the search ends, for ``cost_hint``.

        Returns:
            None where there is nothing to give now: results are awaited, nothing fits into the time left, or
            the search is over (:attr:`done`).
        """
        while True:
            if self._batch is not None and len(self._round) >= self._batch:
                if any(result is None for _, result in self._round):
                    return None
                self._close_round()
            if self.max_trials is not None and len(self._taken) >= self.max_trials:
                return None
            away = {candidate.id for candidate in busy}
            candidate = self._choose(away, seconds_left)
            if candidate is None:
                if self._batch is not None and self._round and all(result for _, result in self._round):
                    self._close_round()  # a last round that was not full; the model may know more now
                    continue
                return None
            self._taken[candidate.id] = candidate
            known = self._past.pop(candidate.id, None)
            if known is not None:
                self._round.append((candidate, known[1]))
                continue
            self._waiting[candidate.id] = candidate
            if self._batch is not None:
                self._round.append((candidate, None))
            return candidate

    def observe(
        self,
        candidate: Candidate | str,
        score: float | None,
        violations: Mapping[str, float] | None = None,
        status: str = "completed",
        *,
        error: str | None = None,
        epochs: int = 0,
    ) -> None:
        """Learn how a candidate did.

        Args:
            candidate: the candidate, or its id if it was proposed here.
            score: higher is better; None or NaN count as a failure.
            violations: per constraint, how far it is from being met; at most 0 where it is.
            status: one of :data:`automl.records.STATUSES`.
            error: of a failed trial, to recognise repeated failures.
            epochs: epochs trained, which orders trials that were stopped early.

        Raises:
            KeyError: an id that was not proposed here.
        """
        if isinstance(candidate, str):
            if candidate not in self._taken:
                raise KeyError(f"candidate {candidate!r} was not proposed here; pass the Candidate itself")
            candidate = self._taken[candidate]
        finite = score is not None and math.isfinite(score)
        result = _Result(
            float(score) if finite and score is not None else None,
            dict(violations or {}),
            status,
            error,
            epochs,
        )
        waited = self._waiting.pop(candidate.id, None)
        if waited is None and status == "stopped" and error == INTERRUPTED:
            return  # a trial of the past that was never finished may run again
        if self._batch is None:
            if candidate.id not in self._taken:
                self._taken[candidate.id] = candidate
                self._explored += candidate.id not in self._ranked
            self._learn(candidate, result)
        elif waited is None:
            if candidate.id not in self._taken:
                self._past[candidate.id] = (candidate, result)
        else:
            self._round = [(c, result if c.id == candidate.id else r) for c, r in self._round]

    def _close_round(self) -> None:
        finished, self._round = self._round, []
        for candidate, result in finished:
            if result is not None:
                self._learn(candidate, result)

    def _learn(self, candidate: Candidate, result: _Result) -> None:
        self._learned += 1
        self._failures.note(candidate, result)
        if result.score is not None and result.status != "failed":
            self._scored += 1
        if not self._space_empty:
            self._tpe().tell(candidate, result.score, result.violations, result.status, result.epochs)

    def _choose(self, away: set[str], seconds_left: float | None) -> Candidate | None:
        if self._turn_to_explore():
            return self._explore(away, seconds_left) or self._from_pool(away, seconds_left)
        return self._from_pool(away, seconds_left) or self._explore(away, seconds_left)

    def _turn_to_explore(self) -> bool:
        later = len(self._taken) - self._pool_first
        return (
            later >= 0
            and self._scored >= _LEAST_RESULTS
            and self._explored < self._explore_share * (later + 1)
        )

    def _from_pool(self, away: set[str], seconds_left: float | None) -> Candidate | None:
        for candidate in self._pool:
            if candidate.id in self._taken or candidate.id in away or self._failures.blocks(candidate):
                continue
            if self._fits(candidate, seconds_left):
                return candidate
        return None

    def _explore(self, away: set[str], seconds_left: float | None) -> Candidate | None:
        if self._space_empty or self._explore_share == 0:
            return None
        if self._fruitless == self._learned:
            return None

        def blocked(candidate: Candidate) -> bool:
            return self._failures.blocks(candidate) or not self._fits(candidate, seconds_left)

        found = self._tpe().ask(len(self._taken), set(self._taken) | away, blocked)
        if found is None:
            self._fruitless = self._learned
        else:
            self._explored += 1
        return found

    def _fits(self, candidate: Candidate, seconds_left: float | None) -> bool:
        if self._cost_hint is None or seconds_left is None or self._batch is not None:
            return True
        cost = self._cost_hint(candidate)
        return not math.isfinite(cost) or cost <= seconds_left

    def _tpe(self) -> Any:
        if self._model is None:
            from automl.search._tpe import TpeModel

            self._model = TpeModel(self.space, self._seed)
        return self._model
