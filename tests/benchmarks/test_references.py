"""The references choose on validation images and learn easy pictures."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from automl.data import Dataset, load_dataset
from benchmarks.comparison import balanced_accuracy
from benchmarks.references import choose_probe, logistic_reference, plain_reference, random_crop
from search_spaces.backbones import Backbone, find_backbones


@pytest.fixture
def dataset(tiny_folder: Path, tmp_path: Path) -> Dataset:
    return load_dataset(tiny_folder, cache_dir=tmp_path / "cache")


@pytest.fixture(scope="module")
def backbones() -> list[Backbone]:
    import torch

    torch.manual_seed(0)
    return find_backbones(names=["small_cnn_xs", "small_cnn_s"])[0]


def _score(dataset: Dataset, predicted: np.ndarray) -> float:
    labels = np.asarray(dataset.labels)[dataset.indices("test")]
    assert predicted.shape == labels.shape
    assert predicted.dtype == np.int64
    return balanced_accuracy(labels, predicted)


def test_logistic_regression_on_features(dataset: Dataset, backbones: list[Backbone], tmp_path: Path) -> None:
    answer = logistic_reference(dataset, backbones, tmp_path / "features", side=32)
    assert _score(dataset, answer.predicted) >= 0.6
    assert answer.details["backbone"] in {b.name for b in backbones}
    again = logistic_reference(dataset, backbones, tmp_path / "features", side=32)
    assert np.array_equal(answer.predicted, again.predicted)
    assert answer.details == again.details


def test_the_choice_does_not_see_test_labels(
    dataset: Dataset, backbones: list[Backbone], tmp_path: Path
) -> None:
    before = choose_probe(dataset, backbones, tmp_path / "one", side=32)
    wrong = np.array(dataset.labels)
    wrong[dataset.indices("test")] = 0
    dataset.labels = wrong
    for file in (tmp_path / "one").glob("choice-*"):
        file.unlink()
    again = choose_probe(dataset, backbones, tmp_path / "one", side=32)
    assert {**again, "seconds": 0.0} == {**before, "seconds": 0.0}


def test_backbones_whose_names_differ_after_a_dot_have_their_own_features(
    dataset: Dataset, backbones: list[Backbone], tmp_path: Path
) -> None:
    from benchmarks.references import probe_features

    one, two = (replace(b, name=f"net.{tag}") for b, tag in zip(backbones, ("first", "second"), strict=True))
    first = probe_features(dataset, one, tmp_path, 32)
    second = probe_features(dataset, two, tmp_path, 32)
    larger = probe_features(dataset, one, tmp_path, 48)
    assert not np.array_equal(first[:, :8], second[:, :8])
    assert not np.array_equal(first, larger)


def test_plain_fine_tuning_keeps_its_time(
    dataset: Dataset, backbones: list[Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import references

    looked = itertools.count()  # a tenth of a second a step
    monkeypatch.setattr(references, "time", SimpleNamespace(monotonic=lambda: 0.1 * next(looked)))
    answer = plain_reference(dataset, backbones[0], 10.0, side=32, batch=16)
    assert _score(dataset, answer.predicted) > 0.5
    assert answer.details["training_seconds"] == pytest.approx(10.1, abs=0.11)
    assert answer.details["epochs"] == pytest.approx(99 * 16 / len(dataset.indices("development")), rel=0.02)


def test_random_crops_have_the_side_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    picture = np.full((40, 40, 3), 77, dtype=np.uint8)
    for _ in range(50):
        crop = random_crop(picture, 24, rng)
        assert crop.shape == (24, 24, 3)
        assert (crop == 77).all()
