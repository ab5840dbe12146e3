from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.candidate import Candidate
from automl.records import INTERRUPTED
from automl.search import Proposer
from tests.search.runs import SPACE, candidate, numbered, quality

POOL = [candidate(name, side, how) for side in (64, 32) for name in "abc" for how in ("tune", "probe")]
#: Candidates that Optuna does not make up itself.
APART = [candidate(name, side, "tune") for side in (96, 128, 160, 192, 224, 256) for name in "abc"]


def play(
    proposer: Proposer,
    trials: int,
    *,
    workers: int = 1,
    order: random.Random | None = None,
    seconds_left: float | None = None,
) -> list[Candidate]:
    """Run trials with so many workers; of those that run, ``order`` draws which one ends next."""
    order = order or random.Random(0)
    given_out: list[Candidate] = []
    running: list[Candidate] = []
    while True:
        while len(running) < workers and len(given_out) < trials:
            proposed = proposer.propose(running, seconds_left)
            if proposed is None:
                break
            given_out.append(proposed)
            running.append(proposed)
        if not running:
            return given_out
        ended = running.pop(order.randrange(len(running)))
        proposer.observe(ended, quality(ended))


def ids(candidates: list[Candidate]) -> list[str]:
    return [c.id for c in candidates]


def explored(candidates: list[Candidate], pool: list[Candidate]) -> list[Candidate]:
    known = {c.id for c in pool}
    return [c for c in candidates if c.id not in known]


# The pool and Optuna take turns


def test_without_a_space_the_pool_is_given_out_in_its_order() -> None:
    proposer = Proposer(numbered(4))
    assert play(proposer, 99) == numbered(4)
    assert proposer.done


def test_repeated_candidates_of_the_pool_come_once() -> None:
    first, second = numbered(2)
    assert play(Proposer([first, second, first]), 99) == [first, second]


def test_the_best_of_the_pool_come_first() -> None:
    proposer = Proposer(POOL, space=SPACE, pool_first=5, explore_share=1.0)
    assert play(proposer, 5) == POOL[:5]


def test_optuna_waits_for_results() -> None:
    proposer = Proposer(POOL, space=SPACE, pool_first=0, explore_share=1.0)
    assert [proposer.propose() for _ in range(8)] == POOL[:8]


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_optuna_gets_its_share_after_the_first(share: float, wanted: int) -> None:
    tried = play(Proposer(APART, space=SPACE, pool_first=4, explore_share=share), 16)
    assert tried[:4] == APART[:4]
    assert len(explored(tried[4:], APART)) == wanted


def test_what_the_pool_gives_between_stays_in_its_order() -> None:
    tried = play(Proposer(APART, space=SPACE, pool_first=3, explore_share=0.5), 14)
    made_up = explored(tried, APART)
    assert [c for c in tried if c not in made_up] == APART[: 14 - len(made_up)]


def test_optuna_goes_on_when_the_pool_is_used_up() -> None:
    tried = play(Proposer(POOL[:3], space=SPACE, explore_share=0.1), 10)
    assert tried[:3] == POOL[:3]
    assert len(explored(tried, POOL[:3])) == 7


def test_the_pool_goes_on_when_optuna_has_nothing_new() -> None:
    space = {"triples": [("a", 1, "fp32")], "strategies": ["tune"], "ranges": {}}
    proposer = Proposer(numbered(9), space=space, pool_first=1, explore_share=1.0)
    assert play(proposer, 99) == numbered(9)
    assert proposer.done


def test_a_space_that_is_used_up_ends_the_search() -> None:
    space = {"triples": [("a", 1, "fp32"), ("a", 2, "fp32")], "strategies": ["tune", "probe"], "ranges": {}}
    proposer = Proposer([], space=space, explore_share=1.0)
    tried = play(proposer, 99)
    assert sorted(ids(tried)) == sorted(ids(numbered(2) + numbered(2, "probe")))
    assert proposer.propose() is None
    assert proposer.done


