"""What a network will cost, from tables of networks that were measured. Nothing is measured here.

A cost is a latency, or the share of images that a subnet gets wrong: a number above 0 whose relative error is to be
small. So learners see logarithms, or weigh each row by one over its square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import lightgbm
import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from sklearn.linear_model import RidgeCV

from search_spaces._gates import TableError as TableError  # which this module raises
from search_spaces._gates import find_gates, without_absent
from search_spaces._interactions import Interactions

#: A number with at most so many values gets a column for each of them in additive models.
_FEW = 8
#: Parts of the cross-validation.
FOLDS = 5
#: Fewest rows from which anything is learned.
LEAST_ROWS = 10
#: More rows than this are too many for a Gaussian process.
_MOST_FOR_PROCESS = 4000
#: A latency far below the mean weighs as one that is so many times smaller.
_MOST_WEIGHT = 1e6
#: Strengths of the penalty that are tried.
_PENALTIES = tuple(10.0 ** np.arange(-5, 3.5, 0.5))


@dataclass
class Features:
    """Architecture features as numbers.

    Attributes:
        low, span: of each number, by column.
        categories: column → categories, sorted.
        few: column → values, of numbers that have few.
        gaps: numbers that may be missing; each gets a column that tells so.
    """

    low: dict[str, float] = field(default_factory=dict)
    span: dict[str, float] = field(default_factory=dict)
    categories: dict[str, list[str]] = field(default_factory=dict)
    few: dict[str, np.ndarray] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)

    def fit(self, frame: pd.DataFrame) -> Features:
        """Learn ranges and categories; columns with one value tell nothing and are left out.

        Raises:
            TableError: no column tells anything.
        """
        for name in frame.columns:
            values = frame[name]
            if values.nunique(dropna=False) < 2:
                continue
            if is_numeric_dtype(values) and not is_bool_dtype(values):
                known = values.to_numpy(dtype=float, na_value=np.nan)
                finite = known[np.isfinite(known)]
                if not len(finite):
                    continue
                self.low[name] = float(finite.min())
                self.span[name] = float(finite.max() - finite.min()) or 1.0
                if len(unique := np.unique(finite)) <= _FEW:
                    self.few[name] = unique
                if len(finite) < len(known):
                    self.gaps.append(name)
            else:
                self.categories[name] = sorted(values.dropna().astype(str).unique())
        if not self.low and not self.categories:
            raise TableError("no column tells networks apart")
        return self

    @property
    def is_code(self) -> np.ndarray:
        """Which columns of :meth:`plain` are codes, bool [columns]."""
        numbers, codes = len(self.low) + len(self.gaps), len(self.categories)
        return np.array([False] * numbers + [True] * codes)

    def plain(self, frame: pd.DataFrame) -> np.ndarray:
        """Return float64 [rows, columns]: numbers within 0 and 1 over the range that was seen, codes of categories; a gap lies in the middle.

        Raises:
            TableError: a column is missing.
        """
        columns = [*self.low, *self.categories]
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise TableError(f"the table has no column '{missing[0]}'")
        found = []
        for name, low in self.low.items():
            values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
            found.append(np.where(np.isfinite(values), (values - low) / self.span[name], 0.5))
        for name in self.gaps:
            values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
            found.append((~np.isfinite(values)).astype(float))
        for name, known in self.categories.items():
            values = frame[name]
            codes = pd.Index(known).get_indexer(values.astype(str).where(values.notna(), None))
            found.append(codes.astype(float))
        return np.stack(found, axis=1)

    def spread(self, frame: pd.DataFrame) -> np.ndarray:
        """The same with a column of its own for each category and for each value of numbers with few."""
        plain = self.plain(frame)
        found = []
        for at, name in enumerate(self.low):
            found.append(plain[:, at])
            if name in self.few:
                scaled = (self.few[name] - self.low[name]) / self.span[name]
                found += [(np.abs(plain[:, at] - value) < 1e-9).astype(float) for value in scaled]
            else:
                found.append(plain[:, at] ** 2)
        first = len(self.low)
        found += [plain[:, first + at] for at in range(len(self.gaps))]
        first += len(self.gaps)
        for at, known in enumerate(self.categories.values()):
            found += [(plain[:, first + at] == code).astype(float) for code in range(len(known))]
        return np.stack(found, axis=1)


class Member(Protocol):
    """What learns costs; here they are called latencies."""

    def fit(self, features: Features, frame: pd.DataFrame, latency: np.ndarray, seed: int) -> Member:
        """Learn from networks, a row each, and their latencies, float [n]; returns itself."""
        ...

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return latencies, float [n]."""
        ...


