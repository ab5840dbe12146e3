"""History: every trial that was ever run, in any SQL database; an SQLite file by default."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from strategy_pool import _exchange
from strategy_pool._database import Database, HistoryError
from strategy_pool._names import did_you_mean
from strategy_pool._tables import JSON_COLUMNS, encode, from_json, tasks, trials

__all__ = ["History", "HistoryError", "default_url"]

_BATCH = 400
#: What a ranker learns from.
_RANKING = (
    "uid", "task_id", "candidate", "architecture", "resolution", "precision", "strategy", "overrides", "device", "score",
    "seconds", "status", "source", "created",
)  # fmt: skip
#: Rows that are turned into a table at a time.
_ROWS = 20_000


def default_url(home: str | os.PathLike[str]) -> str:
    """Return the URL of the SQLite file in a folder."""
    path = Path(home).expanduser().absolute() / "history.db"
    return str(sa.URL.create("sqlite", database=str(path)))


@dataclass(frozen=True)
class Scores:
    """What a trial said about validation images, enough to compute any metric from.

    Attributes:
        index: of the images in their data set, int64 [n].
        probabilities: float32 [n, classes].
        labels: true classes, int64 [n].
        class_names: in the order of the columns.
    """

    index: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


class History:
    """Tasks and trials; any number of processes may use the same database at once.

    The tables are made, or brought up to date, when the history is opened. Each method is one short
    transaction.

    Args:
        url: an SQLAlchemy URL, or the path of an SQLite file. Credentials in it are never shown.

    Raises:
        HistoryError: it cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._database = Database(url)

    def __repr__(self) -> str:
        return f"History({self.url!r})"

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it is, without password."""
        return self._database.shown

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    # --- writing ------------------------------------------------------------------------------------

    def add_task(self, task_id: str, values: Mapping[str, Any]) -> bool:
        """Note a task; one that is known gets the new name, objective, features and sketch.

        Args:
            task_id: fingerprint of the images and the objective; the same for the same task.
            values: ``name``, ``objective``, ``features`` (a dict of plain values), ``sketch`` (of its pictures, see
                :mod:`strategy_pool.sketches`), ``created``; all optional.

        Returns:
            Whether it is new.

        Raises:
            HistoryError: a value does not fit, or it cannot be written.
        """
        row = _row(tasks, {**values, "task_id": task_id})
        changes = {
            name: row[name] for name in ("name", "objective", "features", "sketch") if row[name] is not None
        }

        def work(connection: sa.Connection) -> bool:
            found = (
                connection.execute(sa.select(tasks).where(tasks.c.task_id == row["task_id"]))
                .mappings()
                .first()
            )
            if found is None:
                connection.execute(tasks.insert().values(row))
                return True
            if any(found[name] != value for name, value in changes.items()):
                connection.execute(tasks.update().where(tasks.c.task_id == row["task_id"]).values(changes))
            return False

        return self._write(work)

    def add_trial(self, values: Mapping[str, Any]) -> bool:
        """Note a trial; one whose ``uid`` is known is left as it is.

        Args:
            values: columns of the trial; needed are ``uid``, ``task_id``, ``candidate``, ``strategy`` and
                ``status``. ``overrides``, ``constraints``, ``curve``, ``metrics`` and ``versions`` are plain
                values, ``scores`` the bytes of an ``.npz`` with ``index`` int64 [n] and ``probabilities``
                float16 [n, classes], ``labels`` int32 [n] and ``class_names``. A score that is not finite is kept as none.

        Returns:
            Whether it is new.

        Raises:
            HistoryError: the task is not known, a value does not fit, or it cannot be written.
        """
        row = _row(trials, values)

        def work(connection: sa.Connection) -> bool:
            if connection.execute(sa.select(trials.c.uid).where(trials.c.uid == row["uid"])).first():
                return False
            known = sa.select(tasks.c.task_id).where(tasks.c.task_id == row["task_id"])
            if connection.execute(known).first() is None:
                raise HistoryError(
                    f"task '{row['task_id']}' is not in the history; add_task it before its trials"
                )
            connection.execute(trials.insert().values(row))
            return True

        return self._write(work)

    def _write(self, work: Any) -> Any:
        try:
            return self._database.run(work, write=True, doing="written")
        except IntegrityError:
            pass  # another process was first, in a database whose transactions do not exclude that
        try:
            return self._database.run(work, write=True, doing="written")
        except IntegrityError as error:
            reason = self._database.hide(" ".join(str(error.orig).split()))[:300]
            raise HistoryError(f"history {self.url} cannot be written: {reason}") from None

    # --- reading ------------------------------------------------------------------------------------

    def trials(self, task_id: str | None = None) -> pd.DataFrame:
        """Return the trials, oldest first; JSON columns are text, and ``scores`` is left out.

        Args:
            task_id: of one task only.
        """
        columns = [column for column in trials.columns if column.name != "scores"]
        query = sa.select(*columns).order_by(trials.c.created, trials.c.uid)
        if task_id is not None:
            query = query.where(trials.c.task_id == task_id)
        return self._frame(query, columns)

    def ranking_trials(self, landmarks: Iterable[str]) -> pd.DataFrame:
        """Return what a ranker learns from, in little memory: :meth:`trials` without long columns.

        Args:
            landmarks: strategies of which ``metrics`` are kept.
        """
        columns = [trials.c[name] for name in _RANKING]
        metrics = sa.case((trials.c.strategy.in_(list(landmarks)), trials.c.metrics)).label("metrics")
        query = sa.select(*columns, metrics).order_by(trials.c.created, trials.c.uid)
        return self._frame(query, [*columns, trials.c.metrics])

    def tasks(self) -> pd.DataFrame:
        """Return the tasks, oldest first; ``features`` and ``sketch`` are JSON text."""
        columns = list(tasks.columns)
        return self._frame(sa.select(*columns).order_by(tasks.c.created, tasks.c.task_id), columns)

    def _frame(self, query: Any, columns: Sequence[sa.Column[Any]]) -> pd.DataFrame:
        names = [column.name for column in columns]
        kinds = {}
        for column in columns:
            if isinstance(column.type, sa.Integer):
                kinds[column.name] = "Int64"
            elif isinstance(column.type, sa.Double):
                kinds[column.name] = "float64"
            else:
                kinds[column.name] = "str"

        def work(connection: sa.Connection) -> list[pd.DataFrame]:
            found = connection.execution_options(yield_per=_ROWS).execute(query)
            parts = (pd.DataFrame([tuple(row) for row in part], columns=names) for part in found.partitions())
            return [part.astype(kinds) for part in parts]

        parts = self._database.run(work)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names).astype(kinds)

    def trial(self, uid: str) -> dict[str, Any]:
        """Return all of one trial, JSON columns decoded.

        Raises:
            HistoryError: there is none of that uid.
        """
        return self._one(trials, trials.c.uid, uid, "trial")

    def task(self, task_id: str) -> dict[str, Any]:
        """Return all of one task, JSON columns decoded.

        Raises:
            HistoryError: there is none of that id.
        """
        return self._one(tasks, tasks.c.task_id, task_id, "task")

    def _one(self, table: sa.Table, key: sa.Column[Any], value: str, word: str) -> dict[str, Any]:
        query = sa.select(table).where(key == value)
        found = self._database.run(lambda connection: connection.execute(query).mappings().first())
        if found is None:
            raise HistoryError(f"{word} '{value}' is not in the history {self.url}")
        return {name: from_json(item) if name in JSON_COLUMNS else item for name, item in found.items()}

    def scores(self, uid: str) -> Scores | None:
        """Return the validation scores of one trial, None where it left none.

        Raises:
            HistoryError: there is no such trial, or what is stored is damaged.
        """
        stored = self.trial(uid)["scores"]
        if stored is None:
            return None
        try:
            with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
                found = Scores(
                    arrays["index"].astype(np.int64),
                    arrays["probabilities"].astype(np.float32),
                    arrays["labels"].astype(np.int64),
                    tuple(arrays["class_names"].tolist()),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise HistoryError(f"scores of trial '{uid}' are damaged: {error}") from None
        rows, classes = len(found.index), len(found.class_names)
        if found.probabilities.shape != (rows, classes) or found.labels.shape != (rows,):
            raise HistoryError(
                f"scores of trial '{uid}' are damaged: {rows} images, {classes} classes, probabilities of shape "
                f"{found.probabilities.shape}, labels of shape {found.labels.shape}"
            )
        return found

    def summary(self) -> dict[str, Any]:
        """Return how much is known: counts, hours of training, first and last day."""

        def work(connection: sa.Connection) -> dict[str, Any]:
            row = (
                connection.execute(
                    sa.select(
                        sa.func.count().label("trials"),
                        sa.func.count(trials.c.score).label("scored"),
                        sa.func.count(sa.case((trials.c.status == "failed", 1))).label("failed"),
                        sa.func.count(sa.distinct(trials.c.strategy)).label("strategies"),
                        sa.func.count(sa.distinct(trials.c.architecture)).label("architectures"),
                        sa.func.coalesce(sa.func.sum(trials.c.seconds), 0.0).label("seconds"),
                        sa.func.min(trials.c.created).label("first"),
                        sa.func.max(trials.c.created).label("last"),
                    ).select_from(trials)
                )
                .mappings()
                .one()
            )
            count = connection.execute(sa.select(sa.func.count()).select_from(tasks)).scalar_one()
            values = dict(row)
            hours = round(float(values.pop("seconds")) / 3600.0, 3)
            first, last = values.pop("first"), values.pop("last")
            return {"url": self.url, "tasks": count, **values, "hours": hours, "first": first, "last": last}

        return self._database.run(work)

    # --- exchange -----------------------------------------------------------------------------------

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write everything to one Parquet file, which takes its place when it is complete.

        Each row is a trial with its task's columns (``task.name``, …); a task without trials has a row of its own.

        Returns:
            Number of trials.

        Raises:
            HistoryError: the file cannot be written.
        """
        keys = self._database.run(
            lambda connection: connection.execute(
                sa.select(tasks.c.task_id, trials.c.uid)
                .select_from(tasks.outerjoin(trials))
                .order_by(tasks.c.task_id, trials.c.created, trials.c.uid)
            ).all()
        )

        def batches() -> Iterable[list[dict[str, Any]]]:
            for begin in range(0, len(keys), _BATCH):
                part = keys[begin : begin + _BATCH]
                yield self._joined([k.task_id for k in part], [k.uid for k in part])

        _exchange.write(Path(path), batches())
        return sum(key.uid is not None for key in keys)

    def _joined(self, task_ids: Sequence[str], uids: Sequence[str | None]) -> list[dict[str, Any]]:
        def work(connection: sa.Connection) -> list[dict[str, Any]]:
            of = {
                row["task_id"]: dict(row)
                for row in connection.execute(
                    sa.select(tasks).where(tasks.c.task_id.in_(set(task_ids)))
                ).mappings()
            }
            wanted = [uid for uid in uids if uid is not None]
            by_uid = {
                row["uid"]: dict(row)
                for row in connection.execute(sa.select(trials).where(trials.c.uid.in_(wanted))).mappings()
            }
            return [
                {"task": of[task_id], "trial": None if uid is None else by_uid[uid]}
                for task_id, uid in zip(task_ids, uids, strict=True)
            ]

        return self._database.run(work)

    def import_(self, path: str | os.PathLike[str]) -> dict[str, int]:
        """Merge what :meth:`export` wrote; what is known stays as it is, so a second import adds nothing.

        Returns:
            Numbers of new ``tasks``, new ``trials``, and trials that were ``known``.

        Raises:
            HistoryError: the file cannot be read, or a row of it does not fit.
        """
        total = {"tasks": 0, "trials": 0, "known": 0}
        for batch in _exchange.read(Path(path), _BATCH):
            new_tasks = {}
            new_trials = {}
            for row in batch:
                task = _row(tasks, row["task"])
                new_tasks[task["task_id"]] = task
                if row["trial"] is not None:
                    trial = _row(trials, row["trial"])
                    new_trials[trial["uid"]] = trial
            for name, count in self._merge(new_tasks, new_trials).items():
                total[name] += count
        return total

    def _merge(
        self, new_tasks: dict[str, dict[str, Any]], new_trials: dict[str, dict[str, Any]]
    ) -> dict[str, int]:
        def work(connection: sa.Connection) -> dict[str, int]:
            added = []
            for table, key, rows in ((tasks, tasks.c.task_id, new_tasks), (trials, trials.c.uid, new_trials)):
                known = set(connection.execute(sa.select(key).where(key.in_(list(rows)))).scalars())
                fresh = [row for name, row in rows.items() if name not in known]
                if fresh:
                    connection.execute(table.insert(), fresh)
                added.append(len(fresh))
            return {"tasks": added[0], "trials": added[1], "known": len(new_trials) - added[1]}

        result: dict[str, int] = self._write(work)
        return result


def _row(table: sa.Table, values: Mapping[str, Any]) -> dict[str, Any]:
    names = [column.name for column in table.columns]
    for name in values:
        if name not in names:
            hint = did_you_mean(str(name), names, limit=40)
            raise HistoryError(f"a row of '{table.name}' has no column {name!r}{hint}")
    created = values.get("created") or datetime.now(UTC).isoformat(timespec="microseconds")
    try:
        return encode(table, {**values, "created": created})
    except ValueError as error:
        raise HistoryError(str(error)) from None
