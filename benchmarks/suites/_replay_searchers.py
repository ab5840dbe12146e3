"""Searchers over the recorded candidates of a task that the engine does not have: Hyperband, and TPE over a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from automl.candidate import Candidate
from automl.search import Proposer
from automl.search._space import Range, SearchSpace
from automl.search._tpe import TpeModel
from strategy_pool._encoding import Encoder, Neighbours

#: A number that ranges over so many times its least value moves on a logarithmic scale.
_LOG_FROM = 100.0
#: A choice where the table has a gap.
_GAP = "not set"


@dataclass
class Hyperband:
    """Brackets of successive halving, one after the other and again from the first, without end.

    Li et al. 2018, *Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization*, JMLR 18, Algorithm 1, with
    its symbols; the resource is epochs, and a candidate that goes on does so from where it stopped. Within a rung, trials
    run side by side; the next one waits for all of them.

    Attributes:
        candidates: in the order in which they are drawn, each once.
        R: most epochs of one candidate.
        eta: of those in a rung one in so many goes on.
    """

    candidates: Sequence[Candidate]
    R: int
    eta: int = 3
    _drawn: int = field(default=0, init=False)
    _s: int = field(default=-1, init=False)
    _i: int = field(default=0, init=False)
    _n: int = field(default=0, init=False)
    _queue: list[Candidate] = field(default_factory=list, init=False)
    _waiting: set[str] = field(default_factory=set, init=False)
    _rung: list[tuple[float, Candidate]] = field(default_factory=list, init=False)

    def propose(self, busy: Sequence[Candidate] = (), seconds_left: float | None = None) -> Candidate | None:
        """Give out the next candidate of the rung; None while the rung's results are awaited, or at the end."""
        if not self._queue and not self._waiting:
            self._promote()
        if not self._queue:
            return None
        candidate = self._queue.pop(0)
        self._waiting.add(candidate.id)
        return candidate

    def observe(
        self,
        candidate: Candidate,
        score: float | None,
        violations: Mapping[str, float] | None = None,
        status: str = "completed",
        *,
        error: str | None = None,
        epochs: int = 0,
    ) -> None:
        """Take in a result; a candidate that failed does not go on."""
        self._waiting.discard(candidate.id)
        if score is not None:
            self._rung.append((score, candidate))

    def epochs(self, candidate: Candidate) -> int:
        """Up to which the candidates of this rung are trained, r_i."""
        return max(1, round(self.R * float(self.eta) ** (self._i - self._s)))

    def _promote(self) -> None:
        """Fill the queue with the next rung's candidates, or with those of the next bracket."""
        ranked = sorted(self._rung, key=lambda one: -one[0])
        self._rung = []
        n_i = self._n // self.eta**self._i
        if self._i < self._s:
            self._i += 1
            self._queue = [candidate for _, candidate in ranked[: n_i // self.eta]]
            if self._queue:
                return
        s_max = max(s for s in range(self.R.bit_length()) if self.eta**s <= self.R)
        self._s = self._s - 1 if self._s > 0 else s_max
        self._i = 0
        self._n = math.ceil((s_max + 1) * self.eta**self._s / (self._s + 1))
        self._queue = list(self.candidates[self._drawn : self._drawn + self._n])
        self._drawn += len(self._queue)


class TableTpe(TpeModel):
    """The engine's tree-structured Parzen estimator where only what was recorded can be tried.

    It proposes a point of the space that the table's ``strategy.*`` columns span on this task, and gives out the nearest
    recorded candidate that is left: among those of the same model where there are any, by Gower distance (Gower 1971).
    What it learns is where that candidate lies, and its score.

    Args:
        frame: features of the task's candidates, [n] rows.
        candidates: the same, [n].
        model: the column that names a candidate's network, None where there is none.
        seed: of the sampler.
    """

    def __init__(
        self, frame: pd.DataFrame, candidates: Sequence[Candidate], model: str | None, seed: int
    ) -> None:
        columns = [name for name in parameters(frame) if name != model]
        ranges = {name: _range(frame[name]) for name in columns}
        triples = [(candidate.architecture, 1, "fp32") for candidate in candidates]
        space = {"triples": triples, "strategies": ["recorded"], "ranges": {"recorded": ranges}}
        super().__init__(SearchSpace.from_mapping(space), seed)
        self._candidates = candidates
        self._encoder = Encoder().fit(frame, columns)
        self._near = Neighbours(self._encoder.transform(frame), self._encoder.categorical)
        self._values = {
            candidate.id: {
                name: _value(row[name], ranges[name])
                for name in columns
                if isinstance(ranges[name], list) or pd.notna(row[name])
            }
            for candidate, row in zip(candidates, frame[columns].to_dict("records"), strict=True)
        }

    def ask(self, number: int, taken: set[str], blocked: Any) -> Candidate | None:
        """Give out the nearest candidate that is neither taken nor blocked; None where there is none."""
        left = [place for place, c in enumerate(self._candidates) if c.id not in taken and not blocked(c)]
        point = super().ask(number, set(), lambda candidate: False) if left else None
        if point is None:
            return None
        self.tell(point, None, {}, "failed")  # the point itself is never tried, and has no score
        same = [at for at in left if self._candidates[at].architecture == point.architecture]
        among = np.array(same or left)
        values = {name: None if value == _GAP else value for name, value in point.overrides}
        asked = self._near.ask(self._encoder.transform(pd.DataFrame([values])))
        distances = self._near.distances(asked, np.array([0]), among)[0]
        return self._candidates[int(among[distances.argmin()])]

    def _describe(self, candidate: Candidate) -> tuple[dict[str, Any], dict[str, Any]] | None:
        values = tuple(self._values[candidate.id].items())
        return super()._describe(Candidate(candidate.architecture, 1, "fp32", "recorded", values))


class TableProposer(Proposer):
    """The engine's proposer, whose model gives out recorded candidates.

    Args:
        pool: as for :class:`automl.search.Proposer`.
        model: in the place of its own.
        options: the other arguments.
    """

    def __init__(self, pool: Sequence[Candidate], model: TableTpe, **options: Any) -> None:
        super().__init__(pool, space=model.space, **options)
        self._model = model


def parameters(frame: pd.DataFrame) -> list[str]:
    """Names of the ``strategy.*`` columns that differ between the rows."""
    return [
        name
        for name in frame.columns
        if name.startswith("strategy.") and frame[name].nunique(dropna=_numeric(frame[name])) > 1
    ]


def _numeric(values: pd.Series) -> bool:
    return bool(is_numeric_dtype(values))  # truth values are numbers, too


def _range(values: pd.Series) -> Range:
    """What a parameter may be: from its least to its largest value, or one of its values."""
    if not _numeric(values):
        return sorted({_GAP if pd.isna(value) else str(value) for value in values})
    known = values.dropna().astype(float)
    low, high = float(known.min()), float(known.max())
    logarithmic = low > 0 and high >= _LOG_FROM * low
    whole = bool((known == known.round()).all())
    return (int(low), int(high), logarithmic) if whole else (low, high, logarithmic)


def _value(value: Any, bounds: Range) -> Any:
    if isinstance(bounds, list):
        return _GAP if pd.isna(value) else str(value)
    return int(value) if isinstance(bounds[0], int) else float(value)
