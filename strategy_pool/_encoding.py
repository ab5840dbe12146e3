"""Features of a trial table as numbers for trees, and the distance between strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

#: Differences of features with many values are computed for so many rows at a time.
_ROWS = 256
#: Values up to which a feature's differences are looked up.
_FEW = 64


@dataclass(frozen=True)
class Asked:
    """Strategies whose distances are wanted.

    Attributes:
        scaled: their features in units of the range, float32 [m, columns].
        known: 1 where there is a value, float32 [m, columns].
        gaps: differences to all values of features with few, float32 [m, values]; None where there is none such.
    """

    scaled: np.ndarray
    known: np.ndarray
    gaps: np.ndarray | None


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
                codes = pd.Index(self.categories[name]).get_indexer(
                    values.astype(str).where(values.notna(), None)
                )
                encoded[:, at] = np.where(codes >= 0, codes, np.nan)
            else:
                encoded[:, at] = pd.to_numeric(values, errors="coerce").to_numpy(
                    dtype=np.float32, na_value=np.nan
                )
        return encoded


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
        self._values = {at: values for at in range(encoded.shape[1]) if (values := self._few(at)) is not None}
        has = [self._seen[:, at, None] == values for at, values in self._values.items()]
        self._has = np.concatenate(has, axis=1).astype(np.float32) if has else None

    def _few(self, column: int) -> np.ndarray | None:
        values = self._seen[:, column]
        found = np.unique(values[~np.isnan(values)])
        return found if len(found) <= _FEW else None

    def _gap(self, column: int, asked: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Difference in one feature, float32 [m, k]; 0 where one side lacks it."""
        gap = np.abs(asked[:, None] - seen[None, :])
        gap = (gap > 0).astype(np.float32) if self._is_code[column] else np.minimum(gap, 1.0)
        return np.where(np.isnan(asked)[:, None] | np.isnan(seen)[None, :], np.float32(0.0), gap)

    def asked(self, encoded: np.ndarray) -> Asked:
        """Prepare the strategies whose distances are wanted, float32 [m, columns]."""
        scaled = (encoded - self._low) / self._span
        gaps = [self._gap(at, scaled[:, at], values) for at, values in self._values.items()]
        return Asked(
            scaled,
            (~np.isnan(scaled)).astype(np.float32),
            np.concatenate(gaps, axis=1) if gaps else None,
        )

    def distances(self, asked: Asked, rows: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return float32 [m, k]; infinite where two strategies share no feature.

        Args:
            asked: of :meth:`asked`.
            rows: positions of the m strategies of it that are meant.
            among: positions of the k seen strategies that come into question.
        """
        count = asked.known[rows] @ self._known[among].T
        total = np.zeros_like(count)
        if asked.gaps is not None and self._has is not None:
            total += asked.gaps[rows] @ self._has[among].T
        for column in range(len(self._is_code)):
            if column not in self._values:
                seen = self._seen[among, column]
                for begin in range(0, len(rows), _ROWS):
                    part = rows[begin : begin + _ROWS]
                    total[begin : begin + _ROWS] += self._gap(column, asked.scaled[part, column], seen)
        found: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.float32(np.inf))
        return found


def _bounds(encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each column; NaN where it is all gaps."""
    empty = np.isnan(encoded).all(axis=0)
    filled = np.where(empty[None, :], 0.0, encoded)
    low, high = np.nanmin(filled, axis=0), np.nanmax(filled, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
