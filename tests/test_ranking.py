"""From the feasibility table to an ordered pool, and to the first trials."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.candidate import Candidate
from automl.ranking import (
    FROZEN_METHODS,
    RESOLUTIONS,
    PoolContext,
    _recipe,
    applicable,
    build_pool,
    catalog_order,
    distinct,
    frozen_seconds,
    landmark_candidates,
    order_pool,
    pool_frame,
    resolutions_for,
    search_images,
    second_views,
)
from search_spaces.backbones import Backbone
from strategy_pool import strategy as strategies
from strategy_pool.prior import rank
from strategy_pool.strategy import Strategy, load_catalog

CATALOG = load_catalog()
BACKBONES = [Backbone(n, "none", n, True) for n in ("big", "small")] + [
    Backbone("own", "scratch", "own", False)
]
WORK = {"big": 100.0, "small": 20.0, "own": 10.0}


def table(
    sides: tuple[int, ...] = (64, 96, 128, 224), precisions: tuple[str, ...] = ("fp32",), feasible: Any = True
) -> pd.DataFrame:
    """A feasibility table; ``feasible(name, side, precision)`` says what can be had."""
    rows = []
    for backbone, side, precision in itertools.product(BACKBONES, sides, precisions):
        possible = feasible(backbone.name, side, precision) if callable(feasible) else feasible
        rows.append(
            {
                "architecture": backbone.name,
                "resolution": side,
                "precision": precision,
                "latency_ms": 1.0,
                "size_mb": 4.0,
                "macs_m": WORK[backbone.name] * (side / 224) ** 2,
                "feasible": possible,
            }
        )
    return pd.DataFrame(rows)


def ordered(frame: pd.DataFrame, **changes: Any) -> pd.DataFrame:
    context = {"images": 1000, "seconds": 60.0, "size": 96, "landmarks": {}, **changes}
    return order_pool(frame, PoolContext(**context))


def ranked(feasibility: pd.DataFrame, size: int = 96) -> pd.DataFrame:
    pool = build_pool(BACKBONES, CATALOG, feasibility, size)
    return rank(pool_frame(pool, CATALOG, feasibility, BACKBONES))


def test_the_pool_and_the_ranking_know_the_same_frozen_methods() -> None:
    assert set(FROZEN_METHODS) == set(strategies.FROZEN_METHODS)


def test_what_does_the_same_under_another_name_is_left_out() -> None:
    side, native = CATALOG["logistic_multitap_224"], CATALOG["logistic_multitap"]
    assert _recipe(side) == _recipe(native)
    landmark, twin = (Candidate("big", 224, "fp32", s.name) for s in (native, side))
    other, tuned = Candidate("big", 128, "fp32", side.name), Candidate("big", 224, "fp32", "full_plain")
    pool = [twin, other, tuned, landmark]
    assert distinct(pool, CATALOG, [landmark]) == [other, tuned, landmark]
    assert distinct(pool, CATALOG) == [twin, other, tuned]
    changed = Candidate("big", 224, "fp32", native.name, (("strength", 0.5),))
    assert distinct([twin], CATALOG, [changed]) == [twin]
    assert distinct([Candidate("big", 96, "fp32", "of_a_pool_before"), other], CATALOG) == [other]


def test_the_catalog_order_asks_nothing_else() -> None:
    frame = ranked(table()).sample(frac=1.0, random_state=0)
    found = catalog_order(frame)
    assert list(found["order"]) == sorted(frame["order"])
    assert set(found["candidate"]) == set(frame["candidate"])
    shuffled = catalog_order(frame.assign(predicted_score=0.0).sample(frac=1.0, random_state=1))
    assert list(found["candidate"]) == list(shuffled["candidate"])


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 1024))
def test_sides_to_try_suit_the_stored_size(size: int) -> None:
    sides = resolutions_for(size)
    assert sides and sides == sorted(set(sides)) and set(sides) <= set(RESOLUTIONS)
    assert max(sides) <= max(64, 1.75 * size + 1)
    assert resolutions_for(size) == sides


def test_large_pictures_are_not_tried_tiny() -> None:
    assert min(resolutions_for(256)) == 96 and max(resolutions_for(256)) == 224
    assert resolutions_for(32) == [32, 48, 64]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**24 - 1), st.sampled_from([32, 64, 96, 224]))
def test_the_pool_holds_only_feasible_rows(bits: int, size: int) -> None:
    sides, precisions = (64, 96, 128, 224), ("fp32", "int8")
    keys = list(itertools.product(WORK, sides, precisions))
    possible = {key for number, key in enumerate(keys) if bits >> number & 1}
    pool = build_pool(BACKBONES, CATALOG, table(sides, precisions, lambda *key: key in possible), size)
    assert {c.triple for c in pool} <= possible
    assert len({c.id for c in pool}) == len(pool)
    named = {b.name: b for b in BACKBONES}
    assert all(applicable(CATALOG[c.strategy], named[c.architecture]) for c in pool)
    assert {(c.architecture, c.precision) for c in pool} == {(name, p) for name, _, p in possible}


def test_networks_from_scratch_and_pretrained_ones_have_recipes_of_their_own() -> None:
    for backbone, strategy in itertools.product(BACKBONES, CATALOG.values()):
        assert applicable(strategy, backbone) == (backbone.pretrained == (strategy.method != "scratch"))


def test_a_recipe_that_names_a_side_gets_the_nearest_feasible_one() -> None:
    named = {name: CATALOG[name] for name in ("full_224", "full_96", "logistic_last_224")}
    pool = build_pool(BACKBONES, named, table((64, 128)), 96)
    sides = {c.strategy: set() for c in pool}  # type: ignore[var-annotated]
    for candidate in pool:
        sides[candidate.strategy].add(candidate.resolution)
    assert sides["full_224"] == {128}
    assert sides["full_96"] == {64}  # both are as near; the cheaper one
    assert sides["logistic_last_224"] == {128}


def test_recipes_that_differ_in_their_side_alone_are_one_candidate_where_it_is_the_same() -> None:
    named = {name: CATALOG[name] for name in ("logistic_multitap", "logistic_multitap_224")}
    both = build_pool(BACKBONES, named, table((128, 224)), 128)
    assert {(c.strategy, c.resolution) for c in both} == {
        ("logistic_multitap", 128),
        ("logistic_multitap_224", 224),
    }
    same = build_pool(BACKBONES, named, table((224,)), 256)
    assert {c.strategy for c in same} == {"logistic_multitap"}


def test_second_views_are_the_best_landmarks_at_another_side() -> None:
    name, other = (b.name for b in [b for b in BACKBONES if b.pretrained][:2])

    def views(side: int, sides: tuple[int, ...], seconds: float | None = None) -> list[tuple[str, int]]:
        scores = {
            Candidate(name, side, "fp32", "logistic_multitap"): 0.8,
            Candidate(other, side, "fp32", "logistic_multitap"): 0.9,
        }
        found = second_views(scores, table(sides), images=2000, classes=5, core_seconds=seconds)
        return [(c.architecture, c.resolution) for c in found]

    assert views(96, (64, 96, 128, 224)) == [(other, 224), (name, 224)]
    assert views(224, (96, 128, 192, 224)) == [(other, 128), (name, 128)]
    assert views(224, (224,)) == []
    # "big" has no time for 224 pixels, "small" has.
    assert (name, other) == ("big", "small")
    assert views(128, (96, 128, 192, 224), 10.0) == [(other, 224), (name, 192)]
    assert views(128, (96, 128, 192, 224), 0.1) == [(other, 96), (name, 96)]


def test_native_recipes_stay_below_the_stored_size() -> None:
    pool = build_pool(BACKBONES, CATALOG, table(), 100)
    plain = {c.resolution for c in pool if c.strategy == "full_plain" and c.architecture == "small"}
    assert plain == {64, 96}
    frozen = {c.resolution for c in pool if c.strategy == "logistic_last" and c.architecture == "small"}
    assert frozen == {96}


def test_the_frame_has_the_costs_of_each_row() -> None:
    feasibility = table()
    pool = build_pool(BACKBONES, CATALOG, feasibility, 96)
    frame = pool_frame(pool, CATALOG, feasibility, BACKBONES)
    assert frame["candidate"].tolist() == [c.id for c in pool]
    row = frame[frame["architecture"] == "big"].iloc[0]
    assert row["macs_m"] == pytest.approx(WORK["big"] * (row["resolution"] / 224) ** 2)
    assert bool(row["pretrained"]) and not frame[frame["architecture"] == "own"]["pretrained"].any()
    unknown = pool_frame(pool, CATALOG, feasibility.iloc[:0], BACKBONES)
    assert unknown["latency_ms"].isna().all() and len(unknown) == len(pool)


@pytest.mark.parametrize("landmarks", [{}, {"big": 0.9, "small": 0.5}])
def test_the_order_keeps_every_row_and_is_deterministic(landmarks: dict[str, float]) -> None:
    frame = ranked(table(precisions=("fp32", "int8")))
    first = ordered(frame, landmarks=landmarks)
    assert sorted(first["candidate"]) == sorted(frame["candidate"])
    for seed in range(3):
        again = ordered(frame.sample(frac=1, random_state=seed), landmarks=landmarks)
        assert again["candidate"].tolist() == first["candidate"].tolist()


def test_an_empty_pool_stays_empty() -> None:
    frame = pd.DataFrame(columns=["candidate", "predicted_score"])
    assert ordered(frame).empty and "expected" in ordered(frame).columns


def test_backbones_whose_features_suit_the_task_come_first() -> None:
    frame = ranked(table())
    for good, bad in (("big", "small"), ("small", "big")):
        out = ordered(frame, landmarks={good: 0.95, bad: 0.35}, seconds=None)
        best = out.groupby("architecture")["expected"].max()
        assert best[good] > best[bad]
        assert out.iloc[0]["architecture"] != bad
        assert "frozen features reach 0.950" in out[out["architecture"] == good].iloc[0]["why"]


def test_a_backbone_without_a_landmark_counts_as_the_worst_one() -> None:
    out = ordered(ranked(table()), landmarks={"big": 0.9})
    expected = out.groupby("architecture")["expected"].max()
    known = (
        ordered(ranked(table()), landmarks={"big": 0.9, "small": 0.9})
        .groupby("architecture")["expected"]
        .max()
    )
    assert expected["small"] == pytest.approx(known["small"])


def test_where_time_is_short_heavy_training_waits_and_says_why() -> None:
    frame = ranked(table())
    tuned = frame[~frame["method"].isin(FROZEN_METHODS)]
    short, long = (
        ordered(frame, seconds=seconds).set_index("candidate")["expected"] for seconds in (5.0, 1e6)
    )
    assert (short[tuned["candidate"]] <= long[tuned["candidate"]]).all()
    assert (short[tuned["candidate"]] < long[tuned["candidate"]]).any()
    out = ordered(frame, seconds=5.0)
    assert (
        out[out["architecture"].eq("big") & ~out["method"].isin(FROZEN_METHODS)]["why"]
        .str.contains("epochs fit")
        .any()
    )


def test_recipes_with_cheaper_epochs_lose_less_where_time_is_short() -> None:
    frame = ranked(table(sides=(96,))).assign(predicted_score=0.5)
    out = ordered(frame, seconds=3.0)
    of = out[out["architecture"].eq("big")].set_index("strategy")["expected"]
    assert of["last_stages_5_progressive"] > of["probe_then_full_progressive"] > of["probe_then_full_light"]
    enough = ordered(frame, seconds=1e6)
    of = enough[enough["architecture"].eq("big")].set_index("strategy")["expected"]
    assert of["last_stages_5_progressive"] == of["probe_then_full_light"]


def test_where_features_tell_nothing_the_larger_network_is_tuned_first() -> None:
    out = ordered(ranked(table()), landmarks={"big": 0.6, "small": 0.61}, seconds=1e6)
    tuned = out[~out["method"].isin(FROZEN_METHODS) & out["pretrained"]]
    assert tuned.iloc[0]["architecture"] == "big"
    assert (
        ordered(ranked(table()), landmarks={"big": 0.4, "small": 0.61}, seconds=1e6).iloc[0]["architecture"]
        == "small"
    )


def test_int8_waits_behind_the_same_recipe_in_fp32() -> None:
    out = ordered(ranked(table(precisions=("fp32", "int8"))))
    value = out.set_index(["architecture", "resolution", "strategy", "precision"])["expected"]
    fp32, int8 = value.xs("fp32", level="precision"), value.xs("int8", level="precision")
    assert (fp32 - int8.reindex(fp32.index)).to_numpy() == pytest.approx(0.01)


def test_the_first_candidates_are_a_portfolio() -> None:
    frame = ranked(table())
    frame = frame.assign(predicted_score=frame["predicted_score"] * 0.01)  # nearly equal expectations
    head = ordered(frame, seconds=None).head(8)
    assert head["architecture"].nunique() == 3
    assert head["method"].nunique() >= 4
    assert head["strategy"].nunique() >= 6


def test_a_clearly_better_candidate_is_first_all_the_same() -> None:
    frame = ranked(table())
    chosen = frame.iloc[-1]["candidate"]
    frame.loc[frame["candidate"] == chosen, "predicted_score"] = 5.0
    assert ordered(frame).iloc[0]["candidate"] == chosen


def landmarks(feasibility: pd.DataFrame, core_seconds: float | None = None, **changes: Any) -> list[Any]:
    return landmark_candidates(
        changes.get("backbones", BACKBONES),
        changes.get("catalog", CATALOG),
        feasibility,
        images=1000,
        classes=2,
        core_seconds=core_seconds,
    )


def test_landmarks_are_frozen_features_of_every_pretrained_backbone() -> None:
    first = landmarks(table())
    assert {c.architecture for c in first} == {"big", "small"}
    assert {CATALOG[c.strategy].method for c in first} == {"logistic"}
    assert (first[0].architecture, first[0].resolution) == ("small", 64)  # the cheapest of all
    assert [CATALOG[c.strategy].taps for c in first] == ["last", "multi", "multi"]
    assert [(c.architecture, c.resolution) for c in first[1:]] == [("big", 224), ("small", 224)]


def test_landmarks_fit_into_their_share_of_the_time() -> None:
    rate = 18_000.0
    for seconds in (1e-6, 0.5, 2.0, 8.0):
        for candidate in landmarks(table(), core_seconds=seconds)[1:]:
            work = 1000 * WORK[candidate.architecture] * (candidate.resolution / 224) ** 2 / rate
            assert work <= seconds / 2 or candidate.resolution == 64


def test_landmarks_are_feasible_and_prefer_fp32() -> None:
    only_int8 = table(precisions=("fp32", "int8"), feasible=lambda n, _s, p: (p == "int8") == (n == "big"))
    first = landmarks(only_int8)
    assert {(c.architecture, c.precision) for c in first} == {("big", "int8"), ("small", "fp32")}
    assert first[0].architecture == "small"
    assert landmarks(table(feasible=False)) == []


def test_without_pretrained_backbones_or_recipes_there_are_no_landmarks() -> None:
    assert landmarks(table(), backbones=BACKBONES[2:]) == []
    tuned: dict[str, Strategy] = {n: s for n, s in CATALOG.items() if s.method != "logistic"}
    assert landmarks(table(), catalog=tuned) == []


def test_landmarks_are_not_repeated_where_one_side_is_left() -> None:
    first = landmarks(table((96,)))
    assert [(c.architecture, CATALOG[c.strategy].taps) for c in first] == [
        ("small", "last"),
        ("big", "multi"),
        ("small", "multi"),
    ]
    only = {n: s for n, s in CATALOG.items() if s.method != "logistic" or n == "logistic_multitap"}
    assert [c.architecture for c in landmarks(table((96,)), catalog=only)] == ["small", "big"]


def test_a_search_learns_from_what_the_time_allows() -> None:
    frame = table()

    def images(seconds: float | None, count: int = 500_000, classes: int = 10) -> int:
        return search_images(BACKBONES, frame, images=count, classes=classes, core_seconds=seconds)

    assert images(None) == images(1e6) == 500_000
    assert 1000 < images(5.0) < images(40.0) < 500_000
    assert images(20.0, classes=200) < images(20.0)
    assert images(0.001) == 1000  # however little time there is
    assert images(0.001, count=300) == 300
    mine = frame["architecture"].isin([b.name for b in BACKBONES if b.pretrained])
    cheapest = float(frame.loc[frame["feasible"] & mine, "macs_m"].min())
    assert 2 * frozen_seconds(images(20.0), 10, cheapest) <= 20.0
    nothing = frame.assign(feasible=False)
    assert search_images(BACKBONES, nothing, images=5000, classes=2, core_seconds=1.0) == 5000
    untrained = [b for b in BACKBONES if not b.pretrained]
    assert search_images(untrained, frame, images=5000, classes=2, core_seconds=1.0) == 5000
