"""Searchers of the field in the place of the engine's own: the same networks, recipes, trials, limits and time.

Each draws from what a submit would draw from, that is networks that keep the limits on cost, at all sides, with all
recipes of the catalog and the ranges in which their numbers may move. What they lack is what the engine adds: the first
models on frozen features, the order of the pool, and the average of several models. The best trial on validation images
is trained on with all development images in the same share of the time as the engine's, and exported, measured and judged
by the engine's own code.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl.candidate import Candidate
from automl.choose import Chooser
from automl.plan import PhasedProposer, Refit
from automl.run import Run
from benchmarks.transfer import TRANSFER, TransferSearcher
from strategy_pool.strategy import FROZEN_METHODS, Strategy, search_space

if TYPE_CHECKING:
    import optuna

    from automl.ensemble import Selection
    from automl.records import Outcome, TrialSpec
    from automl.task import Constraint, Task

#: Draws after which a sampler is taken to be stuck at what was tried already, and random ones after which nothing new is
#: expected.
_ATTEMPTS, _RANDOM = 50, 200
#: Random trials before the estimator of Parzen proposes.
_STARTUP = 4
#: Share of a trial's time at which successive halving looks first, and of how many that are there one goes on
#: (Li et al. 2020, section 5, use 4).
_FIRST_RUNG, _FACTOR = 1 / 16, 4


@dataclass(frozen=True)
class Searcher:
    """One searcher.

    Attributes:
        title: what it is, for the table.
        sampler: seed → Optuna's sampler.
        brackets: of asynchronous successive halving; 0 lets every trial end.
        frugal: whether multiply-accumulates are a second objective, to be small.
    """

    title: str
    sampler: Callable[[int], optuna.samplers.BaseSampler]
    brackets: int = 0
    frugal: bool = False

    def seed(self, seed: int) -> int:
        """A seed of its own, so that two searchers that begin with random draws don't begin with the same ones."""
        return (seed + zlib.crc32(self.title.encode())) % 2**31

    @contextmanager
    def proposing(self, run: Run) -> Iterator[Study]:
        """What proposes the trials of a run, until the end of the context."""
        yield Study(run.pool, run.catalog, self, run.macs, self.seed(run.task.seed))


def _random(seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    # The default of ten random trials before the first model is more than minutes have time for.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, constant_liar=True)


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    # As many as a budget of minutes has trials for; the default population of 50 would never breed.
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=8)


OPTUNA: Mapping[str, Searcher] = {
    "random": Searcher("random search", _random),
    "tpe": Searcher("Optuna's tree-structured Parzen estimator", _tpe),
    "nsga2": Searcher("Optuna's NSGA-II: score against multiply-accumulates", _nsga2, frugal=True),
    "asha": Searcher("random search with asynchronous successive halving", _random, brackets=1),
    "hyperband": Searcher("random search with asynchronous Hyperband", _random, brackets=3),
}
SEARCHERS: Mapping[str, Searcher | TransferSearcher] = {**OPTUNA, **TRANSFER}


@dataclass
class Study:
    """Asks an Optuna study for candidates; has the interface of :class:`automl.search.Proposer`.

    Args:
        pool: candidates without overrides that may be tried.
        catalog: recipes by name.
        searcher: whose sampler is asked.
        macs: million multiply-accumulates of each (architecture, resolution, precision).
        seed: of the sampler.
    """

    pool: Sequence[Candidate]
    catalog: Mapping[str, Strategy]
    searcher: Searcher
    macs: Mapping[tuple[str, int, str], float]
    seed: int
    done: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        aims = [optuna.study.StudyDirection.MAXIMIZE]
        if self.searcher.frugal:
            aims.append(optuna.study.StudyDirection.MINIMIZE)
        self._study = optuna.create_study(directions=aims, sampler=self.searcher.sampler(self.seed))
        self._networks = {f"{a}@{r}/{p}": (a, r, p) for a, r, p in dict.fromkeys(c.triple for c in self.pool)}
        self._recipes = list(dict.fromkeys(c.strategy for c in self.pool))
        self._allowed = {(c.triple, c.strategy) for c in self.pool}
        self._asked: dict[str, optuna.Trial] = {}
        self._seen: set[str] = set()

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        """Give out a candidate that was not tried yet; None where none is found."""
        own = self._study.sampler
        try:
            for attempt in range(_ATTEMPTS + _RANDOM):
                if attempt == _ATTEMPTS:
                    self._study.sampler = _random(self.seed + len(self._seen))
                found = self._drawn()
                if found is not None:
                    return found
        finally:
            self._study.sampler = own
        return None

    def _drawn(self) -> Candidate | None:
        """What the sampler says; None where that must not be tried, or was tried already."""
        from optuna.trial import TrialState

        trial = self._study.ask()
        triple = self._networks[trial.suggest_categorical("network", list(self._networks))]
        recipe = trial.suggest_categorical("recipe", self._recipes)
        found = None
        if (triple, recipe) in self._allowed:
            found = Candidate(*triple, recipe, self._overrides(trial, self.catalog[recipe]))
        if found is None or found.id in self._seen:
            self._study.tell(trial, state=TrialState.FAIL)
            return None
        self._seen.add(found.id)
        self._asked[found.id] = trial
        return found

    def _overrides(self, trial: optuna.Trial, recipe: Strategy) -> tuple[tuple[str, Any], ...]:
        told = recipe.to_dict()
        values: dict[str, Any] = {}
        for name, bounds in search_space(recipe).items():
            key = f"{recipe.name}.{name}"
            if isinstance(bounds, list):
                values[name] = trial.suggest_categorical(key, bounds)
            elif all(isinstance(end, int) for end in bounds[:2]):
                values[name] = trial.suggest_int(key, int(bounds[0]), int(bounds[1]), log=bounds[2])
            else:
                values[name] = trial.suggest_float(key, bounds[0], bounds[1], log=bounds[2])
        return tuple(sorted((name, value) for name, value in values.items() if told.get(name) != value))

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
        from optuna.trial import TrialState

        trial = self._asked.pop(candidate.id, None)
        if trial is None:
            return
        if score is None or not math.isfinite(score):
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, value in (violations or {}).items():
            if math.isfinite(value):
                trial.set_constraint(name, value)
        self._study.tell(trial, [score, self.macs[candidate.triple]] if self.searcher.frugal else score)


