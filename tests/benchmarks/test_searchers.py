"""Searchers of the field: what they may propose, how they are told, and one whole run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.candidate import Candidate
from automl.data import load_dataset
from automl.engine import submit
from automl.task import Task
from benchmarks import anytime
from benchmarks.comparison import balanced_accuracy
from benchmarks.searchers import OPTUNA, Study, best_trial, submit_with
from strategy_pool.strategy import load_catalog, search_space
from tests.conftest import write_shapes

CATALOG = load_catalog()
RECIPES = ("knn_last", "full_plain")
POOL = [
    Candidate(net, 64, "fp32", recipe)
    for net in ("a", "b")
    for recipe in RECIPES
    if (net, recipe) != ("b", "knn_last")
]
MACS = {("a", 64, "fp32"): 10.0, ("b", 64, "fp32"): 20.0}


def study(name: str, seed: int = 0) -> Study:
    return Study(POOL, CATALOG, OPTUNA[name], MACS, seed)


@pytest.mark.parametrize("name", sorted(OPTUNA))
def test_proposals_are_new_allowed_and_within_the_ranges(name: str) -> None:
    asked = study(name)
    allowed = {(c.triple, c.strategy) for c in POOL}
    seen = set()
    for number in range(25):
        candidate = asked.propose()
        assert candidate is not None and candidate.id not in seen
        seen.add(candidate.id)
        assert (candidate.triple, candidate.strategy) in allowed
        ranges = search_space(CATALOG[candidate.strategy])
        for field, value in candidate.overrides:
            bounds = ranges[field]
            assert value in bounds if isinstance(bounds, list) else bounds[0] <= value <= bounds[1]
        asked.observe(candidate, None if number % 5 == 0 else number / 25, {"size_mb<=1": -0.5}, "completed")


@pytest.mark.parametrize("name", sorted(OPTUNA))
def test_the_same_seed_proposes_the_same(name: str) -> None:
    first, again, other = study(name), study(name), study(name, seed=1)
    told = [[one.propose() for _ in range(5)] for one in (first, again, other)]
    assert told[0] == told[1] != told[2]


def test_searchers_begin_with_draws_of_their_own() -> None:
    first = {
        name: [Study(POOL, CATALOG, one, MACS, one.seed(0)).propose() for _ in range(2)]
        for name, one in OPTUNA.items()
    }
    assert len({tuple(map(str, proposals)) for proposals in first.values()}) > 3


def test_the_estimator_proposes_from_the_fifth_trial_on() -> None:
    tpe, random = (Study(POOL, CATALOG, OPTUNA[name], MACS, 3) for name in ("tpe", "random"))
    same = []
    for number in range(8):
        for asked in (tpe, random):
            candidate = asked.propose()
            assert candidate is not None
            asked.observe(candidate, float(candidate.architecture == "b") + number / 100)
            same.append(candidate)
    pairs = list(zip(same[::2], same[1::2], strict=True))
    assert all(one == other for one, other in pairs[:4]) and any(one != other for one, other in pairs[4:])


def test_the_estimator_comes_back_to_what_was_good() -> None:
    asked = study("tpe")
    good = 0
    for number in range(60):
        candidate = asked.propose()
        assert candidate is not None
        asked.observe(candidate, float(candidate.architecture == "b"))
        good += candidate.architecture == "b" and number >= 30
    assert good > 20


def test_what_was_never_asked_for_or_has_no_score_does_no_harm() -> None:
    asked = study("nsga2")
    asked.observe(POOL[0], 0.5)
    candidate = asked.propose()
    assert candidate is not None
    asked.observe(candidate, float("nan"), {}, "failed", error="it fell over")
    assert asked.propose() is not None


def test_a_small_space_is_exhausted() -> None:
    only = [Candidate("a", 64, "fp32", "knn_last")]
    asked = Study(only, CATALOG, OPTUNA["random"], MACS, 0)
    found = [asked.propose() for _ in range(30)]
    assert found[0] is not None and found[-1] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "hyperband", "nsga2"])
def test_a_run_exports_its_best_trial_and_tells_its_course(name: str, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=15)
    task = Task.make(
        data, constraints=["size_mb<=2"], budget="20s", backbones=["small_cnn_xs", "small_cnn_s"], seed=0
    )
    result = submit_with(name, task, out=tmp_path / "run")
    told = result.to_dict()
    assert told["status"] == "ok" and len(told["members"]) == 1
    dataset = load_dataset(data, seed=0)
    course = anytime.told(tmp_path / "run", dataset, 0.0, told, 20.0, best_trial)
    searched = [one for one in course["trials"] if one["purpose"] == "search" and one["score"] is not None]
    best = max(one["score"] for one in searched)
    chosen = next(one for one in course["trials"] if one["trial_id"] == told["members"][0]["trial"])
    assert chosen["score"] == best
    assert len(course["predicted"]) == len(course["curve"]) - 1
    right = np.asarray(dataset.labels)[dataset.indices("test")]
    for (_, _, score), predicted in zip(course["curve"], course["predicted"], strict=False):
        assert score == pytest.approx(balanced_accuracy(right, np.array(predicted)))
    assert course["curve"][-2][1] == best and course["curve"][-1][0] == 20.0
    validation = [point[1] for point in course["curve"][:-1]]
    assert validation == sorted(validation)
    with np.load(tmp_path / "run" / "search" / "test_scores.npz") as scores:
        recalls = [
            float((scores["predicted"][scores["labels"] == c] == c).mean())
            for c in np.unique(scores["labels"])
        ]
    assert course["curve"][-1][2] == pytest.approx(np.mean(recalls))
    json.dumps(course)


def spec_of(folder: Path, data: Path) -> dict[str, Any]:
    return {
        "identity": {"split": 0}, "settings": {"columns": {}}, "source": str(data), "work": str(folder),
        "target": str(folder / "cell.json"),
    }  # fmt: skip


@pytest.mark.slow
def test_what_a_submit_would_have_delivered_is_what_it_chooses_among_the_trials_so_far(
    tmp_path: Path,
) -> None:
    data = write_shapes(tmp_path / "shapes", per_class=15)
    task = Task.make(data, budget="30s", backbones=["small_cnn_xs", "small_cnn_s"], seed=0)
    began = time.time()
    told = submit(task, out=tmp_path / "run").to_dict()
    dataset = load_dataset(data, seed=0)
    course = anytime.told(tmp_path / "run", dataset, began, told, 30.0)
    assert len(course["predicted"]) == len(course["curve"]) - 1 > 0
    # Without refits the last one is the model that was exported.
    if not any(member["refit"] or member["candidate"].count("/int8/") for member in told["members"]):
        assert course["curve"][-2][2] == pytest.approx(course["curve"][-1][2])
    # Of all trials the choice is that of the finished run.
    chosen: list[dict[str, float]] = []

    def note(chooser: Any, finished: Any, limits: Any) -> Any:
        found = anytime.first_choice(chooser, finished, limits)
        chosen.append(dict(found.weights) if found else {})
        return found

    points, answers = anytime.curve(tmp_path / "run", dataset, course["trials"], note)
    assert points == course["curve"][:-1] and answers == course["predicted"]
    searched = sum(one["purpose"] == "search" for one in course["trials"])
    assert len(chosen) == searched >= len(points)
    assert chosen[-1] == pytest.approx({m["trial"]: m["weight"] for m in told["members"]})
    # Judged again it is the same, and the cell says so.
    spec = spec_of(tmp_path, data)
    assert not anytime.judge_again(spec)
    Path(spec["target"]).write_text(
        json.dumps({"details": {"run": {**course, "curve": course["curve"][-1:]}}})
    )
    assert anytime.judge_again(spec)
    cell = json.loads(Path(spec["target"]).read_text())
    assert cell["details"]["run"] == json.loads(json.dumps(course)) and "judged" in cell
