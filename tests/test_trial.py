"""One candidate from its specification to the files it leaves, for every kind of candidate and every ending."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from automl.data import Dataset, load_dataset
from automl.records import Outcome, Progress, TrialSpec
from automl.training import load_model
from automl.trial import _NEIGHBOURS, _STRENGTHS, iterate_trial, read_outcome, run_trial, smooth_score
from search_spaces.backbones import Backbone
from strategy_pool.strategy import load_catalog
from tests._models import pictures, pretrained, recipe, shapes, small_cnn, trial

CATALOG = load_catalog()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shapes(tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pretrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Frozen features that all trials here share."""
    return str(tmp_path_factory.mktemp("shared"))


def scores(spec: TrialSpec) -> tuple[np.ndarray, np.ndarray]:
    with np.load(Path(spec.folder) / "scores.npz", allow_pickle=False) as stored:
        return stored["index"], stored["probabilities"]


def scored_images(data: Dataset) -> np.ndarray:
    return np.sort(np.concatenate([validation for _train, validation in data.folds]))


def check(spec: TrialSpec, outcome: Outcome, data: Dataset) -> None:
    """What every scored trial leaves."""
    assert outcome.status == "completed" and outcome.error is None
    assert outcome == read_outcome(Path(spec.folder))
    index, probabilities = scores(spec)
    np.testing.assert_array_equal(index, scored_images(data))
    assert not np.isin(index, data.indices("test")).any()
    assert probabilities.dtype == np.float32 and probabilities.shape == (len(index), 3)
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-3)
    right = (probabilities.argmax(1) == np.asarray(data.labels)[index]).mean()
    assert outcome.score == pytest.approx(right)
    assert outcome.curve[-1][1] == outcome.score
    assert TrialSpec.from_dict(json.loads((Path(spec.folder) / "spec.json").read_text())) == spec
    model = load_model(spec.folder)
    side = spec.candidate.resolution
    with torch.inference_mode():
        logits = model(pictures(2, side).permute(0, 3, 1, 2).float())
    assert logits.shape == (2, 3) and torch.isfinite(logits).all()
    assert not (Path(spec.folder) / "scratch").exists()
    assert not list(Path(spec.folder).glob("*.part"))


@pytest.mark.parametrize("method", ["logistic", "knn", "linear_probe"])
def test_a_frozen_candidate(data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, method: str) -> None:
    spec = trial(tmp_path, data, tiny, recipe(method, taps="multi"), shared_folder=cache)
    reports: list[Progress] = []
    outcome = run_trial(spec, lambda progress: reports.append(progress) is None)
    check(spec, outcome, data)
    assert outcome.score is not None and outcome.score > 0.5
    assert reports[-1].fraction == 1.0 and reports[-1].score == outcome.score
    assert [r.fraction for r in reports] == sorted(r.fraction for r in reports)
    assert outcome.metrics["hyperparameter"] in (_NEIGHBOURS if method == "knn" else _STRENGTHS)
    assert outcome.metrics["refitted"] and outcome.metrics["head_mb"] > 0
    stored = json.loads((Path(spec.folder) / "model.json").read_text())
    assert not stored["whole"]


@pytest.mark.parametrize(
    ("method", "field", "value"), [("knn", "neighbours", 3), ("logistic", "strength", 0.03)]
)
def test_a_given_setting_is_not_searched(
    data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, method: str, field: str, value: float
) -> None:
    spec = trial(tmp_path, data, tiny, recipe(method, **{field: value}), shared_folder=cache)
    outcome = run_trial(spec)
    assert outcome.metrics["hyperparameter"] == value and outcome.epochs == 1


def test_frozen_features_of_a_network_without_weights_keep_the_network(
    data: Dataset, cache: str, tmp_path: Path
) -> None:
    spec = trial(tmp_path, data, small_cnn(), recipe("knn"), shared_folder=cache)
    assert run_trial(spec).status == "completed"
    assert json.loads((Path(spec.folder) / "model.json").read_text())["whole"]


@pytest.mark.parametrize("method", ["probe_then_full", "lora", "conv_adapter"])
def test_a_tuned_candidate(data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, method: str) -> None:
    spec = trial(tmp_path, data, tiny, recipe(method, rank=4), shared_folder=cache)
    outcome = run_trial(spec)
    check(spec, outcome, data)
    assert {f"fold{n}" for n in range(len(data.folds))} <= set(outcome.metrics)
    assert outcome.epochs == 1 and outcome.metrics["epochs"] == pytest.approx(1.0)


def test_a_candidate_from_scratch(data: Dataset, tmp_path: Path) -> None:
    spec = trial(tmp_path, data, small_cnn(), recipe("scratch", epochs=3), max_epochs=2)
    outcome = run_trial(spec)
    check(spec, outcome, data)
    assert outcome.epochs == 2