class Additive:
    """Each choice adds its milliseconds (Cai et al. 2019, ProxylessNAS, section 3.3): ridge regression, errors relative."""

    def fit(self, features: Features, frame: pd.DataFrame, latency: np.ndarray, seed: int) -> Additive:
        """Learn; ``seed`` has no effect."""
        self.features, self.least = features, 0.1 * float(latency.min())
        rows = features.spread(frame)
        weights = np.minimum(latency.mean() / latency, _MOST_WEIGHT) ** 2
        self.model = RidgeCV(_PENALTIES).fit(rows, latency, sample_weight=weights)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return latencies, float [n]."""
        return np.maximum(self.model.predict(self.features.spread(frame)), self.least)


class BoostedTrees:
    """LightGBM on the logarithm."""

    def fit(self, features: Features, frame: pd.DataFrame, latency: np.ndarray, seed: int) -> BoostedTrees:
        """Learn."""
        self.features = features
        self.model = _boosted(features, frame, np.log(latency), seed)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return latencies, float [n]."""
        return np.exp(np.asarray(self.model.predict(self.features.plain(frame), num_threads=1)))


class Corrected:
    """The additive model, and LightGBM on what it misses by what factor."""

    def fit(self, features: Features, frame: pd.DataFrame, latency: np.ndarray, seed: int) -> Corrected:
        """Learn."""
        self.features = features
        self.additive = Additive().fit(features, frame, latency, seed)
        missed = np.log(latency / self.additive.predict(frame))
        self.model = _boosted(features, frame, missed, seed)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return latencies, float [n]."""
        missed = np.asarray(self.model.predict(self.features.plain(frame), num_threads=1))
        return self.additive.predict(frame) * np.exp(missed)


class Process:
    """A Gaussian process of the logarithm over products of a few choices, see :class:`Interactions`.

    Args:
        parameters: of its kernel that an earlier one found for the same rows; None to find them.
    """

    def __init__(self, parameters: Sequence[float] | None = None) -> None:
        self._given = parameters

    def fit(self, features: Features, frame: pd.DataFrame, latency: np.ndarray, seed: int) -> Process:
        """Learn.

        Raises:
            ValueError, torch.linalg.LinAlgError: the given parameters are not of such rows.
        """
        self.features = features
        rows = features.plain(frame)
        self.model = Interactions().fit(rows, features.is_code, np.log(latency), seed, self._given)
        return self

    @property
    def parameters(self) -> list[float]:
        """Of the kernel."""
        return self.model.parameters

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return latencies, float [n]."""
        return np.exp(self.model.predict(self.features.plain(frame)))


