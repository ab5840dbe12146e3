"""What the processes share that make one cell each."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.errors import AutomlError, InputError
from benchmarks.cells import write_text
from benchmarks.environment import environment

if TYPE_CHECKING:
    from automl.data import Dataset
    from search_spaces.backbones import Backbone

Spec = Mapping[str, Any]


def main(path: str, make: Callable[[Spec], Mapping[str, Any]]) -> int:
    """Make the cell that the JSON file describes and write the file that it names; a wrong input ends with 2.

    Args:
        path: of the spec.
        make: spec → what was found, with ``seconds``; identity, settings and environment are added.
    """
    spec = json.loads(Path(path).read_text())
    try:
        found = make(spec)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cell = {
        "schema_version": 2,
        **spec["identity"],
        "settings": spec["settings"],
        "weights": spec["weights"],
        **found,
        "environment": environment(),
    }
    write_text(Path(spec["target"]), json.dumps(cell, ensure_ascii=False, separators=(",", ":")) + "\n")
    return 0


def submit_alone(
    spec: Spec,
    source: str,
    *,
    seed: int,
    columns: dict[str, str] | None,
    full: bool = True,
    supernet: bool = True,
    backbones: Sequence[str] = (),
    searcher: str | None = None,
) -> tuple[np.ndarray, np.ndarray, list[str], dict[str, Any]]:
    """Submit as a user does, to an empty home folder, and read what the model said of the test images.

    Args:
        spec: of the cell.
        source: data that is submitted.
        seed: of the submit.
        columns: names of a table's columns.
        full: False for the catalog's order without search, as ``--no-pool``.
        supernet: False as ``--no-supernet``.
        backbones: only these; empty for those of the settings.
        searcher: of :data:`benchmarks.searchers.SEARCHERS`, in the place of the engine's own search.

    Returns:
        indices of the test images in the submitted data, ascending; class of each; class names; details for
        the cell.
    """
    from automl.engine import submit
    from automl.task import Task

    folder = Path(spec["work"]) / "run"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    task = Task.make(
        source,
        budget=spec["settings"]["budget"],
        seed=seed,
        constraints=spec["settings"].get("limits", []),
        weights_dirs=spec["weights_dirs"],
        backbones=backbones or spec["settings"]["backbones"],
    )
    began = time.time()
    if searcher is None:
        from benchmarks.anytime import first_choice as choose

        result = submit(
            task, out=folder, columns=columns, use_pool=full, use_search=full, use_supernet=supernet
        )
    else:
        from benchmarks.searchers import best_trial as choose
        from benchmarks.searchers import submit_with

        result = submit_with(searcher, task, out=folder, columns=columns)
    seconds = time.time() - began
    with np.load(folder / "search" / "test_scores.npz", allow_pickle=False) as scores:
        index, predicted = scores["index"], scores["predicted"]
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))["classes"]
    order = np.argsort(index)
    told = result.to_dict()
    details = {key: told.get(key) for key in ("status", "winner", "trials", "seconds")}
    # Without the recipes and the folders of weights, which are those of one machine.
    kept = ("candidate", "weight", "refit")
    if spec["settings"].get("anytime"):
        from automl.data import load_dataset
        from benchmarks import anytime

        data = load_dataset(source, seed=seed, columns=columns)
        details["run"] = anytime.told(folder, data, began, told, seconds, choose)
    details["supernet"] = (folder / "supernet.safetensors").is_file()
    details["own_seconds"] = round(seconds, 2)
    details["members"] = [{key: m.get(key) for key in kept} for m in told.get("members") or []]
    return index[order], predicted[order], names, details


def costs_of(backbone: Backbone, side: int, classes: int, work: Path) -> dict[str, float]:
    """``latency_ms`` and ``size_mb`` of a network with a linear head, exported by the engine and measured on one thread.

    Neither depends on what its weights are, so it is not trained.
    """
    from automl._bench import untrained
    from automl.export import export_onnx
    from benchmarks.anytime import again

    file = work / "untrained.onnx"
    export_onnx(untrained(backbone, classes), side, file)
    found = again(file)
    file.unlink()
    return found


def check_same(index: np.ndarray, test: np.ndarray) -> None:
    """Check that a run judged the images that it should.

    Raises:
        AutomlError: it did not.
    """
    if not np.array_equal(index, test):
        raise AutomlError("the run's test images are not those of the split")


def features_folder(spec: Spec, dataset: Dataset) -> Path:
    """Where the features of this dataset's pictures are kept."""
    return Path(spec["shared"]) / "features" / dataset.fingerprint[:16]


def pretrained(spec: Spec) -> list[Backbone]:
    """Backbones that the references choose from.

    Raises:
        InputError: there is none.
    """
    from search_spaces.backbones import find_backbones

    found, skipped = find_backbones(spec["weights_dirs"], spec["settings"]["backbones"])
    usable = [backbone for backbone in found if backbone.pretrained]
    if not usable:
        reasons = "; ".join(skipped) or "none were found"
        raise InputError(f"the references need pretrained backbones ({reasons}); give --weights-dir FOLDER")
    return usable