@pytest.mark.parametrize("method", ["logistic", "scratch"])
def test_an_int8_candidate_is_judged_by_its_file(
    data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, method: str
) -> None:
    backbone = small_cnn() if method == "scratch" else tiny
    spec = trial(tmp_path, data, backbone, recipe(method), precision="int8", shared_folder=cache)
    outcome = run_trial(spec)
    check(spec, outcome, data)
    assert 0 <= outcome.metrics["fp32_score"] <= 1
    exact = replace(spec.candidate, precision="fp32")
    plain = replace(spec, candidate=exact, folder=str(tmp_path / "plain"))
    assert run_trial(plain).score == outcome.metrics["fp32_score"]
    (_, before), (_, after) = scores(plain), scores(spec)
    assert not np.array_equal(before, after)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.5


@pytest.mark.parametrize("method", ["knn", "full"])
def test_an_int8_candidate_is_not_judged_on_images_it_was_fitted_to(
    tiny: Backbone, cache: str, tmp_path: Path, method: str
) -> None:
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8),
        rng.permutation(np.arange(120) % 3),
    )
    np.savez(tmp_path / "noise.npz", images=images, labels=labels)
    noise = load_dataset(tmp_path / "noise.npz", cache_dir=tmp_path / "cache")
    settings: dict[str, Any] = {"neighbours": 1} if method == "knn" else {"epochs": 8, "lr": 3e-3}
    strategy = recipe(method, augmentation="none", **settings)
    outcome = run_trial(trial(tmp_path, noise, tiny, strategy, precision="int8", shared_folder=cache))
    assert outcome.status == "completed", outcome.error
    assert outcome.score is not None and outcome.score < 0.6  # one in three is right by chance


def test_a_seed_repeats_a_trial(data: Dataset, tmp_path: Path) -> None:
    specs = [
        trial(tmp_path / str(n), data, small_cnn(), recipe("scratch", augmentation="strong"), seed=3)
        for n in range(2)
    ]
    first, second = (run_trial(spec) for spec in specs)
    assert first.score == second.score
    np.testing.assert_array_equal(scores(specs[0])[1], scores(specs[1])[1])


def test_stopping_in_the_middle_leaves_a_usable_outcome(data: Dataset, tmp_path: Path) -> None:
    spec = trial(tmp_path, data, small_cnn(), recipe("scratch", epochs=30))
    reports: list[Progress] = []

    def stop(progress: Progress) -> bool:
        reports.append(progress)
        return len(reports) < 2

    outcome = run_trial(spec, stop)
    assert outcome.status == "stopped" and outcome == read_outcome(Path(spec.folder))
    assert outcome.usable_score == reports[-1].score and reports[-1].fraction < 1
    index, probabilities = scores(spec)
    np.testing.assert_array_equal(index, np.sort(data.folds[0][1]))
    assert probabilities.shape == (len(index), 3)
    assert load_model(spec.folder) is not None


