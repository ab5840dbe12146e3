"""Few images: what is drawn, what the references choose, how a cell is made, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import automl.engine
from automl.data import load_dataset
from automl.errors import InputError
from benchmarks import child
from benchmarks.cells import read_cells
from benchmarks.drawing import draw, write_manifest
from benchmarks.few_references import Few, logistic_by_folds, make_folds, neighbours_by_folds
from benchmarks.suites import _fewshot_cell, fewshot
from tests.benchmarks.fakes import judged, replace_child
from tests.benchmarks.test_quality_cell import fake_submit

# --- the draw ---------------------------------------------------------------------------------------


@pytest.fixture
def many() -> tuple[np.ndarray, np.ndarray]:
    """900 images of 4 classes (one of them rare) in groups of up to 5 images, some of several classes."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([rng.integers(0, 3, 880), np.full(20, 3)])
    return labels, np.concatenate([rng.integers(0, 300, 880), np.arange(300, 320)])


def test_no_group_is_on_both_sides_and_every_class_has_its_shots(many: tuple[np.ndarray, np.ndarray]) -> None:
    labels, groups = many
    for seed in range(5):
        development, test = draw(labels, groups, 12, seed)
        assert not set(groups[development]) & set(groups[test])
        assert np.bincount(labels[development]).tolist() == [12, 12, 12, 10]  # half of 20 stays for the test
        assert np.unique(labels[test]).tolist() == [0, 1, 2, 3]
        untouched = ~np.isin(groups, groups[development])
        assert np.array_equal(test, np.flatnonzero(untouched))


def test_draws_repeat_and_differ(many: tuple[np.ndarray, np.ndarray]) -> None:
    first, again, other = (draw(*many, 12, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_class_of_one_group_is_learned_and_not_tested() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2] * 3)
    groups = np.array([*range(40), 40, 40, 40])
    development, test = draw(labels, groups, 5, 0)
    assert np.bincount(labels[development]).tolist() == [5, 5, 3]
    assert np.unique(labels[test]).tolist() == [0, 1]


def test_a_class_whose_groups_others_need_is_learned_all_the_same() -> None:
    labels, groups = np.array([0, 0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 2, 3])
    development, test = draw(labels, groups, 4, 0)
    assert np.unique(labels[development]).tolist() == [0, 1]
    assert len(test)


def test_nothing_left_to_test_is_wrong_input() -> None:
    with pytest.raises(InputError, match="no image is left"):
        draw(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 2, 0)


@pytest.mark.parametrize("archive", [False, True])
def test_the_table_is_read_as_it_was_drawn(tiny_folder: Path, tmp_path: Path, archive: bool) -> None:
    source = tiny_folder
    whole = load_dataset(source, cache_dir=tmp_path / "cache")
    if archive:
        source = tmp_path / "shapes.npz"
        np.savez(
            source,
            images=whole.images()[np.arange(len(whole))],
            labels=np.array(whole.labels),
            class_names=np.array(["z", "y", "x"]),
        )
        whole = load_dataset(source, cache_dir=tmp_path / "cache")
    development, test = draw(np.array(whole.labels), np.array(whole.groups), 6, 0)
    table, rows = write_manifest(whole, development, test, tmp_path / "drawn", "6-0")
    assert table.read_text().splitlines()[0] == "path,label,split,group"
    read = load_dataset(table, cache_dir=tmp_path / "cache")
    assert rows[read.indices("test")].tolist() == test.tolist()
    assert rows[read.indices("development")].tolist() == development.tolist()
    assert len(read.folds) == 4  # so few images are validated in folds
    assert len(read.indices("validation"))
    names = [whole.class_names[c] for c in np.array(whole.labels)[rows]]
    assert [read.class_names[c] for c in np.array(read.labels)] == names
    assert np.array_equal(read.images()[[0, 5]], whole.images()[rows[[0, 5]]])


# --- the references ---------------------------------------------------------------------------------


