"""Whether models that were trained on with all images still know those, as the file that is exported.

What a refit is worth no held-out image can tell any more, and an int8 file of its weights was never scored. But on the
validation images, which it has seen, it has to be at least as good as the trial before it, which had not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from automl.ensemble import Selection
from automl.evaluation.operating_point import OperatingPoint

#: Validation images that are looked at, at most.
MOST_CHECKED = 300


def leave_out_worse(finisher: Any, selection: Selection, point: OperatingPoint, exported: Path) -> bool:
    """Leave out the refits of a choice where its file does worse on validation images than the trials before them.

    Balanced accuracies of the same images are compared, at the operating point.

    Args:
        finisher: the :class:`automl.finish.Finisher`, whose ``refits`` lose those of the choice.
        selection: with the validation scores of the trials.
        point: its operating point.
        exported: its ONNX file, made of refits where there are any.

    Returns:
        whether refits were left out, so that the file has to be written anew.
    """
    refits = [name for name in selection.weights if name in finisher.refits]
    found = _lost(finisher, selection, point, exported) if refits else None
    if found is None:
        return False
    for name in refits:
        del finisher.refits[name]
    now, before = (f"{100 * value:.1f} %" for value in found)
    note = (
        f"{finisher._named(selection)} is exported as it was before it was trained on with all images: its file then had "
        f"a balanced accuracy of {now} on validation images, before of {before}"
    )
    finisher.submit.notes.append(note)
    finisher.submit.say(f"  {note}")
    return True


def _lost(
    finisher: Any, selection: Selection, point: OperatingPoint, exported: Path
) -> tuple[float, float] | None:
    """Balanced accuracies of the file and of the scores, where the file's is lower; None otherwise and without time."""
    from automl.data import proportional_order
    from automl.evaluation import metrics, operating_point
    from automl.export import run_onnx

    dataset, index, submit = finisher.dataset, finisher.chooser.index, finisher.submit
    labels, names = np.asarray(dataset.labels)[index], list(dataset.class_names)
    side = max(finisher.by_id[name][0].candidate.resolution for name in selection.weights)
    order = proportional_order(labels, dataset.seed)[:MOST_CHECKED]
    got, told = run_onnx(
        exported,
        dataset.images(side, once=True),
        index[order],
        threads=max(1, submit.workers),
        enough=lambda _begun: submit.clock.late(),
    )
    order = order[: len(told)]
    if not len(order):
        return None
    had = np.exp(selection.log_probabilities[order])
    now, before = (
        float(metrics.compute("balanced_accuracy", None, labels[order], scores, predicted, names))
        for scores, predicted in ((got, told), (had, operating_point.apply(had, point.bias)))
    )
    return (now, before) if now < before else None
