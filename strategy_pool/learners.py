"""Learned rankers: gradient-boosted trees over the features of task, strategy and device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import pandas as pd

from strategy_pool._encoding import Encoder
from strategy_pool.trial_table import TrialTable

#: Grades of LambdaRank's labels; the gain is linear in them, as in the metric.
_GRADES = 100
#: LightGBM's own penalty on splits of categories (10) hides which network a row is of where trials are few, from
#: LambdaRank most, whose gradients are small; and so does its least number of rows of a category (100).
_CATEGORIES = {"cat_l2": 0.1, "min_data_per_group": 20}
#: Rows from which all cores predict.
_MANY = 256


@dataclass
class Trees:
    """LightGBM over the features of a trial table (Ke et al. 2017); without any feature that differs, the mean.

    Attributes:
        trees, leaves, rate, least, columns: number of trees, leaves of each, learning rate, least rows of a leaf,
            share of the features that a tree may use.
        bags: models with other seeds, averaged.
    """

    trees: int = 300
    leaves: int = 31
    rate: float = 0.05
    least: int = 20
    columns: float = 0.8
    bags: int = 1

    objective = "regression"

    def fit(self, table: TrialTable, seed: int) -> Trees:
        """Learn from the trials of past tasks."""
        frame = table.told().frame
        self.encoder = Encoder().fit(frame, table.features)
        encoded = self.encoder.transform(frame)
        self.mean = float(self._labels(frame).mean()) if len(frame) else 0.0
        # Where nothing tells rows apart there is nothing to learn but the mean.
        bags = range(self.bags if self.encoder.columns else 0)
        self.models = [self._train(frame, encoded, seed * 1000 + bag) for bag in bags]
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float [rows], higher is better."""
        return self.predict_encoded(self.encoder.transform(frame))

    def predict_encoded(self, encoded: np.ndarray, share: float = 1.0) -> np.ndarray:
        """The same of rows that :attr:`encoder` has encoded, float32 [rows, columns].

        Args:
            encoded: the rows.
            share: of the first model's trees that are asked; 1 asks all of all models.
        """
        if not self.models:
            return np.full(len(encoded), self.mean)
        threads = 1 if len(encoded) < _MANY else 0

        def of(model: lightgbm.Booster) -> np.ndarray:
            first = math.ceil(share * model.num_trees())
            return np.asarray(model.predict(encoded, num_threads=threads, num_iteration=first))

        asked = self.models if share == 1.0 else self.models[:1]
        return np.mean([of(model) for model in asked], axis=0)

    def contributions(self, frame: pd.DataFrame) -> pd.DataFrame:
        """What each feature adds to the predictions (Lundberg et al. 2018, TreeSHAP): one column per feature."""
        if not self.models:
            return pd.DataFrame(index=frame.index)
        encoded = self.encoder.transform(frame)
        each = [model.predict(encoded, pred_contrib=True, num_threads=1) for model in self.models]
        return pd.DataFrame(np.mean(each, axis=0)[:, :-1], index=frame.index, columns=self.encoder.columns)

    def _train(self, frame: pd.DataFrame, encoded: np.ndarray, seed: int) -> lightgbm.Booster:
        parameters = {
            "objective": self.objective,
            "num_leaves": self.leaves,
            "learning_rate": self.rate,
            "min_data_in_leaf": min(self.least, max(1, len(frame) // 20)),
            "feature_fraction": self.columns,
            "seed": seed,
            "num_threads": 1,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
            **_CATEGORIES,
            **self._more(frame),
        }
        data = lightgbm.Dataset(
            encoded,
            self._labels(frame),
            group=self._sizes(frame),
            categorical_feature=self.encoder.categorical,
        )
        return lightgbm.train(parameters, data, self.trees)

    def _more(self, frame: pd.DataFrame) -> dict[str, Any]:
        return {}

    def _labels(self, frame: pd.DataFrame) -> np.ndarray:
        return frame["value"].to_numpy(dtype=np.float64)

    def _sizes(self, frame: pd.DataFrame) -> np.ndarray | None:
        return None


class Regression(Trees):
    """Predicts the normalised score itself."""


class Failure(Trees):
    """Predicts the probability that a trial fails."""

    objective = "binary"

    def _labels(self, frame: pd.DataFrame) -> np.ndarray:
        return frame["failed"].to_numpy(dtype=np.float64)


class LambdaRank(Trees):
    """Learns the order within each task, the head of it most (Burges 2010, *From RankNet to LambdaRank to LambdaMART*)."""

    objective = "lambdarank"
    truncation: int = 100

    def _more(self, frame: pd.DataFrame) -> dict[str, Any]:
        return {
            "label_gain": [float(grade) for grade in range(_GRADES + 1)],
            "lambdarank_truncation_level": self.truncation,
        }

    def _labels(self, frame: pd.DataFrame) -> np.ndarray:
        return np.rint(_GRADES * frame["value"].to_numpy(dtype=np.float64)).astype(np.int32)

    def _sizes(self, frame: pd.DataFrame) -> np.ndarray:
        # Rows are sorted by task, so that the trials of one lie together.
        return frame.groupby("task", sort=True, observed=True).size().to_numpy()
