"""The worst mistakes on test images, with their pictures."""

from __future__ import annotations

import numpy as np

from automl import wording
from automl.report._figures import note, plot
from automl.report._run import Run, file_name, thumbnail
from automl.report._svg import escape

#: Mistakes that are shown, those of them that are seen at once, and calls that are shown where there are none.
_MOST, _OPEN = 24, 12
_CLOSE = 8


def gallery(run: Run) -> str:
    """Cards of the mistakes the model was surest of; without mistakes, the calls it was least sure of."""
    scores = run.test
    if scores is None:
        return note("mistakes", "There are no test images, so there are no mistakes to show.")
    rows = np.arange(len(scores.labels))
    sure = scores.probabilities[rows, scores.predicted]
    wrong = rows[scores.predicted != scores.labels]
    total = wording.plural(len(rows), "test image")
    if len(wrong):
        picked = wrong[np.argsort(-sure[wrong], kind="stable")][:_MOST]
        text = f"{wording.plural(len(wrong), 'mistake')} on {total}"
        text += (
            f"; the {len(picked)} it was surest of are shown."
            if len(picked) < len(wrong)
            else ", the surest first."
        )
    else:
        picked = rows[np.argsort(sure, kind="stable")][:_CLOSE]
        text = f"No mistake on {total}. These are the images the model was least sure of."
    cards = [_card(run, int(at)) for at in picked]
    inner = f'<div class="gallery">{"".join(cards[:_OPEN])}</div>'
    if len(cards) > _OPEN:
        inner += (
            f"<details><summary>{len(cards) - _OPEN} more</summary>"
            f'<div class="gallery">{"".join(cards[_OPEN:])}</div></details>'
        )
    return f"<p>{escape(text)}</p>" + plot("mistakes", inner, kind="pictures")


def _card(run: Run, at: int) -> str:
    scores = run.test
    if scores is None:
        return ""
    row, true, chosen = int(scores.index[at]), int(scores.labels[at]), int(scores.predicted[at])
    name, picture = file_name(run, row), thumbnail(run, row)
    image = (
        f'<img src="{picture}" alt="{escape(name)}" width="144" height="144">'
        if picture
        else '<div class="nopicture">no picture at hand</div>'
    )
    of_true = f" (true class: {wording.share(scores.probabilities[at, true], 0)})" if true != chosen else ""
    return (
        f'<figure class="card">{image}<figcaption>'
        f"<div><span>true</span> <b>{escape(run.class_names[true])}</b></div>"
        f'<div><span>predicted</span> <b class="{"good" if true == chosen else "bad"}">{escape(run.class_names[chosen])}</b></div>'
        f"<div>{wording.share(scores.probabilities[at, chosen], 0)} sure{of_true}</div>"
        f'<div class="file" title="{escape(name)}">{escape(name)}</div></figcaption></figure>'
    )
