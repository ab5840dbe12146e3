"""The same trials on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from automl.device import Device
from automl.evaluation.latency import Latency, measure_latency
from automl.export import export_onnx
from automl.trial import run_trial, training_device
from search_spaces import families
from search_spaces.train import Batch, Recipe, recalibrate, train_supernet
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


def test_a_supernet_learns_by_passes_that_were_captured() -> None:
    def batches() -> Iterator[Batch]:
        generator = torch.Generator("cuda").manual_seed(0)
        while True:
            labels = torch.randint(0, 3, (48,), device="cuda", generator=generator)
            images = torch.randn(48, 3, 32, 32, device="cuda", generator=generator)
            images[torch.arange(48), labels] += 1.5
            yield Batch(images, labels)

    torch.manual_seed(0)
    net = families.supernet("mobile", 3).cuda()
    recipe = Recipe(learning_rate=0.01, dropout=0.0, ema=0.0, smoothing=0.0, pool=2)
    training = train_supernet(
        net, batches(), recipe, lambda step: step / 30, precision=torch.bfloat16, report_every=5
    )
    steps = list(training)
    assert steps[-1].largest < 0.5 * steps[0].largest
    images, labels = (batch := next(batches())).images, batch.labels
    built = net.build(net.space.largest())
    recalibrate(built, [images])
    with torch.inference_mode():
        assert float((built.eval()(images).argmax(1) == labels).float().mean()) > 0.9


def test_latency_is_measured_on_the_gpu(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    export_onnx(network(small_cnn()), 64, tmp_path / "model.onnx")
    found = measure_latency(tmp_path / "model.onnx", Device.parse("cuda:0"))
    assert isinstance(found, Latency) and 0 < found.median_ms < 1000