def test_closing_before_the_first_report_leaves_an_outcome_without_a_score(
    data: Dataset, tmp_path: Path
) -> None:
    spec = trial(tmp_path, data, small_cnn(), recipe("scratch"))
    steps = iterate_trial(spec)
    steps.close()
    assert not (Path(spec.folder) / "outcome.json").exists()  # it never began
    steps = iterate_trial(spec)
    next(steps)
    steps.close()
    assert read_outcome(Path(spec.folder)).status == "stopped"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dataset_folder": "/nowhere/at/all"}, "InputError"),
        ({"objective": "recall[nothing]"}, "nothing"),
        ({"strategy": recipe("scratch") | {"loss": "hinge"}}, "unknown loss 'hinge'"),
        ({"strategy": recipe("scratch") | {"optimizer": "magic"}}, "unknown optimizer 'magic'"),
    ],
)
def test_what_a_candidate_does_wrong_is_a_failed_outcome(
    data: Dataset, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    spec = replace(trial(tmp_path, data, small_cnn(), recipe("scratch")), **change)
    outcome = run_trial(spec)
    assert outcome.status == "failed" and outcome.usable_score is None
    assert outcome.error is not None and text in outcome.error and "\n" not in outcome.error
    assert outcome == read_outcome(Path(spec.folder))


def test_a_backbone_whose_weights_are_gone_is_a_failed_outcome(data: Dataset, tmp_path: Path) -> None:
    backbone = pretrained(tmp_path / "weights")
    (tmp_path / "weights" / "tiny.random" / "model.safetensors").unlink()
    outcome = run_trial(trial(tmp_path, data, backbone, recipe("logistic")))
    assert outcome.status == "failed"
    assert outcome.error is not None and "tiny.random cannot be built" in outcome.error


def test_a_diverging_training_is_a_failed_outcome(data: Dataset, tmp_path: Path) -> None:
    strategy = recipe("scratch", epochs=20, warmup=0.0, optimizer="sgd", schedule="constant") | {"lr": 1e30}
    outcome = run_trial(trial(tmp_path, data, small_cnn(), strategy))
    assert outcome.status == "failed"
    assert outcome.error is not None and "a lower learning rate is needed" in outcome.error


def test_a_model_that_cannot_be_stored_is_a_failed_outcome(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import automl.training

    def full(*_args: object, **_settings: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(automl.training, "save_model", full)
    spec = trial(tmp_path, data, small_cnn(), recipe("scratch"))
    outcome = run_trial(spec)
    assert read_outcome(Path(spec.folder)).error == "OSError: No space left on device"
    assert outcome.status == "failed" and outcome.score is None
    assert outcome.error == "OSError: No space left on device"


@pytest.mark.parametrize("method", ["logistic", "probe_then_full"])
def test_no_time_at_all_is_a_timeout(data: Dataset, tiny: Backbone, tmp_path: Path, method: str) -> None:
    outcome = run_trial(trial(tmp_path, data, tiny, recipe(method), seconds=0.0))
    assert outcome.status == "timeout" and outcome.usable_score is None
    assert outcome.error is not None and "OutOfTime" in outcome.error


def test_a_short_time_ends_with_what_fits(data: Dataset, tmp_path: Path) -> None:
    run_trial(trial(tmp_path / "warm", data, small_cnn(), recipe("scratch")))
    spec = trial(tmp_path, data, small_cnn(), recipe("scratch", epochs=10_000), seconds=5.0)
    outcome = run_trial(spec)
    assert outcome.usable_score is not None and outcome.epochs < 10_000
    assert math.isfinite(outcome.usable_score) and outcome.curve


@pytest.mark.parametrize("method", ["scratch", "probe_then_full"])
def test_a_refit_uses_all_development_images_and_leaves_no_score(
    data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, method: str
) -> None:
    backbone = small_cnn() if method == "scratch" else tiny
    strategy = recipe(method, batch_size=len(data.indices("development")))
    spec = trial(tmp_path, data, backbone, strategy, purpose="refit", shared_folder=cache)
    reports: list[Progress] = []
    outcome = run_trial(spec, lambda progress: reports.append(progress) is None)
    assert outcome.status == "completed" and outcome.score is None and outcome.epochs == 1
    assert not (Path(spec.folder) / "scores.npz").exists()
    assert all(math.isnan(r.score) for r in reports)
    assert outcome.metrics["fold0"]["planned_steps"] == 1
    assert load_model(spec.folder) is not None


def test_a_refit_goes_on_from_a_stored_model(data: Dataset, tmp_path: Path) -> None:
    first = trial(tmp_path / "first", data, small_cnn(), recipe("scratch"))
    run_trial(first)
    strategy = recipe("scratch") | {"lr": 1e-12, "weight_decay": 0.0}
    spec = trial(tmp_path, data, small_cnn(), strategy, purpose="refit", initial=first.folder)
    assert run_trial(spec).status == "completed"
    before, after = (dict(load_model(s.folder).named_parameters()) for s in (first, spec))
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())


def test_the_smooth_score_ranks_confidence_among_equals() -> None:
    labels = np.array([0, 1])
    sure, unsure = (np.array([[p, 1 - p], [1 - p, p]]) for p in (0.9, 0.6))
    assert smooth_score(1.0, labels, sure) > smooth_score(1.0, labels, unsure) > 1.0
    assert smooth_score(1.0, labels, np.array([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(1.25)
    assert math.isfinite(smooth_score(0.0, labels, np.array([[0.0, 1.0], [1.0, 0.0]])))


def one_epoch(name: str) -> dict[str, Any]:
    overrides = (
        {"epochs": 1, "batch_size": 16}
        if CATALOG[name].method not in ("knn", "logistic", "linear_probe")
        else {}
    )
    return CATALOG[name].with_overrides(overrides).to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOG)
def test_every_strategy_of_the_catalog_trains_and_leaves_a_model(
    data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, name: str
) -> None:
    backbone = small_cnn() if CATALOG[name].method == "scratch" else tiny
    spec = trial(tmp_path, data, backbone, one_epoch(name), resolution=64, shared_folder=cache)
    check(spec, run_trial(spec), data)


@pytest.mark.parametrize("method", ["logistic", "probe_then_full"])
def test_a_trial_on_a_sample_uses_only_that(
    data: Dataset, tiny: Backbone, cache: str, tmp_path: Path, method: str
) -> None:
    spec = trial(tmp_path, data, tiny, recipe(method), shared_folder=cache)
    small = replace(spec, images=30, max_epochs=1)
    outcome = run_trial(small)
    some = data.sample(30)
    assert outcome.status == "completed"
    index, _ = scores(small)
    np.testing.assert_array_equal(index, scored_images(some))
    assert len(index) < len(scored_images(data))


def test_a_trial_keeps_to_its_threads(
    data: Dataset, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the libraries of the process were loaded with: numbers that wait for each other's threads crawl."""
    from threadpoolctl import threadpool_info, threadpool_limits

    seen: list[int] = []

    def frozen(spec: TrialSpec, *_rest: Any) -> Iterator[None]:
        seen.extend(pool["num_threads"] for pool in threadpool_info())
        yield from ()

    monkeypatch.setattr("automl.trial._frozen", frozen)
    with threadpool_limits(2):
        run_trial(trial(tmp_path, data, tiny, recipe("logistic"), threads=1))
        after = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert seen and set(seen) == {1}
    assert after == {2}
