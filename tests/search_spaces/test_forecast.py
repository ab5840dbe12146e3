"""Which subnets are judged: drawn ones, then those that are predicted to be the best, so that what is predicted high is high."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest
import torch

from search_spaces import families
from search_spaces.forecast import Forecast, judge_subnets
from search_spaces.predict import LEAST_ROWS
from search_spaces.propose import Codes, propose, spread
from search_spaces.stored import About, Known, Stored


def stored() -> Stored:
    """A supernet that was never trained."""
    torch.manual_seed(0)
    about = About("mobile", ("a", "b"), (32, 48), "top1")
    return Stored(about, families.supernet("mobile", 2), torch.zeros((4, 3, 48, 48), dtype=torch.uint8))


def truth(known: Known) -> float:
    """A score that rises with the work, but falls where the dimensions of a subnet do not go together."""
    text = repr(sorted(known.subnet.items())).encode()
    noise = np.random.default_rng(zlib.crc32(text)).normal(0, 0.01)
    kernels = [value for name, value in known.subnet.items() if name.endswith("kernel")]
    apart = float(np.std([value for value in kernels if value]))
    return float(np.clip(0.25 + 0.1 * np.log10(known.macs) - 0.1 * apart + noise, 0, 1))


def judge(known: Known) -> Known:
    return dataclasses.replace(known, score=truth(known), images=1000)


def known_of(count: int, seed: int = 0) -> Stored:
    made = stored()
    assert list(judge_subnets(made, judge, count, 20, seed)) == list(range(1, count + 1))
    return made


def test_the_first_are_drawn_and_the_others_are_better_than_drawn_ones_of_their_size() -> None:
    made = known_of(50)
    judged = [one for one in made.known if one.score is not None]
    assert len(judged) == 50 and len(made.known) >= 60
    codes = Codes(made.space)
    assert len({codes.text(row) for row in codes.of([one.subnet for one in made.known])}) == len(made.known)
    drawn = spread(made.space, 40, 0)[:20]
    assert [one.subnet for one in judged[:20]] == drawn
    slope, rest = np.polyfit(
        [np.log(one.macs) for one in judged[:20]], [one.score or 0 for one in judged[:20]], 1
    )
    over = [(one.score or 0) - (slope * np.log(one.macs) + rest) for one in judged[20:]]
    assert np.mean(over) > 0.02


def test_what_is_predicted_to_be_the_best_is_less_overrated() -> None:
    over = {}
    for name, made in (("drawn", stored()), ("proposed", known_of(50))):
        if name == "drawn":
            made.known = [judge(made.counted(subnet)) for subnet in spread(made.space, 50, 0)]
        forecast, codes = Forecast(made), Codes(made.space)
        gaps = []
        for limit in (3.0, 5.0, 8.0, 12.0):
            found = propose(made.space, forecast.score, forecast.costs, {"macs_m": limit}, count=4)
            predicted = forecast.score(codes.values(codes.of(found)))
            gaps += list(predicted - [truth(made.counted(subnet)) for subnet in found])
        over[name] = float(np.mean(gaps))
    assert over["proposed"] < over["drawn"]
    assert abs(over["proposed"]) < 0.02


@pytest.mark.parametrize("count", [1, LEAST_ROWS - 1])
def test_few_are_drawn_alone(count: int) -> None:
    made = known_of(count)
    assert [one.subnet for one in made.known] == spread(made.space, count + 20, 0)


def test_it_may_be_broken_off() -> None:
    made = stored()
    for done in judge_subnets(made, judge, 50, 20):
        if done == 24:
            break
    assert sum(one.score is not None for one in made.known) == 24
    assert Forecast(made).costs.keys() == {"macs_m", "params_m", "size_mb"}
