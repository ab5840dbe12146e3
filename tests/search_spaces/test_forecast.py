"""Which subnets are judged: drawn ones, then those that are predicted to be the best, so that what is predicted high is high."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces import families
from search_spaces._interactions import Interactions
from search_spaces.forecast import Forecast, judge_subnets, learn_forecast
from search_spaces.predict import LEAST_ROWS
from search_spaces.propose import Codes, propose, spread
from search_spaces.stored import About, Known, Stored, load
from tests import _models


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


@pytest.fixture(scope="module")
def known() -> Stored:
    """One of which enough is known, with what a forecast found in it."""
    made = _models.supernet()
    learn_forecast(made)
    return made


def test_what_is_proposed_for_counts_was_counted(known: Stored) -> None:
    forecast, over = Forecast(known), []
    for limit in (3.0, 5.0, 8.0):
        within = {"macs_m": limit}
        taken_at_its_word = propose(known.space, forecast.score, forecast.costs, within, count=4)
        over += [known.counted(subnet).macs / 1e6 / limit for subnet in taken_at_its_word]
        counts = [known.counted(one).macs for one in forecast.propose(within, count=4, seed=0)]
        assert 2 <= len(counts) <= 4 and 0.8e6 * limit < max(counts) <= 1.001e6 * limit
    assert max(over) > 1.2
    assert len(known.known) == 60  # what it learned is its own


def test_proposals_for_other_costs_are_not_counted(known: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = Forecast(known)
    forecast.learn(spread(known.space, 6), {"latency_ms": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    monkeypatch.setattr(known, "counted", None)
    limits = {"latency_ms": 3.0}
    plain = propose(known.space, forecast.score, forecast.costs, limits, count=4)
    assert forecast.propose(limits, count=4, seed=0) == plain


def test_keeping_leaves_what_breaks_a_limit(known: Stored) -> None:
    forecast = Forecast(known)
    ends = [known.space.smallest(), known.space.largest()]
    assert forecast.keeping({"macs_m": 5.0}, ends) == ends[:1]
    assert forecast.keeping({"macs_m": 0.1}, ends) == [] == forecast.keeping({"macs_m": 5.0}, [])
    assert forecast.keeping({}, ends) == ends


def test_it_may_be_broken_off() -> None:
    made = stored()
    for done in judge_subnets(made, judge, 50, 20):
        if done == 24:
            break
    assert sum(one.score is not None for one in made.known) == 24
    assert Forecast(made).costs.keys() == {"macs_m", "params_m", "size_mb"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a supernet with what a forecast found."""
    made = stored()
    made.known = [judge(made.counted(subnet)) for subnet in spread(made.space, 30, 0)]
    learn_forecast(made)
    path = tmp_path_factory.mktemp("learned") / "supernet.safetensors"
    made.save(path)
    return path


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each search for the parameters of a kernel."""
    seen: list[int] = []
    search = Interactions._learned

    def counted(self: Interactions, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return search(self, x, y)

    monkeypatch.setattr(Interactions, "_learned", counted)
    return seen


def _answers(made: Stored, seed: int = 0) -> np.ndarray:
    forecast = Forecast(made, seed)
    values = forecast.codes.values(forecast.codes.drawn(20, np.random.default_rng(5)))
    answers = [forecast.score(values), forecast.lowest_score(values)]
    return np.stack([*answers, *(predict(values) for predict in forecast.costs.values())])


def test_what_a_forecast_found_is_in_the_file_and_gives_the_same_answers(
    learned: Path, searches: list[int]
) -> None:
    with_it, without = load(learned), load(learned)
    without.learned = {}
    given = _answers(with_it, seed=3)
    assert searches == []
    np.testing.assert_allclose(given, _answers(without), rtol=1e-9)
    assert len(searches) == 8  # two counts, five parts and the whole of the scores
    assert without.learned == with_it.learned
    _answers(without)
    assert len(searches) == 8  # an object remembers it too


def test_it_is_found_anew_where_something_else_is_known(learned: Path, searches: list[int]) -> None:
    made = load(learned)
    found, made.known = made.learned, made.known[:-1]
    Forecast(made)
    assert len(searches) >= 7  # the whole of the scores too, if products are chosen for them
    assert made.learned["of"] != found["of"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found.pop("macs"),
        lambda found: found.update(params=found["params"][:-1]),
        lambda found: found.update(macs=[float("nan")] * len(found["macs"])),
        lambda found: found.update(macs=[700.0] * len(found["macs"])),
        lambda found: found.update(macs=["x"]),
        lambda found: found.update(wrong=None),
        lambda found: found["wrong"].update(chosen="trees"),
        lambda found: found["wrong"].update(chosen="additive" if found["wrong"]["parameters"] else "interactions"),
        lambda found: found["wrong"].update(missed=found["wrong"]["missed"][:-1]),
        lambda found: found["wrong"].update(missed=[float("inf")] * len(found["wrong"]["missed"])),
        lambda found: found["wrong"].update(errors=[1.0]),
    ],
)  # fmt: skip
def test_what_is_damaged_is_found_anew(
    learned: Path, spoil: Callable[[dict[str, Any]], None], searches: list[int]
) -> None:
    made = load(learned)
    expected = made.learned
    made.learned = copy.deepcopy(dict(expected))
    spoil(made.learned)  # type: ignore[arg-type]
    Forecast(made)
    assert len(searches) == 8
    assert made.learned == expected


def test_nothing_is_kept_where_too_little_is_known() -> None:
    made = stored()
    learn_forecast(made)
    assert made.learned == {}


def test_an_array_is_looked_at_once_for_all_that_is_asked_of_it(learned: Path) -> None:
    forecast = Forecast(load(learned))
    values = forecast.codes.values(forecast.codes.drawn(4, np.random.default_rng(1)))
    first = forecast.costs["macs_m"](values)
    asked: list[int] = []
    predict = forecast._macs.predict

    def counted(frame: Any) -> np.ndarray:
        asked.append(len(frame))
        return predict(frame)

    forecast._macs.predict = counted  # type: ignore[method-assign]
    for cost in forecast.costs.values():
        cost(values)
    forecast.score(values)
    assert asked == []
    np.testing.assert_array_equal(forecast.costs["macs_m"](values[::-1])[::-1], first)
    assert asked == [4]
