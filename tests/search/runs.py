"""What the tests of the search share: candidates, specifications, and a listener that remembers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automl.candidate import Candidate
from automl.records import Outcome, Progress, TrialSpec
from automl.search import Proposer, SearchEnd, TrialStore, run_search

FAKES = "tests.search.fake_trials"

#: A small space with a number on a log scale, a whole number and a choice.
SPACE: dict[str, Any] = {
    "triples": [(name, side, "fp32") for name in "abc" for side in (32, 64)],
    "strategies": ["tune", "probe"],
    "ranges": {
        "tune": {"lr": (1e-4, 1e-1, True), "epochs": (1, 40, False)},
        "probe": {"loss": ["plain", "balanced"]},
    },
    "defaults": {"tune": {"lr": 0.01, "epochs": 10}, "probe": {"loss": "plain"}},
}


def candidate(
    architecture: str = "a", resolution: int = 32, strategy: str = "tune", **overrides: Any
) -> Candidate:
    return Candidate(architecture, resolution, "fp32", strategy, tuple(overrides.items()))


def numbered(count: int, strategy: str = "tune") -> list[Candidate]:
    """Candidates that differ in their resolution: 1, 2, 3 …"""
    return [candidate("a", number, strategy) for number in range(1, count + 1)]


def quality(tried: Candidate) -> float:
    """A made-up score that depends on every part of a candidate."""
    score = {"a": 0.3, "b": 0.4, "c": 0.5}.get(tried.architecture, 0.2) + 0.001 * tried.resolution
    overrides = dict(tried.overrides)
    return score - abs(float(overrides.get("lr", 0.01)) - 0.03) - 0.001 * float(overrides.get("epochs", 10))


def make_spec(
    folder: Path, tried: Candidate | None = None, trial_id: str = "t0001", **fields: Any
) -> TrialSpec:
    """A specification whose trial writes into ``folder``."""
    values: dict[str, Any] = {
        "trial_id": trial_id,
        "candidate": tried or candidate(),
        "dataset_folder": "dataset",
        "backbone": {},
        "folder": str(folder),
        "seconds": None,
        "max_epochs": None,
        "seed": 0,
        "threads": 1,
        "device": "cpu:1",
        "objective": "accuracy",
        "constraints": [],
        "shared_folder": "shared",
        "strategy": {},
    }
    return TrialSpec(**{**values, **fields})


def make_outcome(trial_id: str = "t0001", status: str = "completed", **fields: Any) -> Outcome:
    return Outcome(trial_id, "a@32/fp32/tune", status, **{"score": 0.5, **fields})


@dataclass
class Watcher:
    """A listener that remembers, and calls ``on_report`` at every report.

    Attributes:
        most: the largest number of trials that were under way (had reported and not ended) at one time.
    """

    on_report: Callable[[TrialSpec, Progress], None] = lambda spec, progress: None
    begun: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    reports: list[Progress] = field(default_factory=list)
    under_way: set[str] = field(default_factory=set)
    most: int = 0
    ticks: int = 0

    def started(self, spec: TrialSpec) -> None:
        self.begun.append(spec.trial_id)

    def progressed(self, spec: TrialSpec, progress: Progress) -> None:
        self.reports.append(progress)
        self.under_way.add(spec.trial_id)
        self.most = max(self.most, len(self.under_way))
        self.on_report(spec, progress)

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.ended.append(spec.trial_id)
        self.under_way.discard(spec.trial_id)

    def tick(self) -> None:
        self.ticks += 1


@dataclass
class Run:
    """A search in a run folder, with everything it told.

    Attributes:
        seconds: allotment of each trial.
        results: what ended, in that order.
    """

    folder: Path
    seconds: float | None = None
    results: list[tuple[TrialSpec, Outcome]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = TrialStore(self.folder)

    def spec(self, tried: Candidate, left: float) -> TrialSpec:
        trial_id = self.store.new_trial_id()
        return make_spec(self.store.folder(trial_id), tried, trial_id, seconds=self.seconds)

    def took(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.results.append((spec, outcome))

    def search(
        self,
        proposer: Any,
        trial: str,
        *,
        deadline: float | Callable[[], float] = 120.0,
        mode: str = "inprocess",
        **options: Any,
    ) -> SearchEnd:
        """Search with one of the fake trials; the deadline is in seconds from now, or a function of the clock."""
        name = trial if ":" in trial else f"{FAKES}:{trial}"
        options = {"on_result": self.took, **options}
        ends = deadline if callable(deadline) else time.monotonic() + deadline
        return run_search(proposer, self.spec, deadline=ends, mode=mode, trial_fn=name, **options)

    @property
    def statuses(self) -> list[str]:
        return [outcome.status for _, outcome in self.results]

    @property
    def tried(self) -> list[str]:
        return [spec.candidate.id for spec, _ in self.results]

    def by_strategy(self) -> dict[str, Outcome]:
        return {spec.candidate.strategy: outcome for spec, outcome in self.results}


def pool_only(pool: Iterable[Candidate], **options: Any) -> Proposer:
    """A proposer that gives out the pool and nothing else."""
    return Proposer(list(pool), explore_share=0.0, **options)
