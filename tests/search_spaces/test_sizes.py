"""Transformers at sides that they were not trained on, fixed for one of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch

from search_spaces.backbones import create_backbone, usual_arguments
from search_spaces.sizes import for_images
from tests._models import transformer


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "deit3_small_patch16_224"])
def test_a_transformer_takes_other_sides_than_its_own(architecture: str, tmp_path: Path) -> None:
    backbone = transformer(tmp_path, architecture)
    assert backbone.arguments["dynamic_img_size"] is True
    model = create_backbone(backbone).eval()
    own = timm.create_model(backbone.source, pretrained=True, num_classes=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        x = torch.randn(2, 3, 224, 224, generator=generator)
        torch.testing.assert_close(model(x), own(x))
        for side in (64, 128, 256):
            x = torch.randn(2, 3, side, side, generator=generator)
            fixed = for_images(model, x)
            assert fixed.pos_embed.shape[1] < model.pos_embed.shape[1] or side == 256  # type: ignore[index, union-attr]
            torch.testing.assert_close(fixed(x), model(x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(fixed(x[:1]), model(x[:1]), rtol=1e-4, atol=1e-5)
    before = copy.deepcopy(own.state_dict())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_network_that_depends_on_no_size_is_not_copied() -> None:
    model = timm.create_model("test_efficientnet", num_classes=0).eval()
    assert for_images(model, torch.zeros(1, 3, 32, 32)) is model


@pytest.mark.parametrize(
    ("architecture", "resized"),
    [("vit_small_patch16_224", True), ("deit_tiny_distilled_patch16_224", True), ("resnet18", False),
     ("vit_relpos_small_patch16_224", False), ("vit_small_patch16_rope_224", False), ("swin_tiny_patch4_window7_224", False)],
)  # fmt: skip
def test_what_is_asked_to_take_other_sizes_can(architecture: str, resized: bool) -> None:
    assert bool(usual_arguments(architecture)) == resized
    with torch.device("meta"):
        timm.create_model(architecture, num_classes=0, **usual_arguments(architecture))


def test_settings_of_the_folder_go_first(tmp_path: Path) -> None:
    backbone = transformer(tmp_path, dynamic_img_size=False)
    assert backbone.arguments["dynamic_img_size"] is False
    with pytest.raises(AssertionError, match="64"):
        create_backbone(backbone)(torch.zeros(1, 3, 64, 64))