@settings(max_examples=8, deadline=None)
@given(
    share=st.floats(0, 1),
    first=st.integers(0, 8),
    batch=st.none() | st.integers(1, 4),
    workers=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_nothing_is_given_out_twice(
    share: float, first: int, batch: int | None, workers: int, seed: int
) -> None:
    proposer = Proposer(
        POOL[:5],
        space=SPACE,
        seed=seed,
        explore_share=share,
        pool_first=first,
        deterministic_batch=batch,
        max_trials=14,
    )
    tried = ids(play(proposer, 99, workers=workers, order=random.Random(seed)))
    assert len(set(tried)) == len(tried)
    assert len(tried) == (14 if share > 0 else 5)


def test_busy_candidates_are_not_given_out() -> None:
    first, second, third = numbered(3)
    proposer = Proposer([first, second, third])
    assert proposer.propose(busy=[first]) == second
    assert proposer.propose(busy=[first, second]) == third
    assert proposer.propose(busy=[first]) is None
    assert not proposer.done
    assert proposer.propose() == first


def test_waiting_lists_what_has_no_result_yet() -> None:
    first, second = numbered(2)
    proposer = Proposer([first, second])
    proposer.propose(), proposer.propose()
    assert proposer.waiting == (first, second)
    proposer.observe(first, 0.5)
    assert proposer.waiting == (second,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"explore_share": 1.5}, "explore_share is 1.5"),
        ({"explore_share": float("nan")}, "explore_share is nan"),
        ({"deterministic_batch": 0}, "deterministic_batch is 0"),
        ({"max_trials": 0}, "max_trials is 0"),
        ({"skip_after": 0}, "skip_after is 0"),
        ({"space": {"triple": []}}, "unknown key 'triple'"),
    ],
)
def test_parameters_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Proposer(POOL, **options)


# How many


def test_max_trials_counts_proposals() -> None:
    proposer = Proposer(numbered(9), max_trials=3)
    assert not proposer.done
    assert play(proposer, 99) == numbered(3)
    assert proposer.done


@pytest.mark.parametrize("batch", [None, 2])
def test_max_trials_counts_past_trials_too(batch: int | None) -> None:
    proposer = Proposer(numbered(9), max_trials=5, deterministic_batch=batch)
    for past in numbered(3):
        proposer.observe(past, 0.5)
    assert play(proposer, 99) == numbered(9)[3:5]


# Learning


def test_an_id_stands_for_a_candidate_that_was_proposed() -> None:
    proposer = Proposer(numbered(2), space=SPACE)
    first = proposer.propose()
    assert first is not None
    proposer.observe(first.id, 0.5)
    assert proposer.waiting == ()
    with pytest.raises(KeyError, match="was not proposed here"):
        proposer.observe("a@2/fp32/tune", 0.5)


def test_optuna_moves_to_what_scores_well() -> None:
    proposer = Proposer([], space=SPACE, explore_share=1.0, seed=1)
    tried = play(proposer, 30)
    assert sum(map(quality, tried[-10:])) > sum(map(quality, tried[:10]))


