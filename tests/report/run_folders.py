"""Run folders as a submit leaves them, made in a moment: a colour classifier, invented trials, real predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from automl.evaluation import constraints as checks
from automl.evaluation import metrics
from automl.task import Constraint

#: Three classes; two have names that would break careless HTML, Markdown or CSV.
CLASSES = ['blue <b>&"bold"</b>', "green|*star*", "red"]
SIDE, STORED = 8, 16


def write_colour_model(
    path: Path, side: int = SIDE, classes: int = 3, bias: list[float] | None = None
) -> None:
    """An exported model whose class is the strongest of blue, green and red (more classes: noise)."""
    weight = np.random.default_rng(0).normal(0, 0.002, (3, classes)).astype(np.float32)
    weight[:, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]], np.float32)[:, : min(3, classes)] * 0.03
    offset = np.zeros(classes, np.float32) if bias is None else np.array(bias, np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("Add", ["logits", "bias"], ["moved"]),
        helper.make_node("ArgMax", ["moved"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", classes]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        ],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(offset, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)


class Pictures:
    """As much of a data set as a report reads: noisy colour patches, the last 40 % are test images."""

    def __init__(self, per_class: int, classes: list[str], noise: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.class_names = classes
        self.labels = np.tile(np.arange(len(classes)), per_class).astype(np.int64)
        self.source_names = [f"{classes[k]}/image <{n}> & more.png" for n, k in enumerate(self.labels)]
        colours = rng.integers(40, 120, (len(self.labels), 3)).astype(float)
        for at, k in enumerate(self.labels):
            colours[at, (2 - k) % 3] += 70
        colours += rng.normal(0, noise, colours.shape)
        fine = rng.normal(0, 20, (len(self.labels), STORED, STORED, 3))
        self.pixels = (colours[:, None, None, :] + fine).clip(0, 255).astype(np.uint8)
        self.test = np.arange(int(0.6 * len(self.labels)), len(self.labels))

    def images(self, side: int | None = None) -> np.ndarray:
        """Pictures uint8 ``[N, side, side, 3]``."""
        if side in (None, STORED):
            return self.pixels
        sized = [Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR) for p in self.pixels]
        return np.stack([np.asarray(p) for p in sized])


def make_run(
    folder: Path,
    *,
    limits: tuple[str, ...] = ("latency_ms<=1.5", "size_mb<=2", "recall[red]>=0.6"),
    objective: str = "balanced_accuracy",
    trials: int = 14,
    classes: list[str] | None = None,
    per_class: int = 60,
    noise: float = 45.0,
    latency: bool = True,
    members: int = 2,
) -> Pictures:
    """Write a run folder and return the pictures it was made on."""
    from automl.export import run_onnx

    names = CLASSES if classes is None else classes
    (folder / "search").mkdir(parents=True)
    write_colour_model(folder / "model.onnx", classes=len(names))
    pictures = Pictures(per_class, names, noise)
    probabilities, label = run_onnx(folder / "model.onnx", pictures.images(SIDE), pictures.test)
    truth = pictures.labels[pictures.test]
    _scores(folder / "search" / "test_scores.npz", pictures.test, truth, probabilities, label)
    found = metrics.evaluate_all(truth, probabilities, label, names)
    rows = _trials(trials, latency)
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / "trials.parquet")
    costs = {"size_mb": 1.24, "params_m": 0.41, "macs_m": 12.9, "memory_mb": 31.0}
    costs |= {"latency_ms": 1.21, "latency_p95_ms": 1.33} if latency else {}
    parsed = [Constraint.parse(text) for text in limits]
    checked = checks.check(parsed, costs=costs, quality=found)
    ok = all(row["satisfied"] for row in checked)
    task = {
        "data": "/data/colours", "constraints": list(limits), "objective": objective, "budget": 240.0, "max_trials": None,
        "device": "cpu:1", "seed": 3, "weights_dirs": [], "backbones": [],
    }  # fmt: skip
    recipe = {
        "name": "full_medium", "version": 1, "order": 4, "summary": "Fine-tune all layers with medium augmentation.",
        "source": "timm reference recipe", "method": "full", "optimizer": "adamw", "lr": 0.0005, "epochs": 20, "batch_size": 32,
    }  # fmt: skip
    backbone = {
        "name": "mobilenetv3_small_075", "source": "local-dir:/home/someone/weights/mobilenetv3_small_075", "pretrained": True,
        "architecture": "tf_mobilenetv3_small_075", "licence": "apache-2.0", "mean": [0.5] * 3, "std": [0.5] * 3,
    }  # fmt: skip
    made_of = [
        {
            "candidate": rows[k]["candidate"], "trial": rows[k]["trial_id"], "refit": f"t{90 + k:04d}" if k == 0 else None,
            "weight": 1 / members, "strategy": recipe, "backbone": backbone,
        }
        for k in range(min(members, trials))
    ]  # fmt: skip
    counts = {
        part: {name: int(share * per_class) for name in names}
        for part, share in (("train", 0.5), ("validation", 0.1), ("test", 0.4))
    }
    data = {
        "name": "colours", "images": len(pictures.labels), "stored": len(pictures.labels), "side": STORED, "class_names": names,
        "counts": counts, "folds": 1, "unreadable": [{"name": "bad <i>.png", "reason": "damaged: cannot identify"}],
        "warnings": ["12 images have an exact copy"], "notes": ["groups come from the file names"],
        "sizes": {"shortest": 14.0, "median": 16.0, "longest": 20.0},
    }  # fmt: skip
    result = {
        "schema_version": 1, "status": "ok" if ok else "infeasible", "model": "model.onnx", "task": task, "objective": objective,
        "constraints": checked,
        "metrics": {part: {k: m.to_dict() for k, m in found.items()} for part in ("validation", "test")},
        "winner": {
            "backbone": "mobilenetv3_small_075", "subnet": None, "strategy": "full_medium", "source": "pool", "resolution": SIDE,
            "precision": "fp32", "overrides": {},
        },
        "members": made_of, "costs": costs, "why": "It has the best balanced_accuracy among the finished candidates.",
        "needs": None if ok else "The closest model misses a limit; it would do with the measured value.", "dataset": data,
        "trials": {"completed": 9, "stopped_early": 3, "failed": 1, "infeasible_not_trained": 17}, "interrupted": False,
        "notes": ["trial t0007 is not in the history: <disk full>"],
        "seconds": {"total": 231.4, "data": 3.1, "search": 190.2, "final": 21.9, "in_trials": 301.0, "workers": 2},
        "seed": 3, "versions": {"python": "3.11.7", "torch": "2.15.0", "onnxruntime": "1.32.0"},
        "device": {"name": "cpu:1", "measured": latency},
    }  # fmt: skip
    write_json(folder / "result.json", result)
    write_json(folder / "search" / "dataset.json", data)
    write_json(folder / "search" / "task.json", task)
    write_json(
        folder / "labels.json",
        {
            "schema_version": 1, "classes": names, "resize": [STORED, SIDE], "input": "images",
            "outputs": ["probabilities", "label"], "bias": [0.0] * len(names),
        },
    )  # fmt: skip
    return pictures


def write_json(path: Path, value: Any) -> None:
    """As the engine writes it: NaN becomes null."""
    from automl.search.store import write_json as write

    write(path, value)


def edit_result(folder: Path, **changes: Any) -> None:
    """Change fields of ``result.json``."""
    path = folder / "result.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def save_pictures(folder: Path, count: int = 6, seed: int = 1) -> list[Path]:
    """Plain colour pictures of different formats, sizes and modes."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [("png", "RGB"), ("jpg", "RGB"), ("png", "RGBA"), ("png", "L"), ("png", "P"), ("jpg", "CMYK")]
    paths = []
    for number in range(count):
        ending, mode = kinds[number % len(kinds)]
        height, width = (int(v) for v in rng.integers(9, 40, 2))
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        image = Image.fromarray(pixels) if mode == "RGBA" else Image.fromarray(pixels[..., :3]).convert(mode)
        paths.append(folder / f"{number}-{mode}.{ending}")
        image.save(paths[-1])
    return paths


