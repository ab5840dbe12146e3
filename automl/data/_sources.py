"""Where images come from: a folder of class folders, a table, or an npz file."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from automl.data._decode import EXTENSIONS
from automl.data._listing import PART_NAMES, UNSET, Listing, check_columns, class_order
from automl.data._manifest import list_manifest
from automl.data._npz import list_npz
from automl.data._texts import Packer
from automl.errors import InputError

#: Tables that make a folder a data set of its own.
_TABLES = ("labels.csv", "labels.parquet")
_TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".pq")
#: How deep class folders are searched for images.
_DEPTH = 8


def list_source(source: str | os.PathLike[str], columns: dict[str, str] | None = None) -> Listing:
    """List the images of a source with their labels, without decoding any.

    Args:
        source: a folder of class folders (optionally below ``train``, ``val``/``validation``, ``test``), a folder
            with a ``labels.csv`` or ``labels.parquet``, such a table itself, or an ``.npz`` file.
        columns: which column has the role ``path``, ``label``, ``split`` or ``group``; ``""`` ignores a role.

    Raises:
        InputError: the path does not exist, has an unknown format, or nothing can be learned from it.
    """
    chosen = check_columns(columns)
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(source))))
    if not path.exists():
        raise InputError(f"{source} does not exist; name a folder, a .csv, a .parquet or an .npz file")
    try:
        listing = _list(path, chosen)
    except PermissionError as error:
        raise InputError(f"{error.filename or path} cannot be read: permission denied") from None
    listing.check()
    return listing


def _list(path: Path, chosen: dict[str, str]) -> Listing:
    if path.is_file():
        ending = path.suffix.lower()
        if ending in _TABLE_ENDINGS:
            return list_manifest(path, chosen)
        if ending == ".npz":
            return list_npz(path, chosen)
        raise InputError(f"{path} has the ending {ending!r}; known: a folder, .csv, .tsv, .parquet, .npz")
    for name in _TABLES:
        if (path / name).is_file():
            return list_manifest(path / name, chosen, name=path.name)
    archives = sorted(path.glob("*.npz"))
    if len(archives) == 1 and not any(_folders(path)):
        return list_npz(archives[0], chosen, name=path.name)
    return list_folder(path, chosen)


def list_folder(path: Path, chosen: dict[str, str]) -> Listing:
    """``CLASS/**/IMAGE``, or ``train|val|test/CLASS/**/IMAGE``; a single folder around it is looked into."""
    for role, column in chosen.items():
        if column or role in ("path", "label"):
            raise InputError(
                f"{path} is a folder of class folders and has no column {column!r} for the {role}"
            )
    top, notes = path, []
    for _ in range(3):
        inner = list(_folders(top))
        if (
            len(inner) != 1
            or any(True for _entry in _files(top, 0))
            or not any(_folders(Path(inner[0].path)))
        ):
            break
        top = Path(inner[0].path)
    parts = {
        entry.path: PART_NAMES[entry.name.lower()]
        for entry in _folders(top)
        if entry.name.lower() in PART_NAMES and not entry.name.isdigit() and any(_folders(Path(entry.path)))
    }
    if parts:
        others = [entry.name for entry in _folders(top) if entry.path not in parts]
        if others:
            notes.append(
                f"folders beside train/validation/test were ignored: {', '.join(sorted(others)[:5])}"
            )
        roots = sorted((Path(name), part) for name, part in parts.items())
    else:
        roots = [(top, UNSET)]
    if "split" in chosen:
        roots = [(root, UNSET) for root, _part in roots]
    return _gather(path, roots, notes)


def _gather(path: Path, roots: list[tuple[Path, int]], notes: list[str]) -> Listing:
    prefix = str(path).rstrip(os.sep) + os.sep
    packer = Packer()
    codes, parts, stamp = array("q"), array("b"), array("q")
    classes: dict[str, int] = {}
    ignored = 0
    # In the order of whole paths, and only one class folder at a time in memory.
    for root, part in sorted(roots, key=lambda item: f"{item[0]}{os.sep}"):
        ignored += sum(1 for _entry in _files(root, 0))
        for folder in sorted(_folders(root), key=lambda entry: entry.name + os.sep):
            code = classes.setdefault(folder.name, len(classes))
            found: list[tuple[str, int, int]] = []
            for entry in _files(Path(folder.path), _DEPTH):
                if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
                    ignored += 1
                    continue
                try:
                    stat = entry.stat()
                    found.append((entry.path, stat.st_size, stat.st_mtime_ns))
                except OSError:
                    found.append((entry.path, -1, -1))
            for name, size, changed in sorted(found):
                packer.append(name[len(prefix) :])
                codes.append(code)
                parts.append(part)
                stamp.extend((size, changed))
    if ignored:
        notes.append(f"{ignored} files that are in no class folder or are no images were ignored")
    order = class_order(list(classes))
    place = {name: at for at, name in enumerate(order)}
    names = packer.texts()
    return Listing(
        kind="folder",
        name=path.stem or path.name,
        source=path,
        names=names,
        paths=names.with_prefix(prefix),
        labels=np.array([place[name] for name in classes], np.int64)[np.array(codes, np.int64)],
        class_names=order,
        split=np.array(parts, np.int8),
        stamp=np.array(stamp, np.int64).reshape(-1, 2),
        notes=notes,
    )


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _folders(path: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if _visible(entry.name) and entry.is_dir():
            yield entry


def _files(path: Path, depth: int) -> Iterator[os.DirEntry[str]]:
    """Files of a folder and of the folders below it, ``depth`` levels deep; links to folders are not followed."""
    with os.scandir(path) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if not _visible(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth:
                yield from _files(Path(entry.path), depth - 1)
        elif not entry.is_dir():
            yield entry
