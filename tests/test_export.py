"""The exported file: its contract, that it computes what torch does, and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from automl.errors import AutomlError
from automl.export import DeployModel, export_onnx, run_onnx
from automl.training import fit_neighbours, new_model
from search_spaces import families
from search_spaces.backbones import Backbone, scratch
from tests._models import network, pictures, pretrained, small_cnn, transformer

FAMILIES = families.architectures()


class Linear(nn.Module):
    """Mean colours to logits: small, with known probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(3) / 50)
            self.linear.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pretrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tiny: Backbone) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(network(tiny), 32, path)
    return path


def torch_probabilities(model: nn.Module, images: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model(images.permute(0, 3, 1, 2).float()).softmax(1).numpy()


def test_the_contract_of_the_file(file: Path) -> None:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert isinstance(images.shape[0], str) and images.shape[1:] == [32, 32, 3]
    probabilities, label = session.get_outputs()
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert (label.name, label.type) == ("label", "tensor(int64)")
    assert isinstance(probabilities.shape[0], str) and probabilities.shape[1] == 3
    assert len(label.shape) == 1
    onnx.checker.check_model(onnx.load(file))
    assert not list(file.parent.glob(".*")) and len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_any_number_of_images_gives_what_torch_gives(file: Path, tiny: Backbone, count: int) -> None:
    images = pictures(count)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    probabilities, label = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(probabilities, torch_probabilities(network(tiny), images), atol=1e-4)
    np.testing.assert_array_equal(label, probabilities.argmax(1))
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize("taps", ["last", "multi"])
@pytest.mark.parametrize("rank", [0, 8])
def test_taps_and_adapters_are_exported(tiny: Backbone, tmp_path: Path, taps: str, rank: int) -> None:
    info = export_onnx(network(tiny, taps=taps, rank=rank), 48, tmp_path / "model.onnx")
    assert info.max_abs_diff < 1e-4
    assert info.path.exists() and info.size_bytes == info.path.stat().st_size


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_exports(name: str, tmp_path: Path) -> None:
    model = network(scratch(name))
    info = export_onnx(model, 64, tmp_path / "model.onnx")
    assert info.max_abs_diff < 1e-4 and info.macs > 0
    assert info.params == sum(p.numel() for p in model.parameters())
    assert info.size_bytes == pytest.approx(4 * info.params, rel=0.2)


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_convnext", pytest.param("test_vit", marks=pytest.mark.slow)]
)
def test_several_timm_layouts_export(architecture: str, tmp_path: Path) -> None:
    model = network(pretrained(tmp_path, architecture))
    assert export_onnx(model, 32, tmp_path / "model.onnx").max_abs_diff < 1e-4


@pytest.mark.parametrize("side", [64, 224, 256])
def test_a_transformer_is_exported_at_any_side_without_interpolation(side: int, tmp_path: Path) -> None:
    info = export_onnx(network(transformer(tmp_path)), side, tmp_path / "model.onnx")
    assert info.exporter == "torchscript" and info.max_abs_diff < 1e-4
    assert "Resize" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


