"""One cell of the quality, ablation, supernet and carried suites: what the engine's run folder says becomes the answer."""

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
from benchmarks import child, splits
from benchmarks.cells import read_cells
from benchmarks.suites import _quality_cell, ablation, carried, quality, supernet
from search_spaces import families


@pytest.fixture
def spec(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "label": "shapes-1-engine", "identity": {"dataset": "shapes", "split": 1, "method": "engine"},
        "source": str(tiny_folder), "weights_dirs": [], "weights": [], "alone": True,
        "settings": {"budget": 30.0, "backbones": [], "columns": {}}, "shared": str(tmp_path),
        "work": str(tmp_path / "work"), "target": str(tmp_path / "cell.json"),
    }  # fmt: skip


def fake_submit(seen: list[dict[str, Any]], wrong: int = 0) -> Any:
    """A submit that predicts every test image right and writes them in another order."""

    def submit(task: Any, *, out: Path, columns: Any = None, **options: Any) -> Any:
        limits = [limit.expression for limit in task.constraints]
        known = {"seed": task.seed, "columns": columns, "backbones": list(task.backbones), "limits": limits}
        seen.append({**known, **options})
        dataset = load_dataset(task.data, seed=task.seed, columns=columns)
        index = dataset.indices("test")[::-1] - wrong
        (out / "search").mkdir(parents=True)
        np.savez(
            out / "search" / "test_scores.npz",
            index=index,
            predicted=np.asarray(dataset.labels)[index],
        )
        (out / "labels.json").write_text(json.dumps({"classes": list(dataset.class_names)}))
        return SimpleNamespace(to_dict=lambda: {"seconds": {"total": task.budget.seconds}, "seed": task.seed})

    return submit


def _main(spec: dict[str, Any], folder: Path) -> int:
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return child.main(str(path), _quality_cell.run_cell)


@pytest.mark.parametrize(
    ("method", "full", "grown", "backbones"),
    [
        ("engine", True, True, []),
        ("no-pool", False, True, []),
        ("no-supernet", True, False, []),
        ("scratch", True, True, families.architectures()),
    ],
)
def test_predictions_are_brought_into_the_order_of_the_split(
    spec: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    full: bool,
    grown: bool,
    backbones: list[str],
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(automl.engine, "submit", fake_submit(seen))
    (tmp_path / "work" / "run").mkdir(parents=True)  # of a run that was broken off
    spec["identity"]["method"] = method
    assert _main(spec, tmp_path) == 0
    options = {"use_pool": full, "use_search": full, "use_supernet": grown}
    assert seen == [{"seed": 1, "columns": None, "backbones": backbones, "limits": [], **options}]
    text = (tmp_path / "cell.json").read_text()
    assert str(tmp_path) not in text
    assert "probabilities" not in text
    (cell,) = read_cells([spec])
    assert cell["images"] == 45
    assert cell["predicted"].tolist() == cell["labels"].tolist()
    assert cell["index"].tolist() == sorted(cell["index"])
    assert len(cell["groups"]) == len(cell["labels"]) == 45 - cell["development_images"]
    assert cell["details"]["seconds"] == {"total": 30.0}
    row = splits.summarise("quality", [cell], resamples=100)["datasets"][0]
    assert row["methods"][method]["balanced_accuracy"] == 1


def test_a_run_has_the_limits_of_the_suite(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(automl.engine, "submit", fake_submit(seen))
    spec["settings"]["limits"] = ["latency_ms<=2", "size_mb<=3"]
    _quality_cell.run_cell(spec)
    assert seen[0]["limits"] == ["latency_ms<=2", "size_mb<=3"]


def test_a_run_on_other_images_is_refused(spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automl.engine, "submit", fake_submit([], wrong=1))
    with pytest.raises(AutomlError, match="not those of the split"):
        _quality_cell.run_cell(spec)


def test_every_method_of_the_suites_has_a_cell() -> None:
    for suite in (quality, ablation, carried, supernet):
        assert set(suite._TITLES) <= set(_quality_cell.METHODS)


def test_references_without_pretrained_backbones_are_wrong_input(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    spec["identity"]["method"] = "logreg"
    spec["settings"]["backbones"] = ["small_cnn_xs"]
    assert _main(spec, tmp_path) == 2
    assert not (tmp_path / "cell.json").exists()
