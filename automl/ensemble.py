"""Several trained models as one: their selection and weights on validation scores, and the module that is exported.

Members are combined by the weighted geometric mean of their calibrated probabilities, that is by a weighted
sum of log-probabilities; each member is first calibrated by one temperature (Guo et al., On Calibration of
Modern Neural Networks, ICML 2017, section 4.2). :func:`blend` weighs them by the likelihood of the labels, which
few images settle better than a count of hits; :func:`select` goes by any value, limits on qualities included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Costs of a file that add up over the members of an ensemble, latencies nearly.
ADDITIVE = ("latency_ms", "latency_p95_ms", "size_mb", "params_m", "macs_m", "memory_mb")
#: What each further member adds to the time of all, as a share, and at most: their weights push each other out of the
#: caches, and images are resized for each. After a look at files of 2 to 5 members on one CPU.
_CROWDED, _MOST_CROWDED = 0.06, 0.2
_TEMPERATURES = np.exp(np.linspace(np.log(0.3), np.log(5.0), 25))
_ROUNDS = 12
#: Pull of the weights towards those they are held to, in nats per squared difference; and steps of their optimisation.
_PULL, _STEPS = 0.5, 150
#: A member with less weight than this is not worth its costs.
_LEAST_WEIGHT = 0.03
#: Weight that members together are held to whose scores are of less training than they will have had.
_GROWING_SHARE = 0.5


@dataclass(frozen=True)
class Member:
    """A finished trial that may become part of the model.

    Attributes:
        trial_id: of the trial.
        log_probabilities: calibrated, of the scored images, float64 ``[n, C]``.
        temperature: the logits' divisor that calibrated them.
        costs: measured or estimated costs of its file, by metric name.
        single: whether it cannot be combined (int8 files stand alone).
        growing: whether it will be trained on with all images, and be better than its scores say.
    """

    trial_id: str
    log_probabilities: np.ndarray
    temperature: float
    costs: Mapping[str, float]
    single: bool = False
    growing: bool = False


@dataclass(frozen=True)
class Selection:
    """A choice of members.

    Attributes:
        weights: trial id → weight; they sum to 1.
        value: what was maximised, on the scored images.
        log_probabilities: combined, ``[n, C]``.
        costs: that are expected of all members together.
        admitted: whether these keep the limits.
    """

    weights: Mapping[str, float]
    value: tuple[float, float]
    log_probabilities: np.ndarray = field(repr=False)
    costs: Mapping[str, float] = field(default_factory=dict)
    admitted: bool = True


def calibrate(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return calibrated log-probabilities ``[n, C]`` and the temperature that minimises the class-balanced loss."""
    logits = np.log(np.clip(probabilities.astype(np.float64), 1e-7, 1.0))
    counts = np.bincount(labels, minlength=logits.shape[1]).astype(np.float64)
    weight = 1.0 / counts[labels]
    rows = np.arange(len(labels))
    best: tuple[float, float] | None = None
    for temperature in _TEMPERATURES:
        scaled = _normalised(logits / temperature)
        loss = -float((scaled[rows, labels] * weight).sum() / weight.sum())
        if best is None or loss < best[0]:
            best = loss, float(temperature)
    temperature = best[1] if best else 1.0
    return _normalised(logits / temperature), temperature


def select(
    members: Sequence[Member],
    value_of: Callable[[np.ndarray], tuple[float, float]],
    *,
    admits: Callable[[Mapping[str, float]], bool] = lambda costs: True,
    largest: int = 4,
    least_gain: float = 0.002,
) -> list[Selection]:
    """Choose members greedily; the best choice first, then the smaller ones to fall back to.

    Forward with replacement (Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004, section 2).

    Args:
        members: what there is, all scored on the same images.
        value_of: probabilities ``[n, C]`` → (how far constraints are met, quality); compared as a tuple.
        admits: whether a file with these summed costs may be built.
        largest: distinct members at most.
        least_gain: quality that another round must add.

    Returns:
        every stage of the greedy path and every single member, best value first; empty without members.
    """
    found: dict[tuple[str, ...], Selection] = {}
    singles = []
    for member in members:
        if admits(member.costs):
            one = _selection({member.trial_id: 1}, {member.trial_id: member}, value_of)
            found[(member.trial_id,)] = one
            singles.append((one.value, member))
    if not singles:
        return []
    by_id = {member.trial_id: member for member in members}
    joinable = [(value, member) for value, member in singles if not member.single]
    starts = sorted(joinable, key=lambda pair: pair[0], reverse=True)[:2]
    for _, start in starts:
        counts = {start.trial_id: 1}
        current = found[(start.trial_id,)]
        for _ in range(_ROUNDS):
            best: tuple[tuple[float, float], dict[str, int], Selection] | None = None
            for _, member in joinable:
                trial = {**counts, member.trial_id: counts.get(member.trial_id, 0) + 1}
                if len(trial) > largest or not admits(_summed(by_id[name].costs for name in trial)):
                    continue
                selection = _selection(trial, by_id, value_of)
                if best is None or selection.value > best[0]:
                    best = selection.value, trial, selection
            if best is None or (best[0][0], best[0][1] - least_gain) <= current.value:
                break
            counts, current = best[1], best[2]
            key = tuple(sorted(counts))
            if key not in found or current.value > found[key].value:
                found[key] = current
    return _ordered(found)


