"""Which trials make up the model: the best choice within a set of limits, on validation scores alone."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from automl.ensemble import Member, Selection, blend, calibrate, select
from automl.evaluation import metrics, operating_point
from automl.networks import cost_table
from automl.plan import Refit
from automl.records import Outcome, TrialSpec
from automl.task import Constraint, Objective
from automl.trial import likelihood, smooth_score
from strategy_pool.strategy import FROZEN_METHODS

#: Share of a latency limit that members may add up to; the joint graph costs a little more than its parts.
_HEADROOM = 0.95
_LARGEST = 5
#: Images, every class counted the same, at which the objective on them says as much as their likelihood.
_TELLING = 2000


def load_scores(folder: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Image indices and probabilities that a trial left; None where there are none."""
    try:
        with np.load(folder / "scores.npz", allow_pickle=False) as stored:
            return stored["index"], stored["probabilities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def violations(
    folder: Path, dataset: Any, objective: Objective, limits: Sequence[Constraint]
) -> dict[str, float]:
    """How far a trial is from keeping limits on its quality, at its best operating point on validation scores.

    Args:
        folder: of the trial.
        dataset: for labels and class names.
        objective: what is maximised.
        limits: on qualities.

    Returns:
        expression → violation, at most 0 where it holds; empty for a trial without scores.
    """
    scores = load_scores(folder)
    if scores is None:
        return {}
    index, probabilities = scores
    labels = np.asarray(dataset.labels)[index]
    point = operating_point.choose(probabilities, labels, list(dataset.class_names), objective, list(limits))
    return dict(point.violations)


class Chooser:
    """Chooses among finished trials.

    Args:
        finished: specification and outcome of each.
        dataset: for labels and class names.
        objective: what is maximised.
        costs: (architecture, resolution, precision) → measured costs of its untrained export.
        most_macs: million MACs that members may add up to, so that the time suffices for the test images; a single
            network is always admitted.
    """

    def __init__(
        self,
        finished: Sequence[tuple[TrialSpec, Outcome]],
        dataset: Any,
        objective: Objective,
        costs: Mapping[tuple[str, int, str], Mapping[str, float]],
        most_macs: float = math.inf,
    ) -> None:
        self.labels = np.asarray(dataset.labels)
        self.classes = list(dataset.class_names)
        self.objective = objective
        self.balanced = objective.name != "accuracy"
        self.specs = {spec.trial_id: spec for spec, _ in finished}
        self.members: dict[str, Member] = {}
        scored = {}
        for spec, outcome in finished:
            if spec.purpose != "search" or outcome.usable_score is None or outcome.status == "failed":
                continue
            if spec.candidate.precision == "int8" and "fp32_score" not in outcome.metrics:
                continue  # it ended before it was quantised: its scores are another model's
            scores = load_scores(Path(spec.folder))
            if scores is not None and (Path(spec.folder) / "model.json").exists():
                scored[spec.trial_id] = (spec, outcome, *scores)
        # Trials that scored all the images are comparable; one that ran out of time before its last fold is not.
        most = max((len(index) for _s, _o, index, _p in scored.values()), default=0)
        self.index = np.zeros(0, dtype=np.int64)
        for name, (spec, outcome, index, probabilities) in scored.items():
            if len(index) < most:
                continue
            self.index = index
            logs, temperature = calibrate(probabilities, self.labels[index])
            cost = dict(costs.get(spec.candidate.triple, {}))
            if "size_mb" in cost:
                cost["size_mb"] += float(outcome.metrics.get("head_mb", 0.0))
            cost = {key: float(value) for key, value in cost.items() if math.isfinite(float(value))}
            single = spec.candidate.precision != "fp32"
            growing = not outcome.metrics.get("refitted")
            self.members[name] = Member(name, logs, temperature, cost, single, growing)
        self.most_macs = max([most_macs, *(m.costs.get("macs_m", 0.0) for m in self.members.values())])

    def choices(self, limits: Sequence[Constraint]) -> list[Selection]:
        """Choices for a set of limits, best first; those that break a limit by their summed costs come last."""
        members = list(self.members.values())
        if not members:
            return []
        value_of = self._value(limits)
        cost_limits = [c for c in limits if c.is_cost]

        def admits(costs: Mapping[str, float]) -> bool:
            return costs.get("macs_m", 0.0) <= self.most_macs and all(
                c.name not in costs
                or c.satisfied(costs[c.name] / (_HEADROOM if c.name.startswith("latency") else 1.0))
                for c in cost_limits
            )

        if self.by_likelihood(limits):
            found = blend(
                members,
                self.labels[self.index],
                value_of,
                balanced=self.balanced,
                admits=admits,
                largest=_LARGEST,
            )
        else:
            found = select(members, value_of, admits=admits, largest=_LARGEST)
        inside = {tuple(sorted(s.weights)) for s in found}
        rest = [
            replace(s, admitted=False)
            for s in select(members, value_of, largest=1)
            if tuple(sorted(s.weights)) not in inside
        ]
        rest.sort(
            key=lambda s: max((c.violation(s.costs.get(c.name, math.nan)) for c in cost_limits), default=0.0)
        )
        return [*found, *rest]

    def point(self, selection: Selection, limits: Sequence[Constraint]) -> Any:
        """The operating point of a choice, from its out-of-fold or validation scores."""
        quality = [c for c in limits if not c.is_cost]
        return operating_point.choose(
            np.exp(selection.log_probabilities),
            self.labels[self.index],
            self.classes,
            self.objective,
            quality,
        )

    def by_likelihood(self, limits: Sequence[Constraint]) -> bool:
        """Whether all that counts is how often labels are right, so that their likelihood says which are."""
        return self.objective.class_name is None and all(c.is_cost for c in limits)

    def _value(self, limits: Sequence[Constraint]) -> Callable[[np.ndarray], tuple[float, float]]:
        labels = self.labels[self.index]
        quality = [c for c in limits if not c.is_cost]
        counts = np.bincount(labels)
        counts = counts[counts > 0]
        evidence = len(counts) * counts.min() if self.balanced else len(labels)
        trust = evidence / (evidence + _TELLING)

        def likely(probabilities: np.ndarray) -> tuple[float, float]:
            score = metrics.compute(
                self.objective.name, None, labels, probabilities, probabilities.argmax(1), self.classes
            )
            return 0.0, likelihood(labels, probabilities, balanced=self.balanced) + trust * float(score)

        def value(probabilities: np.ndarray) -> tuple[float, float]:
            point = operating_point.choose(probabilities, labels, self.classes, self.objective, quality)
            missed = sum(max(0.0, v) for v in point.violations.values() if math.isfinite(v))
            return -missed, smooth_score(float(point.objective), labels, probabilities)

        return likely if self.by_likelihood(limits) else value


