"""From what can be had to an ordered pool: backbones × resolutions × precisions × strategies, best expected first.

The order is the strategy pool's (history average, or the catalog's own order where there is no history), with
what is known about this task added: how well each backbone's frozen features do, and how many epochs the time
allows at a resolution.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from automl.candidate import Candidate
from search_spaces.backbones import Backbone
from strategy_pool.strategy import FROZEN_METHODS, Strategy

if TYPE_CHECKING:
    from strategy_pool.ranker import Ranker

RESOLUTIONS = (32, 48, 64, 96, 128, 160, 192, 224)

#: Multiply-accumulates per second of a training step (forward and backward) on one core, an order of size.
_TRAINING_RATE = 8e9
#: How much quicker an epoch is on cached activations, computing them included; with a growing side; with early stages
#: that stay as they are.
_CACHED, _GROWING, _LATE = 1.3, 1.25, 1.5
#: Million multiply-accumulates per second of ONNX Runtime on one core, an order of size.
_INFERENCE_RATE = 18_000.0
#: Seconds per image and class of a logistic regression with all its strengths, an order of size.
_FITTING = 3e-5
#: A search learns from so many images at least, however little time there is.
_LEAST_IMAGES = 1000
#: Fields of a strategy that do not change what is trained at a given side.
_NOT_RECIPE = ("name", "version", "order", "summary", "source", "resolution")
#: Sides of the two views of a landmark differ by this factor at least.
_OTHER_SIDE = 4 / 3
#: Time that a second view may take, in shares of a first one's.
_SECOND_SHARE = 2.0
#: Epochs below which a fine-tuning is visibly unfinished, those below which it has hardly begun, and what halving them
#: costs; twice as much below the latter.
_ENOUGH_EPOCHS, _FEW_EPOCHS, _UNFINISHED = 6.0, 1.5, 0.02
#: What of a backbone's lead on frozen features is left to its fine-tunings, which move the features; the lead itself is
#: known to a few points only where images are few.
_LEAD_LEFT = 0.5
#: What a network of twice the multiply-accumulates is worth to a fine-tuning, at the side that they are counted at.
CAPACITY, _CAPACITY_SIDE = 0.015, 128
#: Candidates at the head of a published ranker's order for which it says why.
_EXPLAINED = 30
#: Probability of failing from which it is said.
_RISK_SAID = 0.1
#: What doubling the side of the input is worth to a fine-tuning that has the time.
_FINER = 0.03


def resolutions_for(size: int) -> list[int]:
    """Return the input sides worth trying for images stored at ``size`` pixels, ascending.

    Pretrained nets profit from being shown small images enlarged, up to a point.
    """
    largest = max(64, min(224, round(size * 1.75)))
    smallest = 32 if size <= 64 else 64 if size <= 100 else 96
    return [side for side in RESOLUTIONS if smallest <= side <= largest]


@dataclass(frozen=True)
class PoolContext:
    """What the order may depend on.

    Attributes:
        images: training images.
        seconds: that one fine-tuning may take.
        size: stored side of the images.
        landmarks: score of the best model on frozen features, per architecture.
    """

    images: int
    seconds: float | None
    size: int
    landmarks: Mapping[str, float]


def applicable(strategy: Strategy, backbone: Backbone) -> bool:
    """Whether a strategy makes sense for a backbone: pretrained ones are tuned, others trained from scratch."""
    return (strategy.method == "scratch") != backbone.pretrained


def build_pool(
    backbones: Sequence[Backbone], catalog: Mapping[str, Strategy], table: pd.DataFrame, size: int
) -> list[Candidate]:
    """Every sensible candidate that the feasibility table admits.

    Args:
        backbones: what can be had.
        catalog: strategies by name.
        table: ``FeasibilityTable.frame``.
        size: stored side of the images.
    """
    feasible: dict[tuple[str, str], list[int]] = {}
    for row in table[table["feasible"]].itertuples():
        feasible.setdefault((str(row.architecture), str(row.precision)), []).append(int(row.resolution))
    pool: dict[tuple[Any, ...], Candidate] = {}
    for backbone in backbones:
        for precision in ("fp32", "int8"):
            sides = sorted(feasible.get((backbone.name, precision), []))
            if not sides:
                continue
            for strategy in catalog.values():
                if not applicable(strategy, backbone):
                    continue
                for side in _sides(strategy, sides, size):
                    candidate = Candidate(backbone.name, side, precision, strategy.name)
                    pool.setdefault((candidate.triple, _recipe(strategy)), candidate)
    return list(pool.values())


def _recipe(strategy: Strategy) -> tuple[Any, ...]:
    """What a strategy does once its resolution is settled; two with the same recipe are one candidate there."""
    told = strategy.to_dict()
    return tuple(value for name, value in told.items() if name not in _NOT_RECIPE)


def distinct(
    candidates: Iterable[Candidate], catalog: Mapping[str, Strategy], known: Iterable[Candidate] = ()
) -> list[Candidate]:
    """The candidates without those that do what a known or an earlier one does, under whatever name.

    Args:
        candidates: in order; those that are known themselves are kept, those whose strategy is gone are not.
        catalog: strategies by name.
        known: what was tried or will be.
    """
    known = set(known)
    done = {(c.triple, _recipe(catalog[c.strategy])): c for c in known if not c.overrides}
    kept = []
    for candidate in (c for c in candidates if c.strategy in catalog):
        key = candidate.triple, _recipe(catalog[candidate.strategy])
        if done.setdefault(key, candidate) == candidate:
            kept.append(candidate)
    return kept


def _sides(strategy: Strategy, sides: list[int], size: int) -> list[int]:
    if strategy.resolution != "native":
        wanted = int(strategy.resolution)
        return [min(sides, key=lambda side: (abs(side - wanted), side))]
    native = [side for side in sides if side <= max(size, sides[0])]
    return native[-1:] if strategy.method in FROZEN_METHODS else native


def pool_frame(
    pool: Sequence[Candidate],
    catalog: Mapping[str, Strategy],
    table: pd.DataFrame,
    backbones: Sequence[Backbone],
) -> pd.DataFrame:
    """The pool as the rows that :func:`strategy_pool.prior.rank` reads."""
    costs = table.set_index(["architecture", "resolution", "precision"])
    pretrained = {b.name: b.pretrained for b in backbones}
    rows = []
    for candidate in pool:
        cost = costs.loc[candidate.triple] if candidate.triple in costs.index else None
        strategy = catalog[candidate.strategy]
        rows.append(
            {
                "candidate": candidate.id,
                "architecture": candidate.architecture,
                "resolution": candidate.resolution,
                "precision": candidate.precision,
                "strategy": candidate.strategy,
                "method": strategy.method,
                "order": strategy.order,
                "quicker": _quicker(strategy),
                "pretrained": pretrained.get(candidate.architecture, False),
                "latency_ms": math.nan if cost is None else float(cost["latency_ms"]),
                "size_mb": math.nan if cost is None else float(cost["size_mb"]),
                "macs_m": math.nan if cost is None else float(cost["macs_m"]),
            }
        )
    return pd.DataFrame(rows)


def _quicker(strategy: Strategy) -> float:
    """How many epochs of this recipe take the time of one over all weights at the full side."""
    by_method = {"cached_trunk": _CACHED, "last_stages": _LATE}.get(strategy.method, 1.0)
    return by_method * (_GROWING if strategy.progressive else 1.0)


def adjustments(frame: pd.DataFrame, context: PoolContext) -> tuple[np.ndarray, list[list[str]]]:
    """What is known about this task adds so much to the predicted scores, float [rows]; and why, in a few words.

    Args:
        frame: of :func:`pool_frame`.
        context: of this task.
    """
    best = max(context.landmarks.values(), default=0.0)
    shifts, why = [], []
    for row in frame.itertuples():
        value, reasons = 0.0, []
        landmark = context.landmarks.get(str(row.architecture))
        if context.landmarks and row.pretrained:
            gap = best - (landmark if landmark is not None else min(context.landmarks.values()))
            value -= gap if row.method in FROZEN_METHODS else _LEAD_LEFT * gap
            if landmark is not None:
                reasons.append(f"frozen features reach {landmark:.3f}")
        if row.method not in FROZEN_METHODS:
            macs = row.macs_m if math.isfinite(row.macs_m) else 100.0
            if row.pretrained:
                value += CAPACITY * math.log2(
                    max(macs, 1.0) / 100 * (_CAPACITY_SIDE / max(row.resolution, 16)) ** 2
                )
            value += (
                _FINER * math.log2(max(row.resolution, 16) / 128)
                if row.resolution < context.size * 1.5
                else 0.0
            )
            if context.seconds is not None:
                speed = _TRAINING_RATE / (max(macs, 1.0) * 1e6) * row.quicker
                epochs = speed * context.seconds / max(context.images, 1)
                if epochs < _ENOUGH_EPOCHS:
                    value -= _UNFINISHED * math.log2(_ENOUGH_EPOCHS / max(epochs, 0.05))
                    value -= _UNFINISHED * max(0.0, math.log2(_FEW_EPOCHS / max(epochs, 0.05)))
                    reasons.append(f"about {epochs:.1f} epochs fit")
        if row.precision == "int8":
            value -= 0.01
        shifts.append(value)
        why.append(reasons)
    return np.array(shifts, dtype=float), why


def order_pool(frame: pd.DataFrame, context: PoolContext) -> pd.DataFrame:
    """The rows with ``expected``, the predicted score and what is known about this task together, and ``why``.

    The best expected come first; the head is kept diverse.

    Args:
        frame: rows with ``predicted_score`` and ``reason`` (of the history or the catalog).
        context: of this task.
    """
    if frame.empty:
        return frame.assign(expected=[], why=[])
    shift, why = adjustments(frame, context)
    frame = frame.assign(expected=frame["predicted_score"] + shift, why=_told(frame["reason"], why))
    by = ["expected", "order", "candidate"]
    return _diverse(frame.sort_values(by, ascending=[False, True, True], ignore_index=True))


def _told(first: Iterable[str], more: Iterable[Sequence[str]]) -> np.ndarray:
    """Reasons as one text each, object [rows]."""
    return np.array(
        ["; ".join([one, *others]) for one, others in zip(first, more, strict=True)], dtype=object
    )


def order_by_ranker(
    frame: pd.DataFrame, rows: pd.DataFrame, ranker: Ranker, context: PoolContext, seed: int
) -> pd.DataFrame:
    """The pool in the order of a published ranker, with what is known about this task added.

    Args:
        frame: of :func:`pool_frame`.
        rows: the same candidates as a ranker reads them, see :func:`strategy_pool.features.pool_rows`.
        ranker: with a :attr:`~strategy_pool.ranker.Ranker.spread`.
        context: of this task.
        seed: of the order of ties.
    """
    shift, why = adjustments(frame, context)
    most = math.inf if context.seconds is None else context.seconds
    view = ranker.view(rows, shift=shift, most_seconds=most)
    if view.outlook is None:
        raise ValueError("a ranker without an outlook predicts no scores")
    expected = view.outlook["expected"]
    risk = np.full(len(rows), math.nan) if view.failing is None else view.failing
    reason = [
        f"the ranker expects {value:.2f}"
        + (f", fails in {fails:.0%} of cases" if fails >= _RISK_SAID else "")
        for value, fails in zip(expected, risk, strict=True)
    ]
    frame = frame.assign(
        predicted_score=expected,
        low=view.outlook["low"],
        high=view.outlook["high"],
        predicted_seconds=math.nan if view.seconds is None else view.seconds,
        predicted_failure=risk,
        reason=reason,
        expected=expected + shift,
        why=_told(reason, why),
    )
    order = ranker.order(rows, np.random.default_rng(seed), view)
    head = order[:_EXPLAINED]
    reasons = dict(zip(head.tolist(), ranker.reasons(rows.iloc[head]), strict=True))
    frame["why"] = [f"{why}; {reasons[at]}" if at in reasons else why for at, why in enumerate(frame["why"])]
    return frame.iloc[order].reset_index(drop=True)


def catalog_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows recipe after recipe in the catalog's order, each for all networks; nothing is known or asked.

    Args:
        frame: as for :func:`order_pool`.
    """
    ordered = frame.sort_values(["order", "candidate"], ignore_index=True)
    return ordered.assign(expected=math.nan, why="catalog order")


