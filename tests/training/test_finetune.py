"""The training loop: every method runs, repeats itself under a seed, ends in time, and keeps its promises."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.data import Dataset
from automl.training import FINE_TUNING, Fold, OutOfTime, VisionModel, fine_tune
from automl.training._finetune import _follow, _rate, mix_inputs
from search_spaces.backbones import Backbone, find_backbones
from tests._models import network, pretrained, recipe, shapes, small_cnn
from tests.training.test_frozen import no_space

TUNED = tuple(method for method in FINE_TUNING if method != "scratch")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shapes(tmp_path_factory.mktemp("tune"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pretrained(tmp_path_factory.mktemp("weights"))


def tune(
    folder: Path,
    data: Dataset,
    backbone: Backbone,
    strategy: dict[str, Any],
    *,
    validate: bool = True,
    resolution: int = 32,
    seed: int = 0,
    **settings_: Any,
) -> tuple[Fold, list[float]]:
    """Train on the first fold; also the fractions that were reported."""
    train, validation = data.folds[0]
    fold = Fold(train, validation if validate else validation[:0])
    steps = fine_tune(
        data,
        fold,
        backbone,
        strategy,
        resolution=resolution,
        seed=seed,
        shared=folder / "shared",
        scratch=folder / "scratch",
        **settings_,
    )
    return fold, [step.fraction for step in steps]


def weights_of(model: VisionModel | None) -> dict[str, torch.Tensor]:
    assert model is not None
    return model.state_dict()


def check(fold: Fold, fractions: list[float]) -> None:
    assert fractions[-1] == 1.0 and fractions == sorted(fractions)
    assert fold.probabilities is not None and fold.model is not None
    assert fold.probabilities.shape == (len(fold.validation), 3)
    np.testing.assert_allclose(fold.probabilities.sum(1), 1.0, atol=1e-4)
    assert fold.notes["steps"] == fold.notes["planned_steps"] == fold.steps
    assert not fold.notes["out_of_time"]


@pytest.mark.parametrize("method", TUNED)
def test_every_method_trains_and_predicts_what_its_model_says(
    data: Dataset, tiny: Backbone, tmp_path: Path, method: str
) -> None:
    fold, fractions = tune(tmp_path, data, tiny, recipe(method, norm="batch", rank=4))
    check(fold, fractions)
    images = torch.from_numpy(data.images(32)[fold.validation]).permute(0, 3, 1, 2).float()
    assert fold.model is not None
    with torch.inference_mode():
        again = fold.model(images).softmax(1).numpy()
    np.testing.assert_allclose(again, fold.probabilities, atol=2e-2)
    assert not list((tmp_path / "scratch").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", TUNED)
def test_every_method_trains_real_weights(data: Dataset, weights: Path, tmp_path: Path, method: str) -> None:
    backbone = find_backbones(names=[f"local-dir:{weights / 'tf_mobilenetv3_small_075.in1k_feat'}"])[0][0]
    fold, fractions = tune(tmp_path, data, backbone, recipe(method, epochs=2, rank=4))
    check(fold, fractions)
    assert fold.probabilities is not None
    assert (fold.probabilities.argmax(1) == np.asarray(data.labels)[fold.validation]).mean() > 0.4


def test_a_network_from_scratch_learns_the_training_images(data: Dataset, tmp_path: Path) -> None:
    strategy = recipe("scratch", epochs=12, lr=3e-3)
    fold, fractions = tune(tmp_path, data, small_cnn(), strategy)
    check(fold, fractions)
    assert 4 <= len(fractions) <= 8
    images = torch.from_numpy(data.images(32)[fold.train]).permute(0, 3, 1, 2).float()
    assert fold.model is not None
    with torch.inference_mode():
        right = (fold.model(images).argmax(1).numpy() == np.asarray(data.labels)[fold.train]).mean()
    assert right > 0.8


@pytest.mark.parametrize("method", ["scratch", "lora", "cached_trunk"])
def test_a_seed_repeats_a_run_and_another_does_not(
    data: Dataset, tiny: Backbone, tmp_path: Path, method: str
) -> None:
    backbone = small_cnn() if method == "scratch" else tiny
    strategy = recipe(method, augmentation="medium", mixup=0.2, dropout=0.1, rank=4)
    tune(tmp_path, data, backbone, strategy)  # the frozen features are there from now on
    first, second, other = (tune(tmp_path, data, backbone, strategy, seed=seed)[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    again = weights_of(second.model)
    assert all(torch.equal(value, again[name]) for name, value in weights_of(first.model).items())
    assert first.probabilities is not None and other.probabilities is not None
    assert not np.array_equal(first.probabilities, other.probabilities)


@pytest.mark.parametrize("method", ["lora", "cached_trunk"])
def test_a_seed_repeats_a_run_whether_or_not_the_features_were_there(
    data: Dataset, tiny: Backbone, tmp_path: Path, method: str
) -> None:
    strategy = recipe(method, dropout=0.1, rank=4)
    first, second = (tune(tmp_path, data, tiny, strategy)[0] for _ in range(2))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_norms_keep_their_statistics(data: Dataset, tiny: Backbone, tmp_path: Path, norm: str) -> None:
    fold, _ = tune(tmp_path, data, tiny, recipe("full", norm=norm))
    before = network(tiny).body.backbone.state_dict()
    after = {k.removeprefix("body.backbone."): v for k, v in weights_of(fold.model).items()}
    same = [torch.equal(v, after[k]) for k, v in before.items() if "running" in k]
    assert same and (all(same) if norm == "frozen" else not any(same))


def test_norm_bias_leaves_the_convolutions_alone(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    fold, _ = tune(tmp_path, data, tiny, recipe("norm_bias", weight_decay=0.1))
    before = network(tiny).body.backbone.state_dict()
    after = {k.removeprefix("body.backbone."): v for k, v in weights_of(fold.model).items()}
    assert all(torch.equal(v, after[k]) for k, v in before.items() if v.ndim == 4)
    assert any(not torch.equal(v, after[k]) for k, v in before.items() if v.ndim == 1)


def test_a_cached_trunk_stays_as_it_was(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    fold, _ = tune(tmp_path, data, tiny, recipe("cached_trunk", trunk_stages=3, views=2))
    before = network(tiny).body.backbone.state_dict()
    after = {k.removeprefix("body.backbone."): v for k, v in weights_of(fold.model).items()}
    early = [k for k in before if k.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2"))]
    late = [k for k in before if k not in early and before[k].ndim == 4]
    assert all(torch.equal(before[k], after[k]) for k in early)
    assert all(not torch.equal(before[k], after[k]) for k in late)


def test_a_disk_too_full_for_a_cached_trunk_is_an_error(
    data: Dataset, tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(tmp_path, data, tiny, recipe("cached_trunk"))  # the features that it begins with are there now
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    with pytest.raises(OSError, match=r"No space left on device.*views0\.f16"):
        tune(tmp_path, data, tiny, recipe("cached_trunk"))


def test_a_network_that_cannot_be_split_is_tuned_on_pixels(data: Dataset, tmp_path: Path) -> None:
    backbone = pretrained(tmp_path / "weights", "test_resnet")
    check(*tune(tmp_path, data, backbone, recipe("cached_trunk")))


def test_a_refit_without_validation_images_leaves_a_model(
    data: Dataset, tiny: Backbone, tmp_path: Path
) -> None:
    fold, fractions = tune(tmp_path, data, tiny, recipe("probe_then_full", taps="multi"), validate=False)
    assert fold.probabilities is None and fold.model is not None and not fold.model.training
    assert fractions[-1] == 1.0


def test_fewer_epochs_can_be_asked_for(data: Dataset, tmp_path: Path) -> None:
    fold, _ = tune(tmp_path, data, small_cnn(), recipe("scratch", epochs=500), max_epochs=1)
    assert fold.epochs == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["scratch", "cached_trunk"])
def test_a_training_ends_before_its_deadline_with_a_scored_model(
    data: Dataset, tiny: Backbone, tmp_path: Path, method: str
) -> None:
    backbone = small_cnn() if method == "scratch" else tiny
    tune(tmp_path, data, backbone, recipe(method))  # so that nothing is loaded for the first time
    deadline = time.monotonic() + 4
    fold, fractions = tune(tmp_path, data, backbone, recipe(method, epochs=10_000), deadline=deadline)
    assert fold.notes["out_of_time"] and fold.steps < fold.notes["planned_steps"]
    assert fractions[-1] == 1.0 and fold.probabilities is not None


def test_features_that_do_not_fit_into_the_time_end_the_trial(
    data: Dataset, tiny: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(OutOfTime):
        tune(tmp_path, data, tiny, recipe("probe_then_full"), deadline=time.monotonic() - 1)


def test_a_diverging_loss_is_an_error(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="a lower learning rate is needed"):
        model = network(tiny)
        torch.nn.init.constant_(model.head.linear.weight, float("nan"))  # type: ignore[union-attr, arg-type]
        tune(tmp_path, data, tiny, recipe("full"), initial=model)


def test_training_goes_on_from_a_given_model(data: Dataset, tiny: Backbone, tmp_path: Path) -> None:
    model = network(tiny)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fold, _ = tune(tmp_path, data, tiny, recipe("norm_bias", lr=1e-9, weight_decay=0.0), initial=model)
    after = weights_of(fold.model)
    assert all(torch.allclose(before[k], after[k], atol=1e-4) for k in before)


def test_the_moving_average_is_what_is_returned(data: Dataset, tmp_path: Path) -> None:
    plain, _ = tune(tmp_path, data, small_cnn(), recipe("scratch", epochs=2))
    averaged, _ = tune(tmp_path, data, small_cnn(), recipe("scratch", epochs=2, ema=0.999))
    key = "body.backbone.stem.0.weight"
    assert not torch.equal(weights_of(plain.model)[key], weights_of(averaged.model)[key])


def test_following_mixes_weights_and_copies_counters() -> None:
    average, model = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(model.weight, 3.0)
    assert model.num_batches_tracked is not None and average.num_batches_tracked is not None
    model.num_batches_tracked.fill_(7)
    _follow(average, model, 0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert int(average.num_batches_tracked) == 7


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["cosine", "constant", "onecycle"]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.floats(0, 1),
    st.integers(0, 500),
)
def test_the_rate_is_a_share_and_is_highest_at_most_once(
    schedule: str, warmup: float, progress: float, done: int
) -> None:
    strategy = recipe("full", schedule=schedule, warmup=warmup)
    assert 0 <= _rate(strategy, progress, done) <= 1
    if progress >= warmup and done >= 10:
        assert _rate(strategy, 1.0, done) <= _rate(strategy, progress, done) + 1e-9


def test_schedules_end_where_they_should() -> None:
    assert _rate(recipe("full", schedule="cosine"), 1.0, 100) == pytest.approx(0.0, abs=1e-6)
    assert _rate(recipe("full", schedule="constant"), 1.0, 100) == 1.0
    assert _rate(recipe("full", warmup=0.0), 0.0, 100) == pytest.approx(1.0)
    assert _rate(recipe("full", warmup=0.0), 0.0, 0) == pytest.approx(0.1)


def test_cached_activations_are_mixed_together() -> None:
    inputs = (torch.arange(12.0).view(3, 1, 2, 2), torch.arange(6.0).view(3, 2))
    targets = torch.eye(3)
    generator = torch.Generator().manual_seed(0)
    mixed, shares = mix_inputs(inputs, targets, recipe("full", cutmix=1.0), generator)
    torch.testing.assert_close(mixed[0], torch.einsum("ij,jckl->ickl", shares, inputs[0]))
    torch.testing.assert_close(mixed[1], shares @ inputs[1])
    untouched, same = mix_inputs(inputs, targets, recipe("full"), generator)
    assert untouched is inputs and same is targets
