"""What a fitted ranker says about tasks that it has not seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from strategy_pool.baselines import Learner
from strategy_pool.trial_table import TrialTable

#: Columns that a ranker may not see of the tasks that it is judged on.
_HIDDEN = ("score", "value", "seconds", "epochs", "failed")


def predictions(fitted: Learner, judged: TrialTable) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Task, predictions and normalised scores, for one task after the other; outcomes are hidden from the ranker."""
    for task, rows in judged.frame.groupby("task", sort=True, observed=True):
        shown = rows.drop(columns=[name for name in _HIDDEN if name in rows.columns]).reset_index(drop=True)
        yield str(task), np.asarray(fitted.predict(shown), dtype=float), rows["value"].to_numpy(dtype=float)