def _diverse(frame: pd.DataFrame, first: int = 24) -> pd.DataFrame:
    """Reorder the head so that it is a portfolio: what repeats a backbone, method or resolution waits a little."""
    head = frame.head(first * 6)
    values = head["expected"].tolist()
    keys = list(
        zip(
            head["architecture"],
            head["method"],
            head["strategy"],
            head["resolution"],
            head["precision"],
            strict=True,
        )
    )
    seen: Counter[Any] = Counter()
    chosen: list[int] = []
    left = list(range(len(keys)))
    while left and len(chosen) < first:

        def merit(i: int) -> float:
            architecture, method, strategy, resolution, precision = keys[i]
            return float(
                values[i]
                - 0.01 * seen["a", architecture]
                - 0.03 * seen["am", architecture, method]
                - 0.02 * seen["s", strategy]
                - 0.03 * seen["m", method, resolution, precision]
            )

        best = max(left, key=lambda i: (merit(i), -i))
        left.remove(best)
        chosen.append(best)
        architecture, method, strategy, resolution, precision = keys[best]
        seen.update(
            [
                ("a", architecture),
                ("am", architecture, method),
                ("s", strategy),
                ("m", method, resolution, precision),
            ]
        )
    order = [*chosen, *(i for i in range(len(frame)) if i not in set(chosen))]
    return frame.iloc[order].reset_index(drop=True)