def choose_refits(run: Any) -> list[Refit]:
    """The fine-tuned members of a run's best choices, as many as there are workers.

    A resumed run may have other backbones and recipes than it began with; what is gone is not trained on.

    Args:
        run: the :class:`automl.run.Run`, whose search is over.
    """
    costs = cost_table(run.table, cautious=True)
    chooser = Chooser(run.finished, run.dataset, run.task.objective, costs, run.most_macs)
    weights: dict[str, float] = {}
    by_id = {spec.trial_id: spec for spec, _ in run.finished}
    macs = 0.0
    for limits in run.limits or (run.task.constraints,):
        choices = chooser.choices(limits)
        chosen = choices[0].weights if choices else {}
        for name, weight in chosen.items():
            weights[name] = weights.get(name, 0.0) + weight
        macs = max(macs, sum(run.macs[by_id[name].candidate.triple] for name in chosen))
    if weights:
        # Now that it is known who will answer, mostly less; and there are models already.
        run.clock.keep_for(run.scored[0], macs, run.scored[1], most=0.8)
    done = {spec.initial for spec, outcome in run.finished if spec.purpose == "refit"}
    backbones = {b.name for b in run.backbones}
    tuned = [
        name
        for name in sorted(weights, key=lambda n: -weights[n])
        if by_id[name].strategy["method"] not in FROZEN_METHODS
        and str(run.store.folder(name)) not in done
        and by_id[name].candidate.architecture in backbones
        and by_id[name].candidate.strategy in run.catalog
    ]
    return [Refit(by_id[name].candidate, name) for name in tuned[: max(run.workers, 2)]]
