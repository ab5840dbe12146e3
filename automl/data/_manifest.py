"""Tables with a path and a label per image: CSV and Parquet."""

from __future__ import annotations

import math
import os
import re
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from automl.data._listing import SYNONYMS, UNSET, Listing, class_order, encode, find_columns, part_codes
from automl.data._texts import Packer
from automl.errors import InputError, did_you_mean

#: A table in a folder of this name describes the folder above it.
_SIDE_FOLDERS = frozenset({"annotations", "labels", "manifests", "meta", "metadata", "splits", "tables"})
#: Rows that are taken from a table at a time.
_BLOCK = 16_384
#: Files of a table that are looked up once, however often it names them.
_REMEMBERED = 50_000
#: Relative paths that cannot lead anywhere but down: names of word characters, blanks and hyphens, with one ending.
_PLAIN = re.compile(r"[\w -]+(/[\w -]+)*(\.\w+)?")


def list_manifest(path: Path, chosen: dict[str, str], name: str | None = None) -> Listing:
    """List the images of a table.

    Relative paths start at the table's folder and must stay inside it (or, for a table in a folder such as
    ``annotations``, inside the folder above it); so must absolute ones. Blanks around paths and labels are left
    away, but where a file has them in its name.

    Raises:
        InputError: the table cannot be read, a column is missing, or a path leads out of the folder.
    """
    table = _read(path)
    available = [str(column) for column in table.columns]
    (file_column,) = _required("path", available, chosen, path)
    (label_column,) = _required("label", available, chosen, path)
    split_columns = find_columns("split", available, chosen, path)
    group_columns = find_columns("group", available, chosen, path)

    split = np.full(len(table), UNSET, np.int8)
    if split_columns:
        split = part_codes(_texts(table[split_columns[0]]), path)
    groups = [encode(_texts(table[column])) for column in group_columns]

    base = str(path.parent)
    root = str(path.parent.parent) if path.parent.name.lower() in _SIDE_FOLDERS else base
    prefix = root.rstrip(os.sep) + os.sep
    names, files = Packer(), Packer()
    keep, codes, stamp = array("q"), array("q"), array("q")
    classes: dict[str, int] = {}
    set_aside: list[tuple[str, str]] = []

    real = lru_cache(maxsize=_REMEMBERED)(os.path.realpath)

    @lru_cache(maxsize=_REMEMBERED)
    def find(file: str) -> tuple[str, int, int] | None:
        full = _inside(file, base, root, path, real)
        try:
            stat = os.stat(full)
        except (OSError, ValueError):
            return None
        return full[len(prefix) :], stat.st_size, stat.st_mtime_ns

    both = zip(_texts(table[file_column]), _texts(table[label_column]), strict=True)
    for row, (file, label) in enumerate(both):
        label = label.strip()
        if not file.strip():
            set_aside.append((f"{path.name} line {row + 2}", "no path"))
        elif not label:
            set_aside.append((file, "no label"))
        else:
            found = find(file)
            if (
                found is None and file != file.strip()
            ):  # blanks belong to the path only where such a file exists
                file = file.strip()
                found = find(file)
            if found is None:
                set_aside.append((file, "file does not exist"))
                continue
            keep.append(row)
            names.append(file)
            files.append(found[0])
            codes.append(classes.setdefault(label, len(classes)))
            stamp.extend(found[1:])
    order = class_order(list(classes))
    place = {label: at for at, label in enumerate(order)}
    rows = np.array(keep, np.int64)
    listed, paths = names.texts(), files.texts()
    # Mostly both say the same, and one block serves both.
    paths = listed if paths.same_block(listed) else paths
    return Listing(
        kind="manifest",
        name=name or path.stem,
        source=path,
        names=listed,
        paths=paths.with_prefix(prefix),
        labels=np.array([place[label] for label in classes], np.int64)[np.array(codes, np.int64)],
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
            f"{path} has no {role} column (one of {', '.join(SYNONYMS[role])}); name it with --column {role}=NAME"
            f"{did_you_mean(role, available)}"
        )
    return found


def _inside(
    file: str, base: str, root: str, table: Path, real: Callable[[str], str] = os.path.realpath
) -> str:
    """The absolute path of a table's entry, below ``root``; symbolic links inside the folder are the user's own.

    Args:
        file: the entry.
        base: that a relative one starts at.
        root: the folder that it must stay in.
        table: for the message.
        real: a path without links.

    Raises:
        InputError: it leads out of the folder.
    """
    if _PLAIN.fullmatch(file):
        return base.rstrip(os.sep) + os.sep + file
    full = os.path.normpath(os.path.join(base, file.replace("\\", "/") if os.sep == "/" else file))
    if full == root or full.startswith(root.rstrip(os.sep) + os.sep):
        return full
    # Links may lead to the folder, or to one in it, by another name.
    head, tail = os.path.split(full)
    while tail and "\0" not in full:
        inner = os.path.relpath(real(head), real(root))
        if inner.split(os.sep)[0] != os.pardir:
            return os.path.normpath(os.path.join(root, inner, full[len(head) :].lstrip(os.sep)))
        head, tail = os.path.split(head)
    raise InputError(
        f"{table} names {file!r}, which is outside {root}; keep the images in the table's folder"
    )


def _read(path: Path) -> Any:
    import pandas as pd

    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pd.read_parquet(path)
        with open(path, encoding="utf-8-sig") as handle:
            head = handle.readline()
        separator = max((",", ";", "\t"), key=head.count)
        table = pd.read_csv(
            path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig", na_filter=False
        )
        return table if isinstance(table.index, pd.RangeIndex) else _without_surplus(table)
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; save the table as UTF-8") from None
    except PermissionError:
        raise
    except Exception as error:
        # pandas and pyarrow raise many kinds for a damaged table.
        text = " ".join(str(error).split())[:160]
        raise InputError(f"{path} cannot be read as a table: {text or type(error).__name__}") from None


def _without_surplus(table: Any) -> Any:
    """Undo what pandas does where all rows have more fields than the first line: it takes the first for an index."""
    names, whole = table.columns, table.reset_index()
    if (whole.iloc[:, len(names) :].fillna("") != "").any(axis=None):
        raise ValueError("its rows have more fields than its first line has names")
    return whole.iloc[:, : len(names)].set_axis(names, axis=1)


def _texts(column: Any) -> Iterator[str]:
    """The values as text, a block at a time; whole floats lose their point, missing values are empty."""
    for begin in range(0, len(column), _BLOCK):
        part = column.iloc[begin : begin + _BLOCK]
        if column.dtype.kind == "f":
            for v in part.tolist():
                yield "" if math.isnan(v) else str(int(v)) if float(v).is_integer() else str(v)
        else:
            for value, gone in zip(part.tolist(), part.isna().tolist(), strict=True):
                yield "" if gone else str(value)