def landmark_candidates(
    backbones: Sequence[Backbone],
    catalog: Mapping[str, Strategy],
    table: pd.DataFrame,
    *,
    images: int,
    classes: int,
    core_seconds: float | None,
) -> list[Candidate]:
    """The first trials: logistic regressions on frozen features.

    They cost seconds, give a usable model at once, and tell which backbones suit the task. The very first one is the
    cheapest of all, on the last features alone, so that there is a model soon; then comes each pretrained backbone at the largest side whose
    features fit into its share of the time, the longest first, so that no worker waits long for the last one.

    Args:
        backbones: what can be had.
        catalog: strategies by name.
        table: ``FeasibilityTable.frame``.
        images: whose features are needed.
        classes: that are told apart.
        core_seconds: processor time that all of them together may take, None for no bound.
    """
    fitted = [s for s in catalog.values() if s.method == "logistic"]
    strategy = min(fitted, key=lambda s: (s.taps != "multi", s.resolution != "native", s.order), default=None)
    quickest = min(fitted, key=lambda s: (s.taps == "multi", s.resolution != "native", s.order), default=None)
    pretrained = {b.name for b in backbones if b.pretrained}
    rows = table[table["feasible"] & table["architecture"].isin(pretrained)]
    if strategy is None or quickest is None or rows.empty:
        return []
    settings = [
        (float(r.macs_m), Candidate(str(r.architecture), int(r.resolution), str(r.precision), strategy.name))
        for r in rows.itertuples()
    ]
    share = math.inf if core_seconds is None else core_seconds / len(pretrained)
    chosen = []
    for name in sorted(pretrained):
        mine = sorted(
            (s for s in settings if s[1].architecture == name),
            key=lambda s: (s[1].precision != "fp32", -s[1].resolution),
        )
        fitting = [s for s in mine if frozen_seconds(images, classes, s[0]) <= share]
        if mine:
            chosen.append(fitting[0] if fitting else min(mine, key=lambda s: s[0]))
    least = min(settings, key=lambda s: (s[1].precision != "fp32", s[0], s[1].architecture))[1]
    first = replace(least, strategy=quickest.name)
    ordered = [(0.0, first), *sorted(chosen, key=lambda s: (-s[0], s[1].architecture))]
    return list(dict.fromkeys(candidate for _, candidate in ordered))


