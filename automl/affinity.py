"""What images may be changed into while a network is trained on them, as the first models of a run tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from strategy_pool.strategy import FITTING, FROZEN_METHODS

if TYPE_CHECKING:
    from automl.candidate import Candidate
    from automl.run import Run

#: Affinity from which images are trained on upside down too.
LEAST_AFFINITY = 0.87
#: First models that are asked: the cheapest.
_ASKED = 3


def asked(run: Run) -> list[Candidate]:
    """The first models that measure the affinity; see :func:`automl.training.affinity_upside_down`."""
    return sorted(run.all_landmarks, key=lambda c: (run.macs[c.triple], c.id))[:_ASKED]


def settled(run: Run, strategy: dict[str, Any]) -> dict[str, Any]:
    """A recipe with the policy that suits the images, as far as is known, where its augmentation is ``fitting``."""
    if strategy["augmentation"] != FITTING or strategy["method"] in FROZEN_METHODS:
        return strategy
    return {**strategy, "augmentation": fitting_augmentation(_mean(run))}


def say_finding(run: Run) -> None:
    """Tell the user what was found, if anything was."""
    found = _mean(run)
    if found is None:
        return
    if fitting_augmentation(found) == "flips":
        why, what = "keep", "flips in both directions and no crops"
    else:
        why, what = "do not keep", "crops and no turning over"
    run.say(
        f"  upside down the images {why} their class ({found:.2f} of the accuracy is left): {what} in the training"
    )


def fitting_augmentation(affinity: float | None) -> str:
    """The policy that suits images: ``flips`` where they keep their class upside down, ``light`` elsewhere and where nobody knows.

    A crop may leave out a small fault, or change the scale that tells it from another; a flip does neither.
    """
    return "flips" if affinity is not None and affinity >= LEAST_AFFINITY else "light"


def mean_affinity(told: Iterable[float | None]) -> float | None:
    """The mean of what models told; None where none of them knows."""
    known = [affinity for affinity in told if affinity is not None]
    return sum(known) / len(known) if known else None


def _mean(run: Run) -> float | None:
    first = asked(run)
    return mean_affinity(
        outcome.metrics.get("affinity") for spec, outcome in run.finished if spec.candidate in first
    )
