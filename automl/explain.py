"""Why a model was chosen and what it would need, in sentences that hold for what happened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automl import wording


def why(
    winner: str,
    *,
    objective: str,
    score: float,
    images: int,
    candidates: int,
    keeping: int,
    limited: bool,
    turned_down: int,
    missed_cost: bool,
    missed_quality: bool,
    rival: tuple[str, float] | None,
    joint: bool,
    refitted: bool,
    likely: bool,
) -> str:
    """Say why the winner is the model.

    Args:
        winner: candidate ids.
        objective: what was maximised.
        score: of the winner, on validation images.
        images: how many.
        candidates: that finished with a model.
        keeping: those of them whose expected costs keep the limits.
        limited: whether there are limits.
        turned_down: better choices that missed a limit, or could not be exported, when it came to the file.
        missed_cost, missed_quality: whether the winner's file misses a limit on its cost, or on its quality on test images.
        rival: the best other single model that keeps the limits, and its score.
        joint: whether the winner has several members.
        refitted: whether members were trained on with the validation images.
        likely: whether choices were compared by the probability that they give to the right labels.
    """
    where = f"{score:.3f} on {images} validation images no member was trained on when it was judged"
    best = f"has the best {objective} ({where})"
    if likely:
        best = f"gives the right labels the highest probability, up to the noise ({objective} {where}),"
    many = f"{candidates} finished candidate{'' if candidates == 1 else 's'}"
    if missed_cost:
        text = (
            f"None of the {many} keeps all limits. {winner}, with a {objective} of {score:.3f} on {images} validation "
            "images, comes closest of those that were exported and measured."
        )
    elif turned_down:
        text = (
            f"{winner} {best} of what kept the limits as an exported file; {turned_down} "
            f"{'choice' if turned_down == 1 else 'choices'} expected to be better did not when measured."
        )
    elif limited and keeping < candidates:
        text = f"{winner} {best} among the {keeping} of {many} whose costs keep the limits."
    else:
        text = f"{winner} {best} among the {many}."
    if missed_quality and not missed_cost:
        text += (
            " On the test images it misses a limit that it kept on the validation images or came closest to."
        )
    if rival is not None:
        text += f" The best {'single model' if joint else 'other model'} is {rival[0]} with {rival[1]:.3f}."
    if refitted:
        text += " Fine-tuned members were then trained on with the validation images."
    return text


def needs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which limits are missed, and by what they would have to be replaced.

    Args:
        rows: of :func:`automl.evaluation.constraints.check`.
    """
    missed = [row for row in rows if not row["satisfied"]]
    known = [row for row in missed if not math.isnan(row["measured"])]
    parts = []
    for row in known:
        metric, _operator = wording.split_expression(row["expression"])
        measured = wording.measured_beside(metric, row["measured"], row["limit"])
        parts.append(f"{row['expression']} (measured {measured})")
    lines = [f"No test image tells of {row['expression']}." for row in missed if row not in known]
    if parts:
        misses = f"The closest model misses {' and '.join(parts)}; it would do with these limits at the measured values."
        lines.insert(0, misses)
    return " ".join(lines)
