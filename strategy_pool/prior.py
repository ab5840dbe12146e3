"""The order in which to try candidates: the history average, shrunk towards the catalog's own order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from strategy_pool.features import PLAIN
from strategy_pool.strategy import Strategy
from strategy_pool.trial_table import TrialTable

#: Normalised score that is expected where nothing was ever tried.
_LEVEL = 0.5
#: How far apart the first and the last recipe of the catalog are expected to be.
_SPREAD = 0.3
#: Standard deviation of a normalised score within a recipe, for lack of a better one.
_DEVIATION = 0.25
_ADDED = ("predicted_score", "predicted_seconds", "low", "high", "reason")


def history_average(history: pd.DataFrame, by: str = "strategy") -> pd.DataFrame:
    """Mean score of each strategy over the tasks, scores min–max normalised within each task.

    A task whose scores are all equal tells nothing and is left out. A failed trial has the lowest score
    of its task. Several trials of a strategy on a task count as one, with their mean.

    Args:
        history: one row per trial with ``strategy``, ``score`` and ``task_id`` or ``task``; optionally
            ``status`` or ``failed``.
        by: the column to average over instead of ``strategy``.

    Returns:
        ``strategy`` (or the column named), ``mean_score``, and ``n``, the number of tasks; best first.

    Raises:
        ValueError: a column is missing.
    """
    return _average(_normalised(history, by), by)


def _average(scored: pd.DataFrame, by: str) -> pd.DataFrame:
    per_task = scored.groupby([by, "task"], observed=True)["value"].mean()
    grouped = per_task.groupby(level=0, observed=True)
    frame = pd.DataFrame({"mean_score": grouped.mean(), "n": grouped.size()}).rename_axis(by).reset_index()
    return frame.sort_values(["mean_score", by], ascending=[False, True], ignore_index=True)


def _normalised(history: pd.DataFrame, by: str) -> pd.DataFrame:
    """The scored trials with ``task`` and ``value``, the score normalised within its task."""
    task = "task_id" if "task_id" in history.columns else "task"
    for column in (task, by, "score"):
        if column not in history.columns:
            raise ValueError(f"trial table has no column '{column}'; it needs task, {by} and score")
    score = pd.to_numeric(history["score"], errors="coerce").astype("float64")
    score = score.where(np.isfinite(score))
    failed = pd.Series(False, index=history.index)
    if "status" in history.columns:
        failed |= history["status"].eq("failed").fillna(False).astype(bool)
    if "failed" in history.columns:
        failed |= history["failed"].fillna(False).astype(bool)
    low = score.groupby(history[task], observed=True).transform("min")
    high = score.groupby(history[task], observed=True).transform("max")
    value = ((score - low) / (high - low)).where(~failed, 0.0)
    return history.assign(task=history[task], value=value)[(high > low) & value.notna()]


def rank(
    pool: pd.DataFrame,
    history: pd.DataFrame | None = None,
    task_features: Mapping[str, Any] | None = None,
    *,
    shrinkage: float = 2.0,
    first: int = 24,
) -> pd.DataFrame:
    """Order a pool of candidates, best expected first.

    The expected score of a recipe is the mean over past tasks, shrunk towards a prior that falls with its
    place in the catalog: ``(n · mean + k · prior) / (n + k)`` (empirical Bayes, Efron & Morris 1975). That of
    a candidate is its own mean, shrunk in the same way towards its recipe's, moved by how much better or
    worse than their recipes the candidates of its architecture were. Without a history the order is the catalog's.

    Among the first ones the same recipe on the same architecture does not come twice in a row as long as
    there is something else.

    Args:
        pool: one row per candidate with ``candidate``, ``architecture``, ``strategy`` and ``order`` (place in the
            catalog); other columns are kept.
        history: past trials as :meth:`strategy_pool.history.History.trials` gives them, or None.
        task_features: meta-features of the task; the history average does not depend on them.
        shrinkage: ``k``, the number of tasks that the prior weighs as much as.
        first: length of the head that is kept diverse.

    Returns:
        The pool's rows in order, with ``predicted_score`` (0..1 within a task), ``predicted_seconds`` (NaN where
        nothing similar was ever run), ``low`` and ``high`` (95 % interval of the score) and ``reason``.

    Raises:
        ValueError: a column is missing, or the shrinkage is not positive.
    """
    if not shrinkage > 0:
        raise ValueError(f"shrinkage is {shrinkage}; it has to be above 0")
    for column in ("candidate", "architecture", "strategy", "order"):
        if column not in pool.columns:
            raise ValueError(
                f"pool has no column '{column}'; it needs candidate, architecture, strategy and order"
            )
    pool = pool.drop(columns=[name for name in _ADDED if name in pool.columns]).reset_index(drop=True)
    past = _Past(history)
    recipes = _prior(pool, past)
    recipe_mean, recipe_n = past.look_up("strategy", pool["strategy"])
    recipe_score = _shrunk(recipe_mean, recipe_n, recipes, shrinkage)
    bonus, bonus_n = past.architecture_effect(pool["architecture"])
    bonus = bonus * bonus_n / (bonus_n + 2.0 * shrinkage)
    base = np.clip(recipe_score + bonus, 0.0, 1.0)
    mean, n = past.look_up("candidate", pool["candidate"])
    predicted = _shrunk(mean, n, base, shrinkage)
    evidence = n + np.minimum(recipe_n, 4.0 * shrinkage) / 2.0
    half = 1.96 * _DEVIATION / np.sqrt(evidence + 1.0)
    reasons = [
        _reason(*values)
        for values in zip(mean, n, recipe_mean, recipe_n, bonus, bonus_n, pool["order"], strict=True)
    ]
    ranked = pool.assign(
        predicted_score=predicted,
        predicted_seconds=past.seconds(pool),
        low=np.clip(predicted - half, 0.0, 1.0),
        high=np.clip(predicted + half, 0.0, 1.0),
        reason=np.array(reasons, dtype=object),
    )
    ranked = ranked.sort_values(
        ["predicted_score", "order"], ascending=[False, True], kind="stable", ignore_index=True
    )
    return _spread_out(ranked, first)


class Prior:
    """:func:`rank` as a learner, so that it is judged like the others: what orders a pool before a ranker is published.

    Args:
        catalog: recipes by name; those that it does not hold come last in its order.
    """

    def __init__(self, catalog: Mapping[str, Strategy]) -> None:
        self._order = {name: float(strategy.order) for name, strategy in catalog.items()}

    def fit(self, table: TrialTable, seed: int) -> Prior:
        """Keep the trials of past tasks; ``seed`` has no effect."""
        frame = table.told().frame
        self._past = _candidates(frame).assign(
            task_id=frame["task"],
            score=frame["score"],
            seconds=frame["seconds"],
            status=np.where(frame["failed"], "failed", "completed"),
        )
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return how early each candidate comes, float [rows], of one task's candidates."""
        last = max(self._order.values(), default=0.0) + 1.0
        pool = _candidates(frame)
        pool = pool.assign(order=pool["strategy"].map(self._order).fillna(last), row=np.arange(len(frame)))
        found = np.empty(len(frame))
        found[rank(pool, self._past)["row"].to_numpy()] = -np.arange(len(frame), dtype=float)
        return found


