"""The Parquet file in which histories are exchanged: one row per trial, its task's columns beside it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from strategy_pool._database import HistoryError
from strategy_pool._tables import JSON_COLUMNS, REQUIRED, tasks, trials

_VERSION = b"1"
_MARK = b"automl.history"


def _kind(column: sa.Column[Any]) -> pa.DataType:
    if isinstance(column.type, sa.Integer):
        return pa.int64()
    if isinstance(column.type, sa.Double):
        return pa.float64()
    return pa.binary() if isinstance(column.type, sa.LargeBinary) else pa.string()


_TASK_COLUMNS = [column for column in tasks.columns if column.name != "task_id"]
SCHEMA = pa.schema(
    [
        *(pa.field(column.name, _kind(column)) for column in trials.columns),
        *(pa.field(f"task.{column.name}", _kind(column)) for column in _TASK_COLUMNS),
    ],
    metadata={_MARK: _VERSION},
)


def write(path: Path, batches: Iterable[list[dict[str, Any]]]) -> None:
    """Write rows ``{"task": …, "trial": … or None}`` of encoded columns; the file appears when it is complete.

    Raises:
        HistoryError: it cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_pylist([_flat(row) for row in batch], schema=SCHEMA))
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise HistoryError(f"history cannot be exported to {path}: {reason}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    task = row["task"]
    flat = dict(row["trial"] or {"task_id": task["task_id"]})
    flat.update({f"task.{column.name}": task[column.name] for column in _TASK_COLUMNS})
    return flat


def read(path: Path, size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield batches of rows ``{"task": …, "trial": … or None}`` with JSON columns decoded.

    Columns that this version does not know are ignored.

    Raises:
        HistoryError: the file cannot be read or is not an exported history.
    """
    try:
        with pq.ParquetFile(path) as file:
            found = set(file.schema_arrow.names)
            missing = [name for name in REQUIRED["trials"] if name not in found]
            if missing:
                raise HistoryError(f"{path} is not an exported history; it has no column '{missing[0]}'")
            columns = [name for name in SCHEMA.names if name in found]
            for batch in file.iter_batches(batch_size=size, columns=columns):
                yield [_nested(row, path) for row in batch.to_pylist()]
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise HistoryError(f"history cannot be imported from {path}: {reason}") from None


def _nested(row: dict[str, Any], path: Path) -> dict[str, Any]:
    for name in list(row):
        if name.removeprefix("task.") in JSON_COLUMNS and row[name] is not None:
            try:
                row[name] = json.loads(row[name])
            except (TypeError, ValueError):
                raise HistoryError(f"{path}: column '{name}' holds something that is not JSON") from None
    task = {column.name: row.pop(f"task.{column.name}", None) for column in _TASK_COLUMNS}
    task["task_id"] = row["task_id"]
    return {"task": task, "trial": row if row["uid"] is not None else None}
