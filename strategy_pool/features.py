"""From past trials, or from the candidates of a pool, to the rows that rankers read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from strategy_pool.sketches import copies
from strategy_pool.strategy import Strategy
from strategy_pool.trial_table import TrialTable, trial_table

#: Fields of a recipe that say nothing about what it does.
_NOT_FEATURES = ("name", "version", "order", "summary", "source", "resolution")
#: Method of the first trials of every run.
LANDMARK_METHOD = "logistic"
#: What they tell, and of what it counts how far a network is behind the best one.
_LANDMARKS = ["probe", "knn", "separability", "dimension", "logme"]
_GAPS = ("probe", "knn", "logme")
#: How a history writes that a candidate has no numbers of its own.
PLAIN = ("{}", "", "null")
#: Where trials come from whose score is on no validation images, or whose network no other task has.
_NOT_LEARNED = ("refit", "supernet")


def candidate_features(candidates: pd.DataFrame, catalog: Mapping[str, Strategy]) -> pd.DataFrame:
    """Features ``strategy.*`` of candidates: network, input side, precision, and each field of the recipe.

    A recipe that the catalog does not hold has gaps.

    Args:
        candidates: ``architecture``, ``resolution``, ``precision``, ``strategy``, optionally ``overrides`` (JSON text)
            and ``macs_m``.
        catalog: recipes by name.

    Returns:
        One row per candidate, with the same index.
    """
    number, names = pd.factorize(candidates["architecture"])
    tagged = [str(name) for name in names]
    found = pd.DataFrame(
        {
            "strategy.backbone": np.array([*tagged, None], dtype=object)[number],
            "strategy.architecture": np.array([*(n.split(".", 1)[0] for n in tagged), None], dtype=object)[
                number
            ],
            "strategy.resolution": pd.to_numeric(candidates["resolution"], errors="coerce").astype(float),
            "strategy.precision": candidates["precision"].astype(str),
            "strategy.recipe": candidates["strategy"].astype(str),
        },
        index=candidates.index,
    )
    if "macs_m" in candidates.columns:
        found["strategy.macs_m"] = candidates["macs_m"].astype(float)
    number, recipes = pd.factorize(found["strategy.recipe"])
    known = [str(name) in catalog for name in recipes]
    told = [
        catalog[str(name)].to_dict() if is_known else {}
        for name, is_known in zip(recipes, known, strict=True)
    ]
    fields = pd.DataFrame([_fields(one) for one in told])
    columns = {name: fields[name].to_numpy()[number] for name in fields.columns}
    if "overrides" in candidates.columns and any(known):
        _override(columns, candidates["overrides"], np.array(known)[number])
    more = pd.DataFrame({f"strategy.{name}": values for name, values in columns.items()}, index=found.index)
    return pd.concat([found, more], axis=1)


def _fields(told: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe are features, numbers as floats."""
    kept = {field: value for field, value in told.items() if field not in _NOT_FEATURES}
    return {field: float(v) if isinstance(v, int | float) else v for field, v in kept.items()}


def _override(columns: dict[str, np.ndarray], overrides: pd.Series, known: np.ndarray) -> None:
    """Put the numbers of their own that candidates of known recipes have into the columns, each of [rows].

    Args:
        columns: field → values.
        overrides: JSON text; empty or a gap for none.
        known: whether the recipe is known, bool [rows].
    """
    number, texts = pd.factorize(overrides)  # a gap's number is −1
    # One array of them is read many times quicker than each by itself.
    read = json.loads(f"[{','.join(text or '{}' for text in texts)}]")
    told = [*(_fields(one) for one in read), {}]
    for name in sorted({name for one in told for name in one}):
        rows = np.flatnonzero(np.array([name in one for one in told])[number] & known)
        values = np.array([one.get(name) for one in told], dtype=object)[number[rows]]
        column = columns.get(name, np.full(len(known), np.nan))
        plain = column.dtype == np.float64 and all(isinstance(value, float) for value in values)
        column = column.astype(np.float64 if plain else object)
        column[rows] = values
        columns[name] = column


def landmarks_of(trials: pd.DataFrame, catalog: Mapping[str, Strategy]) -> pd.DataFrame:
    """What logistic regressions on frozen features, the first trials of every run, told about tasks and networks.

    Args:
        trials: as :meth:`strategy_pool.history.History.trials` gives them.
        catalog: recipes by name.

    Returns:
        ``probe`` (the score) and, where the trial left them, ``knn``, ``separability``, ``dimension`` and ``logme`` of
        the best such trial, by ``task_id`` and ``architecture``.
    """
    rows = trials[_is_landmark(trials, catalog) & trials["score"].notna()]
    if "overrides" in rows.columns:  # later trials have numbers of their own
        rows = rows[rows["overrides"].isna() | rows["overrides"].isin(PLAIN)]
    keys = ["task_id", "architecture"]
    best = rows.sort_values("score", kind="stable").drop_duplicates(keys, keep="last")
    texts = best["metrics"] if "metrics" in best.columns else pd.Series(None, index=best.index, dtype=object)
    told = [_landmarks(text) for text in texts]
    found = pd.DataFrame([{"probe": score, **one} for score, one in zip(best["score"], told, strict=True)])
    found.index = pd.MultiIndex.from_frame(best[keys].astype(str))
    return found.reindex(columns=_LANDMARKS).astype(float)


