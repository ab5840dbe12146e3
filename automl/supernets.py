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

    There is where limits on costs keep a good backbone out, at some side, whose smaller subnets may keep them.

    Args:
        backbones: that can be had.
        table: ``FeasibilityTable.frame``.
        sets: of limits.
        scores: of models on frozen features, by backbone.
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
    candidates = [b for b in backbones if b.pretrained and b.family == "timm" and may_convert(b.architecture)]
    for backbone in sorted(candidates, key=lambda b: -scores.get(b.name, -math.inf)):
        rows = table[table["architecture"].eq(backbone.name) & table["precision"].eq("fp32")]
        rows = rows[rows["resolution"].le(_LARGEST_SIDE)].sort_values("resolution", ascending=False)
        for row in rows.to_dict("records"):
            if not _LEAST_EPOCHS * images * _PASSES * float(row["macs_m"]) <= work:
                continue  # not even known, or too slow
            whole = [_worst(limits, row, 1.0) for limits in costs if limits]
            small = [_worst(limits, row, _SMALLEST) for limits in costs if limits]
            if any(w > 0 >= s for w, s in zip(whole, small, strict=True)):
                return Candidate(backbone.name, int(row["resolution"]), "fp32", SUPERNET)
    return None


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
        images=len(run.dataset.indices("train")),
        folds=len(run.dataset.folds),
        budget=run.clock.budget,
        work=_TRAINING_RATE * max(1, cores() // run.workers) * TRAINED * seconds_for(run.clock),
    )
    if found is not None:
        run.say(f"  limits keep {found.architecture} out at {found.resolution} px; it becomes a supernet")
    return found


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
    """Let a run know the costs and the network of a subnet that became one of its trials."""
    if not is_subnet(spec) or any(b.name == spec.candidate.architecture for b in run.backbones):
        return
    costs = {name: float(value) for name, value in outcome.metrics["costs"].items()}
    row = {
        **costs,
        "architecture": spec.candidate.architecture,
        "resolution": spec.candidate.resolution,
        "precision": "fp32",
        "latency_ms": costs.get("latency_median_ms", costs["latency_ms"]),
        "latency_upper_ms": costs["latency_ms"],
        "feasible": True,
        "basis": "measured",
    }
    run.table = pd.concat(
        [run.table, pd.DataFrame([row]).reindex(columns=run.table.columns)], ignore_index=True
    )
    run.table.to_parquet(run.folder / "search" / "feasibility.parquet")
    run.macs[spec.candidate.triple] = costs["macs_m"]
    run.backbones.append(Backbone.from_dict(spec.backbone))


def is_subnet(spec: TrialSpec) -> bool:
    """Whether a trial's network was taken out of a supernet."""
    return bool(spec.backbone.get("family") == SUBNET and not spec.backbone.get("pretrained"))
