"""The same trials on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from automl.device import Device
from automl.evaluation.latency import Latency, measure_latency
from automl.export import export_onnx
from automl.trial import run_trial, training_device
from tests._models import network, pretrained, recipe, shapes, small_cnn, trial

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", ["logistic", "full", "cached_trunk", "lora", "norm_bias"])
def test_a_trial(tmp_path: Path, method: str) -> None:
    data, tiny = shapes(tmp_path), pretrained(tmp_path / "weights")
    spec = trial(
        tmp_path,
        data,
        tiny,
        recipe(method, epochs=3),
        shared_folder=str(tmp_path / "shared"),
        device="cuda:0",
    )
    outcome = run_trial(spec)
    assert outcome.status == "completed", outcome.error
    with np.load(Path(spec.folder) / "scores.npz") as stored:
        assert np.isfinite(stored["probabilities"]).all()
    if method == "cached_trunk":
        assert outcome.metrics["fold0"]["cached"]


def test_a_worker_uses_the_gpu_that_it_sees() -> None:
    assert training_device("cuda:0") == "cuda:0"
    assert training_device("cuda:99") == "cuda:0"
    assert training_device("cpu:1") == "cuda:0"


def test_latency_is_measured_on_the_gpu(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    export_onnx(network(small_cnn()), 64, tmp_path / "model.onnx")
    found = measure_latency(tmp_path / "model.onnx", Device.parse("cuda:0"))
    assert isinstance(found, Latency) and 0 < found.median_ms < 1000
