"""The nightly job publishes what is better, keeps what is not, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from strategy_pool._saved import SavedError
from strategy_pool.evaluation import Evaluation, evaluate
from strategy_pool.features import history_table
from strategy_pool.rerank import _Earlier, data_hash, marks, promotions, rerank, retirements, verdict
from strategy_pool.strategy import load_catalog
from strategy_pool.versions import Versions

CATALOG = load_catalog()
RECIPES = sorted(CATALOG, key=lambda name: CATALOG[name].order)[:12]


def history(
    tasks: int, *, day: int = 1, noise: float = 0.02, start: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tasks on which the last recipes of the catalog's order are the best, each with two networks."""
    rng = np.random.default_rng(start)
    trials = [
        {
            "uid": f"{task}/{place}/{network}", "task_id": f"t{task}", "candidate": f"{network}@64/fp32/{recipe}",
            "architecture": network, "resolution": 64, "precision": "fp32", "strategy": recipe, "overrides": "{}",
            "device": "cpu:1", "source": "pool", "score": place + rng.normal(0, noise), "seconds": 5.0,
            "status": "completed", "created": f"2026-01-{day:02d}T00:00:00",
        }
        for task in range(start, start + tasks)
        for place, recipe in enumerate(RECIPES)
        for network in ("a", "b")
    ]  # fmt: skip
    told = [
        {"task_id": f"t{task}", "features": json.dumps({"images": 10.0 * task})}
        for task in range(start, start + tasks)
    ]
    return pd.DataFrame(trials), pd.DataFrame(told)


