"""What subnets of a stored supernet will score and cost, from what is known of some of them and of a device."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from search_spaces.predict import LEAST_ROWS, CostPredictor, Features, Process, TableError, Transfer
from search_spaces.propose import Codes, Predict, front, propose, spread
from search_spaces.stored import Known, Stored
from search_spaces.supernet import Subnet

#: Bytes of a weight, and of the graph around the weights.
_BYTES, _GRAPH = 4.0, 40_000
#: Smallest share of wrong images that is learned from; below it lies noise.
_LEAST_ERROR = 0.002
#: From so many measured subnets on a device is learned choice by choice.
_MANY = 40
#: Costs that follow from counts, and how often what is proposed for a limit on one of them is counted, and others proposed.
_COUNTED, _COUNTINGS = {"macs_m", "params_m", "size_mb"}, 8
#: What goes wrong with what another version found, or was damaged; it is then found anew.
_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]
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


def learn_forecast(stored: Stored, seed: int = 0) -> None:
    """Keep with a supernet what a forecast finds in what is known of its subnets, so that its file has it.

    Where too little is known nothing is kept, and nothing is raised: who wants a forecast is told.
    """
    with contextlib.suppress(TableError):
        Forecast(stored, seed)


class Forecast:
    """Predictions for rows that :meth:`search_spaces.propose.Codes.values` gives, float [n, dimensions].

    Args:
        stored: the supernet; at least ten of its subnets are known, and as many have a score. What takes long to find in
            them is taken from ``stored.learned`` where it is of just these, and put there otherwise.
        seed: of the learners, where they have to find it.

    Raises:
        TableError: too little is known.
    """

    def __init__(self, stored: Stored, seed: int = 0) -> None:
        self.space = stored.space
        self.codes = Codes(self.space)
        self.names = [dimension.name for dimension in self.space.dimensions]
        self._seed = seed
        judged = [known for known in stored.known if known.score is not None]
        if len(judged) < LEAST_ROWS:
            raise TableError(f"{len(judged)} subnets with a score are too few; {LEAST_ROWS} are needed")
        self._measured: dict[str, Predict] = {}
        self._stored, self._known = stored, list(stored.known)
        digest = hashlib.sha256(json.dumps(stored.rows(), sort_keys=True).encode()).hexdigest()
        if stored.learned.get("of") == digest:
            with contextlib.suppress(*_UNUSABLE):
                self._fit(judged, stored.learned)
                return
        stored.learned = {"of": digest, **self._fit(judged, None)}

    def _fit(self, judged: Sequence[Known], given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Learn; return what took long to find."""
        self._learn_counts(given)
        values = self.codes.values(self.codes.of([one.subnet for one in judged]))
        wrong = np.maximum([1.0 - (one.score or 0.0) for one in judged], _LEAST_ERROR)
        self._wrong, rows = CostPredictor(("additive", "interactions")), self._described(values)
        if given:
            self._wrong.resume(rows, wrong, given["wrong"], self._seed)
        else:
            self._wrong.fit(rows, wrong, self._seed)
        return {**self._count_parameters, "wrong": self._wrong.learned}

    @property
    def _count_parameters(self) -> dict[str, list[float]]:
        return {"macs": self._macs.parameters, "params": self._params.parameters}

    def _learn_counts(self, given: Mapping[str, Any] | None) -> None:
        """Learn counts from what is known, with parameters that were found before, where they are given."""
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        frame = self._frame(self.codes.values(self.codes.of([one.subnet for one in self._known])))
        features = Features().fit(frame)
        self._macs, self._params = (
            Process(given[name] if given else None).fit(
                features,
                frame,
                np.array([getattr(one, name) for one in self._known], dtype=float),
                self._seed,
            )
            for name in ("macs", "params")
        )

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
            "macs_m": lambda values: self._work(values)[:, 0] / 1e6,
            "params_m": lambda values: self._work(values)[:, 1] / 1e6,
            "size_mb": lambda values: (self._work(values)[:, 1] * _BYTES + _GRAPH) / 1e6,
        }
        return {**counted, **self._measured}

    def keeping(self, limits: Mapping[str, float], subnets: Sequence[Subnet]) -> list[Subnet]:
        """Return those of some subnets that are predicted to keep limits (name → the most that the cost may be)."""
        if not subnets:
            return []
        values, costs = self.codes.values(self.codes.of(subnets)), self.costs
        kept = np.ones(len(subnets), dtype=bool)
        for name, limit in limits.items():
            kept &= np.asarray(costs[name](values), dtype=float) <= limit
        return [subnet for subnet, keeps in zip(subnets, kept, strict=True) if keeps]

    def propose(
        self, limits: Mapping[str, float], *, count: int, seed: int, known: Sequence[Subnet] = ()
    ) -> list[Subnet]:
        """Return the subnets with the highest predicted score within limits, as :func:`search_spaces.propose.propose` does.

        Where a limit is on what can be counted, what is proposed is counted, and learned from, until most of it keeps the
        limits: the best of very many subnets are those whose counts are predicted too low.
        """
        counted = bool(_COUNTED & limits.keys())
        for _ in range(_COUNTINGS):
            found = propose(self.space, self.score, self.costs, limits, count=count, seed=seed, known=known)
            if not counted or not self._count(found):
                break
            keeping = self.keeping(limits, found)
            if 2 * len(keeping) >= len(found):
                return keeping
            known = [*known, *keeping]
        return list(found)

    def _count(self, subnets: Sequence[Subnet]) -> bool:
        """Count subnets, and learn from it; whether any was not counted before."""
        seen = {row.tobytes() for row in self.codes.of([one.subnet for one in self._known])}
        rows = self.codes.of(subnets)
        fresh = [subnet for subnet, row in zip(subnets, rows, strict=True) if row.tobytes() not in seen]
        if not fresh:
            return False
        self._known += [self._stored.counted(subnet) for subnet in fresh]
        self._learn_counts(self._count_parameters)
        return True

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
                frame = self._described(values)
                learned = Process().fit(Features().fit(frame), frame, known, self._seed)
                self._measured[name] = lambda rows, learned=learned: learned.predict(self._described(rows))  # type: ignore[misc]
            else:
                transfer = Transfer().fit(self._work(values), known)
                self._measured[name] = lambda rows, transfer=transfer: transfer.predict(self._work(rows))  # type: ignore[misc]

    def _frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, columns=self.names)

    def _described(self, values: np.ndarray) -> pd.DataFrame:
        """The choices, and what they amount to."""
        frame = self._frame(values)
        work = np.log(self._work(values))
        return frame.assign(log_macs=work[:, 0], log_params=work[:, 1])

    def _work(self, values: np.ndarray) -> np.ndarray:
        """Multiply-accumulates and parameters, float [n, 2]; of the array that was asked for last, what was found then."""
        if self._last is None or self._last[0] is not values:
            frame = self._frame(values)
            found = np.stack([self._macs.predict(frame), self._params.predict(frame)], axis=1)
            self._last = values, found
        return self._last[1]
