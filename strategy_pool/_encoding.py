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
        self._values = [self._few(column) for column in range(encoded.shape[1])]

    def distances(self, encoded: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return float32 [m, k]; infinite where two strategies share no feature.

        Args:
            encoded: float32 [m, columns].
            among: positions of the k strategies that come into question.
        """
        asked, seen = (encoded - self._low) / self._span, self._seen[among]
        count = (~np.isnan(asked)).astype(np.float32) @ (~np.isnan(seen)).astype(np.float32).T
        total = np.zeros_like(count)
        gaps, has = [], []
        for column, values in enumerate(self._values):
            if values is None:
                total += self._gap(column, asked[:, column], seen[:, column])
            else:
                gaps.append(self._gap(column, asked[:, column], values))
                has.append(seen[:, column, None] == values)
        if gaps:
            total += np.concatenate(gaps, axis=1) @ np.concatenate(has, axis=1).astype(np.float32).T
        found: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.float32(np.inf))
        return found

    def _few(self, column: int) -> np.ndarray | None:
        """The values of a feature, float32; None where there are many."""
        values = self._seen[:, column]
        found = np.unique(values[~np.isnan(values)])
        return found if len(found) <= _FEW else None

    def _gap(self, column: int, asked: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Difference in one feature, float32 [m, k]; 0 where one side lacks it."""
        gap = np.abs(asked[:, None] - seen[None, :])
        gap = (gap > 0).astype(np.float32) if self._is_code[column] else np.minimum(gap, 1.0)
        return np.where(np.isnan(asked)[:, None] | np.isnan(seen)[None, :], np.float32(0.0), gap)


def _bounds(encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each column; NaN where it is all gaps."""
    empty = np.isnan(encoded).all(axis=0)
    filled = np.where(empty[None, :], 0.0, encoded)
    low, high = np.nanmin(filled, axis=0), np.nanmax(filled, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
