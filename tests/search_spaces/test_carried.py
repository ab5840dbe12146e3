"""The backbones that the package carries: what they are, and that they know something."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from search_spaces import carried
from search_spaces.backbones import Backbone, BackboneError, create_backbone, find_backbones
from search_spaces.counts import COUNTED_SIDE, count_macs, look_up
from search_spaces.stages import feature_stages
from tests._models import write_model


def test_they_are_there_where_nothing_else_pretrained_is(tmp_path: Path) -> None:
    found, skipped = find_backbones()
    assert skipped == []
    assert [b for b in found if b.source == carried.SOURCE] == carried.backbones()
    write_model(tmp_path / "own")
    found, _ = find_backbones([tmp_path])
    assert [b.name for b in found if b.pretrained] == ["own"]
    name = carried.backbones()[0].name
    assert [b.name for b in find_backbones([tmp_path], [name])[0]] == [name]


def test_larger_ones_are_better() -> None:
    rungs = carried.rungs()
    assert len(rungs) >= 4 and len({rung.name for rung in rungs}) == len(rungs)
    for small, large in itertools.pairwise(rungs):
        assert small.macs < large.macs and small.top1 < large.top1
    assert rungs[-1].macs > 10 * rungs[0].macs
    assert sum(path.stat().st_size for path in Path(carried.__file__).parent.glob("weights/*")) < 15e6


@pytest.mark.parametrize("backbone", carried.backbones(), ids=lambda backbone: backbone.name)
def test_each_is_built_as_it_is_described(backbone: Backbone) -> None:
    network = create_backbone(backbone)
    assert not network.training
    with torch.inference_mode():
        features = network(torch.zeros(2, 3, 64, 64))
    assert features.shape == (2, backbone.num_features)
    counts = look_up(backbone)
    assert counts is not None and counts.width == backbone.num_features
    assert counts.params == sum(p.numel() for p in network.parameters())
    assert counts.macs == count_macs(network, COUNTED_SIDE)
    assert len(feature_stages(network)) >= 3
    again = create_backbone(Backbone.from_dict(backbone.to_dict()))
    assert all(torch.equal(a, again.state_dict()[name]) for name, a in network.state_dict().items())
    assert create_backbone(backbone, pretrained=False).state_dict().keys() == network.state_dict().keys()


def test_their_features_tell_digits_apart_better_than_random_weights_do() -> None:
    digits = load_digits()
    images = torch.from_numpy(digits.images[:600]).float().div(16)[:, None].repeat(1, 3, 1, 1)
    images = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear")
    images = (images - 0.45) / 0.225
    backbone = carried.backbones()[-1]
    scores = []
    for pretrained in (True, False):
        torch.manual_seed(0)
        network = create_backbone(backbone, pretrained=pretrained).eval()
        with torch.inference_mode():
            features = network(images).numpy()
        features = (features - features.mean(0)) / (features.std(0) + 1e-6)
        scores.append(
            cross_val_score(LogisticRegression(max_iter=2000), features, digits.target[:600]).mean()
        )
    assert scores[0] > 0.7 and scores[0] > 2 * scores[1]


def test_one_that_is_not_carried_is_an_error() -> None:
    described = carried.backbones()[0].to_dict()
    with pytest.raises(BackboneError, match="not carried by this version; known: mobile_"):
        create_backbone(Backbone.from_dict({**described, "architecture": "0"}))