def _is_landmark(trials: pd.DataFrame, catalog: Mapping[str, Strategy]) -> pd.Series:
    fitted = {name for name, recipe in catalog.items() if recipe.method == LANDMARK_METHOD}
    return trials["strategy"].isin(fitted)


def _landmarks(text: Any) -> dict[str, float]:
    told = (json.loads(text) if isinstance(text, str) else {}) or {}
    kept = told.get("landmarks") or {}
    return {name: float(kept[name]) for name in _LANDMARKS if name in kept}


def _landmark_columns(found: pd.DataFrame, tasks: pd.Series, architectures: pd.Series) -> pd.DataFrame:
    """Features of rows: of the task, its best network's figures; of the candidate, how far its network is behind."""
    if found.empty:
        return pd.DataFrame(index=tasks.index)
    by_task = found.groupby(level=0)
    best = by_task.max()
    keys = pd.MultiIndex.from_arrays([tasks.astype(str), architectures.astype(str)])
    own, of_best = found.reindex(keys), best.reindex(tasks.astype(str))
    columns = {f"task.{name}": of_best[name].to_numpy() for name in _LANDMARKS}
    columns |= {f"strategy.{name}_gap": own[name].to_numpy() - of_best[name].to_numpy() for name in _GAPS}
    return pd.DataFrame(columns, index=tasks.index)


def history_table(trials: pd.DataFrame, tasks: pd.DataFrame, catalog: Mapping[str, Strategy]) -> TrialTable:
    """The trial table of a history; tasks of the same pictures are one group.

    The first trials of every run have run by the time that others are ranked: what they found is among the features of
    the others, and they are no rows themselves.

    Args:
        trials: as :meth:`strategy_pool.history.History.trials` gives them.
        tasks: as :meth:`strategy_pool.history.History.tasks` gives them.
        catalog: recipes by name.

    Raises:
        TableError: the history holds no trial.
    """
    trials = trials[~trials["source"].isin(_NOT_LEARNED)].reset_index(drop=True)
    tasks = tasks[tasks["task_id"].isin(trials["task_id"])]
    alike = copies({str(task.task_id): _sketch(task) for task in tasks.itertuples()})
    told = pd.DataFrame(
        [_task_features(task.features) for task in tasks.itertuples()], index=tasks["task_id"].astype(str)
    )
    found = landmarks_of(trials, catalog)
    trials = trials[~_is_landmark(trials, catalog)].reset_index(drop=True)
    of_task = told.reindex(trials["task_id"].astype(str)).reset_index(drop=True)
    frame = pd.concat(
        [
            pd.DataFrame(
                {
                    "task": trials["task_id"].astype(str),
                    "group": trials["task_id"].astype(str).map(lambda task: alike.get(task, task)),
                    "strategy": trials["candidate"].astype(str),
                    "score": trials["score"],
                    "seconds": trials["seconds"],
                    "failed": trials["status"].eq("failed"),
                    "device.name": trials["device"],
                    "overrides": trials["overrides"] if "overrides" in trials.columns else None,
                }
            ),
            of_task,
            candidate_features(trials, catalog),
            _landmark_columns(found, trials["task_id"], trials["architecture"]),
        ],
        axis=1,
    )
    return trial_table(frame, "the history")


def _sketch(task: Any) -> list[str]:
    text = getattr(task, "sketch", None)
    return list(json.loads(text) or []) if isinstance(text, str) else []


def _task_features(text: Any) -> dict[str, float]:
    if not isinstance(text, str):
        return {}
    values = json.loads(text) or {}
    return {f"task.{name}": float(v) for name, v in values.items() if isinstance(v, int | float)}


def pool_rows(
    pool: pd.DataFrame,
    task_features: Mapping[str, float],
    catalog: Mapping[str, Strategy],
    device: str | None = None,
    tried: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What a ranker reads of a pool for one task.

    Args:
        pool: one row per candidate with ``candidate`` and what :func:`candidate_features` reads.
        task_features: meta-features of the task.
        catalog: recipes by name.
        device: that the trials will run on.
        tried: trials of this task that have ended, as :meth:`strategy_pool.history.History.trials` gives them.
    """
    rows = candidate_features(pool, catalog)
    if tried is not None and len(tried):
        found = landmarks_of(tried.assign(task_id=""), catalog)
        rows = rows.join(_landmark_columns(found, pd.Series("", index=pool.index), pool["architecture"]))
    rows.insert(0, "strategy", pool["candidate"].astype(str))
    about = {f"task.{name}": float(value) for name, value in task_features.items()}
    return rows.assign(**about, **{"device.name": np.nan if device is None else device})
