"""Which candidates can keep the limits: untrained exports, measured on the device before anything is trained.

Latency and size of a network do not depend on what its weights are, so an export without training tells them. Each
backbone and precision is exported and timed at the side where the answer is open; the other sides follow from it by
their multiply-accumulates where that leaves a margin, and are measured where it does not. Measurements are kept per
device, so a second task costs nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from automl._bench import Bench, counts, is_counted
from automl.device import Device
from automl.evaluation.latency import device_name
from automl.task import Constraint
from search_spaces.backbones import Backbone
from search_spaces.counts import COUNTED_SIDE

TIMED = ("latency_ms", "latency_p95_ms", "memory_mb")
COLUMNS = (
    "architecture", "resolution", "precision", "latency_ms", "latency_p95_ms", "size_mb", "params_m", "macs_m",
    "memory_mb", "latency_upper_ms", "feasible", "basis", "cause", "reason",
)  # fmt: skip
#: Share of the latency that does not grow with the multiply-accumulates, where only one side was measured.
_FIXED_SHARE = 0.1
#: Between these it lies; one measurement decides another side only where both ends agree.
_FIXED_RANGE = (0.0, 0.4)
#: Cost over limit up to which, and from which on, a scaled cost decides; in between the side is measured.
_SURELY_KEPT, _SURELY_BROKEN = 0.87, 1.15
#: Cost over limit from which on an expectation without any measurement of the network is believed.
_HOPELESS = 2.5
_MOST_MEASUREMENTS = 4
#: Time of int8 over fp32 where nothing was measured yet.
_INT8_SPEED = 0.5


@dataclass(frozen=True)
class FeasibilityTable:
    """One row per architecture × resolution × precision.

    Attributes:
        frame: columns :data:`COLUMNS`. ``latency_upper_ms``: in a slow moment of the device. ``feasible``: at least
            one set of limits can be kept. ``basis`` of the costs: ``measured``; ``scaled`` from measured sides of the same network; ``expected`` from other networks;
            ``counted`` where nothing was timed. ``cause`` of a row that is not feasible: ``limit`` that it cannot
            keep, ``late`` for not looked at in time, ``failed`` where it cannot be built or run; ``reason`` says more.
    """

    frame: pd.DataFrame


@dataclass
class _Network:
    """One backbone at one precision: what is known of each side."""

    backbone: Backbone
    precision: str
    params: int
    macs: dict[int, int]
    expected_rate: float = math.nan  # milliseconds per multiply-accumulate, from other networks
    measured: dict[int, dict[str, float]] = field(default_factory=dict)
    failed: str | None = None

    def costs(self, side: int, fixed: float = _FIXED_SHARE) -> tuple[dict[str, float], str]:
        """Costs of a side and what they rest on; ``low`` is the latency in an undisturbed moment."""
        counted = {"params_m": self.params / 1e6, "macs_m": self.macs[side] / 1e6}
        if side in self.measured:
            return {**counted, **self.measured[side]}, "measured"
        if self.measured:
            return {**counted, **self._scaled(side, fixed)}, "scaled"
        # A bound from the weights alone; an export folds batch norms away, some per cent of them at most.
        size = 0.97 * self.params * (4.0 if self.precision == "fp32" else 1.0) / 1e6
        latency = self.expected_rate * self.macs[side]
        timed = {"latency_ms": latency, "latency_p95_ms": latency, "memory_mb": math.nan, "low": latency}
        basis = "counted" if math.isnan(latency) else "expected"
        return {**counted, **timed, "size_mb": size}, basis

    def _scaled(self, side: int, fixed: float) -> dict[str, float]:
        near = sorted(self.measured, key=lambda known: (abs(known - side), known))[:2]
        one = self.measured[near[0]]
        ratio = fixed + (1 - fixed) * self.macs[side] / max(1, self.macs[near[0]])
        if len(near) == 2 and self.macs[near[0]] != self.macs[near[1]]:
            other = self.measured[near[1]]
            slope = (other["low"] - one["low"]) / (self.macs[near[1]] - self.macs[near[0]])
            straight = 1 + slope * (self.macs[side] - self.macs[near[0]]) / max(one["low"], 1e-9)
            if slope > 0 and straight > 0.05:
                ratio = straight
        return {name: value if name == "size_mb" else value * ratio for name, value in one.items()}

    def load(
        self, side: int, sets: Sequence[Sequence[Constraint]], factor: float, fixed: float = _FIXED_SHARE
    ) -> tuple[float, str]:
        """Worst cost / limit over the kindest set of limits, and which limit that is; costs not known count as kept."""
        costs, basis = self.costs(side, fixed)
        # A limit is hard: it has to hold in a slow moment of the device too.
        costs["latency_ms"] = max(costs["latency_ms"], costs["low"] * factor)
        best: tuple[float, str] = (math.inf, "")
        for limits in sets:
            worst, text = 0.0, ""
            for limit in (c for c in limits if c.is_cost):
                value = costs[limit.name]
                if math.isfinite(value) and value / limit.limit > worst:
                    worst, text = value / limit.limit, f"{limit.expression}, {basis} {value:.4g}"
            best = min(best, (worst, text))
        return best if sets else (0.0, "")

    def keeps(self, side: int, sets: Sequence[Sequence[Constraint]], factor: float) -> bool | None:
        """Whether a set of limits can be kept; None where that is open until the side is measured."""
        load, _ = self.load(side, sets, factor)
        if side in self.measured:
            return load <= 1.0
        if self._counted_load(side, sets) > 1.0:
            return False
        if self.measured:
            loads = [self.load(side, sets, factor, fixed)[0] for fixed in _FIXED_RANGE]
            return True if max(loads) <= _SURELY_KEPT else False if min(loads) >= _SURELY_BROKEN else None
        return False if load > _HOPELESS else None

    def _counted_load(self, side: int, sets: Sequence[Sequence[Constraint]]) -> float:
        """:meth:`load` of what needs no timing; a file's size is the same at every side."""
        costs, _ = self.costs(side)
        exact = {name: costs[name] for name in ("params_m", "macs_m", "size_mb")}
        return min(
            (
                max((exact[c.name] / c.limit for c in limits if c.name in exact), default=0.0)
                for limits in sets
            ),
            default=0.0,
        )


