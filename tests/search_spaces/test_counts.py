"""What networks are made of: counted, and looked up in the table that was counted ahead."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from search_spaces import counts as module
from search_spaces import families
from search_spaces.backbones import Backbone, create_backbone, scratch
from search_spaces.counts import COUNTED_SIDE, Counts, count, count_macs, look_up
from tests._models import network, small_cnn


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 16 * 16 * 8 * 27),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), 8 * 8 * 8 * 27),
        (nn.Conv2d(3, 6, 5, padding=2, groups=3), 16 * 16 * 6 * 25),
        (nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)), 256 * (24 + 32)),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), 7680),
        (nn.Flatten(), 0),
    ],
)
def test_multiply_accumulates_of_known_layers(layer: nn.Module, expected: int) -> None:
    assert count_macs(layer, 16) == expected


def test_multiply_accumulates_grow_with_the_area() -> None:
    model = network(small_cnn())
    assert count_macs(model, 128) / count_macs(model, 64) == pytest.approx(4, rel=0.02)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = network(small_cnn())
    hooks = [len(m._forward_hooks) for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count_macs(model, 32)
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def of_timm(architecture: str, source: str = "") -> Backbone:
    return Backbone(architecture, source or architecture, architecture, pretrained=False)


@pytest.mark.parametrize(
    "architecture", ["mobilenetv3_small_050", "mobilenetv4_conv_small", "resnet18", "convnext_atto"]
)
def test_the_table_tells_what_a_network_is_made_of(architecture: str) -> None:
    known = look_up(of_timm(architecture))
    assert known is not None
    model = create_backbone(of_timm(architecture)).eval()
    with torch.inference_mode():
        width = model(torch.zeros(1, 3, 64, 64)).shape[1]
    params = sum(p.numel() for p in model.parameters())
    assert known == Counts(count_macs(model, COUNTED_SIDE), params, width)


def test_counting_needs_no_weights_and_passes_over_what_cannot_be_run() -> None:
    assert [name for name, _ in count(["no_such_network", "mobilenetv3_small_050"])] == [
        "mobilenetv3_small_050"
    ]
    assert dict(count(["mobilenetv3_small_050"]))["mobilenetv3_small_050"] == look_up(
        of_timm("mobilenetv3_small_050")
    )


def test_what_is_not_in_the_table_is_not_known() -> None:
    assert look_up(of_timm("no_such_network")) is None


@pytest.mark.parametrize("architecture", sorted(families.architectures()))
def test_our_own_families_are_in_the_table(architecture: str) -> None:
    assert look_up(scratch(architecture)) == dict(count([architecture]))[architecture]


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        ({}, True),
        ({"pad_type": "same"}, True),
        ({"stem_width": 64}, False),
        ({"pad_type": "same", "x": 1}, False),
    ],
)
@pytest.mark.parametrize("source", ["local-dir:weights/resnet18", "hf-hub:timm/resnet18"])
def test_a_model_with_settings_of_its_own_is_counted_anew(
    source: str, arguments: dict[str, object], known: bool
) -> None:
    backbone = dataclasses.replace(of_timm("resnet18", source), arguments=arguments)
    assert (look_up(backbone) is not None) is known


def test_the_table_is_read_once_and_its_rows_are_plausible() -> None:
    table = module._table()
    assert table is module._table() and len(table) > 500
    for name, row in table.items():
        assert 0 < row.params <= 100_000_000 and row.width > 0 and row.macs >= row.width, name