def frozen_seconds(images: int, classes: int, macs_m: float) -> float:
    """Seconds on one core, an order of size, for a logistic regression on frozen features of so many images."""
    return images * (macs_m / _INFERENCE_RATE + _FITTING * classes)


def search_images(
    backbones: Sequence[Backbone],
    table: pd.DataFrame,
    *,
    images: int,
    classes: int,
    core_seconds: float | None,
) -> int:
    """Images that the search can learn from: as many as two first trials get through, all where there are none.

    Args:
        backbones: what can be had.
        table: ``FeasibilityTable.frame``.
        images: that there are.
        classes: that are told apart.
        core_seconds: processor time of the first trials, None for no bound.
    """
    pretrained = [b.name for b in backbones if b.pretrained]
    macs = table.loc[table["feasible"] & table["architecture"].isin(pretrained), "macs_m"].min()
    if core_seconds is None or not math.isfinite(macs):
        return images
    most = int(core_seconds / 2 / frozen_seconds(1, classes, float(macs)))
    return min(images, max(most, _LEAST_IMAGES))


def second_views(
    landmarks: Mapping[Candidate, float],
    table: pd.DataFrame,
    *,
    images: int,
    classes: int,
    core_seconds: float | None,
    most: int = 2,
) -> list[Candidate]:
    """The best landmarks at another side: a larger one where there is time for it, else a smaller one.

    A first look at every backbone is a cheap one; the few that did best are worth a closer one. Two resolutions of
    one network also err differently, so together they do better than either.

    Args:
        landmarks: finished models on frozen features and their scores.
        table: ``FeasibilityTable.frame``.
        images, classes, core_seconds: as for :func:`landmark_candidates`.
        most: candidates at most, each of another architecture.
    """
    count = len({candidate.architecture for candidate in landmarks})
    share = math.inf if core_seconds is None else _SECOND_SHARE * core_seconds / max(1, count)
    chosen: dict[str, Candidate] = {}
    for candidate in sorted(landmarks, key=lambda c: (-landmarks[c], c.id)):
        rows = table[
            table["feasible"]
            & table["architecture"].eq(candidate.architecture)
            & table["precision"].eq(candidate.precision)
        ]
        larger = rows[
            rows["resolution"].ge(_OTHER_SIDE * candidate.resolution)
            & rows["macs_m"].map(lambda macs: frozen_seconds(images, classes, macs) <= share)
        ]
        other = rows[rows["resolution"].le(candidate.resolution / _OTHER_SIDE)] if larger.empty else larger
        if candidate.architecture in chosen or other.empty:
            continue
        side = int(other["resolution"].max())
        chosen[candidate.architecture] = Candidate(
            candidate.architecture, side, candidate.precision, candidate.strategy
        )
    return [c for c in list(chosen.values())[:most] if c not in landmarks]