def measure(
    backbones: Sequence[Backbone],
    sides: Sequence[int],
    precisions: Sequence[str],
    classes: int,
    sets: Sequence[Sequence[Constraint]],
    device: Device,
    cache: Path,
    *,
    deadline: float | None = None,
) -> FeasibilityTable:
    """Find out what can keep the limits.

    Args:
        backbones: networks.
        sides: input sides, pixels.
        precisions: of ``fp32`` and ``int8``; int8 is left out of a network whose fp32 keeps all limits anyway.
        classes: of the task; they decide the size of the head.
        sets: of limits; a row is feasible where one of them can be kept. Without any limit on a cost nothing is timed.
        device: the model will run on.
        cache: folder of measurements; they are kept per device.
        deadline: ``time.monotonic()`` after which nothing more is measured.

    Returns:
        the table; what could not be exported or was not looked at in time is not feasible.
    """
    limited = any(c.is_cost for limits in sets for c in limits)
    exact = any(c.name == "macs_m" for limits in sets for c in limits)
    networks = _networks(backbones, sorted(sides), precisions, classes, cache, exact=exact)
    factor = 1.0
    if limited:
        with Bench(device, classes, cache) as bench:
            # Pretrained before scratch, small before large, so that a short budget looks at what matters first.
            order = sorted(
                networks, key=lambda n: (n.precision != "fp32", not n.backbone.pretrained, n.params)
            )
            for network in order:
                if network.precision != "fp32" and _keeps_all(network, networks, sets, bench.factor):
                    networks.remove(network)
                    continue
                _expect(network, networks)
                _narrow_down(network, sets, bench, deadline)
            factor = bench.factor
    rows = [_row(network, side, sets, limited, factor) for network in networks for side in network.macs]
    return FeasibilityTable(pd.DataFrame(rows, columns=list(COLUMNS)))


def is_quick(
    backbones: Sequence[Backbone], sets: Sequence[Sequence[Constraint]], device: Device, cache: Path
) -> bool:
    """Whether :func:`measure` will most likely build no network: it only looks things up or has measured before."""
    if any(c.is_cost for limits in sets for c in limits):
        return any((cache / device_name(device)).glob("*.json"))
    return all(is_counted(backbone, [COUNTED_SIDE], cache) for backbone in backbones)


def _networks(
    backbones: Sequence[Backbone],
    sides: Sequence[int],
    precisions: Sequence[str],
    classes: int,
    cache: Path,
    *,
    exact: bool,
) -> list[_Network]:
    found = []
    for backbone in backbones:
        reason = None
        try:
            if exact:
                macs, params = counts(backbone, sides, classes, cache)
            else:  # the feature maps shrink by ceilings, which makes some per cent of difference
                known, params = counts(backbone, [COUNTED_SIDE], classes, cache)
                macs = {side: round(known[COUNTED_SIDE] * (side / COUNTED_SIDE) ** 2) for side in sides}
        except Exception as error:  # whatever a network does wrong is its own failure
            macs, params = dict.fromkeys(sides, 0), 0
            reason = f"it cannot be built: {' '.join(str(error).split())[:160]}"
        # Each gets its own table of sides: they are judged one by one.
        found += [
            _Network(backbone, precision, params, dict(macs), failed=reason) for precision in precisions
        ]
    return found


def _keeps_all(
    network: _Network, networks: Sequence[_Network], sets: Sequence[Sequence[Constraint]], factor: float
) -> bool:
    """Whether the same backbone in fp32 keeps every set of limits at every side: int8 would only lose accuracy."""
    plain = [n for n in networks if n.backbone.name == network.backbone.name and n.precision == "fp32"]
    return any(
        n.measured and all(n.keeps(side, [limits], factor) for side in n.macs for limits in sets)
        for n in plain
    )


