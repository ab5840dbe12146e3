"""Tables with a path and a label per image: CSV and Parquet."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from automl.data._listing import SYNONYMS, UNSET, Listing, class_order, encode, find_columns, part_codes
from automl.errors import InputError, did_you_mean

#: A table in a folder of this name describes the folder above it.
_SIDE_FOLDERS = frozenset({"annotations", "labels", "manifests", "meta", "metadata", "splits", "tables"})


def list_manifest(path: Path, chosen: dict[str, str], name: str | None = None) -> Listing:
    """List the images of a table.

    Relative paths start at the table's folder and must stay inside it (or, for a table in a folder such as
    ``annotations``, inside the folder above it); so must absolute ones.

    Raises:
        InputError: the table cannot be read, a column is missing, or a path leads out of the folder.
    """
    table = _read(path)
    available = [str(column) for column in table.columns]
    (file_column,) = _required("path", available, chosen, path)
    (label_column,) = _required("label", available, chosen, path)
    split_columns = find_columns("split", available, chosen, path)
    group_columns = find_columns("group", available, chosen, path)

    files, labels = _texts(table[file_column]), _texts(table[label_column])
    split = (
        part_codes(_texts(table[split_columns[0]]), path)
        if split_columns
        else np.full(len(files), UNSET, np.int8)
    )
    groups = [encode(_texts(table[column])) for column in group_columns]

    base = str(path.parent)
    root = str(path.parent.parent) if path.parent.name.lower() in _SIDE_FOLDERS else base
    keep: list[int] = []
    absolute: list[str] = []
    stamp: list[tuple[int, int]] = []
    set_aside: list[tuple[str, str]] = []
    for row, (file, label) in enumerate(zip(files, labels, strict=True)):
        if not file:
            set_aside.append((f"{path.name} line {row + 2}", "no path"))
        elif not label.strip():
            set_aside.append((file, "no label"))
        else:
            full = _inside(file, base, root, path)
            try:
                stat = os.stat(full)
            except (OSError, ValueError):
                set_aside.append((file, "file does not exist"))
                continue
            keep.append(row)
            absolute.append(full)
            stamp.append((stat.st_size, stat.st_mtime_ns))
    order = class_order(list({labels[row] for row in keep}))
    index = {label: at for at, label in enumerate(order)}
    rows = np.array(keep, np.int64)
    return Listing(
        kind="manifest",
        name=name or path.stem,
        source=path,
        names=[files[row] for row in keep],
        paths=absolute,
        labels=np.array([index[labels[row]] for row in keep], np.int64),
        class_names=order,
        split=split[rows],
        groups=[group[rows] for group in groups],
        stamp=np.array(stamp, np.int64).reshape(-1, 2),
        set_aside=set_aside,
    )


def _required(role: str, available: list[str], chosen: dict[str, str], path: Path) -> list[str]:
    found = find_columns(role, available, chosen, path)
    if not found:
        raise InputError(
            f"{path} has no {role} column (one of {', '.join(SYNONYMS[role])}); name it with columns"
            f"{did_you_mean(role, available)}"
        )
    return found


def _inside(file: str, base: str, root: str, table: Path) -> str:
    """The absolute path of a table's entry; symbolic links inside the folder are the user's own."""
    full = os.path.normpath(os.path.join(base, file.replace("\\", "/") if os.sep == "/" else file))
    if full != root and not full.startswith(root.rstrip(os.sep) + os.sep):
        raise InputError(
            f"{table} names {file!r}, which is outside {root}; keep the images in the table's folder"
        )
    return full


def _read(path: Path) -> Any:
    import pandas as pd

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        with open(path, encoding="utf-8-sig") as handle:
            head = handle.readline()
        separator = max((",", ";", "\t"), key=head.count)
        return pd.read_csv(
            path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig", na_filter=False
        )
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save the table as UTF-8") from None
    except PermissionError:
        raise
    except Exception as error:
        # pandas and pyarrow raise many kinds for a damaged table.
        text = " ".join(str(error).split())[:160]
        raise InputError(f"{path} cannot be read as a table: {text or type(error).__name__}") from None


def _texts(column: Any) -> list[str]:
    """The values as text; whole floats lose their point, missing values are empty."""
    if column.dtype.kind == "f":
        return [
            "" if math.isnan(v) else str(int(v)) if float(v).is_integer() else str(v) for v in column.tolist()
        ]
    missing = column.isna().tolist()
    return ["" if gone else str(value) for value, gone in zip(column.tolist(), missing, strict=True)]
