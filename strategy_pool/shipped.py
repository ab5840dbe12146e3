"""The history that the package carries: trials of a sweep over several data sets, for users who have none yet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from strategy_pool.sketches import COPY, shared

#: An exported history; ``automl bench sweep --ship`` makes it.
FILE = Path(__file__).parent / "carried" / "history.parquet"
_OF_TASK = "task."


def shipped(sketch: Sequence[str] = (), file: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and tasks, as a history gives them; both empty where the package carries none.

    Args:
        sketch: of the pictures of a task that is to be ordered or judged: tasks of the same pictures are left out.
        file: an exported history, by default :data:`FILE`.
    """
    file = file or FILE
    if not file.is_file():
        return pd.DataFrame(), pd.DataFrame()
    rows = pd.read_parquet(file)
    of_task = [name for name in rows.columns if name.startswith(_OF_TASK)]
    tasks = rows[["task_id", *of_task]].drop_duplicates("task_id", ignore_index=True)
    tasks.columns = pd.Index([name.removeprefix(_OF_TASK) for name in tasks.columns])
    copies = [task.task_id for task in tasks.itertuples() if shared(sketch, _words(task.sketch)) >= COPY]
    kept = rows[rows["uid"].notna() & ~rows["task_id"].isin(copies)].drop(columns=of_task)
    return kept.reset_index(drop=True), tasks[~tasks["task_id"].isin(copies)].reset_index(drop=True)


def with_shipped(
    trials: pd.DataFrame, tasks: pd.DataFrame, sketch: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A history's trials and tasks after those that the package carries; a task that both have is the history's.

    Args:
        trials, tasks: of the history.
        sketch: as in :func:`shipped`.
    """
    carried, of_carried = shipped(sketch)
    if carried.empty:
        return trials, tasks
    of_carried = of_carried[~of_carried["task_id"].isin(tasks["task_id"])]
    carried = carried[carried["task_id"].isin(of_carried["task_id"])]
    # A column without any value would decide what the others' type becomes.
    joined = [
        pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True).reindex(
            columns=parts[1].columns
        )
        for parts in ((carried, trials), (of_carried, tasks))
    ]
    return joined[0], joined[1]


def _words(text: Any) -> list[str]:
    return list(json.loads(text) or []) if isinstance(text, str) else []
