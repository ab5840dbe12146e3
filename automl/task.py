"""The task a user submits: constraints, objective, budget, device; every typed name is checked here.

Nothing in this module imports torch, so a wrong command is answered at once.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from automl.device import Device
from automl.errors import InputError, did_you_mean

COST_METRICS = ("latency_ms", "latency_p95_ms", "size_mb", "params_m", "macs_m", "memory_mb")
QUALITY_METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
CLASS_METRICS = ("recall", "precision", "auroc", "average_precision")
#: Share of the trials after the pool's first ones that Optuna proposes.
EXPLORE_SHARE = 0.4
#: Trials have seeds of their own beyond it, a thousand each, which torch and the history have to hold.
MOST_SEED = 2**53 // 1000 - 1

_METRIC = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(\[(?P<cls>(?s:.+))\])?\s*")
_EXPRESSION = re.compile(_METRIC.pattern + r"(?P<op><=|>=|<|>|==|=)\s*(?P<number>[^<>=\s].*?)\s*")
#: Behind a character: it lies in no square brackets, so it is no part of a class name.
_OUTSIDE = r"(?![^\[]*\])"
_BYTES = {"mb": "1", "kb": "0.001", "gb": "1000", "b": "0.000001", "mib": "1.048576", "kib": "0.001024",
          "gib": "1073.741824"}  # fmt: skip
_MILLIONS = {"m": "1", "k": "0.001", "g": "1000"}
#: Factors as decimal text, so that 99.9% is 0.999 and not 0.9990000000000001.
_UNITS = {
    "latency": {"ms": "1", "s": "1000", "us": "0.001", "µs": "0.001"},
    "size": _BYTES,
    "memory": _BYTES,
    "params": _MILLIONS,
    "macs": _MILLIONS,
}
_LONGEST_BUDGET = 366 * 86400.0


def _metric_names() -> list[str]:
    return [*COST_METRICS, *QUALITY_METRICS, *(f"{name}[CLASS]" for name in CLASS_METRICS)]


def _check_metric(name: str, class_name: str | None, text: str, *, costs: bool) -> None:
    known = (*(COST_METRICS if costs else ()), *QUALITY_METRICS, *CLASS_METRICS)
    if name not in known:
        if not costs and name in COST_METRICS:
            raise InputError(f"'{text}': {name} is a limit, not a goal; use --constraint '{name}<=…' for it")
        shown = [n for n in _metric_names() if costs or n not in COST_METRICS]
        hint = did_you_mean(name, known).split(" known:")[0]
        raise InputError(f"'{text}': unknown metric '{name}'{hint} known: {', '.join(shown)}")
    if name in CLASS_METRICS and class_name is None:
        raise InputError(f"'{text}': {name} needs a class, for instance {name}[defect]")
    if name not in CLASS_METRICS and class_name is not None:
        raise InputError(f"'{text}': {name} takes no class; write {name} without [{class_name}]")


@dataclass(frozen=True)
class Constraint:
    """One limit: ``NAME OP NUMBER``.

    Attributes:
        name: a cost or quality metric.
        op: ``<=`` or ``>=``.
        limit: the number; milliseconds, megabytes (1e6 bytes), millions, or a share in 0..1.
        class_name: of a metric of one class.
    """

    name: str
    op: str
    limit: float
    class_name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Parse for instance ``latency_ms<=5`` or ``recall[defect]>=0.995``; a number may carry its unit.

        Raises:
            InputError: an unknown metric, operator or unit, or a limit that cannot be meant.
        """
        match = _EXPRESSION.fullmatch(str(text))
        if match is None:
            raise InputError(
                f"constraint '{text}' has not the form NAME<=NUMBER or NAME>=NUMBER, "
                "for instance latency_ms<=5"
            )
        name, class_name, op = match["name"], match["cls"], match["op"]
        _check_metric(name, class_name, text, costs=True)
        if op not in ("<=", ">="):
            raise InputError(f"constraint '{text}': operator '{op}' is not known; use <= or >=")
        limit = _number(match["number"], name, text)
        is_cost = name in COST_METRICS
        if is_cost and op == ">=":
            raise InputError(
                f"constraint '{text}': {name} is a cost, so its limit is '{name}<={match['number']}'"
            )
        if not is_cost and op == "<=":
            raise InputError(
                f"constraint '{text}': {name} is a quality, so its limit is '{name}>={match['number']}'"
            )
        if is_cost and limit <= 0:
            raise InputError(f"constraint '{text}': the limit {limit:g} must be above 0")
        if not is_cost and not 0 <= limit <= 1:
            meant = 1 < limit <= 100 and "%" not in match["number"]
            percent = f"; {limit:g} % is written {limit / 100:g}" if meant else ""
            raise InputError(f"constraint '{text}': {name} is a share between 0 and 1{percent}")
        return cls(name, op, limit, class_name)

    @property
    def metric(self) -> str:
        """The metric with its class, as in reports: ``recall[defect]``."""
        return self.name if self.class_name is None else f"{self.name}[{self.class_name}]"

    @property
    def expression(self) -> str:
        """The constraint as text that parses back."""
        short = f"{self.limit:.12g}"
        return f"{self.metric}{self.op}{short if float(short) == self.limit else repr(self.limit)}"

    @property
    def is_cost(self) -> bool:
        """Whether it limits the exported file rather than its predictions."""
        return self.name in COST_METRICS

    def satisfied(self, value: float) -> bool:
        """Whether a measured value keeps the limit; NaN does not."""
        return value <= self.limit if self.op == "<=" else value >= self.limit

    def violation(self, value: float) -> float:
        """How far a value is beyond the limit, relative to it; at most 0 where it holds, inf for NaN."""
        if math.isnan(value):
            return math.inf
        gap = value - self.limit if self.op == "<=" else self.limit - value
        return gap / max(abs(self.limit), 1e-9)


