"""Optuna's tree-structured Parzen estimator over a :class:`SearchSpace`, by ask and tell.

Bergstra et al., *Algorithms for Hyper-Parameter Optimization*, NeurIPS 2011; multivariate as in
Falkner, Klein and Hutter, *BOHB*, ICML 2018. Constraints as in Watanabe and Hutter, *c-TPE*, IJCAI 2023:
feasible trials rank before infeasible ones, those by their total violation.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from automl.candidate import Candidate
from automl.search._space import Range, SearchSpace, Triple, tidy

_ATTEMPTS = 12


class TpeModel:
    """Makes up candidates around the best ones told so far.

    Args:
        space: what may be proposed; it must hold a triple and a strategy.
        seed: every proposal depends on it, on what was told before, and on the proposal's own number.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self._seed = seed
        self._triples: dict[str, Triple] = {f"{a}|{r}|{p}": (a, r, p) for a, r, p in space.triples}
        self._keys = {triple: key for key, triple in self._triples.items()}
        self._asked: dict[str, optuna.Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(direction="maximize", sampler=self._sampler(0))

    def ask(self, number: int, taken: set[str], blocked: Any) -> Candidate | None:
        """Propose a candidate that is neither taken nor blocked.

        Args:
            number: which proposal of the run this is; it seeds the sampler.
            taken: ids already proposed.
            blocked: callable, true for a candidate that must not run.

        Returns:
            None where nothing new was found.
        """
        for attempt in range(_ATTEMPTS):
            self._study.sampler = self._sampler(number, attempt)
            with _quiet():
                trial = self._study.ask()
                triple = self._triples[trial.suggest_categorical("triple", list(self._triples))]
                strategy = trial.suggest_categorical("strategy", list(self.space.strategies))
                values = {
                    name: _suggest(trial, f"{strategy}.{name}", bounds)
                    for name, bounds in self.space.ranges.get(strategy, {}).items()
                }
            candidate = self.space.candidate(triple, strategy, values)
            if self._usable(candidate, taken, blocked):
                self._asked[candidate.id] = trial
                return candidate
            self._study.tell(trial, state=TrialState.FAIL)
        return self._random(number, taken, blocked)

    def tell(
        self,
        candidate: Candidate,
        score: float | None,
        violations: Mapping[str, float],
        status: str,
        epochs: int = 0,
    ) -> None:
        """Record how a candidate did, whether it was asked for here or comes from elsewhere.

        A trial without a finite score is a failure, which the model ignores. A trial stopped early is
        *pruned*: its low-fidelity score ranks behind all finished ones instead of among them.
        """
        finite = score is not None and math.isfinite(score)
        limits = {name: float(value) for name, value in violations.items() if not math.isnan(float(value))}
        trial = self._asked.pop(candidate.id, None)
        if trial is not None:
            if not finite or status == "failed":
                self._study.tell(trial, state=TrialState.FAIL)
                return
            for name, value in limits.items():
                trial.set_constraint(name, value)
            if status == "stopped":
                trial.report(float(score or 0.0), step=max(epochs, 1))
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, float(score or 0.0))
            return
        described = self._describe(candidate)
        if not finite or status == "failed" or described is None:
            return
        params, distributions = described
        stopped = status == "stopped"
        value = float(score or 0.0)
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
                value=value,
                params=params,
                distributions=distributions,
                intermediate_values={max(epochs, 1): value} if stopped else None,
                constraints=limits,
            )
        )

    def _sampler(self, number: int, attempt: int = 0) -> optuna.samplers.BaseSampler:
        # Many candidates are drawn from the good density, because one of a few hundred triples would
        # hardly ever be among the usual 24. The best of many is the same at every attempt, so once it is
        # taken fewer are drawn, until one is: that stays near the good ones without being the best again.
        draws = max(min(max(24, 2 * len(self._triples)), 512) >> attempt, 1)
        with _quiet():
            return optuna.samplers.TPESampler(
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=3,
                n_ei_candidates=draws,
                seed=random.Random(f"{self._seed}/{number}/{attempt}").getrandbits(31),
            )

    def _describe(self, candidate: Candidate) -> tuple[dict[str, Any], dict[str, BaseDistribution]] | None:
        key = self._keys.get((candidate.architecture, candidate.resolution, candidate.precision))
        if key is None or candidate.strategy not in self.space.strategies:
            return None
        params: dict[str, Any] = {"triple": key, "strategy": candidate.strategy}
        distributions: dict[str, BaseDistribution] = {
            "triple": CategoricalDistribution(list(self._triples)),
            "strategy": CategoricalDistribution(list(self.space.strategies)),
        }
        values = {**self.space.defaults.get(candidate.strategy, {}), **dict(candidate.overrides)}
        for name, bounds in self.space.ranges.get(candidate.strategy, {}).items():
            if name in values and (value := _inside(values[name], bounds)) is not None:
                params[f"{candidate.strategy}.{name}"] = value
                distributions[f"{candidate.strategy}.{name}"] = _distribution(bounds)
        return params, distributions

    def _usable(self, candidate: Candidate, taken: set[str], blocked: Any) -> bool:
        if candidate.id in taken or blocked(candidate):
            return False
        return self.space.allowed is None or self.space.allowed(candidate)

    def _random(self, number: int, taken: set[str], blocked: Any) -> Candidate | None:
        draw = random.Random(f"{self._seed}/{number}/random")
        for _ in range(50):
            triple = draw.choice(self.space.triples)
            strategy = draw.choice(self.space.strategies)
            ranges = self.space.ranges.get(strategy, {})
            values = {name: _draw(draw, bounds) for name, bounds in ranges.items()}
            candidate = self.space.candidate(triple, strategy, values)
            if self._usable(candidate, taken, blocked):
                return candidate
        for triple in self.space.triples:  # a small space without numbers: whatever is left of it
            for strategy in self.space.strategies:
                candidate = self.space.candidate(triple, strategy, {})
                if self._usable(candidate, taken, blocked):
                    return candidate
        return None


def _suggest(trial: optuna.Trial, name: str, bounds: Range) -> Any:
    if isinstance(bounds, list):
        return trial.suggest_categorical(name, bounds)
    low, high, log = bounds
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def _distribution(bounds: Range) -> BaseDistribution:
    if isinstance(bounds, list):
        return CategoricalDistribution(bounds)
    low, high, log = bounds
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _inside(value: Any, bounds: Range) -> Any:
    if isinstance(bounds, list):
        return value if value in bounds else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    low, high, _ = bounds
    clipped = min(max(value, low), high)
    return int(clipped) if isinstance(low, int) and isinstance(high, int) else float(clipped)


def _draw(draw: random.Random, bounds: Range) -> Any:
    if isinstance(bounds, list):
        return draw.choice(bounds)
    low, high, log = bounds
    value = math.exp(draw.uniform(math.log(low), math.log(high))) if log else draw.uniform(low, high)
    whole = isinstance(low, int) and isinstance(high, int)
    return round(value) if whole else tidy(value)


class _quiet(warnings.catch_warnings):
    """Silences Optuna's notes on experimental arguments."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
