from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from automl.candidate import Candidate
from automl.search._space import SearchSpace
from automl.search._tpe import TpeModel
from tests.search.runs import SPACE, candidate, quality


def model(seed: int = 0, **changes: Any) -> TpeModel:
    return TpeModel(SearchSpace.from_mapping({**SPACE, **changes}), seed)


def ask(tpe: TpeModel, number: int = 0, taken: set[str] | None = None, blocked: Any = None) -> Candidate:
    asked = tpe.ask(number, taken or set(), blocked or (lambda tried: False))
    assert asked is not None
    return asked


def ask_many(tpe: TpeModel, count: int, tell: bool = True) -> list[Candidate]:
    taken: dict[str, Candidate] = {}
    for number in range(count):
        asked = ask(tpe, number, set(taken))
        taken[asked.id] = asked
        if tell:
            tpe.tell(asked, quality(asked), {}, "completed")
    return list(taken.values())


def states(tpe: TpeModel) -> list[TrialState]:
    return [trial.state for trial in tpe._study.trials]


# Proposals


def test_proposals_lie_in_the_space() -> None:
    space = SearchSpace.from_mapping(SPACE)
    asked = ask_many(model(), 25)
    assert {tried.strategy for tried in asked} == {"tune", "probe"}
    for tried in asked:
        assert tried.triple in space.triples
        values = dict(tried.overrides)
        assert set(values) <= set(space.ranges[tried.strategy])
        assert 1e-4 <= values.get("lr", 0.01) <= 1e-1
        epochs = values.get("epochs", 10)
        assert isinstance(epochs, int) and 1 <= epochs <= 40
        assert values.get("loss", "plain") in ("plain", "balanced")


def test_a_proposal_depends_on_seed_number_and_what_was_told() -> None:
    def asked(seed: int, number: int, told: bool) -> str:
        tpe = model(seed)
        if told:
            for name in "abc":
                tpe.tell(candidate(name, 64, lr=0.03), 0.5, {}, "completed")
        return ask(tpe, number).id

    first = asked(0, 5, True)
    assert asked(0, 5, True) == first
    assert len({first, asked(1, 5, True), asked(0, 6, True), asked(0, 5, False)}) > 1


def test_results_may_come_in_any_order_of_parallel_trials() -> None:
    # Rounds tell in the order of the proposals; the model must not care what else is still open.
    tpe = model()
    first, second = ask(tpe, 0), ask(tpe, 1, {"x"})
    tpe.tell(second, 0.4, {}, "completed")
    tpe.tell(first, 0.5, {}, "completed")
    assert [trial.value for trial in tpe._study.trials] == [0.5, 0.4]


def test_taken_blocked_and_forbidden_candidates_are_not_proposed() -> None:
    tiny = {"triples": [(name, 32, "fp32") for name in "abcd"], "strategies": ["tune"], "ranges": {}}
    tpe = model(**tiny, allowed=lambda tried: tried.architecture != "c")
    for number in range(4):
        asked = ask(tpe, number, {"a@32/fp32/tune"}, lambda tried: tried.architecture == "b")
        assert asked.architecture == "d"


def test_none_when_nothing_new_is_left() -> None:
    tpe = model(triples=[("a", 32, "fp32")], strategies=["tune"], ranges={})
    assert tpe.ask(0, {"a@32/fp32/tune"}, lambda tried: False) is None


def test_the_last_candidate_of_a_small_space_is_found() -> None:
    triples = [(f"net{number}", 32, "fp32") for number in range(60)]
    tpe = model(triples=triples, strategies=["tune"], ranges={})
    taken = {f"net{number}@32/fp32/tune" for number in range(60) if number != 17}
    assert ask(tpe, 0, taken).architecture == "net17"


def test_a_best_candidate_that_is_taken_does_not_blind_it() -> None:
    # A strategy without numbers leaves one candidate per triple; when it is the best of all, it comes again
    # and again, and what is proposed in its place still has to lie near it.
    names = [f"net{number}" for number in range(26)]
    tpe = model(
        triples=[(name, 32, "fp32") for name in names],
        strategies=["tune", "probe"],
        ranges={"tune": {"lr": (1e-4, 1e-1, True)}},
    )
    taken = set()
    for name in names:
        good = name in ("net3", "net4")
        for told, score in ((candidate(name, 32, "probe"), 0.9), (candidate(name, 32, lr=0.02), 0.8)):
            taken.add(told.id)
            tpe.tell(told, score if good else 0.1, {}, "completed")
    asked = [ask(tpe, number, taken).architecture for number in range(12)]
    assert sum(name in ("net3", "net4") for name in asked) >= 4


# What is told


