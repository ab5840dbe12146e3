"""What subnets of a stored supernet will score and cost, from what is known of some of them and of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from search_spaces.predict import LEAST_ROWS, MEMBERS, CostPredictor, Features, Member, TableError, Transfer
from search_spaces.propose import Codes, Predict, front, spread
from search_spaces.stored import Known, Stored

#: Bytes of a weight, and of the graph around the weights.
_BYTES, _GRAPH = 4.0, 40_000
#: Smallest share of wrong images that is learned from; below it lies noise.
_LEAST_ERROR = 0.002
#: From so many measured subnets on a device is learned choice by choice.
_MANY = 40
#: Share of the judged subnets that are drawn, and rounds in which the others are proposed.
_DRAWN, _JUDGING_ROUNDS = 0.4, 3


def judge_subnets(
    stored: Stored, judge: Callable[[Known], Known], count: int, counted: int, seed: int = 0
) -> Iterator[int]:
    """Make subnets of a supernet known: drawn ones of all sizes, then those that are predicted to be the best of their size.

    A forecast from drawn ones alone is wrong just where it is asked: the subnet with the highest prediction among very many
    is one that is predicted too high. So the others are proposed by the forecast, in rounds, each of which learns from what
    the last one proposed (Lu et al. 2020, *NSGANetV2*, section 3, does so while it searches).

    Args:
        stored: gets them in ``known``.
        judge: measures the score of a subnet.
        count: subnets to judge.
        counted: drawn subnets that are counted besides.
        seed: of the draw and the proposals.

    Yields:
        how many are judged, after each; the caller may stop there.
    """
    drawn = max(min(count, LEAST_ROWS), round(_DRAWN * count))
    stored.known = [stored.counted(subnet) for subnet in spread(stored.space, drawn + counted, seed)]
    done = 0
    for at in range(min(drawn, len(stored.known))):
        stored.known[at] = judge(stored.known[at])
        done += 1
        yield done
    for number in range(_JUDGING_ROUNDS):
        if not LEAST_ROWS <= done < count:
            return
        forecast = Forecast(stored, seed)
        proposals = front(
            stored.space,
            forecast.score,
            forecast.costs["macs_m"],
            count=-(-(count - done) // (_JUDGING_ROUNDS - number)),
            seed=seed + number,
            known=[known.subnet for known in stored.known if known.score is not None],
        )
        for subnet in proposals:
            others = [known for known in stored.known if known.subnet != subnet]
            stored.known = [*others, judge(stored.counted(subnet))]
            done += 1
            yield done


class Forecast:
    """Predictions for rows that :meth:`search_spaces.propose.Codes.values` gives, float [n, dimensions].

    Args:
        stored: the supernet; at least ten of its subnets are known, and as many have a score.
        seed: of the learners.

    Raises:
        TableError: too little is known.
    """

    def __init__(self, stored: Stored, seed: int = 0) -> None:
        self.space = stored.space
        self.codes = Codes(self.space)
        self.names = [dimension.name for dimension in self.space.dimensions]
        self._seed, self._classes = seed, len(stored.about.classes)
        judged = [known for known in stored.known if known.score is not None]
        if len(judged) < LEAST_ROWS:
            raise TableError(f"{len(judged)} subnets with a score are too few; {LEAST_ROWS} are needed")
        rows = self.codes.of([known.subnet for known in stored.known])
        values = self.codes.values(rows)
        self._macs = self._learned(values, [known.macs for known in stored.known])
        self._params = self._learned(values, [known.params for known in stored.known])
        values = self.codes.values(self.codes.of([known.subnet for known in judged]))
        wrong = np.array([1.0 - (known.score or 0.0) for known in judged])
        self._wrong = CostPredictor(("additive", "interactions")).fit(
            self._described(values), np.maximum(wrong, _LEAST_ERROR), seed
        )
        self._measured: dict[str, Predict] = {}

    def score(self, values: np.ndarray) -> np.ndarray:
        """Return scores, float [n]."""
        return 1.0 - self._wrong.predict(self._described(values))

    def lowest_score(self, values: np.ndarray) -> np.ndarray:
        """Return bounds, float [n], above which a score stays with a probability of about 95 %."""
        return 1.0 - self._wrong.upper(self._described(values))

    @property
    def costs(self) -> Mapping[str, Predict]:
        """Costs that can be predicted, by name as in limits."""
        counted: dict[str, Predict] = {
            "macs_m": lambda values: self._macs.predict(self._frame(values)) / 1e6,
            "params_m": lambda values: self._params.predict(self._frame(values)) / 1e6,
            "size_mb": lambda values: (self._params.predict(self._frame(values)) * _BYTES + _GRAPH) / 1e6,
        }
        return {**counted, **self._measured}

    def learn(self, subnets: Sequence[Mapping[str, int]], costs: Mapping[str, Sequence[float]]) -> None:
        """Learn what subnets cost when they were measured, on one device; what was learned before is forgotten.

        Args:
            subnets: that were measured, at least three.
            costs: name → value of each.

        Raises:
            TableError: there are too few.
        """
        values = self.codes.values(self.codes.of(subnets))
        for name, measured in costs.items():
            known = np.asarray(measured, dtype=float)
            if len(known) >= _MANY:
                learned = self._learned(values, known, described=True)
                self._measured[name] = lambda rows, learned=learned: learned.predict(self._described(rows))  # type: ignore[misc]
            else:
                transfer = Transfer().fit(self._work(values), known)
                self._measured[name] = lambda rows, transfer=transfer: transfer.predict(self._work(rows))  # type: ignore[misc]

    def _learned(
        self, values: np.ndarray, target: Sequence[float] | np.ndarray, described: bool = False
    ) -> Member:
        frame = self._described(values) if described else self._frame(values)
        return MEMBERS["interactions"]().fit(
            Features().fit(frame), frame, np.asarray(target, dtype=float), self._seed
        )

    def _frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, columns=self.names)

    def _described(self, values: np.ndarray) -> pd.DataFrame:
        """The choices, and what they amount to."""
        frame = self._frame(values)
        work = np.log(self._work(values))
        return frame.assign(log_macs=work[:, 0], log_params=work[:, 1])

    def _work(self, values: np.ndarray) -> np.ndarray:
        """Multiply-accumulates and parameters, float [n, 2]."""
        frame = self._frame(values)
        return np.stack([self._macs.predict(frame), self._params.predict(frame)], axis=1)