def _boosted(features: Features, frame: pd.DataFrame, target: np.ndarray, seed: int) -> lightgbm.Booster:
    parameters = {
        "objective": "regression",
        "num_leaves": 15,
        "learning_rate": 0.05,
        "min_data_in_leaf": max(1, min(10, len(frame) // 20)),
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    codes = np.flatnonzero(features.is_code).tolist()
    return lightgbm.train(
        parameters, lightgbm.Dataset(features.plain(frame), target, categorical_feature=codes), 600
    )


MEMBERS: Mapping[str, Callable[[], Member]] = {
    "additive": Additive,
    "trees": BoostedTrees,
    "additive + trees": Corrected,
    "interactions": Process,
}


class CostPredictor:
    """The member with the smallest error in cross-validation, with upper bounds from what it missed there.

    Args:
        members: names of those that are tried.

    Attributes:
        chosen: name of the member.
        errors: mean absolute relative error of each member in cross-validation.
        gates: columns whose values are taken as meaningless for some rows, where cross-validation says that this helps.
    """

    def __init__(self, members: Sequence[str] = tuple(MEMBERS)) -> None:
        self.members = members

    def fit(self, frame: pd.DataFrame, latency: np.ndarray, seed: int = 0) -> CostPredictor:
        """Learn.

        Args:
            frame: networks, one row each: numbers and categories that describe the architecture.
            latency: of each, float [n], above 0.
            seed: of parts and learners.

        Raises:
            TableError: there are too few rows, no column tells anything, or a latency is not above 0.
        """
        latency = np.asarray(latency, dtype=float)
        if len(frame) < LEAST_ROWS:
            raise TableError(f"{len(frame)} networks are too few to learn from; {LEAST_ROWS} are needed")
        if not (np.isfinite(latency) & (latency > 0)).all():
            raise TableError("a latency is not a number above 0")
        self.gates = find_gates(frame)
        missed: dict[str, np.ndarray] = {}
        if self.gates:
            gated = without_absent(frame, self.gates)
            with_gates, without = (_left_out("trees", rows, latency, seed) for rows in (gated, frame))
            if _error(with_gates) < _error(without):
                frame, missed["trees"] = gated, with_gates
            else:
                self.gates, missed["trees"] = [], without
            missed = {name: gap for name, gap in missed.items() if name in self.members}
        names = [name for name in self.members if name != "interactions" or len(frame) <= _MOST_FOR_PROCESS]
        missed |= {name: _left_out(name, frame, latency, seed) for name in names if name not in missed}
        self.errors = {name: _error(gap) for name, gap in missed.items()}
        self.chosen = min(self.errors, key=lambda name: self.errors[name])
        self._missed = np.sort(missed[self.chosen])
        self._member = MEMBERS[self.chosen]().fit(Features().fit(frame), frame, latency, seed)
        return self

    @property
    def learned(self) -> dict[str, Any]:
        """What took long to find, as plain JSON values, for :meth:`resume`."""
        return {
            "chosen": self.chosen,
            "errors": self.errors,
            "missed": self._missed.tolist(),
            "gated": bool(self.gates),
            "parameters": self._member.parameters if isinstance(self._member, Process) else None,
        }

    def resume(
        self, frame: pd.DataFrame, latency: np.ndarray, learned: Mapping[str, Any], seed: int = 0
    ) -> CostPredictor:
        """Learn the same rows again, by what :meth:`fit` found for them.

        Args:
            frame, latency, seed: as for :meth:`fit`.
            learned: that the other one's :attr:`learned` was.

        Raises:
            KeyError, TypeError, ValueError, torch.linalg.LinAlgError: it was not found for such rows.
        """
        self.chosen, parameters = str(learned["chosen"]), learned["parameters"]
        if self.chosen not in self.members or (parameters is not None) != (self.chosen == "interactions"):
            raise ValueError(f"'{self.chosen}' is none of the members, or has no parameters")
        self.errors = {str(name): float(error) for name, error in learned["errors"].items()}
        self._missed = np.sort(np.asarray(learned["missed"], dtype=float))
        if self._missed.shape != (len(frame),) or not np.isfinite(self._missed).all():
            raise ValueError("what was missed is not of so many rows")
        self.gates = find_gates(frame) if learned["gated"] else []
        frame = without_absent(frame, self.gates)
        member = MEMBERS[self.chosen]() if parameters is None else Process(parameters)
        self._member = member.fit(Features().fit(frame), frame, np.asarray(latency, dtype=float), seed)
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return latencies, float [n].

        Raises:
            TableError: a column is missing.
        """
        return self._member.predict(without_absent(frame, self.gates))

    def upper(self, frame: pd.DataFrame, coverage: float = 0.95) -> np.ndarray:
        """Return bounds, float [n], under which a latency stays with about this probability.

        The bound is what was missed out of fold in the worst of so many cases (Barber et al. 2021, *Predictive
        inference with the jackknife+*, section 3, with one model instead of one for each fold); the largest miss where
        there are too few rows for more.
        """
        rank = int(np.ceil((len(self._missed) + 1) * coverage)) - 1
        factor = float(np.exp(self._missed[min(rank, len(self._missed) - 1)]))
        return self.predict(frame) * factor


def _left_out(name: str, frame: pd.DataFrame, latency: np.ndarray, seed: int) -> np.ndarray:
    """Logarithm of true over predicted latency of each row by a member that has not seen it, float [n]."""
    features = Features().fit(frame)
    order = np.random.default_rng(seed).permutation(len(frame))
    found = np.empty(len(frame))
    for part in np.array_split(order, FOLDS):
        rest = np.setdiff1d(order, part)
        member = MEMBERS[name]().fit(features, frame.iloc[rest], latency[rest], seed)
        found[part] = member.predict(frame.iloc[part])
    return np.log(latency / found)


def _error(missed: np.ndarray) -> float:
    """Mean absolute relative error of the predictions."""
    return float(np.mean(np.abs(np.expm1(-missed))))


class Transfer:
    """A device of which few measurements are there, from devices that are known.

    The logarithm of its latency is a mixture of those of the known devices plus a constant; the mixture is held towards
    equal shares by as much as leave-one-out on the measurements says (Lee et al. 2021, HELP, measures ten networks of a
    new device, too).
    """

    def fit(self, known: np.ndarray, measured: np.ndarray) -> Transfer:
        """Learn.

        Args:
            known: latencies of the measured networks on the known devices, measured or predicted, float [n, devices].
            measured: on the new device, float [n].

        Raises:
            TableError: there are fewer than three, or a latency is not above 0.
        """
        known, measured = np.asarray(known, dtype=float), np.asarray(measured, dtype=float)
        if len(measured) < 3:
            raise TableError(f"{len(measured)} measurements are too few to know a device by; 10 are good")
        if not ((known > 0).all() and (measured > 0).all()):
            raise TableError("a latency is not a number above 0")
        logs = np.log(known)
        self._model = RidgeCV(_PENALTIES).fit(logs, np.log(measured) - logs.mean(axis=1))
        return self

    def predict(self, known: np.ndarray) -> np.ndarray:
        """Return latencies on the new device, float [m], from those on the known ones, float [m, devices]."""
        logs = np.log(np.asarray(known, dtype=float))
        return np.exp(logs.mean(axis=1) + self._model.predict(logs))


def feature_columns(
    frame: pd.DataFrame, target: str, without: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Which columns of a table describe the network, and which are left out as measurements like the target.

    A table may hold the latencies of several devices. A column of fractions, nearly all different, whose name shares its
    first or last part with the target's name, or with that of a column that was left out, is another measurement.

    Args:
        frame: the table.
        target: column of the latency.
        without: columns to leave out besides.
    """
    open_ = [
        name
        for name in frame.columns
        if name != target
        and is_numeric_dtype(frame[name])
        and not is_bool_dtype(frame[name])
        and frame[name].nunique() > 0.5 * len(frame)
        and bool((frame[name].dropna() % 1 != 0).any())
    ]
    like = [target]
    for name in like:  # grows while it is walked through
        for other in list(open_):
            if _akin(name, other):
                like.append(other)
                open_.remove(other)
    left_out = [*like[1:], *(name for name in without if name not in like)]
    return [name for name in frame.columns if name != target and name not in left_out], left_out


def _akin(one: str, other: str) -> bool:
    first, second = one.lower().replace("-", "_").split("_"), other.lower().replace("-", "_").split("_")
    return len(first) > 1 and len(second) > 1 and (first[0] == second[0] or first[-1] == second[-1])