def test_another_seed_explores_otherwise() -> None:
    first, again, other = (ids(play(Proposer(POOL[:4], space=SPACE, seed=seed), 14)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_number_are_not_learned_from(score: float | None) -> None:
    proposer = Proposer(POOL, space=SPACE, pool_first=0, explore_share=1.0)
    for tried in POOL[:8]:
        assert proposer.propose() == tried
        proposer.observe(tried, score)
    assert proposer.propose() == POOL[8]  # Optuna would need three results


# Deterministic rounds


def in_rounds(batch: int = 3, **options: Any) -> Proposer:
    options = {"max_trials": 14, "pool_first": 4, "explore_share": 0.6, "seed": 3, **options}
    return Proposer(POOL, space=SPACE, deterministic_batch=batch, **options)


def test_a_round_opens_when_the_one_before_is_known() -> None:
    proposer = in_rounds(3)
    first = [proposer.propose() for _ in range(3)]
    assert first == POOL[:3]
    assert proposer.propose() is None
    for tried in (POOL[2], POOL[0]):
        proposer.observe(tried, 0.5)
        assert proposer.propose() is None
    proposer.observe(POOL[1], 0.5)
    assert proposer.propose() == POOL[3]


@settings(max_examples=10, deadline=None)
@given(order=st.randoms(use_true_random=False), workers=st.integers(1, 5))
def test_who_ends_first_does_not_matter_in_rounds(order: random.Random, workers: int) -> None:
    assert ids(play(in_rounds(), 99, workers=workers, order=order)) == _sequence()


_known: list[str] = []


def _sequence() -> list[str]:
    if not _known:
        _known.extend(ids(play(in_rounds(), 99)))
    return _known


def test_a_round_has_proposals_of_both() -> None:
    tried = _sequence()
    assert len(tried) == 14
    assert len(set(tried) - set(ids(POOL))) >= 4


@settings(max_examples=10, deadline=None)
@given(finished=st.sets(st.integers(0, 13)), interrupted=st.booleans())
def test_resumed_rounds_go_on_as_if_nothing_had_happened(finished: set[int], interrupted: bool) -> None:
    # Whatever a broken-off run left of its last round: the others run, and in the same order.
    rounds = 3 * (max(finished, default=-1) // 3)
    finished = set(range(rounds)) | finished
    whole = play(in_rounds(), 99)
    resumed = in_rounds()
    for number, tried in enumerate(whole):
        if number in finished:
            resumed.observe(tried, quality(tried))
        elif interrupted:
            resumed.observe(tried, 0.9, status="stopped", error=INTERRUPTED)
    rest = play(resumed, 99, workers=3)
    assert ids(rest) == [tried.id for number, tried in enumerate(whole) if number not in finished]


def test_time_and_cost_do_not_matter_in_rounds() -> None:
    proposer = in_rounds(cost_hint=lambda tried: 1000.0)
    assert ids(play(proposer, 99, seconds_left=1.0)) == _sequence()


# Resuming as trials come


def test_a_resumed_search_repeats_nothing() -> None:
    past = play(Proposer(POOL, space=SPACE, explore_share=0.5), 12)
    resumed = Proposer(POOL, space=SPACE, explore_share=0.5)
    for tried in past:
        resumed.observe(tried, quality(tried))
    rest = play(resumed, 12)
    assert len(rest) == 12
    assert not set(ids(rest)) & set(ids(past))


def test_a_resumed_search_counts_what_optuna_had() -> None:
    past = play(Proposer(APART, space=SPACE, pool_first=4, explore_share=0.5), 8)
    resumed = Proposer(APART, space=SPACE, pool_first=4, explore_share=0.5)
    for tried in past:
        resumed.observe(tried, quality(tried))
    rest = play(resumed, 8)
    assert len(explored(past, APART)) == 2
    assert len(explored(rest, APART)) == 4


@pytest.mark.parametrize("batch", [None, 2])
def test_an_interrupted_trial_of_the_past_runs_again(batch: int | None) -> None:
    proposer = Proposer(numbered(3), deterministic_batch=batch)
    proposer.observe(numbered(3)[0], 0.7, status="stopped", error=INTERRUPTED)
    assert proposer.propose() == numbered(3)[0]


@pytest.mark.parametrize("status", ["stopped", "failed", "timeout"])
def test_a_trial_that_ended_otherwise_does_not_run_again(status: str) -> None:
    proposer = Proposer(numbered(3))
    proposer.observe(numbered(3)[0], None, status=status, error="ValueError: bad")
    assert proposer.propose() == numbered(3)[1]


# Failures


def fail(proposer: Proposer, tried: Candidate, error: str = "ValueError: bad") -> None:
    proposer.observe(tried, None, status="failed", error=error)


def test_a_strategy_that_keeps_failing_is_given_up() -> None:
    bad = [candidate(name, 32, "bad") for name in "abcd"]
    good = [candidate(name, 32, "good") for name in "abcd"]
    proposer = Proposer([*bad, *good], skip_after=3)
    for tried in bad[:3]:
        assert proposer.propose() == tried
        fail(proposer, tried)
    assert play(proposer, 99) == good


def test_an_architecture_that_keeps_failing_is_given_up() -> None:
    bad = [candidate("bad", 32, how) for how in ("r", "s", "t")]
    good = [candidate("a", 32, how) for how in ("r", "s", "t")]
    proposer = Proposer([*bad, *good], skip_after=2)
    for tried in bad[:2]:
        fail(proposer, tried)
    assert play(proposer, 99) == good


def test_a_pair_that_keeps_failing_is_given_up_alone() -> None:
    pair = [candidate("a", side, "tune") for side in (32, 64, 96, 128)]
    others = [candidate("a", 32, "probe"), candidate("b", 32, "tune")]
    later = [candidate("a", 64, "probe"), candidate("b", 64, "tune")]
    proposer = Proposer([*others, *pair, *later], skip_after=3)
    for tried in others:
        proposer.observe(tried, 0.5)
    for tried in pair[:3]:
        fail(proposer, tried)
    assert play(proposer, 99) == later


def test_numbers_in_the_error_do_not_make_it_another() -> None:
    bad = [candidate(name, 32, "bad") for name in "abcd"]
    proposer = Proposer(bad, skip_after=3)
    for number, tried in enumerate(bad[:3]):
        fail(proposer, tried, f"RuntimeError: size {number} of layer {7 * number}")
    assert proposer.propose() is None
    assert proposer.done


def test_different_errors_are_no_habit() -> None:
    bad = [candidate(name, 32, "bad") for name in "abcd"]
    proposer = Proposer(bad, skip_after=3)
    for word, tried in zip(("loss", "shape", "memory"), bad, strict=False):
        fail(proposer, tried, f"RuntimeError: {word}")
    assert proposer.propose() == bad[3]


@pytest.mark.parametrize("status", ["completed", "stopped", "timeout"])
def test_what_worked_once_is_not_given_up(status: str) -> None:
    pool = [candidate(name, 32, "tune") for name in "abcde"]
    proposer = Proposer(pool, skip_after=3)
    proposer.observe(pool[0], 0.5, status=status)
    for tried in pool[1:4]:
        fail(proposer, tried)
    assert proposer.propose() == pool[4]


def test_a_late_success_takes_a_strategy_back() -> None:
    pool = [candidate(name, 32, "tune") for name in "abcde"]
    proposer = Proposer(pool, skip_after=3)
    running = [proposer.propose() for _ in range(4)]
    assert running == pool[:4]
    for tried in pool[:3]:
        fail(proposer, tried)
    assert proposer.propose() is None
    assert not proposer.done  # the fourth may work yet
    proposer.observe(pool[3], 0.5)
    assert proposer.propose() == pool[4]


def test_a_late_failure_leaves_nothing() -> None:
    pool = [candidate(name, 32, "tune") for name in "abcde"]
    proposer = Proposer(pool, skip_after=3)
    for _ in range(4):
        proposer.propose()
    for tried in pool[:4]:
        fail(proposer, tried)
    assert proposer.propose() is None
    assert proposer.done


def test_optuna_does_not_make_up_what_is_given_up() -> None:
    proposer = Proposer([], space=SPACE, explore_share=1.0, skip_after=2)
    for name in "abc":
        fail(proposer, candidate(name, 32, "probe"))
    for name in "abc":
        proposer.observe(candidate(name, 32, "tune"), quality(candidate(name)))
    assert {tried.strategy for tried in play(proposer, 12)} == {"tune"}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.none() | st.integers(1, 4),
    space=st.booleans(),
    chance=st.floats(0, 1),
)
def test_done_is_never_taken_back(seed: int, batch: int | None, space: bool, chance: float) -> None:
    small = {"triples": [("a", 32, "fp32"), ("b", 32, "fp32")], "strategies": ["tune", "probe"], "ranges": {}}
    pool = [candidate(name, side, how) for name in "ab" for side in (32, 64) for how in ("tune", "probe")]
    draw = random.Random(seed)
    proposer = Proposer(pool, space=small if space else None, deterministic_batch=batch, skip_after=2)
    running: list[Candidate] = []
    ended = False
    for _ in range(60):
        if len(running) < 3 and (proposed := proposer.propose()) is not None:
            assert not ended
            running.append(proposed)
        elif running:
            tried = running.pop(draw.randrange(len(running)))
            if draw.random() < chance:
                fail(proposer, tried)
            else:
                proposer.observe(tried, 0.5)
        ended = ended or proposer.done
    assert ended
    assert not running


# Costs


def test_what_cannot_finish_in_time_is_kept_back() -> None:
    cheap, dear, middle = numbered(3)
    costs = {cheap.id: 1.0, dear.id: 100.0, middle.id: 10.0}
    proposer = Proposer([dear, middle, cheap], cost_hint=lambda tried: costs[tried.id])
    assert proposer.propose(seconds_left=20.0) == middle
    assert proposer.propose(seconds_left=5.0) == cheap
    assert proposer.propose(seconds_left=5.0) is None
    assert not proposer.done
    assert proposer.propose(seconds_left=100.0) == dear


def test_without_a_time_limit_costs_do_not_matter() -> None:
    proposer = Proposer(numbered(2), cost_hint=lambda tried: 1e9)
    assert play(proposer, 99) == numbered(2)


@pytest.mark.parametrize("unknown", [float("nan"), float("inf")])
def test_an_unknown_cost_keeps_nothing_back(unknown: float) -> None:
    proposer = Proposer(numbered(1), cost_hint=lambda tried: unknown)
    assert proposer.propose(seconds_left=0.1) == numbered(1)[0]


def test_a_hint_that_has_learned_lets_candidates_come() -> None:
    cost = [50.0]
    proposer = Proposer(numbered(1), cost_hint=lambda tried: cost[0])
    assert proposer.propose(seconds_left=10.0) is None
    cost[0] = 5.0
    assert proposer.propose(seconds_left=10.0) == numbered(1)[0]


def test_optuna_keeps_to_the_time_that_is_left() -> None:
    proposer = Proposer(
        POOL[:4],
        space=SPACE,
        explore_share=1.0,
        cost_hint=lambda tried: 1.0 if tried.resolution == 32 else 9.0,
    )
    tried = play(proposer, 12, seconds_left=5.0)
    assert len(tried) == 12
    assert {c.resolution for c in tried} == {32}
