"""Which columns of a table of networks mean nothing for some of its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from pandas.api.types import is_integer_dtype, is_numeric_dtype


class TableError(ValueError):
    """A table cannot be learned from; the message is one line."""


@dataclass(frozen=True)
class Gate:
    """A column that says how many blocks a stage has, and one that describes a block there.

    Attributes:
        depth: column with the number of blocks.
        block: column that means nothing where the block is absent.
        place: of the block in its stage, from 0; it is absent where the depth is not larger.
    """

    depth: str
    block: str
    place: int


def find_gates(frame: pd.DataFrame) -> list[Gate]:
    """Which columns mean nothing for some rows, as far as names and numbers of columns tell.

    Tables of supernets describe every block that there may be, also those beyond the depth of a stage (``d0``, ``d1``
    and ``ks0`` … ``ks7`` for two stages of at most four blocks). A family of columns that differ by a number gives the
    depths of another one if that has as many columns for each depth as the largest depth is.
    """
    families: dict[str, list[str]] = {}
    for name in frame.columns:
        match = re.fullmatch(r"(.*?)(\d+)", str(name))
        if match:
            families.setdefault(match.group(1), []).append(name)
    ordered = {p: sorted(names, key=lambda n: int(re.search(r"\d+$", n)[0])) for p, names in families.items()}  # type: ignore[index]
    found = []
    for prefix, depths in ordered.items():
        if not all(is_integer_dtype(frame[name]) for name in depths):
            continue
        least, most = int(frame[depths].min().min()), int(frame[depths].max().max())
        if least < 0 or most < 2:
            continue
        for other, blocks in ordered.items():
            if other == prefix or len(blocks) != most * len(depths):
                continue
            for at, block in enumerate(blocks):
                gate = Gate(depths[at // most], block, at % most)
                if int(frame[gate.depth].min()) <= gate.place:
                    found.append(gate)
    return found


def without_absent(frame: pd.DataFrame, gates: Sequence[Gate]) -> pd.DataFrame:
    """The table with 0, or an empty text, for what describes a block that is absent.

    Raises:
        TableError: a column is missing.
    """
    frame = frame.copy()
    for gate in gates:
        for name in (gate.depth, gate.block):
            if name not in frame.columns:
                raise TableError(f"the table has no column '{name}'")
        absent = frame[gate.depth] <= gate.place
        column = frame[gate.block]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(object)
        frame[gate.block] = column.where(~absent, 0 if is_numeric_dtype(column) else "")
    return frame