@dataclass(frozen=True)
class Objective:
    """What is maximised within the limits: a quality metric."""

    name: str = "balanced_accuracy"
    class_name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Parse for instance ``balanced_accuracy`` or ``precision[defect]``.

        Raises:
            InputError: an unknown metric, or one that is a limit only.
        """
        match = _METRIC.fullmatch(str(text))
        if match is None:
            raise InputError(
                f"objective '{text}' is not a metric; known: "
                f"{', '.join(n for n in _metric_names() if n not in COST_METRICS)}"
            )
        _check_metric(match["name"], match["cls"], text, costs=False)
        return cls(match["name"], match["cls"])

    @property
    def expression(self) -> str:
        """The objective as text that parses back."""
        return self.name if self.class_name is None else f"{self.name}[{self.class_name}]"


@dataclass(frozen=True)
class Budget:
    """Wall-clock seconds of a submit."""

    seconds: float = 600.0

    @classmethod
    def parse(cls, value: str | float | int) -> Budget:
        """Parse ``20m``, ``90s``, ``1h30m`` or a number of seconds.

        Raises:
            InputError: another unit, nothing, less than ten seconds or more than a year.
        """
        text = str(value).strip().lower()
        seconds = 0.0
        if re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        else:
            parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-zµ]+)", text)
            if not parts or re.sub(r"\d+(?:\.\d+)?\s*[a-zµ]+\s*", "", text):
                raise InputError(f"budget '{value}' is not a time; write for instance 90s, 20m or 1h30m")
            units = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
            for number, unit in parts:
                if unit not in units:
                    raise InputError(
                        f"budget '{value}': unit '{unit}' is not known; use s, m, h or d, as in 1h30m"
                    )
                seconds += float(number) * units[unit]
        if not seconds >= 10:
            raise InputError(f"budget '{value}' is {seconds:g} seconds; at least 10 seconds are needed")
        if seconds > _LONGEST_BUDGET:
            raise InputError(f"budget '{value}' is longer than a year; write for instance 90s, 20m or 1h30m")
        return cls(seconds)


@dataclass(frozen=True)
class Task:
    """One submit, validated.

    Attributes:
        data: folder, manifest or npz.
        constraints: limits that the result keeps.
        objective: what is maximised.
        budget: wall-clock seconds.
        max_trials: number of trials instead of the clock; the run is then repeatable.
        device: where the result will run.
        seed: of splits and everything random.
        weights_dirs: folders that hold pretrained models as sub-folders.
        backbones: models asked for by name; empty for all that can be had.
    """

    data: str
    constraints: tuple[Constraint, ...] = ()
    objective: Objective = Objective()
    budget: Budget = Budget()
    max_trials: int | None = None
    device: Device = field(default_factory=Device)
    seed: int = 0
    weights_dirs: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        data: str | os.PathLike[str],
        *,
        constraints: Sequence[str | Constraint] = (),
        objective: str = "balanced_accuracy",
        budget: str | float = "10m",
        max_trials: int | None = None,
        device: str = "cpu:1",
        seed: int = 0,
        weights_dirs: Sequence[str | os.PathLike[str]] = (),
        backbones: Sequence[str] = (),
    ) -> Task:
        """Build from what a user types.

        Raises:
            InputError: anything is not what it should be.
        """
        path = Path(os.path.expanduser(data))
        if not os.path.exists(path):
            raise InputError(
                f"data '{data}' does not exist; give a folder of images, a CSV or Parquet manifest, or an npz"
            )
        for folder in weights_dirs:
            if not os.path.isdir(os.path.expanduser(folder)):
                raise InputError(f"weights folder '{folder}' does not exist or is not a folder")
        if max_trials is not None and max_trials < 1:
            raise InputError(f"--max-trials is {max_trials}; it is at least 1")
        if not 0 <= seed <= MOST_SEED:
            raise InputError(f"seed is {seed}; it is at least 0 and at most {MOST_SEED}")
        parsed = tuple(c if isinstance(c, Constraint) else Constraint.parse(c) for c in constraints)
        where = Device.parse(device)
        where.check_present()
        check_measurable(where, parsed)
        return cls(
            # As the user names it, since a link's target may have another name; only before ".." a link leads elsewhere.
            str(path.resolve()) if ".." in path.parts else os.path.abspath(path),
            check_constraints(parsed),
            Objective.parse(objective),
            Budget.parse(budget),
            max_trials,
            where,
            int(seed),
            tuple(str(Path(os.path.expanduser(folder)).resolve()) for folder in weights_dirs),
            tuple(backbones),
        )

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Check that every class a user named exists.

        Raises:
            InputError: one does not.
        """
        check_class_names((*self.constraints, self.objective), class_names)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "data": self.data,
            "constraints": [c.expression for c in self.constraints],
            "objective": self.objective.expression,
            "budget": self.budget.seconds,
            "max_trials": self.max_trials,
            "device": str(self.device),
            "seed": self.seed,
            "weights_dirs": list(self.weights_dirs),
            "backbones": list(self.backbones),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Rebuild from :meth:`to_dict`."""
        return cls(
            str(values["data"]),
            tuple(Constraint.parse(text) for text in values["constraints"]),
            Objective.parse(values["objective"]),
            Budget(float(values["budget"])),
            values.get("max_trials"),
            Device.parse(values["device"]),
            int(values["seed"]),
            tuple(values.get("weights_dirs", ())),
            tuple(values.get("backbones", ())),
        )


def check_class_names(wanted: Sequence[Constraint | Objective], class_names: Sequence[str]) -> None:
    """Check that the classes of these metrics exist.

    Raises:
        InputError: one does not.
    """
    for item in wanted:
        if item.class_name is not None and item.class_name not in class_names:
            raise InputError(
                f"'{item.expression}': the data has no class '{item.class_name}'"
                f"{did_you_mean(item.class_name, class_names)}"
            )


def check_constraints(constraints: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """Drop repetitions.

    Raises:
        InputError: the same metric is limited twice with different numbers.
    """
    seen: dict[str, Constraint] = {}
    for constraint in constraints:
        before = seen.setdefault(constraint.metric, constraint)
        if before.limit != constraint.limit:
            raise InputError(
                f"contradictory limits '{before.expression}' and '{constraint.expression}'; give one of them"
            )
    return tuple(seen.values())


def check_measurable(device: Device, constraints: Sequence[Constraint]) -> None:
    """Check that what is limited can be measured on a device.

    Raises:
        InputError: it cannot.
    """
    if device.kind == "cuda" and any(c.name == "memory_mb" for c in constraints):
        raise InputError("memory_mb is measured on a CPU only; leave the limit out, or give --device cpu:1")


def parse_limits_file(path: str | os.PathLike[str]) -> list[tuple[Constraint, ...]]:
    """Read many sets of limits: JSON, a list of lists of expressions; or text, one set per line, separated by commas.

    In text, ``#`` begins a comment. Commas, ``#`` and blanks in the square brackets of a class belong to its name.

    Raises:
        InputError: the file is missing or a set cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"limits file '{path}' cannot be read: {reason}") from error
    rows: list[list[str]]
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
            rows = [[str(item) for item in ([row] if isinstance(row, str) else row)] for row in values]
        except (ValueError, TypeError) as error:
            raise InputError(
                f"limits file '{path}' is not a JSON list of lists of constraints: {error}"
            ) from error
    else:
        lines = [re.sub(rf"(^|\s)#{_OUTSIDE}.*", "", line).strip() for line in text.splitlines()]
        rows = [[part for part in re.split(rf"\s*[,;]{_OUTSIDE}\s*", line) if part] for line in lines if line]
    if not rows:
        raise InputError(
            f"limits file '{path}' holds no set of limits; write one per line, as latency_ms<=5, size_mb<=4"
        )
    sets = []
    for number, row in enumerate(rows, 1):
        try:
            sets.append(check_constraints(tuple(Constraint.parse(part) for part in row)))
        except InputError as error:
            raise InputError(f"limits file '{path}', set {number}: {error}") from None
    return sets