def blend(
    members: Sequence[Member],
    labels: np.ndarray,
    value_of: Callable[[np.ndarray], tuple[float, float]],
    *,
    balanced: bool = True,
    admits: Callable[[Mapping[str, float]], bool] = lambda costs: True,
    largest: int = 4,
) -> list[Selection]:
    """Average members; the best choice first, then the smaller ones to fall back to.

    Members join one by one, each time the one whose plain average with those before has the best value: all of the
    same weight, but that those still growing and those that are finished have half of it each. One that is still
    growing is the second at the latest, as its scores do not tell yet what it will be worth. The weights
    of each stage maximise the likelihood of the labels on the simplex, less a pull towards the plain average's
    (stacking: Wolpert 1992; Breiman, Stacked Regressions, 1996, section 3, for why weights are held in). The average
    of most members comes first whose likelihood is within one standard error of the best stage's (Breiman et al.,
    Classification and Regression Trees, 1984, section 3.4.3): the more are averaged, the less was chosen.

    Args:
        members: what there is, all scored on the same images.
        labels: of these images, ``[n]``.
        value_of, admits, largest: as for :func:`select`.
        balanced: whether every class counts the same, or every image.

    Returns:
        every stage and every single member, by value but for the first; empty without members.
    """
    found: dict[tuple[str, ...], Selection] = {}
    by_id = {member.trial_id: member for member in members}
    for member in members:
        if admits(member.costs):
            found[(member.trial_id,)] = _selection({member.trial_id: 1}, by_id, value_of)
    joinable = [by_id[name] for (name,) in sorted(found) if not by_id[name].single]
    if not joinable:
        return _ordered(found)
    counts = np.bincount(labels) if balanced else np.ones(labels.max() + 1)
    image_weight = 1.0 / counts[labels]
    image_weight /= image_weight.sum()
    chosen = [max(joinable, key=lambda m: found[(m.trial_id,)].value)]
    stages: list[tuple[str, ...]] = [(chosen[0].trial_id,)]
    while len(chosen) < largest:
        best: tuple[tuple[float, float], Member] | None = None
        open_ = [m for m in joinable if m not in chosen and admits(_summed(c.costs for c in (*chosen, m)))]
        growing = [] if any(m.growing for m in chosen) else [m for m in open_ if m.growing]
        for member in growing or open_:
            together = [*chosen, member]
            plain = dict(zip((m.trial_id for m in together), _plain(together).tolist(), strict=True))
            value = value_of(np.exp(combine(plain, by_id)))
            if best is None or value > best[0]:
                best = value, member
        if best is None:
            break
        chosen.append(best[1])
        logs = np.stack([m.log_probabilities for m in chosen])
        weights = _stacked(logs, labels, image_weight, _plain(chosen))
        kept = {m.trial_id: float(w) for m, w in zip(chosen, weights, strict=True) if w >= _LEAST_WEIGHT}
        stages.append(tuple(sorted(kept)))
        found[stages[-1]] = _selection(kept, by_id, value_of)
    best_first = _ordered(found)
    top = best_first[0]
    if len(top.weights) == 1 and by_id[next(iter(top.weights))].single:
        return best_first
    rows = np.arange(len(labels))

    def behind(stage: Selection) -> bool:
        lost = (top.log_probabilities - stage.log_probabilities)[rows, labels]
        mean = float(lost @ image_weight)
        return mean > float(np.sqrt(((lost - mean) ** 2) @ image_weight**2))

    first = next((found[key] for key in reversed(stages) if not behind(found[key])), top)
    return [first, *(s for s in best_first if s is not first)]


def _plain(members: Sequence[Member]) -> np.ndarray:
    """Weights of an average that no scores have a say in, float ``[M]``."""
    growing = np.array([member.growing for member in members])
    count = int(growing.sum())
    if count in (0, len(members)):
        return np.full(len(members), 1.0 / len(members))
    return np.where(growing, _GROWING_SHARE / count, (1.0 - _GROWING_SHARE) / (len(members) - count))


