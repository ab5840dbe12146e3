"""Rankers on made tables where the right answer is known: contract of each, floor, fallback, and judging."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategy_pool._encoding import Encoder, Neighbours
from strategy_pool.baselines import HistoryAverage, Learner, RandomOrder
from strategy_pool.evaluation import METHODS, evaluate, folds
from strategy_pool.learners import LambdaRank, Regression
from strategy_pool.left_out import predictions
from strategy_pool.ranker import FLOOR, Ranker, choose_shares, mix
from strategy_pool.ranking_metrics import ndcg, order_of
from strategy_pool.trial_table import TableError, TrialTable, trial_table

LEARNERS: dict[str, Callable[[], Learner]] = {
    **METHODS,
    "lambdarank": lambda: LambdaRank(trees=20),
    "regression": lambda: Regression(trees=20),
}


def sparse(tasks: int = 8, each: int = 40, seed: int = 0) -> TrialTable:
    """Every strategy is tried on one task only; its score follows its features, and the level its task."""
    rng = np.random.default_rng(seed)
    rows = []
    for task in range(tasks):
        for trial in range(each):
            lr, model = rng.uniform(-5, -1), rng.choice(["small", "large", "odd"])
            good = {"small": 0.3, "large": 0.6, "odd": 0.1}[model] - 0.15 * abs(lr + 3) + rng.normal(0, 0.02)
            rows.append((f"t{task}", f"s{task}-{trial}", good + task, 10.0**lr, model, task))
    columns = ["task", "strategy", "score", "strategy.lr", "strategy.model", "task.level"]
    return trial_table(pd.DataFrame(rows, columns=columns))


def flipping(tasks: int = 8, each: int = 20, seed: int = 0) -> TrialTable:
    """Which kind of strategy is good depends on the kind of the task, which the average cannot know."""
    rng = np.random.default_rng(seed)
    rows = [
        (
            f"t{task}",
            f"s{trial:02d}",
            (trial % 2 == task % 2) + 0.01 * trial + rng.normal(0, 0.02),
            trial % 2,
            task % 2,
        )
        for task in range(tasks)
        for trial in range(each)
    ]
    columns = ["task", "strategy", "score", "strategy.kind", "task.kind"]
    return trial_table(pd.DataFrame(rows, columns=columns))


def dense(tasks: int = 6, strategies: int = 12, seed: int = 0, noise: float = 0.05) -> TrialTable:
    """Every strategy on every task, each with its own level, and features that tell nothing."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0, 1, strategies)
    rows = [
        (f"t{t}", f"s{s:02d}", level[s] + rng.normal(0, noise), rng.normal())
        for t in range(tasks)
        for s in range(strategies)
    ]
    return trial_table(pd.DataFrame(rows, columns=["task", "strategy", "score", "strategy.noise"]))


@pytest.mark.parametrize("name", sorted(LEARNERS))
@pytest.mark.parametrize("table", [sparse(), dense(), dense(tasks=1), sparse(tasks=2, each=3)], ids=str)
def test_every_learner_predicts_one_number_per_row_and_the_same_for_a_seed(
    name: str, table: TrialTable
) -> None:
    shown = table.frame.drop(columns=["score", "value"])
    first = np.asarray(LEARNERS[name]().fit(table, 3).predict(shown))
    second = np.asarray(LEARNERS[name]().fit(table, 3).predict(shown))
    assert first.shape == (len(shown),)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_every_learner_takes_candidates_with_gaps_and_news(name: str) -> None:
    table = sparse()
    asked = pd.DataFrame(
        {
            "task": "new",
            "strategy": ["a", "b", "c"],
            "strategy.lr": [None, 1e-3, 1e-2],
            "strategy.model": ["unknown", None, "large"],
        }
    )
    assert np.isfinite(LEARNERS[name]().fit(table, 0).predict(asked)).all()


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_order_of_the_candidates_does_not_matter(name: str) -> None:
    table = sparse()
    fitted = LEARNERS[name]().fit(table, 0)
    shown = table.of(["t1"]).frame
    turned = fitted.predict(shown.iloc[::-1])
    np.testing.assert_allclose(np.asarray(turned)[::-1], fitted.predict(shown))