def _number(text: str, name: str, whole: str) -> float:
    match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµμ%]*)", text)
    if match is None:
        raise InputError(f"constraint '{whole}': '{text}' is not a number")
    number, unit = float(match[1]), match[2].lower().replace("μ", "µ")
    kind = name.split("_")[0]
    factors = _UNITS[kind] if name in COST_METRICS else {"%": "0.01"}
    if unit and unit not in factors:
        known = (
            f"known: {', '.join(factors)}" if name in COST_METRICS else "write a share such as 0.95, or 95%"
        )
        raise InputError(f"constraint '{whole}': unit '{match[2]}' does not fit {name}; {known}")
    value = float(Decimal(repr(number)) * Decimal(factors[unit])) if unit else number
    if not math.isfinite(value):
        raise InputError(f"constraint '{whole}': '{text}' is not a finite number")
    return value


def read_task(path: Path, folder: Path) -> dict[str, Any]:
    """The task of a run, checked, as the plain values that were written.

    Its device is not looked for: it may have been another machine's, and another one may be asked for now.

    Args:
        path: the file.
        folder: of the run, for the message.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Task.from_dict({**values, "device": "cpu:1"})
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is no run that could be resumed; it has no search/task.json") from None
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is damaged ({error}); the run cannot be resumed, use another --out"
        ) from None
    return values