def _scores(
    path: Path, index: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray
) -> None:
    np.savez_compressed(path, index=index, labels=labels, probabilities=probabilities, predicted=predicted)


def _trials(count: int, latency: bool) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    rows = []
    for number in range(count):
        status = "failed" if number == 5 else "stopped" if number % 4 == 3 else "completed"
        epochs = 0 if number == 5 else 1 if number % 5 == 2 else int(rng.integers(4, 20))
        final = 0.55 + 0.35 * float(rng.random())
        curve = [
            [e + 1, final - 0.5 * np.exp(-0.35 * e) + 0.01 * float(rng.normal()), 2.5 * (e + 1)]
            for e in range(epochs)
        ]
        score = curve[-1][1] if curve else float("nan")
        cost = 0.4 * 1.4 ** int(rng.integers(0, 9))
        side = int(rng.choice([64, 96, 128, 224]))
        precision = "int8" if number % 6 == 4 else "fp32"
        rows.append(
            {
                "trial_id": f"t{number + 1:04d}",
                "candidate": f"mobilenetv3_small_075@{side}/{precision}/full_medium",
                "architecture": "mobilenetv3_small_075",
                "resolution": side,
                "precision": precision,
                "strategy": "full_medium",
                "source": ["pool", "search", "refit"][number % 3],
                "status": status,
                "score": score,
                "seconds": 2.5 * epochs + 0.4,
                "epochs": epochs,
                "latency_ms": cost if latency else float("nan"),
                "latency_p95_ms": cost * 1.1 if latency else float("nan"),
                "size_mb": 0.3 + 1.5 * cost,
                "params_m": 0.4 * cost,
                "macs_m": 11 * cost,
                "feasible": cost <= 1.5 and 0.3 + 1.5 * cost <= 2,
                "error": "RuntimeError: <cuda> out of memory & other trouble" if number == 5 else None,
                "curve": json.dumps(curve),
                "metrics": "{}",
                "overrides": "{}",
            }
        )
    return rows
