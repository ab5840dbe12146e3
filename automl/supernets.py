"""When a submit trains a supernet, of which backbone, and how its subnets join the other trials."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from automl.candidate import Candidate
from automl.device import cores
from automl.ranking import CAPACITY
from automl.records import Outcome, TrialSpec
from automl.supernet_trial import SUPERNET_FILE, TRAINED, read_subnets, taken_over
from automl.task import Constraint
from search_spaces.backbones import SUBNET, Backbone, may_convert

#: Purpose of a trial that trains a supernet, and source of its subnets.
SUPERNET = "supernet"
#: Shortest budget in which a supernet is trained, seconds, and its share of the time of the search on one worker.
LEAST_BUDGET, SHARE = 3600.0, 0.4
#: Epochs, counted as of the whole backbone, that a supernet's time has to be good for: a cautious guess, as with few of them the
#: same backbone at a smaller side is likely to be better than its subnets.
_LEAST_EPOCHS = 120
#: Million multiply-accumulates per second of training on one core, and how many a pass forward and back has.
_TRAINING_RATE, _PASSES = 20_000.0, 3.0
#: Largest side that one is trained at.
_LARGEST_SIDE = 160
#: Cost of the smallest subnets as a share of their backbone's.
_SMALLEST = 0.35
#: Fewest training images of a supernet.
_LEAST_IMAGES = 200
#: Recipe by which subnets are trained on.
STRATEGY = "probe_then_full_light"


def choose(
    backbones: Sequence[Backbone],
    table: pd.DataFrame,
    sets: Sequence[Sequence[Constraint]],
    scores: Mapping[str, float],
    *,
    images: int,
    folds: int,
    budget: float | None,
    work: float,
) -> Candidate | None:
    """Choose the backbone and the side of a supernet; None where there is nothing to win.

    There is where limits on costs keep a good backbone out, at some side, whose smaller subnets may keep them, and no
    better backbone keeps them as it is, at that side or a larger one.

    Args:
        backbones: that can be had.
        table: ``FeasibilityTable.frame``.
        sets: of limits.
        scores: of models on frozen features, by backbone; one that no limits let in has none.
        images: training images.
        folds: of the validation.
        budget: of the submit, seconds; None where trials are counted.
        work: million multiply-accumulates that there is time for in the trial.
    """
    if budget is None or budget < LEAST_BUDGET or images < _LEAST_IMAGES or folds != 1:
        return None
    costs = [[c for c in limits if c.is_cost] for limits in sets]
    if not any(costs):
        return None
    convertible = {b.name for b in backbones if b.family == "timm" and may_convert(b.architecture)}
    plain = table[table["precision"].eq("fp32") & table["cause"].ne("failed")]
    expected = _expected([b.name for b in backbones if b.pretrained], plain, scores)
    kept = [0] * len(costs)  # largest side at which a better backbone keeps each set
    for name in sorted(expected, key=lambda name: (-expected[name], name not in scores)):
        rows = plain[plain["architecture"].eq(name)].sort_values("resolution", ascending=False)
        settings = rows.to_dict("records")
        for row in settings if name in convertible else []:
            side = int(row["resolution"])
            if side > _LARGEST_SIDE or not _LEAST_EPOCHS * images * _PASSES * float(row["macs_m"]) <= work:
                continue  # too slow, or not even known
            wanted = [limits for limits, most in zip(costs, kept, strict=True) if limits and most < side]
            if any(_worst(limits, row, 1.0) > 0 >= _worst(limits, row, _SMALLEST) for limits in wanted):
                return Candidate(name, side, "fp32", SUPERNET)
        if name in scores:  # what is only expected of one needs no supernet less
            for at, limits in enumerate(costs):
                sides = [int(row["resolution"]) for row in settings if _worst(limits, row, 1.0) <= 0]
                kept[at] = max([kept[at], *sides])
    return None


def _expected(names: Sequence[str], table: pd.DataFrame, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores by backbone; one without is expected to score what the others do, and more the larger it is."""
    each = table["macs_m"] / table["resolution"] ** 2
    work = each.groupby(table["architecture"]).max()
    size = {name: math.log2(value) for name, value in work.items() if value > 0}
    known = [scores[name] - CAPACITY * size[name] for name in names if name in scores and name in size]
    usual = float(np.mean(known)) if known else 0.0
    return {
        name: scores.get(name, usual + CAPACITY * size[name])
        for name in names
        if name in scores or name in size
    }


