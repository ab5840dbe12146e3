"""Features of a trial table as numbers for trees, and the distance between strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

#: Values up to which a feature's differences are looked up.
_FEW = 64


@dataclass
class Encoder:
    """Numbers as they are, categories as codes by frequency; what was not seen in fitting becomes a gap.

    Attributes:
        columns: what it encodes, in order.
        categories: column → its categories, the most frequent first.
    """

    columns: list[str] = field(default_factory=list)
    categories: dict[str, list[str]] = field(default_factory=dict)

    def fit(self, frame: pd.DataFrame, columns: Sequence[str]) -> Encoder:
        """Learn the categories; columns without any value, or with one value only, are left out."""
        self.columns, self.categories = [], {}
        for name in columns:
            values = frame[name]
            if values.nunique(dropna=False) < 2:
                continue
            self.columns.append(name)
            if not is_numeric_dtype(values) and not is_bool_dtype(values):
                text = values.dropna().astype(str)
                counted = text.value_counts()
                self.categories[name] = sorted(counted.index, key=lambda c: (-counted[c], c))
        return self

    @property
    def categorical(self) -> list[int]:
        """Positions of the columns that hold codes."""
        return [at for at, name in enumerate(self.columns) if name in self.categories]

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float32 [rows, columns]; a column that the frame lacks is all gaps."""
        encoded = np.full((len(frame), len(self.columns)), np.nan, dtype=np.float32)
        for at, name in enumerate(self.columns):
            if name not in frame.columns:
                continue
            values = frame[name]
            if name in self.categories:
                number, given = pd.factorize(values)
                codes = pd.Index(self.categories[name]).get_indexer(pd.Index(given).astype(str))
                of_row = np.append(codes, -1)[number]  # a gap's number is −1
                encoded[:, at] = np.where(of_row >= 0, of_row, np.nan)
            else:
                encoded[:, at] = pd.to_numeric(values, errors="coerce").to_numpy(
                    dtype=np.float32, na_value=np.nan
                )
        return encoded


@dataclass(frozen=True)
class Asked:
    """Strategies whose neighbours are looked for, each of [m].

    Attributes:
        scaled: features in units of their ranges, float32 [m, columns].
        known: 1 where a feature is known, else 0, float32 [m, columns].
        gaps: difference to each value of the features with few, float32 [m, values of all of them].
    """

    scaled: np.ndarray
    known: np.ndarray
    gaps: np.ndarray


class Neighbours:
    """The nearest strategies by Gower distance (Gower 1971): the mean over the features that both sides have, of the
    difference in units of the feature's range, or of whether two categories differ.

    Of a feature with few values the differences are looked up: the distance to every value, times which value a seen
    strategy has, is one product of matrices for all such features.

    Args:
        encoded: strategies as :class:`Encoder` gives them, float32 [n, columns].
        categorical: positions of the columns that hold codes.
    """

    def __init__(self, encoded: np.ndarray, categorical: Sequence[int]) -> None:
        self._is_code = np.zeros(encoded.shape[1], dtype=bool)
        self._is_code[list(categorical)] = True
        low, high = _bounds(encoded)
        self._low = np.where(self._is_code, 0.0, low).astype(np.float32)
        self._span = np.where(self._is_code | ~(high > low), 1.0, high - low).astype(np.float32)
        self._seen = (encoded - self._low) / self._span
        self._known = (~np.isnan(self._seen)).astype(np.float32)
        values = [self._few(column) for column in range(encoded.shape[1])]
        self._many = [column for column, few in enumerate(values) if few is None]
        self._values = {column: few for column, few in enumerate(values) if few is not None}
        self._width = 1 + sum(map(len, self._values.values()))
        self._place = self._places()

    def ask(self, encoded: np.ndarray) -> Asked:
        """What of other strategies is the same whichever seen ones they are compared with.

        Args:
            encoded: float32 [m, columns].
        """
        scaled = (encoded - self._low) / self._span
        gaps = np.zeros((len(scaled), self._width), np.float32)
        at = 1
        for column, values in self._values.items():
            gaps[:, at : at + len(values)] = self._gap(column, scaled[:, column], values)
            at += len(values)
        return Asked(scaled, (~np.isnan(scaled)).astype(np.float32), gaps)

    def distances(self, asked: Asked, rows: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return float32 [m, k]; infinite where two strategies share no feature.

        Args:
            asked: of :meth:`ask`.
            rows: positions there of the m strategies that are compared.
            among: positions of the k seen strategies that come into question.
        """
        count = asked.known[rows] @ self._known[among].T
        has = np.zeros((len(among), self._width), np.float32)
        np.put_along_axis(has, self._place[among], 1.0, axis=1)
        total = asked.gaps[rows] @ has.T
        for column in self._many:
            total += self._gap(column, asked.scaled[rows, column], self._seen[among, column])
        found: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.float32(np.inf))
        return found

    def _few(self, column: int) -> np.ndarray | None:
        """The values of a feature, float32; None where there are many."""
        values = self._seen[:, column]
        found = np.unique(values[~np.isnan(values)])
        return found if len(found) <= _FEW else None

    def _places(self) -> np.ndarray:
        """Which value of each feature with few a seen strategy has, among all of them, int [n, features]; 0 for a gap."""
        found = np.zeros((len(self._seen), len(self._values)), dtype=np.int64)
        at = 1
        for number, (column, values) in enumerate(self._values.items()):
            known = self._known[:, column] > 0
            found[known, number] = at + np.searchsorted(values, self._seen[known, column])
            at += len(values)
        return found

    def _gap(self, column: int, asked: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Difference in one feature, float32 [m, k]; 0 where one side lacks it."""
        gap: np.ndarray = np.abs(asked[:, None] - seen[None, :])
        if self._is_code[column]:
            return (gap > 0).astype(np.float32)  # nothing is larger than 0 where one is missing
        np.minimum(gap, np.float32(1.0), out=gap)
        gap[np.isnan(asked)] = 0.0
        gap[:, np.isnan(seen)] = 0.0
        return gap


def _bounds(encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each column; NaN where it is all gaps."""
    empty = np.isnan(encoded).all(axis=0)
    filled = np.where(empty[None, :], 0.0, encoded)
    low, high = np.nanmin(filled, axis=0), np.nanmax(filled, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
