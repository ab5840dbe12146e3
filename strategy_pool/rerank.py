"""The nightly job: learn from the history, judge on tasks left out, publish only what is better than what is in use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from strategy_pool._saved import SavedError
from strategy_pool.baselines import HistoryAverage, Learner
from strategy_pool.evaluation import Evaluation, evaluate, folds
from strategy_pool.features import history_table
from strategy_pool.prior import Prior
from strategy_pool.ranker import Ranker
from strategy_pool.ranking_metrics import METRICS
from strategy_pool.strategy import Strategy
from strategy_pool.trial_table import TableError, TrialTable
from strategy_pool.versions import VersionError, Versions

#: Metrics of which more is better; of the others less is.
_MORE_IS_BETTER = ("ndcg@10", "kendall_tau")
#: A recipe that was tried on so many tasks and came near the best on none is retired.
_RETIRE_TASKS, _NEAR = 10, 0.95
#: Scored trials that a task needs before its best one says anything.
_LEAST_TRIALS = 10
#: Tasks that rankers are judged on; of more so many are drawn.
MOST_JUDGED = 500


@dataclass(frozen=True)
class Decision:
    """What came of a rerank.

    Attributes:
        published: whether there is a new version.
        version: that is in use now; None where there is none.
        reason: one line for people.
        evaluation: of the new ranker, the one in use and the history average; None where nothing was judged.
    """

    published: bool
    version: int | None
    reason: str
    evaluation: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "published": self.published, "version": self.version, "reason": self.reason,
            "evaluation": self.evaluation,
        }  # fmt: skip


@dataclass
class _Earlier:
    """The ranker in use as it is on a task that it has not seen: its data, without that task."""

    table: TrialTable

    def fit(self, table: TrialTable, seed: int) -> _Earlier:
        self._ranker = Ranker().fit(self.table.of(table.tasks), seed)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self._ranker.predict(frame)


@dataclass
class _AsItIs:
    """A ranker that has seen none of the tasks that it is judged on."""

    ranker: Ranker

    def fit(self, table: TrialTable, seed: int) -> _AsItIs:
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.ranker.predict(frame)


def rerank(
    trials: pd.DataFrame,
    tasks: pd.DataFrame,
    catalog: Mapping[str, Strategy],
    versions: Versions,
    *,
    seeds: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Decision:
    """Learn, judge and publish or keep. With the data of the version in use nothing is done.

    Tasks of the same pictures are left out together, so that none is judged by what was learned from its copy.

    A new ranker is published if its mean NDCG@10 and regret@1 on tasks left out are better than those of the ranker in
    use, and no metric's interval says that it is worse than that one or than the average of the history. The ranker in
    use is judged as it is: on the trials that it learned from, without the task that is left out. Before the first
    version, and where the one in use cannot be read, that is what orders pools until then
    (:class:`strategy_pool.prior.Prior`). What was published from the same trials and taken back is not published again.

    Args:
        trials: as :meth:`strategy_pool.history.History.trials` gives them.
        tasks: as :meth:`strategy_pool.history.History.tasks` gives them.
        catalog: recipes by name.
        versions: what was published; the caller holds its lock.
        seeds: how often everything is judged.
        progress: called with folds done and folds in all.
    """
    used = versions.in_use
    before, ranker = _readable(versions)
    promoted = {} if before is None else dict(before["promoted"])
    catalog = {**catalog, **{name: Strategy.from_dict(fields) for name, fields in promoted.items()}}
    try:
        table = history_table(trials, tasks, catalog)
        plan = folds(table, "group", seeds=seeds, most_judged=MOST_JUDGED)
    except TableError as error:
        return Decision(False, used, f"there is too little to learn from: {error}")
    data = data_hash(table)
    if before is not None and before["data"] == data:
        return Decision(False, used, f"nothing new since version {used}")
    for number in versions.numbers():
        if number > (used or 0) and versions.data(number) == data:
            return Decision(
                False,
                used,
                f"version {number} was learned from the same trials and was taken back; nothing was done",
            )
    if before is None or ranker is None:
        in_use: Callable[[], Learner] = lambda: Prior(catalog)  # noqa: E731
    else:
        known = trials[np.isin(marks(trials), versions.learned(int(before["version"])))]
        if len(known):
            earlier = history_table(known, tasks, catalog)
            in_use = lambda: _Earlier(earlier)  # noqa: E731
        else:  # a history of other trials altogether
            in_use = lambda: _AsItIs(ranker)  # noqa: E731
    makers = {"ranker": Ranker, "in_use": in_use, "history_average": HistoryAverage}
    judged = evaluate(table, makers, plan, seeds=seeds, progress=progress)
    better, reason = verdict(judged)
    told = judged.to_dict()
    name = "the average of the history" if before is None else f"version {used}"
    if not better:
        return Decision(False, used, f"{name} stays in use: {reason}", told)
    new = Ranker().fit(table, 0)
    number = versions.publish(
        new,
        {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": data,
            "tasks": len(table.tasks),
            "trials": len(trials),
            "shares": new.shares,
            "metrics": told["methods"]["ranker"],
            "instead_of": used,
            "paired": told["paired"]["ranker - in_use"],
            "promoted": {**promoted, **promotions(trials, catalog)},
            "retired": retirements(table, catalog),
        },
        marks(trials),
    )
    return Decision(True, number, f"version {number} is better than {name}: {reason}", told)


def _readable(versions: Versions) -> tuple[dict[str, Any] | None, Ranker | None]:
    """What is known of the version in use, and its ranker; nothing where there is none or it cannot be read."""
    used = versions.in_use
    if used is None:
        return None, None
    try:
        ranker = versions.ranker()
        versions.learned(used)
        return versions.about(used), ranker
    except (SavedError, VersionError):
        return None, None


def marks(trials: pd.DataFrame) -> np.ndarray:
    """By what trials are known again, uint64 [rows]."""
    return pd.util.hash_array(trials["uid"].to_numpy(dtype=object)).astype(np.uint64)


def data_hash(table: TrialTable) -> str:
    """Hex name of the content of a table, in whatever order its rows are."""
    rows = pd.util.hash_pandas_object(table.frame, index=False).to_numpy(dtype=np.uint64)
    return hashlib.sha256(np.sort(rows).tobytes()).hexdigest()[:16]


def verdict(judged: Evaluation) -> tuple[bool, str]:
    """Whether the new ranker is better than the one in use, and why, in one line."""
    pairs = judged.paired("ranker", "in_use")
    said = "; ".join(
        f"{m} {pairs[m]['mean']:+.3f} [{pairs[m]['low']:+.3f}, {pairs[m]['high']:+.3f}]"
        for m in ("ndcg@10", "regret@1")
    )
    for other, of in (
        ("", pairs),
        (" than the average of the history", judged.paired("ranker", "history_average")),
    ):
        worse = [m for m in METRICS if (of[m]["high"] < 0 if m in _MORE_IS_BETTER else of[m]["low"] > 0)]
        if worse:
            return False, f"the new one is worse{other} in {', '.join(worse)} ({said})"
    if pairs["ndcg@10"]["mean"] > 0 and pairs["regret@1"]["mean"] <= 0:
        return True, said
    return False, f"the new one is not better ({said})"


def promotions(trials: pd.DataFrame, catalog: Mapping[str, Strategy]) -> dict[str, dict[str, Any]]:
    """Recipes outside the catalog that were the best of a task: name → fields."""
    found = {}
    for _, rows in trials[trials["score"].notna()].groupby("task_id", observed=True, sort=True):
        best = rows.loc[rows["score"].idxmax()]
        overrides = json.loads(best["overrides"]) if isinstance(best["overrides"], str) else {}
        if len(rows) < _LEAST_TRIALS or not overrides or best["strategy"] not in catalog:
            continue
        text = json.dumps(overrides, sort_keys=True)
        name = f"{best['strategy']}.{hashlib.sha256(text.encode()).hexdigest()[:6]}"
        if name not in catalog:
            recipe = catalog[str(best["strategy"])].with_overrides(overrides).to_dict()
            found[name] = {**recipe, "name": name}
    return found


def retirements(table: TrialTable, catalog: Mapping[str, Strategy]) -> list[str]:
    """Recipes of the catalog that were tried on many tasks and came near the best on none."""
    told = table.told().frame
    best = told.groupby(["strategy.recipe", "task"], observed=True)["value"].max()
    by_recipe = best.groupby(level=0, observed=True)
    tried, nearest = by_recipe.size(), by_recipe.max()
    return sorted(
        name for name in nearest.index[(tried >= _RETIRE_TASKS) & (nearest < _NEAR)] if name in catalog
    )