def _expect(network: _Network, networks: Sequence[_Network]) -> None:
    """Set the rate that other networks let expect: int8 from fp32 of the same one, fp32 from all fp32."""

    def rates(which: Sequence[_Network]) -> list[float]:
        return [c["low"] / n.macs[s] for n in which for s, c in n.measured.items() if n.macs[s]]

    plain = {n.backbone.name: rates([n]) for n in networks if n.precision == "fp32" and n.measured}
    usual = [rate for known in plain.values() for rate in known]
    if network.precision == "fp32":
        network.expected_rate = float(np.median(usual)) if usual else math.nan
        return
    quicker = [
        float(np.median(rates([n])) / np.median(plain[n.backbone.name]))
        for n in networks
        if n.precision == network.precision and n.measured and n.backbone.name in plain
    ]
    own = plain.get(network.backbone.name) or usual
    if own:
        network.expected_rate = float(np.median(own) * (min(quicker) if quicker else _INT8_SPEED))


def _narrow_down(
    network: _Network, sets: Sequence[Sequence[Constraint]], bench: Bench, deadline: float | None
) -> None:
    """Measure sides of a network until of each it is known whether it keeps a set of limits."""
    for _ in range(_MOST_MEASUREMENTS):
        open_sides = [s for s in network.macs if network.keeps(s, sets, bench.factor) is None]
        late = deadline is not None and time.monotonic() > deadline + (bench.waited or 0.0)
        if network.failed or not open_sides or late:
            return
        # The largest one that may fit: if it does, so do the smaller ones.
        fitting = [s for s in open_sides if network.load(s, sets, bench.factor)[0] <= 1.0]
        side = max(fitting) if fitting else min(open_sides)
        try:
            network.measured[side] = bench.costs(network.backbone, network.precision, side)
        except Exception as error:  # whatever a network does wrong is its own failure
            network.failed = " ".join(str(error).split())[:200] or type(error).__name__


def _row(
    network: _Network, side: int, sets: Sequence[Sequence[Constraint]], limited: bool, factor: float
) -> dict[str, Any]:
    costs, basis = network.costs(side)
    cause, reason = ("failed", network.failed) if network.failed is not None else ("", "")
    if not cause and limited:
        load, text = network.load(side, sets, factor)
        if load > 1.0:
            cause, reason = "limit", text
        elif not network.measured and any(c.name in TIMED for s in sets for c in s):
            cause, reason = "late", "not measured in time"
    return {
        "architecture": network.backbone.name,
        "resolution": side,
        "precision": network.precision,
        **{name: costs[name] for name in COLUMNS[3:9]},
        "latency_upper_ms": max(costs["latency_ms"], costs["low"] * factor),
        "feasible": not cause,
        "basis": basis,
        "cause": cause,
        "reason": reason,
    }


def measure_tried(
    frame: pd.DataFrame,
    triples: Sequence[tuple[str, int, str]],
    backbones: Sequence[Backbone],
    classes: int,
    device: Device,
    cache: Path,
    *,
    deadline: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure what was tried without any limit on its cost, so that a report can show what it costs.

    Args:
        frame: of a :class:`FeasibilityTable`.
        triples: (architecture, resolution, precision), the most interesting first.
        backbones, classes, device, cache: as in :func:`measure`.
        deadline: ``time.monotonic()`` after which the rest stays as it is.
        progress: called with (done, total) before each.

    Returns:
        the frame with the costs that were measured.
    """
    by_name = {backbone.name: backbone for backbone in backbones}
    frame = frame.copy()
    with Bench(device, classes, cache, learn=False) as bench:
        for done, (name, side, precision) in enumerate(triples):
            if deadline is not None and time.monotonic() > deadline:
                break
            if progress is not None:
                progress(done, len(triples))
            row = (
                frame["architecture"].eq(name)
                & frame["resolution"].eq(side)
                & frame["precision"].eq(precision)
            )
            if not row.any() or name not in by_name:
                continue
            try:
                costs = bench.costs(by_name[name], precision, side)
            except Exception:
                continue  # the table says nothing about it, as before
            frame.loc[row, ["size_mb", *TIMED]] = [costs[column] for column in ("size_mb", *TIMED)]
            frame.loc[row, "latency_upper_ms"] = max(costs["latency_ms"], costs["low"] * bench.factor)
            frame.loc[row, "basis"] = "measured"
    return frame


def closest(frame: pd.DataFrame, sets: Sequence[Sequence[Constraint]]) -> list[bool]:
    """Where nothing is feasible: mark the rows whose worst violation, over the kindest set of limits, is the smallest.

    Args:
        frame: of a :class:`FeasibilityTable`.
        sets: of limits.
    """

    def violation(limit: Constraint, row: dict[str, Any]) -> float:
        value = float(row[limit.name])
        return limit.violation(value) if math.isfinite(value) else 0.0  # not known: it may keep the limit

    values = []
    for row in frame.to_dict("records"):
        worst = [max((violation(c, row) for c in limits if c.is_cost), default=0.0) for limits in sets]
        built = not str(row["reason"]).startswith("it cannot be built")
        values.append(min(worst, default=0.0) if built else math.inf)
    best = min(values, default=math.inf)
    return [value <= best * 1.05 + 1e-9 for value in values]