class SearcherRun(Run):
    """A submit whose trials a searcher proposes, and whose model is its best trial, trained on."""

    def run_trials(self, searcher: Searcher | TransferSearcher) -> None:
        """Run trials until the time for them is over."""
        from automl.machine import trial_resources
        from automl.search import Halving, SearchDisplay, run_search

        began = time.monotonic()
        self.rounds = None
        self.choose_images()
        allotment = self.clock.allotment()
        with (
            searcher.proposing(self) as study,
            SearchDisplay(lambda: self.clock.final - began, quiet=self.quiet) as display,
        ):
            self.phases = PhasedProposer([], lambda: study, self._refits, self.clock)
            end = run_search(
                self.phases,  # type: ignore[arg-type]
                self._make_spec,
                deadline=lambda: self.clock.final + 1.0,
                concurrency=self.workers,
                on_result=self._on_result,
                resources=trial_resources(self.workers),
                first_rung=_FIRST_RUNG * allotment if searcher.brackets and allotment else None,
                halving=Halving(_FACTOR, max(1, searcher.brackets), 0),
                violations=self._violations,
                listener=display,
            )
        if end.interrupted:
            raise KeyboardInterrupt
        self.seconds["search"] = time.monotonic() - began

    def export_best(self) -> Any:
        """Export the trial with the best validation score of those that keep the limits on cost; its result.

        Raises:
            AutomlError: no trial left a model.
        """
        from automl import networks
        from automl.finish import Finisher, preload

        began = time.monotonic()
        preload().join()
        networks.measure_tried(self)
        finisher = Finisher(self, began)
        best = best_trial(finisher.chooser, self.finished, self.task.constraints)
        if best is not None:
            finisher.chooser.members = {name: finisher.chooser.members[name] for name in best.weights}
        return finisher.run(self.folder, self.task)

    def _refits(self) -> list[Refit]:
        """The best trial, where it is a fine-tuning; as :func:`automl.choose.choose_refits` for the engine."""
        from automl.networks import cost_table

        costs = cost_table(self.table, cautious=True)
        chooser = Chooser(self.finished, self.dataset, self.task.objective, costs, self.most_macs)
        best = best_trial(chooser, self.finished, self.task.constraints)
        if best is None:
            return []
        spec = next(spec for spec, _ in self.finished if spec.trial_id in best.weights)
        self.clock.keep_for(self.scored[0], self.macs[spec.candidate.triple], self.scored[1], most=0.8)
        return [] if spec.strategy["method"] in FROZEN_METHODS else [Refit(spec.candidate, spec.trial_id)]


def best_trial(
    chooser: Chooser, finished: Sequence[tuple[TrialSpec, Outcome]], limits: Sequence[Constraint]
) -> Selection | None:
    """The trial with the best validation score of those that keep the limits on cost; of all where none does."""
    singles = [s for s in chooser.choices(limits) if len(s.weights) == 1]
    kept = [s for s in singles if s.admitted] or singles
    scores = {spec.trial_id: outcome.usable_score or 0.0 for spec, outcome in finished}
    return max(kept, key=lambda s: scores[next(iter(s.weights))], default=None)


def submit_with(
    name: str, task: Task, *, out: str | os.PathLike[str], columns: dict[str, str] | None = None
) -> Any:
    """Submit with another searcher; arguments as for :func:`automl.engine.submit`.

    Args:
        name: of :data:`SEARCHERS`.
        task: with a budget.
        out: run folder.
        columns: names of a manifest's columns.
    """
    from automl.engine import prepared

    run = SearcherRun(task, Path(out).expanduser().resolve(), False, (), True)
    with prepared(run, use_pool=False, columns=columns):
        run.run_trials(SEARCHERS[name])
        return run.export_best()
