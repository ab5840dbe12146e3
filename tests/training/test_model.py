"""The shape of every model: normalisation inside, several taps, and a stored model that comes back the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from automl.errors import AutomlError
from automl.training import Features, fit_neighbours, load_model, new_model, save_model
from automl.training._model import collected, pool
from search_spaces.backbones import Backbone, create_backbone
from tests._models import network, pictures, pretrained, small_cnn


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pretrained(tmp_path_factory.mktemp("weights"))


def logits(model: torch.nn.Module, side: int = 32) -> torch.Tensor:
    with torch.inference_mode():
        return model(pictures(3, side).permute(0, 3, 1, 2).float())


def test_pixels_are_normalised_with_the_backbones_own_numbers(tiny: Backbone) -> None:
    model = network(tiny)
    x = pictures(2).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (tiny.mean, tiny.std))
    with torch.inference_mode():
        expected = model.head(model.body((x / 255 - mean) / std))
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)


def test_several_taps_begin_with_the_last_features(tiny: Backbone) -> None:
    network_ = create_backbone(tiny).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        last, multi = Features(network_, "last")(x), Features(network_, "multi")(x)
    assert torch.equal(multi[:, : last.shape[1]], last)
    assert multi.shape[1] > last.shape[1]


@pytest.mark.parametrize("architecture", ["test_resnet", "test_convnext", "test_vit", "test_mambaout"])
def test_the_width_of_several_taps_does_not_depend_on_the_side(architecture: str) -> None:
    import timm

    body = Features(timm.create_model(architecture, num_classes=0), "multi").eval()
    with torch.inference_mode():
        widths = {body(torch.randn(2, 3, side, side)).shape[1] for side in (32, 64, 96)}
    assert len(widths) == 1


def test_pooling_is_over_space_however_the_channels_lie() -> None:
    maps = torch.randn(2, 5, 3, 3)
    mean, top = pool(maps)
    torch.testing.assert_close(mean, maps.mean((2, 3)))
    torch.testing.assert_close(top, maps.amax((2, 3)))
    channels_last = maps.permute(0, 2, 3, 1)
    torch.testing.assert_close(pool(channels_last)[0], mean)
    tokens = channels_last.flatten(1, 2)
    torch.testing.assert_close(pool(tokens)[1], top)
    assert pool(mean)[0] is mean


def test_unknown_taps_are_refused(tiny: Backbone) -> None:
    with pytest.raises(ValueError, match="taps='all'; known: last, multi"):
        Features(create_backbone(tiny), "all")


def test_no_hook_is_left_behind() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(RuntimeError), collected([layer]):
        raise RuntimeError
    with collected([layer]) as outputs:
        layer(torch.ones(1, 2))
        layer(torch.ones(1, 2))
    layer(torch.ones(1, 2))
    assert len(outputs) == 2


@pytest.mark.parametrize("taps", ["last", "multi"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_stored_model_gives_the_same_logits(tiny: Backbone, tmp_path: Path, taps: str, whole: bool) -> None:
    model = network(tiny, taps=taps)
    save_model(model, tmp_path, resolution=48, whole=whole, note="kept")
    again = load_model(tmp_path)
    assert not again.training
    assert torch.equal(logits(again), logits(model))
    description = json.loads((tmp_path / "model.json").read_text())
    assert (description["resolution"], description["note"]) == (48, "kept")
    assert not list(tmp_path.glob("*.part"))


def test_only_the_head_is_stored_of_a_frozen_backbone(tiny: Backbone, tmp_path: Path) -> None:
    save_model(network(tiny), tmp_path, resolution=32, whole=False)
    assert all(name.startswith("head.") for name in load_file(tmp_path / "model.safetensors"))
    assert (tmp_path / "model.safetensors").stat().st_size < 50_000


def test_adapters_and_moved_statistics_come_back(tmp_path: Path, tiny: Backbone) -> None:
    model = network(tiny, rank=8)
    for parameter in model.body.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.train()
    model(pictures(8).permute(0, 3, 1, 2).float())
    model.eval()
    save_model(model, tmp_path, resolution=32, whole=True)
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


def test_a_network_from_scratch_and_neighbours_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = fit_neighbours(rng.normal(size=(12, 128)).astype(np.float32), np.arange(12) % 3, 3, 5)
    model = new_model(small_cnn(), head).eval()
    save_model(model, tmp_path, resolution=32, whole=True)
    assert torch.equal(logits(load_model(tmp_path)), logits(model))


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_missing_file_is_one_line(tmp_path: Path, missing: str) -> None:
    save_model(network(small_cnn()), tmp_path, resolution=32, whole=True)
    (tmp_path / missing).unlink()
    with pytest.raises(AutomlError, match="the stored model cannot be read"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["head.linear.weight", "body.backbone.stem.0.weight"])
def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path, name: str) -> None:
    save_model(network(small_cnn()), tmp_path, resolution=32, whole=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(AutomlError, match=f"do not fit the model.*{name}"):
        load_model(tmp_path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save_model(network(small_cnn()), tmp_path, resolution=32, whole=True)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04not tensors")
    with pytest.raises(AutomlError, match="the stored model cannot be read"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_model(network(small_cnn()), tmp_path, resolution=32, whole=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["head.linear.weight"] = torch.zeros(3, 5)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(AutomlError, match="do not fit the model"):
        load_model(tmp_path)


def test_a_description_without_its_fields_is_refused(tmp_path: Path) -> None:
    save_model(network(small_cnn()), tmp_path, resolution=32, whole=True)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(AutomlError, match="the stored model cannot be rebuilt"):
        load_model(tmp_path)
