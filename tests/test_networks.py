"""What is known of the networks of a task."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest

from automl.networks import largest_macs, macs
from search_spaces.backbones import Backbone, scratch

ROWS = pd.DataFrame(
    [
        ("a", 64, "fp32", 30.0, True),
        ("a", 224, "fp32", 400.0, False),
        ("b", 64, "fp32", 70.0, True),
        ("b", 96, "fp32", math.nan, True),
    ],
    columns=["architecture", "resolution", "precision", "macs_m", "feasible"],
)


def backbone(name: str, *, pretrained: bool) -> Backbone:
    return replace(scratch("small_cnn_xs"), name=name, pretrained=pretrained)


def test_networks_without_known_costs_count_as_small_ones() -> None:
    known = macs(ROWS)
    assert known["a", 224, "fp32"] == 400.0
    assert known["b", 96, "fp32"] == known["c", 32, "int8"] == 100.0


@pytest.mark.parametrize(("pretrained", "largest"), [(("a", "b"), 100.0), (("a",), 30.0), ((), 100.0)])
def test_the_largest_is_feasible_and_where_there_are_any_pretrained(
    pretrained: tuple[str, ...], largest: float
) -> None:
    found = [backbone(name, pretrained=name in pretrained) for name in ("a", "b")]
    assert largest_macs(found, ROWS) == largest
