"""The augmentation suite: what a cell tells of its trials, and the table of what the rule gains."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

import automl.sweep
from automl.candidate import Candidate
from automl.errors import AutomlError, InputError
from benchmarks.suites import augmentation
from benchmarks.suites._augmentation_cell import arms, run_cell, told
from tests.benchmarks.fakes import ENVIRONMENT
from tests.conftest import write_shapes

POOL = [
    Candidate(network, 128, "fp32", recipe) for network in ("a", "b") for recipe in ("full_96", "norm_bias")
]


def trial(policy: str | None, score: float, affinity: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "overrides": json.dumps({"augmentation": policy} if policy else {}), "score": score, "epochs": 7,
        "metrics": json.dumps({"affinity": affinity} if affinity is not None else {}), "status": "completed",
        "candidate": f"a@128/fp32/full_96~{policy}", "seconds": 2.0, "error": None, **more,
    }  # fmt: skip


def cell(dataset: str, split: int, affinity: float, flips: float, light: float) -> dict[str, Any]:
    trials = [trial(None, 0.5, affinity), trial("flips", flips), trial("light", light)]
    settings = {"budget": 20.0, "backbones": [], "columns": {}, "network": "a", "recipe": "full_96"}
    return {
        "dataset": dataset, "split": split, **told(trials), "images": 90, "classes": 3, "settings": settings,
        "environment": ENVIRONMENT,
    }  # fmt: skip


def test_each_policy_gets_the_same_network_and_recipe() -> None:
    found = arms(POOL, "b", "norm_bias")
    assert [dict(c.overrides) for c in found] == [{"augmentation": "flips"}, {"augmentation": "light"}]
    assert {(c.triple, c.strategy) for c in found} == {(("b", 128, "fp32"), "norm_bias")}


@pytest.mark.parametrize(("network", "recipe"), [("c", "norm_bias"), ("a", "norm_bia")])
def test_what_is_not_in_the_pool_is_named(network: str, recipe: str) -> None:
    with pytest.raises(InputError, match=f"'{'c' if network == 'c' else 'norm_bia'}'"):
        arms(POOL, network, recipe)


def test_a_cell_tells_the_mean_affinity_as_a_submit_takes_it() -> None:
    trials = [
        trial(None, 0.5, 0.9),
        trial(None, 0.6, 0.8),
        trial(None, 0.7),
        trial("flips", 0.8),
        trial("light", 0.7),
    ]
    assert told(trials)["affinities"] == [0.9, 0.8]
    assert told(trials)["fitting"] == "light"  # 0.85 is too little
    assert told([trial(None, 0.5, 0.95), *trials])["fitting"] == "flips"
    assert told(trials[2:])["fitting"] == "light"  # nobody knows
    assert {policy: found["score"] for policy, found in told(trials)["trained"].items()} == {
        "flips": 0.8,
        "light": 0.7,
    }


@pytest.mark.parametrize("last", [[], [trial("light", 0.5, status="failed", error="no memory")]])
def test_a_training_without_a_score_makes_no_cell(last: list[dict[str, Any]]) -> None:
    with pytest.raises(AutomlError, match="no memory" if last else "missing"):
        told([trial("flips", 0.8), *last])


def test_the_rule_is_held_against_each_policy() -> None:
    cells = [
        cell("tiles", 0, 0.95, flips=0.9, light=0.8),
        cell("tiles", 1, 0.97, flips=0.9, light=0.9),
        cell("photos", 0, 0.6, flips=0.4, light=0.7),
        cell("photos", 1, 0.9, flips=0.5, light=0.7),  # where the rule is wrong
    ]
    found = augmentation.summarise(cells, resamples=200)
    assert found["overall"]["light"]["mean"] == pytest.approx(((0.1 + 0.0) / 2 + (0.0 - 0.2) / 2) / 2)
    assert found["overall"]["flips"]["mean"] == pytest.approx((0.0 + (0.3 + 0.0) / 2) / 2)
    low, high = (found["overall"]["light"][end] for end in ("low", "high"))
    assert low == pytest.approx(-0.1) and high == pytest.approx(0.05)
    text = augmentation.to_markdown(found)
    assert text.index("| photos |") < text.index("| tiles |")
    assert "| 0.75 | 0.700 | 0.450 | -25.0 (-30.0, -20.0) | light, flips |" in text
    assert "always `light`: -2.5 [-10.0, +5.0] points" in text


def test_real_trainings_make_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = functools.partial(automl.sweep.sweep, in_process=True, quiet=True)
    monkeypatch.setattr(automl.sweep, "sweep", alone)
    spec = {
        "identity": {"dataset": "shapes", "split": 1},
        "settings": {"budget": 2.0, "backbones": ["small_cnn_xs"], "columns": {}, "network": "small_cnn_xs",
                     "recipe": "scratch_small"},
        "source": str(write_shapes(tmp_path / "shapes", per_class=8)), "weights_dirs": [], "work": str(tmp_path / "work"),
    }  # fmt: skip
    found = run_cell(spec)
    assert set(found["trained"]) == set(augmentation.POLICIES)
    assert all(0 <= one["score"] <= 1.5 and one["epochs"] >= 1 for one in found["trained"].values())
    assert (found["images"], found["classes"], found["affinities"]) == (18, 3, [])  # without test images
    overrides = {
        json.loads(file.read_text())["strategy"]["augmentation"]
        for file in (tmp_path / "work").rglob("search/trials/*/spec.json")
    }
    assert overrides == set(augmentation.POLICIES)


def test_there_is_at_least_one_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert augmentation.run(["--data", str(tmp_path), "--network", "a", "--splits", "0"]) == 2
    assert "--splits is 0" in capsys.readouterr().err
