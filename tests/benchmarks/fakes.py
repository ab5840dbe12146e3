"""Cells without engine and references: a child process is replaced by a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.images import pack

ENVIRONMENT = {
    "python": "3.11", "platform": "Linux x86_64", "cpu": "some processor", "cores": 2, "ram_gb": 8.0, "gpus": [],
    "packages": {"torch": "2.8"}, "commit": "abc",
}  # fmt: skip


def judged(spec: Mapping[str, Any], right: float, seed: list[int], images: int = 600) -> dict[str, Any]:
    """A cell of a dataset with three classes and pairs of images, ``right`` of whose test images are judged right."""
    labels = np.random.default_rng(len(spec["identity"]["dataset"])).integers(0, 3, images)
    rng = np.random.default_rng(seed)
    test = np.sort(rng.permutation(images)[: images // 5])
    predicted = np.where(rng.random(len(test)) < right, labels[test], (labels[test] + 1) % 3)
    return {
        "schema_version": 2,
        **spec["identity"],
        "settings": spec["settings"],
        "development_images": images - len(test),
        "seconds": 12.0,
        **pack(
            Path(spec["target"]).parent,
            labels=labels,
            groups=np.arange(images) // 2,
            classes=["a", "b", "c"],
            fingerprint="f",
            test=test,
            predicted=predicted,
        ),
        "details": {},
        "environment": ENVIRONMENT,
    }


def replace_child(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[str]:
    """Let ``make`` (spec → cell) stand for the child processes of ``module``; returns the labels of the cells run.

    A ``make`` that raises RuntimeError is a child that writes the error and ends with 1, one that raises TimeoutError hangs.
    """
    names: list[str] = []

    def fake(command: list[str], seconds: float, **options: Any) -> int | None:
        assert module in command
        spec = json.loads(Path(command[-1]).read_text())
        names.append(spec["label"])
        assert options["env"]["AUTOML_HOME"].startswith(spec["shared"])
        try:
            cell = make(spec)
        except RuntimeError as error:
            options["stdout"].write(f"{error}\n")
            return 1
        except TimeoutError:
            return None
        Path(spec["target"]).write_text(json.dumps(cell))
        return 0

    monkeypatch.setattr("benchmarks.cells.run_whole", fake)
    return names
