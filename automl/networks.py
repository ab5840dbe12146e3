"""Which networks can be had for a task, and which of them can keep its limits."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from automl import feasibility
from automl.aside import Aside
from automl.errors import InputError
from automl.home import cache_folder
from automl.plan import costs_seconds
from automl.ranking import resolutions_for
from automl.task import COST_METRICS, Constraint, Task
from automl.ticker import Ticker
from search_spaces import carried
from search_spaces.backbones import Backbone, find_backbones

#: Million MACs that a network is taken to have where they are not known.
_UNKNOWN_MACS = 100.0
#: Seconds in which networks are measured for the report of a search that was interrupted.
_AFTER_INTERRUPTION = 5.0


def find(
    task: Task,
    sets: Sequence[Sequence[Constraint]],
    say: Callable[[str], None],
    aside: Aside | None,
    use_carried: bool = True,
) -> list[Backbone]:
    """Find the backbones; where networks will have to be built, begin the imports that this takes.

    Args:
        task: what is asked for.
        sets: of limits.
        say: tells the user something.
        aside: where networks will be built; None for this process.
        use_carried: whether, where nothing else is found, subnets of the supernet are taken that the package carries.

    Raises:
        InputError: none of those that were asked for can be had.
    """
    found, skipped = find_backbones(task.weights_dirs, task.backbones)
    for line in skipped:
        say(f"  {line}")
    if not found:
        raise InputError(f"none of the backbones asked for can be had: {'; '.join(skipped)}")
    if not task.backbones and not any(b.pretrained and b.source != carried.SOURCE for b in found):
        found = [b for b in found if use_carried or b.source != carried.SOURCE]
        say(
            "  no pretrained weights were found, and no supernet is asked for: networks are trained from scratch"
            if not use_carried
            else "  no pretrained weights were found: small networks that come with this package are used; "
            "--weights-dir FOLDER, or --backbone with the name of a timm model once online, gives better models"
        )
    if aside is not None and not feasibility.is_quick(found, sets, task.device, cache_folder("feasibility")):
        aside.start()
    return found


def measure(
    backbones: Sequence[Backbone],
    dataset: Any,
    task: Task,
    sets: Sequence[Sequence[Constraint]],
    say: Callable[[str], None],
    aside: Aside | None,
    deadline: float | None,
) -> tuple[pd.DataFrame, int]:
    """Find out what can keep one of the sets of limits.

    Args:
        backbones: of :func:`find`.
        dataset: an opened :class:`automl.data.Dataset`.
        task: what is asked for.
        sets: of limits.
        say: tells the user something.
        aside: where networks are built and timed; None for this process.
        deadline: ``time.monotonic()`` after which nothing more is measured.

    Returns:
        the frame of a :class:`automl.feasibility.FeasibilityTable`, and how many of its rows are left out because they
        cannot keep any set of limits. Where none can, the closest are marked as feasible, so that the user sees what
        it would take.
    """
    costs, cache = any(c.is_cost for limits in sets for c in limits), cache_folder("feasibility")
    if costs:
        say("measuring which networks can meet the limits")
    arguments = (
        backbones,
        resolutions_for(dataset.size),
        ("fp32", "int8") if costs else ("fp32",),
        len(dataset.class_names),
        sets,
        task.device,
        cache,
    )
    builds = costs or not feasibility.is_quick(backbones, sets, task.device, cache)
    call = aside.measure if aside is not None and builds else feasibility.measure
    table = call(*arguments, deadline=deadline).frame
    count = int(table["feasible"].sum())
    if costs:
        say(f"  {count} of {len(table)} network settings can meet them")
    if not count:
        table["feasible"] = feasibility.closest(table, sets)
    late = int((~table["feasible"] & table["cause"].eq("late")).sum())
    if late:
        say(f"  {late} could not be measured in time and are left out; a larger --budget measures more")
    return table, int((~table["feasible"] & table["cause"].eq("limit")).sum())


def measure_tried(run: Any) -> None:
    """Where no limit asked for it: what the networks of a run's best trials cost, for the report.

    Who interrupted the search waits for its model, so there are a few seconds only.
    """
    sets = [*run.limits, run.task.constraints]
    scored = [(o.usable_score, s.candidate.triple) for s, o in run.finished if o.usable_score is not None]
    if any(c.is_cost for limits in sets for c in limits) or not scored:
        return
    seconds = costs_seconds(run.clock.budget)
    if run.interrupted:
        seconds = min(seconds, _AFTER_INTERRUPTION)
    run.table = feasibility.measure_tried(
        run.table,
        list(dict.fromkeys(triple for _, triple in sorted(scored, reverse=True))),
        run.backbones,
        len(run.dataset.class_names),
        run.task.device,
        cache_folder("feasibility"),
        deadline=time.monotonic() + seconds,
        progress=Ticker(run.say, "measuring", "networks"),
    )
    run.table.to_parquet(run.folder / "search" / "feasibility.parquet")


def cost_table(
    frame: pd.DataFrame, *, cautious: bool = False
) -> dict[tuple[str, int, str], dict[str, float]]:
    """(architecture, resolution, precision) → costs of its untrained export; ``cautious``: in a slow moment."""
    found = {}
    for row in frame.to_dict("records"):
        costs = {k: float(row[k]) for k in COST_METRICS}
        if cautious:
            costs["latency_ms"] = float(row["latency_upper_ms"])
        found[str(row["architecture"]), int(row["resolution"]), str(row["precision"])] = costs
    return found


def macs(table: pd.DataFrame) -> Mapping[tuple[str, int, str], float]:
    """Million MACs by architecture, resolution and precision; of others, those of a small network."""
    known = table["macs_m"].fillna(_UNKNOWN_MACS).astype(float)
    names = zip(table["architecture"], table["resolution"], table["precision"], strict=True)
    return defaultdict(lambda: _UNKNOWN_MACS, zip(names, known, strict=True))


def largest_macs(backbones: Sequence[Backbone], table: pd.DataFrame) -> float:
    """Million MACs of the largest network that is likely to win."""
    usable = table[table["feasible"]]
    # Nets from scratch seldom win beside pretrained ones, and cost more than those.
    likely = usable[usable["architecture"].isin([b.name for b in backbones if b.pretrained])]
    return float(np.max((usable if likely.empty else likely)["macs_m"].fillna(_UNKNOWN_MACS)))