def _stacked(logs: np.ndarray, labels: np.ndarray, image_weight: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Weights on the simplex, by exponentiated gradient (Kivinen & Warmuth 1997), of members ``[M, n, C]``.

    They begin at those of the plain average, ``[M]``, and are held towards them.
    """
    weights = plain
    rows = np.arange(len(labels))
    hit = logs[:, rows, labels] @ image_weight
    for _ in range(_STEPS):
        probabilities = np.exp(_normalised(np.tensordot(weights, logs, axes=1)))
        expected = np.einsum("nc,mnc,n->m", probabilities, logs, image_weight)
        gradient = expected - hit + _PULL * (weights - plain)
        weights = weights * np.exp(-(gradient - weights @ gradient))
        weights /= weights.sum()
    return weights


def _ordered(found: Mapping[tuple[str, ...], Selection]) -> list[Selection]:
    return sorted(found.values(), key=lambda s: (s.value, -len(s.weights)), reverse=True)


def combine(selection_weights: Mapping[str, float], members: Mapping[str, Member]) -> np.ndarray:
    """Weighted geometric mean, as normalised log-probabilities ``[n, C]``."""
    total = sum(weight * members[name].log_probabilities for name, weight in selection_weights.items())
    return _normalised(np.asarray(total))


def _selection(
    counts: Mapping[str, float],
    members: Mapping[str, Member],
    value_of: Callable[[np.ndarray], tuple[float, float]],
) -> Selection:
    whole = sum(counts.values())
    weights = {name: count / whole for name, count in counts.items()}
    combined = combine(weights, members)
    return Selection(
        weights, value_of(np.exp(combined)), combined, _summed(members[name].costs for name in counts)
    )


def _summed(costs: Any) -> dict[str, float]:
    rows, total = list(costs), dict[str, float]()
    for row in rows:
        for name in ADDITIVE:
            if name in row and row[name] is not None:
                total[name] = total.get(name, 0.0) + float(row[name])
    crowded = 1.0 + min(_CROWDED * (len(rows) - 1), _MOST_CROWDED)
    return {name: value * crowded if name.startswith("latency") else value for name, value in total.items()}


def _normalised(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def build_ensemble(parts: Sequence[tuple[Any, int, float]], resolution: int) -> Any:
    """Join trained models into one module.

    Args:
        parts: (model, its resolution, factor on its log-probabilities).
        resolution: side of the joint input; members that want another side resize it inside the graph.

    Returns:
        module: images ``[N, 3, R, R]`` in 0..255 → unnormalised log-probabilities ``[N, C]``.
    """
    import torch
    from torch import Tensor, nn

    class Resize(nn.Module):
        """Square resizing with PIL's antialiased triangle filter, as two constant matrices."""

        def __init__(self, inside: int, outside: int) -> None:
            super().__init__()
            self.register_buffer("matrix", torch.from_numpy(resize_matrix(inside, outside)).float())

        matrix: Tensor

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.matmul(self.matrix, x)
            return torch.matmul(rows, self.matrix.t()).round()

    class Ensemble(nn.Module):
        """Weighted sum of log-probabilities."""

        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(model for model, _side, _factor in parts)
            sides = sorted({side for _model, side, _factor in parts if side != resolution})
            self.resizers = nn.ModuleDict({str(side): Resize(resolution, side) for side in sides})
            self.sides = [side for _model, side, _factor in parts]
            self.factors = [float(factor) for _model, _side, factor in parts]

        def forward(self, x: Tensor) -> Tensor:
            views = {resolution: x, **{int(side): module(x) for side, module in self.resizers.items()}}
            total: Tensor | None = None
            for member, side, factor in zip(self.members, self.sides, self.factors, strict=True):
                part = torch.log_softmax(member(views[side]), dim=1) * factor
                total = part if total is None else total + part
            if total is None:
                raise ValueError("an ensemble needs a member")
            return total

    return Ensemble().eval()


def resize_matrix(inside: int, outside: int) -> np.ndarray:
    """Weights ``[outside, inside]`` of PIL's BILINEAR resizing of one axis (triangle filter, widened for shrinking)."""
    scale = inside / outside
    support = max(scale, 1.0)
    matrix = np.zeros((outside, inside))
    for row in range(outside):
        centre = (row + 0.5) * scale
        low, high = max(0, int(centre - support + 0.5)), min(inside, int(centre + support + 0.5))
        at = np.arange(low, high)
        weight = np.clip(1 - np.abs((at + 0.5 - centre) / support), 0, None)
        matrix[row, low:high] = weight / weight.sum()
    return matrix