@pytest.fixture
def few() -> Few:
    """Two backbones, one of which tells three classes apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    good = rng.normal(0, 1, (300, 16)).astype(np.float32)
    good[np.arange(300), labels] += 4
    features = {"bad": rng.normal(0, 1, (300, 16)).astype(np.float32), "good": good}
    groups = np.arange(300) // 2
    development, test = draw(labels, groups, 12, 0)
    return Few(features, labels, groups, development, test, 0)


@pytest.mark.parametrize("method", [logistic_by_folds, neighbours_by_folds])
def test_the_better_backbone_is_chosen_without_a_look_at_test_labels(few: Few, method: Any) -> None:
    answer = method(few)
    assert answer.details["backbone"] == "good"
    assert list(answer.details["backbones"]) == ["bad", "good"]
    assert answer.details["folds"] == 4
    assert (answer.predicted == few.labels[few.test]).mean() > 0.85
    wrong = few.labels.copy()
    wrong[few.test] = 0
    blind = method(Few(few.features, wrong, few.groups, few.development, few.test, 0))
    assert blind.details == answer.details
    assert np.array_equal(blind.predicted, answer.predicted)


def test_folds_keep_groups_together() -> None:
    labels, groups = np.arange(40) % 2, np.arange(40) // 2
    folds = make_folds(labels, groups, 0)
    assert len(folds) == 4
    for train, inside in folds:
        assert not set(groups[train]) & set(groups[inside])
    with pytest.raises(InputError, match="too few"):
        make_folds(np.array([0, 1]), np.array([0, 0]), 0)


# --- a cell -----------------------------------------------------------------------------------------


@pytest.fixture
def spec(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "label": "shapes-6-1-engine",
        "identity": {"dataset": "shapes", "shots": 6, "draw": 1, "method": "engine"},
        "source": str(tiny_folder), "weights_dirs": [], "weights": [], "alone": True,
        "settings": {"budget": 30.0, "backbones": [], "columns": {}}, "shared": str(tmp_path / "shared"),
        "work": str(tmp_path / "work"), "target": str(tmp_path / "cell.json"),
    }  # fmt: skip


def test_the_engine_is_given_the_drawn_table(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(automl.engine, "submit", fake_submit(seen))
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    assert child.main(str(path), _fewshot_cell.run_cell) == 0
    assert [call["seed"] for call in seen] == [1]
    assert str(tmp_path) not in (tmp_path / "cell.json").read_text()
    (cell,) = read_cells([spec])
    whole = load_dataset(spec["source"])
    development, test = draw(np.array(whole.labels), np.array(whole.groups), 6, 1)
    assert cell["index"].tolist() == test.tolist()
    assert cell["predicted"].tolist() == np.array(whole.labels)[test].tolist()
    assert cell["development_images"] == len(development) == 18


def test_every_method_of_the_suite_has_a_cell() -> None:
    assert list(_fewshot_cell.METHODS) == list(fewshot._TITLES)


# --- the suite --------------------------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "parts").mkdir()
    (tmp_path / "tiles").mkdir()
    return [
        "--data", str(tmp_path / "parts"), str(tmp_path / "tiles"), "--column", "tiles:label=binary", "--draws", "3",
        "--shots", "10,20", "--resamples", "200",
        "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"),
    ]  # fmt: skip


def test_table(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(spec: dict[str, Any]) -> dict[str, Any]:
        identity = spec["identity"]
        assert spec["settings"]["columns"] == ({"label": "binary"} if identity["dataset"] == "tiles" else {})
        right = {"engine": 0.9, "logreg": 0.7, "knn": 0.5 if identity["shots"] == 10 else 0.8}
        return judged(spec, right[identity["method"]], [identity["draw"]])

    called = replace_child(monkeypatch, "benchmarks.suites._fewshot_cell", make)
    assert fewshot.run(arguments) == 0
    assert len(called) == 2 * 2 * 3 * 3
    found = json.loads((tmp_path / "results" / "fewshot.json").read_text())
    better = [(row["dataset"], row["shots"], row["better_reference"]) for row in found["rows"]]
    assert better == [
        ("parts", 10, "logreg"), ("parts", 20, "knn"), ("tiles", 10, "logreg"), ("tiles", 20, "knn"),
    ]  # fmt: skip
    for row in found["rows"]:
        gap = row["differences"][row["better_reference"]]
        assert row["draws"] == [0, 1, 2]
        assert gap["low"] < gap["mean"] < gap["high"]
    assert [total["shots"] for total in found["overall"]] == [10, 20]
    text = (tmp_path / "results" / "fewshot.md").read_text()
    assert "| parts | 10 | 3 | 480 | 120 | 3 |" in text
    assert str(tmp_path) not in text
    (tmp_path / "results" / "cells" / "fewshot" / "tiles-20-2-knn.json").unlink()
    assert fewshot.run(arguments) == 0
    assert called[36:] == ["tiles-20-2-knn"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shots", "1,10"], "whole numbers from 2"),
        (["--shots", "few"], "whole numbers from 2"),
        (["--draws", "0"], "at least 1"),
        (["--methods", "kn"], "did you mean 'knn'"),
    ],
)
def test_wrong_input(
    arguments: list[str], extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fewshot.run([*arguments, *extra]) == 2
    assert message in capsys.readouterr().err