def test_the_history_average_is_the_mean_over_tasks_of_normalised_scores() -> None:
    rows = [("a", "x", 0.0), ("a", "y", 1.0), ("a", "z", 0.5), ("b", "x", 4.0), ("b", "y", 2.0)]
    fitted = HistoryAverage().fit(trial_table(pd.DataFrame(rows, columns=["task", "strategy", "score"])), 0)
    asked = pd.DataFrame({"strategy": ["x", "y", "z", "new"]})
    assert fitted.predict(asked).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5])


def test_a_new_strategy_takes_the_mean_of_its_neighbours_of_the_same_model() -> None:
    rows = [("t", f"s{i:02d}", float(i), float(i), "m" if i < 20 else "n") for i in range(40)]
    table = trial_table(
        pd.DataFrame(rows, columns=["task", "strategy", "score", "strategy.x", "strategy.model"])
    )
    asked = pd.DataFrame(
        {"strategy": ["new"] * 3, "strategy.x": [0.0, 39.0, 39.0], "strategy.model": ["m", "m", "n"]}
    )
    found = HistoryAverage().fit(table, 0).predict(asked) * 39
    assert found.tolist() == pytest.approx(
        [np.mean(range(10)), np.mean(range(10, 20)), np.mean(range(30, 40))]
    )


def test_gower_distance_by_hand() -> None:
    seen = pd.DataFrame({"x": [0.0, 10.0, 5.0], "c": ["a", "b", None]})
    encoder = Encoder().fit(seen, ["x", "c"])
    near = Neighbours(encoder.transform(seen), encoder.categorical)
    asked = encoder.transform(pd.DataFrame({"x": [2.5, None], "c": ["b", "a"]}))
    found = near.distances(near.ask(asked), np.arange(2), np.arange(3))
    np.testing.assert_allclose(found, [[(0.25 + 1) / 2, (0.75 + 0) / 2, 0.25], [0.0, 1.0, np.inf]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 30))
