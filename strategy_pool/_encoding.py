"""Features of a trial table as numbers for trees, and the distance between strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

#: Distances are computed for so many rows at a time.
_ROWS = 256


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

    def distances(self, encoded: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Return float32 [m, k]; infinite where two strategies share no feature.

        Args:
            encoded: float32 [m, columns].
            among: positions of the k strategies that come into question.
        """
        asked, seen = (encoded - self._low) / self._span, self._seen[among]
        found = np.empty((len(asked), len(seen)), dtype=np.float32)
        for begin in range(0, len(asked), _ROWS):
            part = asked[begin : begin + _ROWS]
            total = np.zeros((len(part), len(seen)), dtype=np.float32)
            count = np.zeros_like(total)
            for column in range(part.shape[1]):
                gap = np.abs(part[:, column, None] - seen[None, :, column])
                both = ~np.isnan(gap)
                gap = (gap > 0) if self._is_code[column] else np.minimum(gap, 1.0)
                total += np.where(both, gap, 0.0)
                count += both
            found[begin : begin + len(part)] = np.where(count > 0, total / np.maximum(count, 1), np.inf)
        return found


def _bounds(encoded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each column; NaN where it is all gaps."""
    empty = np.isnan(encoded).all(axis=0)
    filled = np.where(empty[None, :], 0.0, encoded)
    low, high = np.nanmin(filled, axis=0), np.nanmax(filled, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)
