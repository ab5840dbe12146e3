"""What images may be changed into: measured on them, and what follows for the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from automl.affinity import LEAST_AFFINITY, asked, fitting_augmentation, say_finding, settled
from automl.candidate import Candidate
from automl.data import Dataset, load_dataset
from automl.records import Outcome
from automl.run import Run
from automl.task import Task
from automl.training import affinity_upside_down, fit_logistic, frozen_features
from automl.training._augment import POLICIES
from automl.trial import run_trial
from search_spaces.backbones import Backbone
from strategy_pool.strategy import FITTING, load_catalog
from tests._models import pretrained, recipe, shapes, trial


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pretrained(tmp_path_factory.mktemp("weights"))


def halves(folder: Path, upright: bool) -> Dataset:
    """Noise, of which one half is brighter: the class is which half, or how bright it is."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 2
    images = rng.integers(0, 60, (160, 32, 32, 3))
    for image, label in zip(images, labels, strict=True):
        if upright:
            image[16 * label : 16 * (label + 1)] += 150
        else:
            image[16 * int(rng.integers(2)) :][:16] += 60 + 120 * label
    np.savez(folder / "halves.npz", images=images.astype(np.uint8), labels=labels)
    return load_dataset(folder / "halves.npz", cache_dir=folder / "cache")


@pytest.mark.parametrize(("upright", "policy"), [(True, "light"), (False, "flips")])
def test_images_are_flipped_where_they_keep_their_class(
    tiny: Backbone, tmp_path: Path, upright: bool, policy: str
) -> None:
    data = halves(tmp_path, upright)
    spec = trial(tmp_path / "trial", data, tiny, recipe("logistic", taps="multi"), affinity=True)
    spec = replace(spec, candidate=replace(spec.candidate, resolution=32))
    outcome = run_trial(spec)
    assert outcome.score is not None and outcome.score > 0.8
    told = outcome.metrics["affinity"]
    assert told < 0.6 if upright else told > 0.85
    assert fitting_augmentation(told) == policy


def test_only_who_is_asked_measures(tiny: Backbone, tmp_path: Path) -> None:
    spec = trial(tmp_path, shapes(tmp_path), tiny, recipe("logistic"))
    assert "affinity" not in run_trial(spec).metrics


def test_each_fold_is_judged_by_the_model_that_did_not_see_it(tiny: Backbone, tmp_path: Path) -> None:
    data = shapes(tmp_path)
    labels = np.asarray(data.labels)
    table = np.asarray(frozen_features(data, tiny, 32, "last", tmp_path / "shared"))
    index = data.indices("development")
    folds = [(index[::2], index[1::2]), (index[1::2], index[::2])]
    heads = [fit_logistic(table[t], labels[t], 3, strength=1e6) for t, _ in folds]
    settings: dict[str, Any] = {"taps": "last", "resolution": 32}
    # Heads that had seen their images would be right on unchanged ones, and so lose more.
    own = affinity_upside_down(data, folds, tiny, heads, **settings)
    seen = affinity_upside_down(data, folds, tiny, heads[::-1], **settings)
    assert own is not None and seen is not None and seen <= 1.0
    assert own != seen
    assert affinity_upside_down(data, folds, tiny, heads, **settings) == own
    assert affinity_upside_down(data, folds, tiny, heads, **settings, deadline=0.0) is None


def test_a_model_that_is_never_right_tells_nothing(tiny: Backbone, tmp_path: Path) -> None:
    data = shapes(tmp_path)
    index = data.indices("development")
    labels = np.asarray(data.labels)
    table = np.asarray(frozen_features(data, tiny, 32, "last", tmp_path / "shared"))
    head = fit_logistic(table[index], labels[index], 3, strength=1.0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        next(p for p in head.parameters() if p.ndim == 1)[0] = 1.0
    others = index[labels[index] != 0]
    assert affinity_upside_down(data, [(index, others)], tiny, [head], taps="last", resolution=32) is None


@pytest.mark.parametrize(
    ("affinities", "policy"),
    [
        ([], "light"),
        ([None], "light"),
        ([LEAST_AFFINITY], "flips"),
        ([LEAST_AFFINITY - 0.01], "light"),
        ([0.5, 1.0], "light"),
        ([0.8, None, 1.0], "flips"),
    ],
)
def test_the_mean_of_what_is_known_decides(affinities: list[float | None], policy: str) -> None:
    run = told(1.0)
    run.finished = [
        (SimpleNamespace(candidate=candidate), Outcome("t", "c", "completed", 0.9, {"affinity": affinity}))
        for candidate, affinity in zip(asked(run), affinities, strict=False)
    ]
    assert settled(run, recipe("full", augmentation=FITTING))["augmentation"] == policy


def told(upside_down: float) -> Any:
    candidate = Candidate("small", 32, "fp32", "logistic_last")
    large = Candidate("large", 32, "fp32", "logistic_last")
    outcome = Outcome("t1", "c", "completed", 0.9, {"affinity": upside_down})
    landmarks = [replace(large, architecture=f"large{n}") for n in range(3)] + [candidate]
    macs = {c.triple: 1.0 if c is candidate else 2.0 for c in landmarks}
    finished = [(SimpleNamespace(candidate=candidate), outcome)]
    return SimpleNamespace(all_landmarks=landmarks, macs=macs, finished=finished)


def test_the_cheapest_models_are_asked() -> None:
    assert [c.architecture for c in asked(told(1.0))] == ["small", "large0", "large1"]


@pytest.mark.parametrize(
    ("method", "augmentation", "policy"),
    [("full", FITTING, "flips"), ("full", "light", "light"), ("logistic", FITTING, FITTING)],
)
def test_what_is_left_open_is_settled(method: str, augmentation: str, policy: str) -> None:
    strategy = recipe(method, augmentation=augmentation)
    assert settled(told(1.0), strategy) == {**strategy, "augmentation": policy}


def test_images_that_have_an_upright_are_not_turned_over() -> None:
    strategy = settled(told(0.5), recipe("full", augmentation=FITTING))
    assert POLICIES[strategy["augmentation"]].vflip == 0.0


def test_without_first_models_images_are_taken_for_upright(tmp_path: Path) -> None:
    """A searcher of the benchmarks runs none."""
    run = Run(Task.make(tmp_path, budget="1m"), tmp_path / "run", False, (), True)
    assert asked(run) == []
    assert settled(run, recipe("full", augmentation=FITTING))["augmentation"] == "light"


def test_recipes_leave_it_open_unless_they_are_about_it() -> None:
    catalog = load_catalog()
    assert catalog["full_plain_128"].augmentation == FITTING
    assert catalog["cached_trunk_multitap"].augmentation == FITTING
    assert catalog["full_flips"].augmentation == "flips"


def test_what_was_found_is_said() -> None:
    said: list[str] = []
    for affinity in (1.0, 0.5):
        run = told(affinity)
        run.say = said.append
        say_finding(run)
    run.finished = []
    say_finding(run)
    keeps, loses = said
    assert "(1.00 of the accuracy is left): flips in both directions" in keeps
    assert "do not keep" in loses