def test_what_was_asked_for_and_what_comes_from_elsewhere_are_told_alike() -> None:
    asked_for, foreign = model(), model()
    tried = ask(asked_for)
    for tpe in (asked_for, foreign):
        tpe.tell(tried, 0.7, {"latency_ms<=5": -1.0}, "completed")
    first, second = asked_for._study.trials[0], foreign._study.trials[0]
    assert (first.state, first.value) == (second.state, second.value) == (TrialState.COMPLETE, 0.7)
    assert first.params["triple"] == second.params["triple"]
    assert first.constraints == second.constraints == {"latency_ms<=5": -1.0}


@pytest.mark.parametrize("own", [True, False])
def test_stopped_trials_are_pruned_with_their_epoch(own: bool) -> None:
    tpe = model()
    tried = ask(tpe) if own else candidate("a", 32)
    tpe.tell(tried, 0.4, {}, "stopped", epochs=7)
    trial = tpe._study.trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {7: 0.4}


@pytest.mark.parametrize("status", ["completed", "timeout"])
def test_scores_of_trials_that_ended_by_themselves_count_in_full(status: str) -> None:
    tpe = model()
    tpe.tell(ask(tpe), 0.4, {}, status)
    tpe.tell(candidate("a", 32), 0.5, {}, status)
    assert states(tpe) == [TrialState.COMPLETE] * 2


def test_a_stopped_trial_ranks_behind_finished_ones() -> None:
    tpe = model()
    tpe.tell(candidate("a", 32), 0.99, {}, "stopped", epochs=1)
    tpe.tell(candidate("b", 32), 0.5, {}, "completed")
    assert tpe._study.best_value == 0.5


def test_candidates_of_another_space_are_left_out() -> None:
    tpe = model()
    tpe.tell(candidate("zzz", 32), 0.9, {}, "completed")
    tpe.tell(candidate("a", 999), 0.9, {}, "completed")
    tpe.tell(candidate("a", 32, "unknown"), 0.9, {}, "completed")
    assert tpe._study.trials == []


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"lr": 5.0, "epochs": 400}, {"tune.lr": 0.1, "tune.epochs": 40}),
        ({"lr": 1e-9, "epochs": 0}, {"tune.lr": 1e-4, "tune.epochs": 1}),
        ({"lr": 0.02}, {"tune.lr": 0.02, "tune.epochs": 10}),
        ({"lr": "high", "epochs": True}, {}),
    ],
)
def test_values_outside_the_ranges_are_brought_in(
    overrides: dict[str, Any], wanted: dict[str, float]
) -> None:
    tpe = model()
    tpe.tell(candidate("a", 32, "tune", **overrides), 0.5, {}, "completed")
    params = tpe._study.trials[0].params
    assert {name: value for name, value in params.items() if "." in name} == wanted


def test_a_choice_that_is_not_offered_is_left_out() -> None:
    tpe = model()
    tpe.tell(candidate("a", 32, "probe", loss="focal"), 0.5, {}, "completed")
    assert set(tpe._study.trials[0].params) == {"triple", "strategy"}


def test_feasible_candidates_are_preferred_to_better_ones() -> None:
    tpe = model()
    sides, rates = (32, 64), (0.002, 0.01, 0.02, 0.05)
    for side, lr in itertools.product(sides, rates):
        tpe.tell(candidate("a", side, lr=lr), 0.9, {"size_mb<=1": 5.0}, "completed")
        tpe.tell(candidate("b", side, lr=lr), 0.5, {"size_mb<=1": -0.5}, "completed")
        tpe.tell(candidate("c", side, lr=lr), 0.4, {"size_mb<=1": 9.0}, "completed")
    names = [ask(tpe, number).architecture for number in range(12)]
    assert names.count("b") > names.count("a") + names.count("c")


def test_violations_that_are_no_number_are_left_out() -> None:
    tpe = model()
    tpe.tell(candidate("a", 32), 0.5, {"a<=1": float("nan"), "b<=1": 2.0}, "completed")
    assert tpe._study.trials[0].constraints == {"b<=1": 2.0}


scores = st.none() | st.sampled_from([float("nan"), float("inf"), float("-inf")]) | st.floats(0, 1)
endings = st.tuples(scores, st.sampled_from(["completed", "stopped", "failed", "timeout"]), st.booleans())


@settings(max_examples=15, deadline=None)
@given(ends=st.lists(endings, max_size=6))
def test_no_trial_is_left_running(ends: list[tuple[float | None, str, bool]]) -> None:
    tpe = model()
    for number, (score, status, own) in enumerate(ends):
        tried = ask(tpe, number) if own else candidate("abc"[number % 3], 32, lr=0.001 * (number + 1))
        tpe.tell(tried, score, {}, status, epochs=number)
    assert TrialState.RUNNING not in states(tpe)
    assert TrialState.WAITING not in states(tpe)
    assert all(trial.value == trial.value for trial in tpe._study.trials if trial.value is not None)


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_no_score_is_a_failure(score: float | None) -> None:
    tpe = model()
    tpe.tell(ask(tpe), score, {}, "completed")
    tpe.tell(candidate("a", 32), score, {}, "completed")
    assert states(tpe) == [TrialState.FAIL]