def choose_for(run: Any) -> Candidate | None:
    """:func:`choose` for a run, which has its first models; None for one that trains no supernet or has begun one.

    Args:
        run: the :class:`automl.run.Run`.
    """
    if not run.how["use_supernet"] or any(spec.purpose == SUPERNET for spec, _ in run.finished):
        return None
    found = choose(
        run.backbones,
        run.table,
        run.sets,
        run.backbone_scores(),
        images=len(run.sample.indices("train")),
        folds=len(run.sample.folds),
        budget=run.clock.budget,
        work=_TRAINING_RATE * max(1, cores() // run.workers) * TRAINED * seconds_for(run.clock),
    )
    if found is not None:
        run.say(f"  limits keep {found.architecture} out at {found.resolution} px; it becomes a supernet")
    return found


def asked(run: Any) -> dict[str, Any]:
    """Fields that the specification of a supernet's trial has besides those of others."""
    from automl._bench import steadiness
    from automl.home import cache_folder

    known = steadiness(cache_folder("feasibility"), run.task.device)
    limits = [[c.expression for c in one] for one in run.sets]
    return {"limits": limits, "slow_moment": known.factor}


def seconds_for(clock: Any) -> float:
    """Seconds of a supernet's trial that begins now; infinite where trials are counted."""
    return SHARE * float(clock.search_end - time.monotonic())


def _worst(limits: Sequence[Constraint], row: Mapping[str, Any], share: float) -> float:
    """How far a share of a backbone's costs breaks limits; of what is not known nothing is said."""
    known = {**row, "latency_ms": row.get("latency_upper_ms", math.nan)}
    gaps = [c.violation(share * float(known.get(c.name, math.nan))) for c in limits]
    return max((gap for gap in gaps if math.isfinite(gap)), default=math.nan)


def take_over(run: Any, spec: TrialSpec) -> list[tuple[TrialSpec, Outcome]]:
    """Turn the subnets that a trial left into trials of the run; each is moved, so nothing is taken twice.

    A subnet appears as a whole under its trial's name, so that one that was broken off is taken over later.

    Args:
        run: the :class:`automl.run.Run`.
        spec: of the supernet's trial.
    """
    from automl.search.store import SPEC_FILE, write_json, write_outcome
    from automl.trial import score_of

    found = []
    supernet = Path(spec.folder) / SUPERNET_FILE
    if supernet.exists():
        part = run.folder / f".{SUPERNET_FILE}"
        shutil.copyfile(supernet, part)
        part.replace(run.folder / SUPERNET_FILE)
    for folder, about in read_subnets(spec):
        trial_id = run.store.new_trial_id()
        target = run.store.folder(trial_id)
        new = taken_over(spec, target, about, trial_id, run.catalog[STRATEGY].to_dict())
        with np.load(folder / "scores.npz", allow_pickle=False) as stored:
            score = score_of(spec.objective, run.dataset, stored["index"], stored["probabilities"])
        metrics = {"subnet": about["subnet"], "costs": about["costs"], "supernet": spec.trial_id}
        outcome = Outcome(trial_id, new.candidate.id, "completed", score, metrics)
        write_json(folder / SPEC_FILE, new.to_dict())
        write_outcome(folder, outcome)
        folder.rename(target)
        found.append((new, outcome))
    return found


def admit(run: Any, spec: TrialSpec, outcome: Outcome) -> None:
    """Let a run know the costs and the network of a subnet that became one of its trials.

    One network may come at several sides, each with costs of its own.
    """
    if not is_subnet(spec):
        return
    candidate, names = spec.candidate, ["architecture", "resolution", "precision"]
    if candidate.triple not in set(run.table[names].itertuples(index=False, name=None)):
        costs = {name: float(value) for name, value in outcome.metrics["costs"].items()}
        row = {
            **costs,
            **dict(zip(names, candidate.triple, strict=True)),
            "latency_ms": costs.get("latency_median_ms", costs["latency_ms"]),
            "latency_upper_ms": costs["latency_ms"],
            "feasible": True,
            "basis": "measured",
        }
        run.table = pd.concat(
            [run.table, pd.DataFrame([row]).reindex(columns=run.table.columns)], ignore_index=True
        )
        run.table.to_parquet(run.folder / "search" / "feasibility.parquet")
        run.macs[candidate.triple] = costs["macs_m"]
    if not any(b.name == candidate.architecture for b in run.backbones):
        run.backbones.append(Backbone.from_dict(spec.backbone))


def is_subnet(spec: TrialSpec) -> bool:
    """Whether a trial's network was taken out of a supernet."""
    return bool(spec.backbone.get("family") == SUBNET and not spec.backbone.get("pretrained"))
