"""Tables of the history, and how values are put into them and read back."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

# MySQL cannot index a text of any length.
KEY = sa.Text().with_variant(sa.String(700), "mysql", "mariadb")
NAME = sa.Text().with_variant(sa.String(255), "mysql", "mariadb")

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", KEY, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("objective", sa.Text),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("features", sa.Text),
    sa.Column("sketch", sa.Text),
)

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("uid", KEY, primary_key=True),
    sa.Column("task_id", KEY, sa.ForeignKey("tasks.task_id", name="trials_task_id"), nullable=False),
    sa.Column("run", sa.Text),
    sa.Column("trial_id", sa.Text),
    sa.Column("candidate", sa.Text, nullable=False),
    sa.Column("architecture", sa.Text),
    sa.Column("resolution", sa.Integer),
    sa.Column("precision", sa.Text),
    sa.Column("strategy", NAME, nullable=False),
    sa.Column("overrides", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("constraints", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("score_low", sa.Double),
    sa.Column("score_high", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("epochs", sa.Integer),
    sa.Column("curve", sa.Text),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("source", sa.Text),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("seed", sa.BigInteger),
    sa.Column("metrics", sa.Text),
    sa.Column("scores", sa.LargeBinary().with_variant(sa.LargeBinary(2**24), "mysql", "mariadb")),
    sa.Column("versions", sa.Text),
    sa.Index("trials_by_task", "task_id"),
    sa.Index("trials_by_strategy", "strategy"),
)

#: Columns that hold JSON.
JSON_COLUMNS = frozenset({"features", "sketch", "overrides", "constraints", "curve", "metrics", "versions"})
#: Columns of each table that have to be given.
REQUIRED = {"tasks": ("task_id",), "trials": ("uid", "task_id", "candidate", "strategy", "status")}


def plain(value: Any) -> Any:
    """Return the value as JSON has it; numbers that are not finite become null.

    Raises:
        ValueError: a value that JSON cannot hold.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    raise ValueError(f"a {type(value).__name__} is not something that JSON holds")


def to_json(value: Any) -> str | None:
    """Encode for a JSON column."""
    return None if value is None else json.dumps(plain(value), sort_keys=True, allow_nan=False)


def from_json(text: str | None) -> Any:
    """Decode a JSON column."""
    return None if text is None else json.loads(text)


def encode(table: sa.Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values as the table's columns hold them; columns that are not given become null.

    Raises:
        ValueError: a value does not fit its column, or a required one is missing.
    """
    row: dict[str, Any] = {}
    for column in table.columns:
        value = values.get(column.name)
        try:
            row[column.name] = to_json(value) if column.name in JSON_COLUMNS else _fit(column.type, value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{column.name} of a row of '{table.name}' does not fit: {error}") from None
    for name in REQUIRED[table.name]:
        if not row[name]:
            raise ValueError(f"a row of '{table.name}' has no {name}; it is needed")
    return row


def _fit(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, sa.LargeBinary):
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError(f"bytes are needed, not a {type(value).__name__}")
        return bytes(value)
    if isinstance(kind, sa.Integer):
        number = float(value)
        if math.isnan(number):
            return None
        if int(value) != number or not -(2**63) <= int(value) < 2**63:
            raise ValueError(f"{value!r} is not a whole number")
        return int(value)
    if isinstance(kind, sa.Double):
        number = float(value)
        return number if math.isfinite(number) else None
    if not isinstance(value, str):
        raise ValueError(f"a text is needed, not {value!r}")
    # PostgreSQL takes no NUL, and no database a lone surrogate, as badly decoded file names hold them.
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
