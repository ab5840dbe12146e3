"""Subnets of a supernet on a device: exported, timed, remembered, and searched for those that keep limits."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from automl._bench import steadiness
from automl.device import Device
from automl.errors import AutomlError
from automl.evaluation.latency import Timer, device_name, measured_costs
from automl.export import export_onnx
from automl.home import cache_folder
from automl.task import Constraint
from automl.training import Features, VisionModel
from automl.training._heads import LinearHead
from search_spaces.forecast import Forecast
from search_spaces.propose import Codes, spread
from search_spaces.stored import RESOLUTION, Stored
from search_spaces.supernet import Subnet

#: Subnets that are measured of a supernet on a device before any is proposed.
FIRST = 6
#: Rounds of proposals; those of them after enough proposals have kept the limits.
_ROUNDS, _BETTER = 8, 1
#: How far a prediction is corrected by what the last ones turned out to cost.
_CORRECTION = (0.7, 1.4)
#: By what a predicted score has to be higher for a subnet to be worth measuring.
_CLEARLY = 0.005
#: Costs that are learned from measurements.
_LEARNED = ("latency_ms", "latency_p95_ms", "memory_mb", "size_mb")
_NOTED = (*_LEARNED, "params_m", "macs_m", "low")
#: Rises when a stored measurement changes its meaning.
_FORMAT = 2


def vision_model(stored: Stored, subnet: Subnet, *, calibrated: bool = True) -> VisionModel:
    """Return a subnet as the engine's models are: pixels in, logits out.

    Args:
        stored: the supernet.
        subnet: of ``stored.space``.
        calibrated: whether its statistics are estimated, which changes no cost.
    """
    network: Any = stored.build(subnet, calibrated=calibrated)
    classifier, network.classifier = network.classifier, None
    head = LinearHead(classifier.in_features, classifier.out_features)
    head.linear.load_state_dict(classifier.state_dict())
    return VisionModel(stored.backbone(subnet), Features(network), head).eval()


@dataclass(frozen=True)
class Written:
    """What a file costs.

    Attributes:
        cautious: costs in a slow moment, by their names in limits.
        costs: as they were measured.
        complete: whether they were measured to the end.
    """

    cautious: dict[str, float]
    costs: dict[str, float]
    complete: bool


def missed(limits: Sequence[Constraint], costs: Mapping[str, float]) -> dict[str, float]:
    """Limit → share by which costs break it, for those that are broken; of a limit on a quality nothing is said."""
    gaps = {c.expression: c.violation(costs.get(c.name, math.nan)) for c in limits if c.is_cost}
    return {expression: gap for expression, gap in gaps.items() if gap > 0}


class Subnets:
    """Subnets of a supernet on a device; a context manager.

    Args:
        stored: the supernet.
        device: that they will run on.
        seed: of the search.
        slow_moment: how much slower the device is in a slow moment at least, whatever is remembered of it here.

    Attributes:
        forecast: what they are predicted to score and cost.
        count: subnets that were measured by this one.

    Raises:
        search_spaces.predict.TableError: too little is known of the supernet's subnets.
    """

    def __init__(self, stored: Stored, device: Device, seed: int = 0, *, slow_moment: float = 1.0) -> None:
        self.stored, self.device, self._seed, self._slow = stored, device, seed, slow_moment
        self.forecast = Forecast(stored, seed)
        self.codes = Codes(stored.space)
        self.count = 0
        cache = cache_folder("feasibility")
        self._timer = Timer(device, steadiness(cache, device))
        about = stored.about
        kind = [_FORMAT, about.family, about.architecture, len(about.classes), about.resolutions]
        kind.append(sorted(about.arguments.items()))
        kind.append([(d.name, d.choices) for d in stored.space.dimensions])
        key = hashlib.sha256(json.dumps(kind).encode()).hexdigest()[:24]
        self._path = cache / device_name(device) / f"subnets-{key}.json"
        self._notes: dict[str, dict[str, float]] = {}
        self._disturbed: set[str] = set()  # which are worth something to this process alone
        self._unusable: dict[str, str] = {}  # for this process: another one may have the memory
        try:
            notes = json.loads(self._path.read_text(encoding="utf-8"))
            for code, cost in notes.items():
                self.codes.row(code)  # one of another space is no subnet of this one
                self._notes[code] = {name: float(cost[name]) for name in _NOTED}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            pass  # nothing was measured yet, or the notes are damaged

    def __enter__(self) -> Subnets:
        self._timer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.__exit__(kind, error, trace)

    def measured(self) -> list[tuple[dict[str, int], dict[str, float]]]:
        """Return all subnets that were ever measured on the device, with their costs.

        Latencies are those of a slow moment; ``latency_median_ms`` is what was measured.
        """
        factor = max(self._slow, self._timer.steadiness.factor)
        return [
            (
                self.codes.subnet(self.codes.row(code)),
                {
                    **cost,
                    "latency_ms": max(cost["latency_ms"], cost["low"] * factor),
                    "latency_median_ms": cost["latency_ms"],
                },
            )
            for code, cost in self._notes.items()
        ]

    def scores(self, subnets: Sequence[Subnet]) -> tuple[list[float], list[float]]:
        """Return predicted scores, and bounds above which they lie with a probability of about 95 %."""
        values = self.codes.values(self.codes.of(subnets))
        return self.forecast.score(values).tolist(), self.forecast.lowest_score(values).tolist()

    def search(
        self,
        limits: Sequence[Constraint],
        top: int,
        say: Callable[[str], None],
        until: float = math.inf,
    ) -> None:
        """Measure subnets until those that are predicted to be the best within the limits have been measured.

        One that cannot be exported or run is left out.

        Args:
            limits: those on costs are kept.
            top: how many.
            say: tells the user something.
            until: ``time.monotonic()`` after which no more are proposed.

        Raises:
            AutomlError: none can be exported and run.
        """
        if len(self._notes) < FIRST:
            say(f"measuring {FIRST} subnets, to learn how fast {self.device.label} is")
            for subnet in spread(self.stored.space, 2 * FIRST, self._seed):
                if len(self._notes) < FIRST:
                    self._tried(subnet, say)
        if not self._notes:
            why = next(iter(self._unusable.values()))
            raise AutomlError(f"no subnet can be exported and run: {why}")
        limited = [name for name in _LEARNED if any(limit.name == name for limit in limits)]
        held: dict[str, float] = {}
        good = rounds = 0
        for number in range(_ROUNDS):
            rounds += good >= top
            if rounds > _BETTER or time.monotonic() > until:
                return
            known = self.measured()
            self.forecast.learn(
                [subnet for subnet, _ in known],
                {name: [cost[name] for _, cost in known] for name in limited},
            )
            within = {c.name: c.limit / held.get(c.name, 1.0) for c in limits if c.is_cost}
            broken = {self.code(subnet) for subnet, cost in known if missed(limits, cost)}
            barred = broken | self._unusable.keys()
            proposals = self.forecast.propose(
                within,
                count=top + len(barred),
                seed=self._seed,
                known=[subnet for subnet, cost in known if not missed(limits, cost)],
            )
            if number:  # what is known by now to keep no limit is not worth measuring
                proposals = self.forecast.keeping(within, proposals)
            usable = [subnet for subnet in proposals if self.code(subnet) not in barred]
            fresh = [subnet for subnet in usable[:top] if self.code(subnet) not in self._notes]
            if not fresh or not self._promising(fresh, limits, top):
                return
            fresh = [subnet for subnet in fresh if self._tried(subnet, say)]
            if not fresh:
                continue
            values = self.codes.values(self.codes.of(fresh))
            costs = {self.code(subnet): cost for subnet, cost in self.measured()}
            found = [costs[self.code(subnet)] for subnet in fresh]
            for name in within:
                guesses = self.forecast.costs[name](values)
                ratios = [c[name] / max(guess, 1e-9) for c, guess in zip(found, guesses, strict=True)]
                held[name] = min(max(_middle(ratios), _CORRECTION[0]), _CORRECTION[1])
            kept = sum(not missed(limits, cost) for cost in found)
            good += kept
            say(f"  {kept} of {len(fresh)} proposed subnets keep the limits when they are measured")

    def _tried(self, subnet: Subnet, say: Callable[[str], None]) -> bool:
        """Measure a subnet; of one that cannot be, remember that."""
        try:
            self.look(subnet)
        except Exception as error:  # whatever one subnet does wrong is no other's failure
            why = " ".join(str(error).split())[:200] or type(error).__name__
            self._unusable[self.code(subnet)] = why
            say(f"  a subnet is left out: {why}")
            return False
        return True

    def _promising(self, fresh: Sequence[Subnet], limits: Sequence[Constraint], top: int) -> bool:
        """Whether one of them is predicted to be clearly better than the worst of the best measured ones."""
        kept = [subnet for subnet, cost in self.measured() if not missed(limits, cost)]
        if len(kept) < top:
            return True
        best = sorted(self.scores(kept)[0])[-top:]
        return max(self.scores(fresh)[0]) > best[0] + _CLEARLY

    def write(self, subnet: Subnet, path: Path, limit_ms: float | None = None) -> Written:
        """Export a subnet with its statistics and measure the file thoroughly.

        Args:
            subnet: dimension → choice.
            path: of the file.
            limit_ms: latency at which the measurement may end, as the file breaks it.
        """
        info = export_onnx(vision_model(self.stored, subnet), subnet[RESOLUTION], path)
        latency = self._timer.measure(path, limit_ms=limit_ms)
        cautious, plain = measured_costs(info, latency, cautious=True), measured_costs(info, latency)
        return Written(cautious, plain, latency.complete)

    def code(self, subnet: Subnet) -> str:
        """Return a subnet's key."""
        return self.codes.text(self.codes.of([subnet])[0])

    def look(self, subnet: Subnet) -> None:
        """Measure a subnet once, and remember it.

        Raises:
            AutomlError: it cannot be exported or run.
        """
        code = self.code(subnet)
        if code in self._notes:
            return
        with tempfile.TemporaryDirectory(prefix="automl-subnet-") as scratch:
            file = Path(scratch) / "subnet.onnx"
            info = export_onnx(vision_model(self.stored, subnet, calibrated=False), subnet[RESOLUTION], file)
            latency = self._timer.measure(file, thorough=False)
        self.count += 1
        self._notes[code] = {**measured_costs(info, latency), "low": latency.low_ms}
        if latency.calm:
            self._keep()
        else:
            self._disturbed.add(code)

    def _keep(self) -> None:
        kept = {code: cost for code, cost in self._notes.items() if code not in self._disturbed}
        temporary = self._path.with_name(f".{self._path.name}-{os.getpid()}")
        try:
            temporary.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)  # it is a convenience: nothing depends on it being kept


def _middle(ratios: Sequence[float]) -> float:
    """Geometric mean."""
    logs = [math.log(ratio) for ratio in ratios if ratio > 0]
    return math.exp(sum(logs) / len(logs)) if logs else 1.0
