"""One cell of the quality suite: what the engine's run folder says becomes the answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import automl.engine
from automl.data import load_dataset
from automl.errors import AutomlError
from benchmarks.suites import _quality_cell, quality


@pytest.fixture
def spec(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "dataset": "shapes", "split": 1, "method": "engine", "source": str(tiny_folder), "weights_dirs": [],
        "settings": {"budget": 30.0, "backbones": [], "columns": {}}, "shared": str(tmp_path),
        "work": str(tmp_path / "work"), "target": str(tmp_path / "cell.json"),
    }  # fmt: skip


def _submit(wrong: int = 0) -> Any:
    """A submit that predicts every test image right and writes them in another order."""

    def submit(task: Any, *, out: Path, columns: Any = None) -> Any:
        dataset = load_dataset(task.data, seed=task.seed)
        index = dataset.indices("test")[::-1] - wrong
        (out / "search").mkdir(parents=True)
        np.savez(
            out / "search" / "test_scores.npz",
            index=index,
            predicted=np.asarray(dataset.labels)[index],
        )
        return SimpleNamespace(to_dict=lambda: {"seconds": {"total": task.budget.seconds}, "seed": task.seed})

    return submit


def test_predictions_are_brought_into_the_order_of_the_split(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(automl.engine, "submit", _submit())
    (tmp_path / "work" / "run").mkdir(parents=True)  # of a run that was broken off
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec))
    assert _quality_cell.main(str(path)) == 0
    cell = json.loads((tmp_path / "cell.json").read_text())
    assert cell["predicted"] == cell["labels"]
    assert cell["index"] == sorted(cell["index"])
    assert len(cell["groups"]) == len(cell["labels"])
    assert cell["details"]["seconds"] == {"total": 30.0}
    assert str(tmp_path) not in json.dumps(cell)
    row = quality.summarise([cell], resamples=100)["datasets"][0]
    assert row["methods"]["engine"]["balanced_accuracy"] == 1


def test_a_run_on_other_images_is_refused(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automl.engine, "submit", _submit(wrong=1))
    with pytest.raises(AutomlError, match="not those of the split"):
        _quality_cell.run_cell(spec)


def test_every_method_of_the_suite_has_a_cell() -> None:
    assert list(_quality_cell.METHODS) == list(quality._TITLES)


def test_references_without_pretrained_backbones_are_wrong_input(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "spec.json"
    backbones = {**spec["settings"], "backbones": ["small_cnn_xs"]}
    path.write_text(json.dumps({**spec, "method": "logreg", "settings": backbones}))
    assert _quality_cell.main(str(path)) == 2
    assert not (tmp_path / "cell.json").exists()
