"""What crosses between the search and a trial: a specification in, progress on the way, an outcome out.

Plain frozen values that survive JSON, so that a worker process, a file on disk and the driver all see
the same thing. Nothing here imports torch or Ray.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from automl.candidate import Candidate

#: How a trial can end. ``stopped``: another trial looked better (early stopping) or the user
#: interrupted; ``timeout``: its own seconds ran out before the training was complete.
STATUSES = ("completed", "stopped", "failed", "timeout")

#: ``Outcome.error`` of a stopped trial that ended because the whole search did; a resumed search runs it again.
INTERRUPTED = "interrupted: the search ended"
#: Error of a trial whose worker, or the machine that it ran on, is gone.
WORKER_DIED = "worker died"


@dataclass(frozen=True)
class TrialSpec:
    """Everything a worker needs to run one candidate on one task.

    Attributes:
        trial_id: unique within a run folder.
        candidate: what is tried.
        dataset_folder: decoded dataset, opened memory-mapped by the worker.
        backbone: ``search_spaces.backbones.Backbone.to_dict()``.
        folder: where the trial writes; its own and no other's.
        seconds: wall-clock allotment from the start of the trial, None for no limit.
        max_epochs: upper bound on epochs, None for the strategy's own number.
        seed: of everything random in the trial.
        threads: CPU threads the trial may use.
        device: as in ``Device.parse``, for instance ``cpu:1``.
        objective: expression of the objective.
        constraints: expressions of the constraints.
        shared_folder: features and trunks that trials of the run share.
        strategy: fields of the strategy with the candidate's overrides applied.
        purpose: ``search``; ``refit`` to train on all development images, which leaves no score; or ``supernet`` to
            train one, which leaves subnets.
        initial: folder of a stored model that the training goes on from, None for the candidate's own start.
        images: development images that it uses, None for all.
        limits: sets of limits that subnets are wanted for.
        affinity: whether a model on frozen features tells if images keep their class upside down.
        slow_moment: how much slower the device is in a slow moment, as the driver knows it; a worker that sees other GPUs
            does not find what is remembered of it.
    """

    trial_id: str
    candidate: Candidate
    dataset_folder: str
    backbone: dict[str, Any]
    folder: str
    seconds: float | None
    max_epochs: int | None
    seed: int
    threads: int
    device: str
    objective: str
    constraints: list[str]
    shared_folder: str
    strategy: dict[str, Any]
    purpose: str = "search"
    initial: str | None = None
    images: int | None = None
    limits: list[list[str]] = field(default_factory=list)
    affinity: bool = False
    slow_moment: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**_shallow(self), "candidate": self.candidate.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialSpec:
        """Rebuild from :meth:`to_dict`; unknown keys are ignored.

        Raises:
            ValueError: a field is missing or has the wrong shape.
        """
        known = _known(cls, values)
        if not isinstance(known["candidate"], Candidate):
            known["candidate"] = Candidate.from_dict(known["candidate"])
        return cls(**known)


@dataclass(frozen=True)
class Progress:
    """One report of a running trial.

    Attributes:
        epoch: epochs finished, counted from 1.
        fraction: share of the planned training that is done, 0..1.
        score: validation score so far (higher is better; NaN where there is none).
        seconds: seconds since the trial began.
    """

    epoch: int
    fraction: float
    score: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return _shallow(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """Rebuild from :meth:`to_dict`; unknown keys are ignored."""
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        trial_id: of the specification.
        candidate_id: ``Candidate.id``.
        status: one of :data:`STATUSES`.
        score: validation score (higher is better), None where there is none.
        metrics: named numbers that go with the score.
        seconds: wall-clock seconds the trial took.
        epochs: epochs finished.
        curve: ``[epoch, score, seconds]`` per report.
        error: one line that says what went wrong, for failed trials.
    """

    trial_id: str
    candidate_id: str
    status: str
    score: float | None
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    epochs: int = 0
    curve: list[list[float]] = field(default_factory=list)
    error: str | None = None

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}; known: {', '.join(STATUSES)}")

    @property
    def usable_score(self) -> float | None:
        """The score as a finite number, None where there is none."""
        if self.score is None or not math.isfinite(self.score):
            return None
        return float(self.score)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return _shallow(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        """Rebuild from :meth:`to_dict`; unknown keys are ignored.

        Raises:
            ValueError: a field is missing or the status is unknown.
        """
        return cls(**_known(cls, values))


def _shallow(record: Any) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}


def _known(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__} is a {type(values).__name__}; a JSON object is needed")
    fields = dataclasses.fields(cls)
    required = {
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
    return {f.name: values[f.name] for f in fields if f.name in values}