def _candidates(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a trial table of this engine as a history names their columns."""
    names = {"strategy": "candidate", "strategy.backbone": "architecture", "strategy.recipe": "strategy"}
    kept = [*names, *(["overrides"] if "overrides" in frame.columns else [])]
    return frame[kept].rename(columns=names)


def _shrunk(mean: np.ndarray, n: np.ndarray, prior: np.ndarray, k: float) -> np.ndarray:
    return (n * np.where(n > 0, mean, 0.0) + k * prior) / (n + k)


def _prior(pool: pd.DataFrame, past: _Past) -> np.ndarray:
    """Expected score by the place in the catalog alone, around the level of what is known."""
    place = pool["order"].rank(method="dense").to_numpy(dtype=float)
    last = place.max(initial=1.0)
    share = (place - 1.0) / max(1.0, last - 1.0)
    return np.clip(past.level + _SPREAD * (0.5 - share), 0.0, 1.0)


class _Past:
    """What a history tells, looked up by candidate, recipe or architecture; nothing where there is none."""

    def __init__(self, history: pd.DataFrame | None) -> None:
        self.scored: pd.DataFrame | None = None
        self.timed: pd.DataFrame | None = None
        self.level = _LEVEL
        self._means: dict[str, pd.DataFrame] = {}
        if history is None or history.empty:
            return
        own = history
        if "overrides" in history.columns:  # with other numbers it is another recipe
            own = history[history["overrides"].isna() | history["overrides"].isin(PLAIN)]
        scored = _normalised(own, "strategy")
        if {"seconds", "status"} <= set(history.columns):
            self.timed = own[own["seconds"].notna() & own["status"].eq("completed")]
        if scored.empty:
            return
        self.scored = scored
        self.level = float(self._mean("strategy")["mean_score"].mean())

    def _mean(self, by: str) -> pd.DataFrame:
        if by not in self._means:
            scored = pd.DataFrame() if self.scored is None else self.scored
            self._means[by] = _average(scored, by).set_index(by)
        return self._means[by]

    def look_up(self, by: str, names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Mean normalised score and number of tasks of each name; (NaN, 0) for unknown ones."""
        if self.scored is None or by not in self.scored.columns:
            return np.full(len(names), np.nan), np.zeros(len(names))
        found = self._mean(by).reindex(names.astype(object))
        return found["mean_score"].to_numpy(dtype=float), found["n"].fillna(0).to_numpy(dtype=float)

    def architecture_effect(self, names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """How much better an architecture's trials were than their recipes are on average, and on how many tasks."""
        nothing = np.zeros(len(names)), np.zeros(len(names))
        if self.scored is None or "architecture" not in self.scored.columns:
            return nothing
        usual = self._mean("strategy")["mean_score"].reindex(self.scored["strategy"]).to_numpy()
        residual = self.scored.assign(value=self.scored["value"] - usual).dropna(subset=["architecture"])
        if residual.empty:
            return nothing
        found = _average(residual, "architecture").set_index("architecture").reindex(names.astype(object))
        return found["mean_score"].fillna(0).to_numpy(dtype=float), found["n"].fillna(0).to_numpy(dtype=float)

    def seconds(self, pool: pd.DataFrame) -> np.ndarray:
        """Median seconds of completed trials: of the candidate, else of its recipe."""
        seconds = np.full(len(pool), np.nan)
        if self.timed is None or self.timed.empty:
            return seconds
        for by in ("strategy", "candidate"):
            if by in self.timed.columns:
                median = self.timed.groupby(by, observed=True)["seconds"].median()
                known = median.reindex(pool[by].astype(object)).to_numpy(dtype=float)
                seconds = np.where(np.isnan(known), seconds, known)
        return seconds


def _reason(
    mean: float, n: float, recipe_mean: float, recipe_n: float, bonus: float, bonus_n: float, order: int
) -> str:
    parts = []
    if n:
        parts.append(f"scored {mean:.2f} on {_tasks(n)}")
    if recipe_n:
        parts.append(f"its recipe {recipe_mean:.2f} on {_tasks(recipe_n)}")
    if bonus_n and abs(bonus) >= 0.005 and not n:
        parts.append(f"its backbone {bonus:+.2f} on {_tasks(bonus_n)}")
    return ", ".join(parts) if parts else f"catalog order {int(order)}"


def _tasks(n: float) -> str:
    return f"{int(n)} past task{'' if n == 1 else 's'}"


def _spread_out(ranked: pd.DataFrame, first: int) -> pd.DataFrame:
    """Within the head, let the next best come earlier where a recipe would follow itself on the same architecture."""
    pairs = list(zip(ranked["strategy"], ranked["architecture"], strict=True))
    left = list(range(len(pairs)))
    chosen: list[int] = []
    while left and len(chosen) < first:
        last = pairs[chosen[-1]] if chosen else None
        at = next((at for at, row in enumerate(left) if pairs[row] != last), 0)
        chosen.append(left.pop(at))
    return ranked.iloc[[*chosen, *left]].reset_index(drop=True)
