"""What images may be changed into while a network is trained on them, as the first models of a run tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The first models that measure affinities; see :func:`automl.training.affinities`."""
    return sorted(run.all_landmarks, key=lambda c: (run.macs[c.triple], c.id))[:_ASKED]


def settle_augmentation(run: Run, strategy: dict[str, Any]) -> None:
    """Replace the augmentation ``fitting`` of a recipe by the policy that suits the images, as far as is known."""
    if strategy["augmentation"] != FITTING or strategy["method"] in FROZEN_METHODS:
        return
    strategy["augmentation"] = fitting_augmentation(_told(run))


def finding(run: Run) -> str | None:
    """One line that says what was found; None where nothing was."""
    found = mean_affinity(_told(run))
    if found is None:
        return None
    if fitting_augmentation(_told(run)) == "flips":
        why, what = "keep", "flips in both directions and no crops"
    else:
        why, what = "do not keep", "crops and no turning over"
    return f"upside down the images {why} their class ({found:.2f} of the accuracy is left): {what} in the training"


def fitting_augmentation(measured: Sequence[Mapping[str, float]]) -> str:
    """The policy that suits images: ``flips`` where they keep their class upside down, else ``light``.

    Images without an upright (surfaces, parts under a camera) gain most from flips, and lose by crops that leave out a small
    fault or change its scale; photographs gain by crops.

    Args:
        measured: what :func:`automl.training.affinities` said of some networks; the mean counts.
    """
    known = mean_affinity(measured)
    return "flips" if known is not None and known >= LEAST_AFFINITY else "light"


def mean_affinity(measured: Sequence[Mapping[str, float]]) -> float | None:
    """The mean affinity of turning images over, None where nobody knows it."""
    known = [found["upside_down"] for found in measured if "upside_down" in found]
    return sum(known) / len(known) if known else None


def _told(run: Run) -> list[dict[str, float]]:
    first = asked(run)
    return [outcome.metrics.get("affinity", {}) for spec, outcome in run.finished if spec.candidate in first]