def test_neighbours_export(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = fit_neighbours(rng.normal(size=(20, 128)).astype(np.float32), np.arange(20) % 4, 4, 5)
    model = new_model(small_cnn(), head).eval()
    export_onnx(model, 32, tmp_path / "model.onnx")
    images = pictures(5)
    got, _ = run_onnx(tmp_path / "model.onnx", images.numpy(), np.arange(5))
    np.testing.assert_allclose(got, torch_probabilities(model, images), atol=1e-4)


def test_the_bias_moves_labels_and_not_probabilities(tmp_path: Path) -> None:
    images = torch.tensor([[120, 100, 0], [0, 110, 100], [255, 0, 0]], dtype=torch.uint8)
    images = images.view(3, 1, 1, 3).expand(3, 8, 8, 3).contiguous()
    model = Linear()
    bias = np.array([-1.0, 0.0, 0.5])
    export_onnx(model, 8, tmp_path / "plain.onnx")
    export_onnx(model, 8, tmp_path / "moved.onnx", bias=bias)
    plain, moved = (
        run_onnx(tmp_path / f"{n}.onnx", images.numpy(), np.arange(3)) for n in ("plain", "moved")
    )
    np.testing.assert_array_equal(plain[0], moved[0])
    assert plain[1].tolist() == [0, 1, 0]
    assert moved[1].tolist() == [1, 2, 0]
    np.testing.assert_array_equal(moved[1], (np.log(moved[0]) + bias).argmax(1))


def test_deploying_in_torch_gives_the_same_labels() -> None:
    model = DeployModel(Linear(), torch.tensor([0.0, 10.0, 0.0])).eval()
    probabilities, label = model(pictures(4, 8))
    assert label.tolist() == [1] * 4 and label.dtype == torch.int64
    assert probabilities.dtype == torch.float32


def test_int8_is_smaller_runs_and_agrees_roughly(tmp_path: Path) -> None:
    model = network(scratch("small_cnn_m"))
    images = pictures(24)
    plain = export_onnx(model, 32, tmp_path / "fp32.onnx")
    small = export_onnx(model, 32, tmp_path / "int8.onnx", precision="int8", calibration=images.numpy())
    assert (plain.precision, small.precision) == ("fp32", "int8")
    assert small.size_bytes < 0.4 * plain.size_bytes
    probabilities, label = run_onnx(tmp_path / "int8.onnx", images.numpy(), np.arange(24))
    np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-4)
    np.testing.assert_array_equal(label, probabilities.argmax(1))
    np.testing.assert_allclose(probabilities, torch_probabilities(model, images), atol=0.15)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fp32.onnx", "int8.onnx"]


def test_int8_without_calibration_is_good_enough_for_timing(tmp_path: Path) -> None:
    export_onnx(network(small_cnn()), 32, tmp_path / "int8.onnx", precision="int8")
    probabilities, _ = run_onnx(tmp_path / "int8.onnx", pictures(2).numpy(), np.arange(2))
    assert np.isfinite(probabilities).all()


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision is 'fp16'; known: fp32, int8"):
        export_onnx(Linear(), 8, tmp_path / "model.onnx", precision="fp16")


def test_a_model_that_is_not_a_number_is_not_exported(tmp_path: Path) -> None:
    model = Linear()
    nn.init.constant_(model.linear.weight, float("nan"))
    with pytest.raises(AutomlError, match="differs from torch by inf"):
        export_onnx(model, 8, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    export_onnx(Linear(), 8, tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").read_bytes()

    broken = Linear()
    nn.init.constant_(broken.linear.weight, float("inf"))
    with pytest.raises(AutomlError):
        export_onnx(broken, 8, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_running_a_file_keeps_the_order_of_the_index(file: Path, batch: int) -> None:
    images = pictures(9).numpy()
    index = np.array([8, 0, 3, 3, 1])
    probabilities, labels = run_onnx(file, images, index, batch=batch)
    every, every_label = run_onnx(file, images, np.arange(9))
    np.testing.assert_allclose(probabilities, every[index], atol=1e-5)
    np.testing.assert_array_equal(labels, every_label[index])
    assert (probabilities.dtype, labels.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(("most", "found"), [(0, 0), (3, 4), (9, 9)])
def test_once_it_is_enough_no_more_rows_are_run(file: Path, most: int, found: int) -> None:
    images, index = pictures(9).numpy(), np.arange(9)[::-1]
    probabilities, labels = run_onnx(
        file, images, index, batch=2, threads=2, enough=lambda begun: begun >= most
    )
    every, every_label = run_onnx(file, images, index)
    assert (len(probabilities), len(every)) == (found, 9)
    np.testing.assert_allclose(probabilities, every[:found].reshape(probabilities.shape), atol=1e-5)
    np.testing.assert_array_equal(labels, every_label[:found])


def test_running_a_file_on_nothing_gives_empty_arrays(file: Path) -> None:
    probabilities, labels = run_onnx(file, pictures(2).numpy(), np.zeros(0, dtype=np.int64))
    assert probabilities.shape == (0, 3) and labels.shape == (0,)
