"""The choice among finished trials: who may take part, which limits count, and that validation alone decides."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from automl.candidate import Candidate
from automl.choose import Chooser, choose_refits, load_scores
from automl.records import Outcome, TrialSpec
from automl.task import Constraint, Objective, Task

LABELS = np.arange(90) % 3


@dataclass
class Data:
    labels: np.ndarray = field(default_factory=lambda: LABELS)
    class_names: list[str] = field(default_factory=lambda: ["bar", "disc", "square"])


@dataclass
class Finished:
    """Trials on disk, and what their untrained exports cost."""

    folder: Path
    trials: list[tuple[TrialSpec, Outcome]] = field(default_factory=list)
    costs: dict[tuple[str, int, str], dict[str, float]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        signal: float = 1.0,
        *,
        index: np.ndarray | None = None,
        precision: str = "fp32",
        status: str = "completed",
        purpose: str = "search",
        score: float | None = 0.5,
        metrics: dict[str, Any] | None = None,
        **costs: float,
    ) -> None:
        index = np.arange(60) if index is None else index
        folder = self.folder / name
        folder.mkdir()
        noise = np.random.default_rng(len(self.trials)).normal(size=(len(index), 3))
        logits = noise + signal * np.eye(3)[LABELS[index]]
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.savez(folder / "scores.npz", index=index, probabilities=probabilities.astype(np.float32))
        (folder / "model.json").write_text(json.dumps({}))
        candidate = Candidate(name, 32, precision, "plain")
        spec = TrialSpec(
            name, candidate, "", {}, str(folder), None, None, 0, 1, "cpu:1", "accuracy", [], "", {}, purpose
        )
        quantised = {"fp32_score": 0.5} if precision == "int8" else {}
        self.trials.append(
            (spec, Outcome(name, candidate.id, status, score, {**quantised, **(metrics or {})}))
        )
        self.costs[candidate.triple] = costs

    def chooser(self, objective: str = "accuracy", **options: float) -> Chooser:
        return Chooser(self.trials, Data(), Objective.parse(objective), self.costs, **options)


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    return Finished(tmp_path)


def limits(*expressions: str) -> list[Constraint]:
    return [Constraint.parse(e) for e in expressions]


def test_good_trials_are_joined(finished: Finished) -> None:
    for name in "abc":
        finished.add(name, 1.5)
    choices = finished.chooser().choices([])
    assert len(choices[0].weights) > 1
    assert {tuple(c.weights) for c in choices} >= {("a",), ("b",), ("c",)}
    assert choices[0].value >= max(c.value for c in choices)


@pytest.mark.parametrize(("most", "largest"), [(250.0, 2), (100.0, 1), (10.0, 1)])
def test_members_are_as_many_as_there_is_time_to_score_test_images_with(
    finished: Finished, most: float, largest: int
) -> None:
    for name in "abc":
        finished.add(name, 1.5, macs_m=100.0)
    choices = finished.chooser(most_macs=most).choices([])
    assert max(len(c.weights) for c in choices) == largest
    assert {tuple(c.weights) for c in choices} >= {("a",), ("b",), ("c",)}


def test_what_a_resumed_run_has_no_longer_is_not_trained_on(finished: Finished) -> None:
    for name in "abc":
        finished.add(name, 1.5)
    finished.trials = [
        (
            replace(
                s,
                strategy={"method": "full"},
                candidate=replace(s.candidate, strategy=f"recipe_{s.trial_id}"),
            ),
            o,
        )
        for s, o in finished.trials
    ]
    run = SimpleNamespace(
        finished=finished.trials, dataset=Data(), task=Task(str(finished.folder)), limits=(), most_macs=math.inf,
        macs=defaultdict(float), scored=(30, 1), workers=4, table=pd.DataFrame(),
        clock=SimpleNamespace(keep_for=lambda *_, **__: None), store=SimpleNamespace(folder=finished.folder.joinpath),
        backbones=[SimpleNamespace(name=name) for name in "abc"], catalog={f"recipe_{name}": None for name in "abc"},
    )  # fmt: skip
    wanted = {refit.source for refit in choose_refits(run)}
    assert len(wanted) > 1
    for gone in sorted(wanted):
        without = SimpleNamespace(**{**vars(run), "backbones": [b for b in run.backbones if b.name != gone]})
        assert {refit.source for refit in choose_refits(without)} == wanted - {gone}
        known = {name: recipe for name, recipe in run.catalog.items() if name != f"recipe_{gone}"}
        without = SimpleNamespace(**{**vars(run), "catalog": known})
        assert {refit.source for refit in choose_refits(without)} == wanted - {gone}


def test_without_usable_trials_there_is_no_choice(finished: Finished) -> None:
    assert finished.chooser().choices([]) == []
    finished.add("failed", status="failed")
    finished.add("unscored", score=None)
    finished.add("refit", purpose="refit")
    finished.add("nan", score=float("nan"))
    assert finished.chooser().members == {}


@pytest.mark.parametrize("status", ["completed", "stopped", "timeout"])
def test_every_scored_ending_may_take_part(finished: Finished, status: str) -> None:
    finished.add("a", status=status)
    assert list(finished.chooser().members) == ["a"]


def test_a_trial_that_scored_only_some_images_is_not_compared(finished: Finished) -> None:
    finished.add("whole", 0.5)
    finished.add("part", 9.0, index=np.arange(20))
    chooser = finished.chooser()
    assert list(chooser.members) == ["whole"] and len(chooser.index) == 60


@pytest.mark.parametrize("missing", ["scores.npz", "model.json"])
def test_a_trial_without_its_files_is_left_out(finished: Finished, missing: str) -> None:
    finished.add("a")
    finished.add("b")
    (finished.folder / "a" / missing).unlink()
    assert list(finished.chooser().members) == ["b"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"\x80\x04pickle"])
def test_damaged_scores_are_none(finished: Finished, content: bytes) -> None:
    finished.add("a")
    (finished.folder / "a" / "scores.npz").write_bytes(content)
    assert load_scores(finished.folder / "a") is None


def test_scores_are_read_as_written(finished: Finished) -> None:
    finished.add("a", index=np.array([4, 7, 9]))
    stored = load_scores(finished.folder / "a")
    assert stored is not None
    assert stored[0].tolist() == [4, 7, 9] and stored[1].shape == (3, 3)


def test_limits_on_summed_costs_are_kept(finished: Finished) -> None:
    for name in "abcd":
        finished.add(name, 1.5, latency_ms=2.0, size_mb=3.0)
    for limit in ("latency_ms<=5", "size_mb<=6"):
        wanted = limits(limit)
        for choice in finished.chooser().choices(wanted):
            assert len(choice.weights) <= 2
            assert all(c.satisfied(choice.costs[c.name]) for c in wanted)


def test_latencies_may_not_add_up_to_the_whole_limit(finished: Finished) -> None:
    for name in "ab":
        finished.add(name, 1.5, latency_ms=2.0)
    joined = [c for c in finished.chooser().choices(limits("latency_ms<=4.4")) if len(c.weights) > 1]
    assert joined == []
    joined = [c for c in finished.chooser().choices(limits("latency_ms<=4.5")) if len(c.weights) > 1]
    assert joined


def test_where_nothing_keeps_the_limits_the_nearest_comes_first(finished: Finished) -> None:
    finished.add("far", 9.0, latency_ms=9.0)
    finished.add("near", 0.5, latency_ms=3.0)
    choices = finished.chooser().choices(limits("latency_ms<=2"))
    assert [list(c.weights) for c in choices] == [["near"], ["far"]]


def test_what_keeps_the_limits_comes_before_what_is_better(finished: Finished) -> None:
    finished.add("good", 9.0, latency_ms=9.0)
    finished.add("quick", 0.5, latency_ms=1.0)
    choices = finished.chooser().choices(limits("latency_ms<=2"))
    assert [list(c.weights) for c in choices] == [["quick"], ["good"]]


def test_a_frozen_models_head_counts_as_part_of_the_file(finished: Finished) -> None:
    finished.add("a", size_mb=3.0, metrics={"head_mb": 2.5})
    assert finished.chooser().members["a"].costs["size_mb"] == pytest.approx(5.5)


def test_what_was_fitted_to_all_images_already_does_not_grow(finished: Finished) -> None:
    finished.add("frozen", metrics={"refitted": True})
    finished.add("tuned")
    members = finished.chooser().members
    assert (members["frozen"].growing, members["tuned"].growing) == (False, True)


def test_costs_that_are_not_known_limit_nothing(finished: Finished) -> None:
    finished.add("a", latency_ms=float("nan"))
    (choice,) = finished.chooser().choices(limits("latency_ms<=2"))
    assert "latency_ms" not in choice.costs


def test_an_int8_trial_that_was_not_quantised_does_not_count(finished: Finished) -> None:
    finished.add("a", 1.5)
    finished.add("q", 3.0, precision="int8")
    finished.trials[-1] = (
        finished.trials[-1][0],
        replace(finished.trials[-1][1], status="stopped", metrics={}),
    )
    assert [list(c.weights) for c in finished.chooser().choices([])] == [["a"]]


def test_int8_models_stand_alone(finished: Finished) -> None:
    finished.add("a", 1.5)
    finished.add("q", 1.5, precision="int8")
    choices = finished.chooser().choices([])
    assert ["q"] in [list(c.weights) for c in choices]
    assert all(len(c.weights) == 1 for c in choices if "q" in c.weights)


def test_a_quality_limit_comes_before_the_objective(finished: Finished) -> None:
    finished.add("a", 1.0)
    finished.add("b", 6.0)
    wanted = limits("recall[disc]>=0.95")
    chooser = finished.chooser()
    best = chooser.choices(wanted)[0]
    assert best.value[0] == 0.0
    point = chooser.point(best, wanted)
    labels = (best.log_probabilities + point.bias).argmax(1)
    truth = LABELS[:60]
    assert point.satisfied and (labels[truth == 1] == 1).mean() >= 0.95


def test_an_objective_of_one_class_is_valued_at_its_point(finished: Finished) -> None:
    finished.add("a", 2.0)
    finished.add("b", 0.2)
    best = finished.chooser("average_precision[disc]").choices([])[0]
    assert "a" in best.weights and 0 < best.value[1] <= 1.25


def test_the_order_of_the_trials_does_not_matter(finished: Finished) -> None:
    for name in "abcd":
        finished.add(name, 1.0, latency_ms=1.0)
    first = finished.chooser().choices([])
    finished.trials.reverse()
    second = finished.chooser().choices([])
    assert [dict(c.weights) for c in first] == [dict(c.weights) for c in second]
