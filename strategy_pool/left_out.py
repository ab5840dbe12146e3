"""What a fitted ranker says about tasks that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from strategy_pool.baselines import Learner
from strategy_pool.trial_table import TrialTable

#: Columns that a ranker may not see of the tasks that it is judged on.
_HIDDEN = ("score", "value", "seconds", "epochs", "failed")


@dataclass(frozen=True)
class LeftOut:
    """A task that was left out.

    Attributes:
        task: its name.
        shown: what a ranker may see of its candidates, [n] rows.
        predicted: what it says of them, float [n].
        values: their normalised scores, float [n].
    """

    task: str
    shown: pd.DataFrame
    predicted: np.ndarray
    values: np.ndarray


def predictions(fitted: Learner, judged: TrialTable) -> Iterator[LeftOut]:
    """One task after the other; outcomes are hidden from the ranker."""
    for task, rows in judged.frame.groupby("task", sort=True, observed=True):
        shown = rows.drop(columns=[name for name in _HIDDEN if name in rows.columns]).reset_index(drop=True)
        predicted = np.asarray(fitted.predict(shown), dtype=float)
        yield LeftOut(str(task), shown, predicted, rows["value"].to_numpy(dtype=float))
