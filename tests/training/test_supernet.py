"""A supernet on a user's images: what is known of its subnets is true of what is read from its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from automl._subnets import vision_model
from automl.export import export_onnx
from automl.task import Objective
from automl.training import _supernet as module
from automl.training import supernet_of
from automl.training._supernet import judged
from search_spaces.backbones import Backbone, create_backbone, find_backbones
from search_spaces.stored import RESOLUTION, Stored, StoredError, load, plain_network
from search_spaces.supernet import Supernet
from tests._models import shapes, transformer, write_model


def padding(folder: Path) -> Backbone:
    """A model that pads in a way of its own."""
    write_model(folder / "same", pad_type="same")
    return find_backbones(names=[f"local-dir:{folder / 'same'}"])[0][0]


def train(
    folder: Path, backbone: Backbone, seconds: float = 6.0, **changes: object
) -> tuple[Stored, Any, np.ndarray]:
    """A few seconds of training."""
    dataset = shapes(folder, per_class=30)
    dataset.ranges = {"uint16": [0.0, 4095.0]}
    rows = np.arange(len(dataset.labels))
    steps = supernet_of(
        dataset, rows[::2], rows[1::2], dataclasses.replace(backbone, **changes),  # type: ignore[arg-type]
        resolutions=[32, 48], objective=Objective(), seconds=seconds, seed=0, shared=folder,
    )  # fmt: skip
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, dataset, rows[1::2]


def test_scores_are_those_of_the_file(tmp_path: Path) -> None:
    stored, dataset, validation = train(tmp_path, padding(tmp_path))
    stored.save(tmp_path / "net.safetensors")
    read = load(tmp_path / "net.safetensors")
    assert read.about.ranges == {"uint16": [0.0, 4095.0]}
    known = [one for one in stored.known if one.score is not None][:12]
    again = [judged(read, one, dataset, validation, Objective()).score for one in known]
    assert len(known) == 12
    # Half precision moves an image at most now and then.
    np.testing.assert_allclose(again, [one.score for one in known], atol=0.05)
    assert [one.images for one in known] == [len(validation)] * 12
    assert [read.resize_chain(side) for side in (32, 48)] == [dataset.resize_chain(side) for side in (32, 48)]


def test_a_model_whose_settings_would_be_lost_is_not_trained(tmp_path: Path) -> None:
    with pytest.raises(StoredError, match="settings of its own"):
        train(tmp_path, padding(tmp_path), 60.0, arguments={})


@pytest.mark.parametrize("architecture", ["test_efficientnet", "mobilenetv1_100"])
def test_the_training_begins_with_what_the_fitted_classifier_says(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[torch.nn.Linear] = []
    begun: list[Supernet] = []
    probe = module._probe

    def spied(*args: Any) -> torch.nn.Linear:
        fitted.append(probe(*args))
        return fitted[0]

    def begins(net: Supernet, *_args: Any, **_more: Any) -> Any:
        begun.append(net)
        raise InterruptedError

    monkeypatch.setattr(module, "_probe", spied)
    monkeypatch.setattr(module, "train_supernet", begins)
    write_model(tmp_path / "model", architecture)
    backbone = find_backbones(names=[f"local-dir:{tmp_path / 'model'}"])[0][0]
    with pytest.raises(InterruptedError):
        train(tmp_path, backbone, 60.0)
    x = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = fitted[0](create_backbone(backbone).eval()(x))
        torch.testing.assert_close(begun[0].eval()(x), wanted, rtol=1e-3, atol=1e-4)


def test_a_transformer_becomes_a_supernet_at_other_sides_than_its_own(tmp_path: Path) -> None:
    stored, _, _ = train(tmp_path, transformer(tmp_path))
    stored.save(tmp_path / "net.safetensors")
    read = load(tmp_path / "net.safetensors")
    for side in read.about.resolutions:
        subnet = {**read.space.smallest(), RESOLUTION: side}
        info = export_onnx(vision_model(read, subnet), side, tmp_path / "model.onnx")
        assert info.exporter == "torchscript" and info.max_abs_diff < 1e-4
        plain_network(read.backbone(subnet)).eval()(torch.zeros(1, 3, side, side))