def test_the_first_version_beats_the_catalogs_order(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    decision = rerank(*history(5), CATALOG, versions)
    assert decision.published and decision.version == 1 == versions.in_use
    about = versions.about(1)
    assert (about["tasks"], about["trials"], about["instead_of"]) == (5, 120, None)
    assert about["paired"]["ndcg@10"]["mean"] > 0
    assert "the average of the history" in decision.reason
    assert json.loads(json.dumps(decision.to_dict()))["published"] is True


def test_doing_it_again_does_nothing(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    rerank(*history(5), CATALOG, versions)
    again = rerank(*history(5), CATALOG, versions)
    assert not again.published and again.version == 1 and "nothing new" in again.reason
    assert versions.numbers() == [1]


def test_what_is_no_better_is_not_published(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    rerank(*history(5), CATALOG, versions)
    more = [
        pd.concat(parts, ignore_index=True)
        for parts in zip(history(5), history(1, day=2, start=5), strict=True)
    ]
    decision = rerank(more[0], more[1], CATALOG, versions)
    assert not decision.published and versions.in_use == 1
    assert "version 1 stays in use" in decision.reason


def test_more_data_that_help_are_published(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    poor = history(2, noise=8.0)
    versions_before = rerank(*poor, CATALOG, versions)
    good = history(6, day=2, start=2)
    both = [pd.concat(parts, ignore_index=True) for parts in zip(poor, good, strict=True)]
    decision = rerank(both[0], both[1], CATALOG, versions)
    assert decision.published
    assert versions.in_use == (1 if not versions_before.published else 2)


def test_one_task_is_too_little(tmp_path: Path) -> None:
    decision = rerank(*history(1), CATALOG, Versions(tmp_path))
    assert not decision.published and decision.version is None and "too little" in decision.reason
    assert not list(tmp_path.iterdir())


def test_copies_of_a_task_are_left_out_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, tasks = history(4)
    tasks["sketch"] = [json.dumps([f"{word:04x}"]) for word in (1, 2, 1, 3)]
    plans: list[Any] = []
    judge = evaluate

    def noted(table: Any, makers: Any, plan: Any, **options: Any) -> Any:
        plans.extend(plan)
        return judge(table, makers, plan, **options)

    monkeypatch.setattr("strategy_pool.rerank.evaluate", noted)
    assert rerank(trials, tasks, CATALOG, Versions(tmp_path)).evaluation is not None
    assert {fold.judged for fold in plans} == {("t0", "t2"), ("t1",), ("t3",)}
    assert all(not {"t0", "t2"} & set(fold.past) for fold in plans if "t0" in fold.judged)


def figures(
    new: dict[str, list[float]], old: dict[str, list[float]], average: dict[str, list[float]] | None = None
) -> Evaluation:
    rows: list[dict[str, Any]] = []
    for method, values in (("ranker", new), ("in_use", old), ("history_average", average or old)):
        for task in range(len(values["ndcg@10"])):
            others = dict.fromkeys(("regret@1", "regret@5", "regret@10", "ndcg@10", "kendall_tau"), 0.0)
            mine = {metric: of[task] for metric, of in values.items()}
            rows.append({"method": method, "task": f"t{task}", **others, **mine})
    return Evaluation("task", 1, pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        ({"ndcg@10": [0.9] * 9}, {"ndcg@10": [0.8] * 9}, True),
        ({"ndcg@10": [0.8] * 9}, {"ndcg@10": [0.8] * 9}, False),
        ({"ndcg@10": [0.8] * 9}, {"ndcg@10": [0.9] * 9}, False),
        ({"ndcg@10": [0.9] * 9, "regret@1": [0.2] * 9}, {"ndcg@10": [0.8] * 9, "regret@1": [0.1] * 9}, False),
        ({"ndcg@10": [0.9] * 9, "regret@1": [0.1] * 9}, {"ndcg@10": [0.8] * 9, "regret@1": [0.2] * 9}, True),
        (
            {"ndcg@10": [0.9] * 9, "kendall_tau": [0.1] * 9},
            {"ndcg@10": [0.8] * 9, "kendall_tau": [0.2] * 9},
            False,
        ),
    ],
)
def test_the_verdict(new: dict[str, list[float]], old: dict[str, list[float]], better: bool) -> None:
    found, reason = verdict(figures(new, old))
    assert found is better
    assert "ndcg@10" in reason and "\n" not in reason


def test_what_is_worse_than_the_average_is_not_published_whatever_it_beats() -> None:
    new, old, average = ({"ndcg@10": [value] * 9} for value in (0.7, 0.6, 0.8))
    found, reason = verdict(figures(new, old, average))
    assert not found and "worse than the average of the history in ndcg@10" in reason


def test_older_trials_that_were_imported_are_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategy_pool.rerank.verdict", lambda _judged: (True, "better"))
    versions = Versions(tmp_path)
    own = history(3, day=9)
    rerank(*own, CATALOG, versions)
    imported = history(6, day=1, start=3)
    both = [pd.concat(parts, ignore_index=True) for parts in zip(own, imported, strict=True)]
    earlier: list[int] = []
    fit = _Earlier.fit

    def noted(self: _Earlier, table: Any, seed: int) -> _Earlier:
        earlier.append(len(self.table.tasks))
        return fit(self, table, seed)

    monkeypatch.setattr(_Earlier, "fit", noted)
    assert rerank(both[0], both[1], CATALOG, versions).published
    assert set(earlier) == {3}
    np.testing.assert_array_equal(np.sort(versions.learned(2)), np.sort(marks(both[0])))


def test_a_history_of_other_trials_is_judged_with_the_version_as_it_is(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    assert rerank(*history(5), CATALOG, versions).published
    decision = rerank(*history(5, start=50), CATALOG, versions)
    assert decision.evaluation is not None and "version 1" in decision.reason


@pytest.mark.parametrize("damage", ["cut", "flipped", "format", "marks"])
def test_a_version_that_cannot_be_read_is_replaced(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategy_pool.rerank.verdict", lambda _judged: (True, "better"))
    versions = Versions(tmp_path)
    assert rerank(*history(5), CATALOG, versions).published
    folder = tmp_path / "0001"
    arrays = (folder / "arrays.npz").read_bytes()
    if damage == "cut":
        (folder / "arrays.npz").write_bytes(arrays[: len(arrays) // 2])
    elif damage == "flipped":
        middle = len(arrays) // 3
        (folder / "arrays.npz").write_bytes(arrays[:middle] + bytes(40) + arrays[middle + 40 :])
    elif damage == "format":
        told = json.loads((folder / "ranker.json").read_text())
        (folder / "ranker.json").write_text(json.dumps({**told, "format": 1}))
    else:
        (folder / "learned.npy").unlink()
    if damage != "marks":
        with pytest.raises(SavedError):
            versions.ranker()
    decision = rerank(*history(6), CATALOG, versions)
    assert decision.published and versions.in_use == 2 and versions.ranker() is not None
    assert "the average of the history" in decision.reason  # as if there were none


def test_what_was_taken_back_is_not_published_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strategy_pool.rerank.verdict", lambda _judged: (True, "better"))
    versions = Versions(tmp_path)
    rerank(*history(4), CATALOG, versions)
    more = history(6)
    assert rerank(*more, CATALOG, versions).version == 2
    for number in (1, 0):
        versions.use(number)
        decision = rerank(*more, CATALOG, versions)
        assert not decision.published and versions.in_use == (number or None)
        assert "version 2 was learned from the same trials and was taken back" in decision.reason
    assert rerank(*history(7), CATALOG, versions).published


def test_the_hash_is_that_of_the_content() -> None:
    trials, tasks = history(3)
    first = data_hash(history_table(trials, tasks, CATALOG))
    turned = data_hash(history_table(trials.sample(frac=1.0, random_state=0), tasks, CATALOG))
    changed = data_hash(
        history_table(trials.assign(score=trials["score"] + trials.index % 2), tasks, CATALOG)
    )
    assert first == turned != changed


def test_a_recipe_from_outside_that_won_is_promoted() -> None:
    trials, _ = history(3)
    assert promotions(trials, CATALOG) == {}
    won = trials.index[(trials["task_id"] == "t1") & (trials["strategy"] == RECIPES[2])][0]
    trials.loc[won, ["score", "overrides"]] = [99.0, json.dumps({"lr": 0.002})]
    (name, recipe), *others = promotions(trials, CATALOG).items()
    assert not others and name.startswith(RECIPES[2] + ".")
    assert recipe["lr"] == 0.002 and recipe["name"] == name and recipe["method"] == CATALOG[RECIPES[2]].method


def test_what_was_promoted_stays_and_is_known_by_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strategy_pool.rerank.verdict", lambda _judged: (True, "better"))
    versions = Versions(tmp_path)
    trials, tasks = history(5)
    won = trials.index[(trials["task_id"] == "t1") & (trials["strategy"] == RECIPES[2])][0]
    trials.loc[won, ["score", "overrides"]] = [99.0, json.dumps({"lr": 0.002})]
    assert rerank(trials, tasks, CATALOG, versions).published
    (name,) = versions.about(1)["promoted"]
    more, told = history(6, day=2, start=5)
    more.loc[more["strategy"] == RECIPES[0], "score"] = 50.0
    more.loc[more["strategy"] == RECIPES[0], "strategy"] = name
    both = pd.concat([trials, more], ignore_index=True), pd.concat([tasks, told], ignore_index=True)
    decision = rerank(*both, CATALOG, versions)
    about = versions.about(decision.version or 0)
    assert decision.published and name in about["promoted"]


def test_recipes_that_never_come_near_the_best_are_retired() -> None:
    few = history_table(*history(9), CATALOG)
    assert retirements(few, CATALOG) == []
    many = retirements(history_table(*history(10), CATALOG), CATALOG)
    expected = {name for name in RECIPES[:-1] if CATALOG[name].method != "logistic"}
    assert set(many) == expected
