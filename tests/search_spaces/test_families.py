"""What every family of networks promises; a new one is tested by being listed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from search_spaces import families
from search_spaces.backbones import create_backbone, scratch
from search_spaces.stages import feature_stages, stage_groups

NAMES = families.architectures()


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(scratch(request.param)).eval()


def test_names_are_unique_over_all_families() -> None:
    assert len(NAMES) == len(set(NAMES)) > 0


@pytest.mark.parametrize("side", [16, 33, 64])
def test_any_side_gives_pooled_features(model: nn.Module, side: int) -> None:
    with torch.inference_mode():
        out = model(torch.randn(3, 3, side, side))
    assert out.shape == (3, model.num_features)
    assert torch.isfinite(out).all()


def test_stages_are_listed_in_order_and_shrink(model: nn.Module) -> None:
    stages = feature_stages(model)
    assert stages == list(model.stages) and len(stages) >= 2  # type: ignore[arg-type]
    sides: list[int] = []
    for stage in stages:
        stage.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
    with torch.inference_mode():
        model(torch.randn(1, 3, 64, 64))
    assert sides == sorted(sides, reverse=True) and sides[0] > sides[-1]
    assert len(stage_groups(model)) == len(stages) + 2


def test_every_weight_learns(model: nn.Module) -> None:
    model.train()(torch.randn(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_images_do_not_influence_each_other(model: nn.Module) -> None:
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-4, rtol=1e-3)


def test_a_seed_repeats_the_weights() -> None:
    for name in NAMES:
        first, second = ((torch.manual_seed(1), families.create(name))[1].state_dict() for _ in range(2))
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_family_says_what_it_offers() -> None:
    for family, names in families.FAMILIES.items():
        module = importlib.import_module(f"search_spaces.families.{family}")
        assert isinstance(module.NAMES, Mapping) and callable(module.create)
        assert tuple(module.NAMES) == names


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'big_cnn'; known: small_cnn_xs"):
        families.create("big_cnn")