def test_looking_differences_up_changes_no_distance(seed: int, seen: int, asked: int) -> None:
    rng = np.random.default_rng(seed)
    columns = [
        rng.integers(0, 4, seen + asked),
        rng.integers(0, 9, seen + asked),
        rng.normal(size=seen + asked),
    ]
    encoded = np.stack(columns, axis=1).astype(np.float32)
    encoded[rng.random(encoded.shape) < 0.2] = np.nan
    with warnings.catch_warnings(action="error"):
        near = Neighbours(encoded[:seen], [0])
        among = rng.permutation(seen)[: max(1, seen // 2)]
        rows = rng.permutation(asked)[: max(1, asked // 2)]
        found = near.distances(near.ask(encoded[seen:]), rows, among)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("strategy_pool._encoding._FEW", -1)
            other = Neighbours(encoded[:seen], [0])
            plain = other.distances(other.ask(encoded[seen:]), rows, among)
        np.testing.assert_allclose(found, plain, atol=1e-5)


def test_an_unseen_category_and_a_missing_column_are_gaps() -> None:
    encoder = Encoder().fit(
        pd.DataFrame({"c": ["a", "b", "b"], "x": [1, 2, 3], "same": [1, 1, 1]}), ["c", "x", "same"]
    )
    assert encoder.columns == ["c", "x"]
    assert encoder.categorical == [0]
    found = encoder.transform(pd.DataFrame({"c": ["b", "a", "z", None]}))
    np.testing.assert_array_equal(found, [[0, np.nan], [1, np.nan], [np.nan, np.nan], [np.nan, np.nan]])


def test_the_ranker_learns_where_there_is_something_to_learn() -> None:
    ranker = Ranker().fit(flipping(), 0)
    assert ranker.shares.get(FLOOR, 0.0) < 1.0
    assert sum(ranker.shares.values()) == pytest.approx(1.0)
    assert ranker.gain[0] > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_ranker_is_the_history_average_where_there_is_not(seed: int) -> None:
    table = dense(seed=seed)
    shown = table.of(["t0"]).frame
    ranker = Ranker().fit(table, seed)
    average = HistoryAverage().fit(table, seed)
    assert ranker.shares == {FLOOR: 1.0}
    assert np.argsort(-ranker.predict(shown)).tolist() == np.argsort(-average.predict(shown)).tolist()


@pytest.mark.parametrize("table", [dense(tasks=2), sparse(tasks=2)], ids=["dense", "sparse"])
def test_with_too_few_tasks_the_ranker_is_the_history_average(table: TrialTable) -> None:
    assert Ranker().fit(table, 0).shares == {FLOOR: 1.0}


def test_without_features_the_ranker_is_the_history_average() -> None:
    table = dense()
    plain = trial_table(table.frame[["task", "strategy", "score"]])
    assert Ranker().fit(plain, 0).shares == {FLOOR: 1.0}


def test_reasons_name_what_the_order_follows() -> None:
    table = sparse()
    ranker = Ranker().fit(table.of(["t0", "t1", "t2"]), 0)
    ranker.shares = {"regression": 1.0}
    ranker.fitted = {"regression": Regression(trees=50).fit(table, 0)}
    shown = table.of(["t1"]).frame.sort_values("value", ascending=False).head(3)
    for reason in ranker.reasons(shown):
        assert "large as model +" in reason
    ranker.shares, ranker.fitted = {FLOOR: 1.0}, {FLOOR: HistoryAverage().fit(table, 0)}
    assert all("on past tasks" in reason for reason in ranker.reasons(shown))
    assert ranker.reasons(shown.assign(strategy="new")) == ["like its nearest that were tried"] * 3


def test_a_mixture_weighs_standardised_predictions_and_leaves_out_who_cannot_tell() -> None:
    predicted = {"a": np.array([1.0, 3.0]), "b": np.array([100.0, 0.0]), "c": np.array([np.nan, np.nan])}
    assert mix(predicted, {"a": 0.75, "b": 0.25}).tolist() == pytest.approx([-0.5, 0.5])
    assert mix(predicted, {"c": 1.0}).tolist() == [0.0, 0.0]


def test_an_average_alone_orders_as_the_average_does() -> None:
    rng = np.random.default_rng(0)
    values = rng.choice(
        [0.1 + 0.2, 0.3, 0.5, 0.6 - 0.1, np.nan], 200
    )  # two pairs that rounding alone tells apart
    alone = mix({FLOOR: values}, {FLOOR: 1.0})
    known = ~np.isnan(values)
    orders = [order_of(of[known], np.random.default_rng(3)) for of in (values, alone)]
    assert orders[0].tolist() == orders[1].tolist()
    near = np.array([0.1 + 0.2, 0.3, 0.0, 1.0])
    found = {tuple(order_of(near, np.random.default_rng(n)).tolist()) for n in range(10)}
    assert found == {(3, 0, 1, 2), (3, 1, 0, 2)}
    assert order_of(np.array([np.nan, -np.inf, 1.0, np.inf]), rng)[:2].tolist() == [3, 2]


def test_shares_fall_back_to_the_floor_when_the_gain_is_noise() -> None:
    rng = np.random.default_rng(0)
    values = [rng.uniform(0, 1, 30) for _ in range(10)]
    useful = [({FLOOR: rng.normal(size=30), "other": v + rng.normal(0, 0.1, 30)}, v) for v in values]
    useless = [({FLOOR: v + rng.normal(0, 0.1, 30), "other": rng.normal(size=30)}, v) for v in values]
    shares, (gain, error) = choose_shares(useful, 0)
    assert shares["other"] >= 0.75
    assert gain > error > 0
    assert choose_shares(useless, 0) == ({FLOOR: 1.0}, (0.0, 0.0))


class Peeking:
    """Reads the outcome, if it is shown."""

    def fit(self, table: TrialTable, seed: int) -> Peeking:
        return self

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        hidden = {"score", "value", "seconds", "epochs", "failed"} & set(frame.columns)
        assert not hidden
        return np.zeros(len(frame))


def test_outcomes_of_judged_tasks_are_not_shown() -> None:
    table = sparse()
    frame = table.frame.assign(epochs=1.0)
    assert [left.task for left in predictions(Peeking(), trial_table(frame))] == table.tasks


def test_no_task_is_judged_by_who_has_seen_it() -> None:
    table = sparse()
    grouped = trial_table(table.frame.assign(group=table.frame["task"].str[1].astype(int) // 3))
    for plan, runs in (
        (folds(table), 1),
        (folds(table, seeds=2), 2),
        (folds(grouped, "group"), 1),
        (folds(trial_table(sparse(tasks=35, each=3).frame)), 1),
    ):
        for fold in plan:
            assert not set(fold.past) & set(fold.judged)
        assert sorted(t for f in plan for t in f.judged) == sorted(
            runs * sorted({t for f in plan for t in (*f.past, *f.judged)})
        )
    group = grouped.groups()
    for fold in folds(grouped, "group"):
        assert not {group[t] for t in fold.past} & {group[t] for t in fold.judged}
    assert len(folds(trial_table(sparse(tasks=35, each=3).frame))) == 10


def test_some_past_tasks_are_drawn() -> None:
    plan = folds(sparse(), past=3, draws=4, seeds=2)
    assert len(plan) == 8
    assert {len(fold.past) for fold in plan} == {3}
    assert {len(fold.judged) for fold in plan} == {5}
    assert len({fold.past for fold in plan}) > 4
    assert plan == folds(sparse(), past=3, draws=4, seeds=2)


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (dense(tasks=1), {}, "there is 1 task"),
        (dense(), {"past": 6}, "--past is 6; of 6 tasks 1 to 5"),
        (trial_table(dense().frame.assign(group="one")), {"by": "group"}, "all tasks are of one group"),
    ],
    ids=["one task", "past", "one group"],
)
def test_what_cannot_be_judged_is_refused(table: TrialTable, options: dict[str, object], words: str) -> None:
    with pytest.raises(TableError, match=words):
        folds(table, **options)  # type: ignore[arg-type]


def test_judging_tells_good_from_random() -> None:
    table = sparse()
    makers: dict[str, Callable[[], Learner]] = {
        "ranker": lambda: Regression(trees=50),
        "random": RandomOrder,
        "history_average": HistoryAverage,
    }
    told: list[tuple[int, int]] = []
    found = evaluate(table, makers, folds(table, seeds=2), seeds=2, progress=lambda *at: told.append(at))
    result = found.to_dict()
    assert told[-1] == (16, 16)
    assert result["tasks"] == 8
    assert set(result["methods"]) == set(makers)
    assert set(result["paired"]) == {"ranker - history_average"}
    ranker, random = (result["methods"][name] for name in ("ranker", "random"))
    assert ranker["ndcg@10"]["mean"] > random["ndcg@10"]["mean"] + 0.1
    assert ranker["kendall_tau"]["mean"] > 0.5
    assert abs(random["kendall_tau"]["mean"]) < 0.2
    assert random["regret@1"]["se"] > 0


def _failing(share: float) -> TrialTable:
    """As :func:`sparse`, but trials of the best model fail."""
    frame = sparse().frame.drop(columns=["value", "group", "seconds", "failed"])
    rng = np.random.default_rng(1)
    fails = (frame["strategy.model"] == "large") & (rng.random(len(frame)) < share)
    return trial_table(frame.assign(failed=fails, score=frame["score"].where(~fails)))


def test_what_fails_more_often_than_not_comes_last() -> None:
    ranker = Ranker().fit(_failing(0.97), 0)
    asked = sparse(tasks=1, seed=5).frame.drop(columns=["score", "value", "failed"])
    failing, large = ranker.view(asked).failing, (asked["strategy.model"] == "large").to_numpy()
    assert failing is not None
    assert failing[large].min() > 0.5 > failing[~large].max()
    order = ranker.order(asked, np.random.default_rng(0))
    assert sorted(order) == list(range(len(asked)))
    assert large[order].argmax() == (~large).sum()


def test_a_pool_of_which_all_may_fail_is_ordered_whole() -> None:
    ranker = Ranker().fit(_failing(0.97), 0)
    asked = sparse(tasks=2, seed=5).frame.drop(columns=["score", "value", "failed"])
    asked = asked[asked["strategy.model"] == "large"].reset_index(drop=True)
    assert sorted(ranker.order(asked, np.random.default_rng(0))) == list(range(len(asked)))


def test_few_failures_teach_nothing() -> None:
    assert Ranker().fit(_failing(0.05), 0).view(sparse(tasks=1).frame).failing is None
    assert Ranker().fit(dense(), 0).risk is None


def test_a_large_pool_is_ordered_whole_and_its_best_come_first() -> None:
    ranker = Ranker().fit(sparse(), 0)
    asked = sparse(tasks=1, each=5000, seed=9).frame
    asked["strategy"] = "new-" + asked["strategy"]
    order = ranker.order(asked.drop(columns=["score", "value", "failed"]), np.random.default_rng(0))
    assert sorted(order) == list(range(5000))
    assert ranker.predict(asked)[order[0]] == ranker.predict(asked).max()
    assert asked["value"].to_numpy()[order[:20]].mean() > 0.9
    predicted = ranker.predict(asked)[order]
    assert predicted[:100].mean() > predicted[100:2000].mean() > predicted[2000:].mean()


def test_a_few_trees_first_and_all_of_them_at_once_put_the_same_candidates_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranker = Ranker().fit(sparse(), 0)
    asked = sparse(tasks=1, each=5000, seed=9).frame.drop(columns=["score", "value", "failed"])
    asked["strategy"] = "new-" + asked["strategy"]
    looked = ranker.view(asked)
    monkeypatch.setattr("strategy_pool.ranker._LARGE", 10_000)
    whole = ranker.view(asked)
    assert not np.array_equal(looked.predicted, whole.predicted)
    first, among = np.argsort(-looked.predicted)[:100], np.argsort(-whole.predicted)[:300]
    assert np.isin(first, among).mean() > 0.9
    assert looked.outlook is not None and whole.outlook is not None
    gap = looked.outlook["expected"][first] - whole.outlook["expected"][first]
    assert np.abs(gap).max() < 0.1


@pytest.mark.parametrize("columns", [{}, {"strategy.same": 1.0}, {"task.same": "a", "strategy.gap": None}])
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_without_a_feature_that_differs_every_learner_predicts_all_the_same(
    name: str, columns: dict[str, object]
) -> None:
    table = trial_table(
        dense().frame[["task", "strategy", "score", "seconds"]].assign(seconds=2.0, **columns)
    )
    shown = table.frame.drop(columns=["score", "value"])
    fitted = LEARNERS[name]().fit(table, 0)
    assert np.isfinite(np.asarray(fitted.predict(shown), dtype=float)).all()
    if name in ("lambdarank", "regression", "lightgbm_regression"):
        assert np.unique(fitted.predict(shown)).size == 1
    if isinstance(fitted, Ranker):
        assert fitted.shares == {FLOOR: 1.0}
        assert sorted(fitted.order(shown.head(12), np.random.default_rng(0))) == list(range(12))
        assert len(fitted.reasons(shown.head(2))) == 2


def test_copies_of_a_task_are_one_witness_where_the_shares_are_chosen() -> None:
    frames = []
    for copy in range(3):
        frame = dense(tasks=8, noise=1.0).frame[["task", "strategy", "score", "strategy.noise"]]
        told = frame["task"].str[1:].astype(float)
        frames.append(
            frame.assign(task=frame["task"] + f"-{copy}", group=frame["task"], **{"task.name": told})
        )
    table = trial_table(pd.concat(frames, ignore_index=True))
    assert Ranker().fit(table, 0).shares == {FLOOR: 1.0}
    seen = []
    ranker = Ranker()
    for left in ranker._left_out(table, table, 0):
        seen.append(left.group)
    assert sorted(seen) == sorted(table.groups().values())


def test_a_gain_of_few_tasks_has_to_be_sure() -> None:
    rng = np.random.default_rng(0)
    left = 0
    for _ in range(60):
        tasks = []
        for _ in range(4):
            values = rng.uniform(size=30)
            floor = values + rng.normal(0, 0.3, 30)
            noisier = floor + rng.normal(0, 0.1, 30)
            tasks.append(
                (
                    {FLOOR: floor, "lambdarank": noisier, "regression": noisier + rng.normal(0, 0.1, 30)},
                    values,
                )
            )
        left += choose_shares(tasks, 0)[0] != {FLOOR: 1.0}
    assert left <= 6


def test_small_gains_that_happen_to_agree_are_not_sure_and_large_ones_that_differ_are() -> None:
    rng = np.random.default_rng(0)
    alike, apart = [], []
    for number in range(4):
        values = np.sort(rng.uniform(size=30))[::-1]
        worse = values.copy()
        worse[[0, 1]] = worse[[1, 0]]  # two change places: as small a gain in each task
        alike.append(({FLOOR: worse, "regression": values}, np.linspace(1, 0, 30)))
        noise = rng.normal(0, 0.05 + 0.1 * number, 30)
        apart.append(({FLOOR: rng.normal(size=30), "regression": values + noise}, values))
    gains = [
        ndcg(v[order_of(p["regression"], rng)], 10) - ndcg(v[order_of(p[FLOOR], rng)], 10) for p, v in alike
    ]
    assert min(gains) == pytest.approx(max(gains)) and gains[0] > 0
    assert choose_shares(alike, 0) == ({FLOOR: 1.0}, (0.0, 0.0))
    shares, (gain, error) = choose_shares(apart, 0)
    assert shares["regression"] >= 0.75
    assert gain > 2 * error


def test_of_very_many_tasks_some_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategy_pool.ranker.MOST_ROWS", 60)
    monkeypatch.setattr("strategy_pool.ranker.LEAST_ROWS", 10)
    table = flipping(tasks=30)
    sizes: list[int] = []
    fit = LambdaRank.fit

    def noted(self: LambdaRank, learned: TrialTable, seed: int) -> LambdaRank:
        sizes.append(len(learned.frame))
        fit(self, learned, seed)
        return self

    monkeypatch.setattr(LambdaRank, "fit", noted)
    Ranker().fit(table, 0)
    assert sizes and max(sizes) <= 60
    assert table.drawn(6, 0).tasks == table.drawn(6, 0).tasks and len(table.drawn(6, 0).tasks) == 6


def test_past_tasks_and_the_judged_one_are_of_different_groups() -> None:
    frame = dense().frame[["task", "strategy", "score", "strategy.noise"]]
    table = trial_table(frame.assign(group=frame["task"].str[1:].astype(int) // 2))
    group = table.groups()
    plan = folds(table, "group", past=3, draws=20)
    assert plan and all(not {group[t] for t in f.past} & {group[t] for t in f.judged} for f in plan)
    with pytest.raises(TableError, match="no group is left"):
        folds(table, "group", past=5, draws=3)


def test_of_very_many_tasks_some_are_judged() -> None:
    table = dense(tasks=40, strategies=3)
    plan = folds(table, most_judged=12)
    judged = [task for fold in plan for task in fold.judged]
    assert len(judged) == 12 == len(set(judged))
    assert all(set(fold.past).isdisjoint(fold.judged) and len(fold.past) >= 36 for fold in plan)
