"""Made images have the statistics of training images, for subnets that were matched and for others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from search_spaces import families
from search_spaces._views import MEAN, STD, normalised, resized
from search_spaces.propose import Codes
from search_spaces.stored import RESOLUTION, About, Stored
from search_spaces.synthesis import mismatch, synthesise


@pytest.fixture(scope="module")
def real() -> Stored:
    """A supernet whose training images are bright, reddish and smooth."""
    torch.manual_seed(0)
    coarse = torch.rand(64, 3, 6, 6) * 0.4 + torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    images = (resized(coarse, 32) * 255).round().to(torch.uint8)
    return Stored(
        About("mobile", ("a", "b"), (32, 48), "top1", mean=MEAN, std=STD),
        families.supernet("mobile", 2),
        images,
    )


def _mismatch(real: Stored, images: torch.Tensor, seed: int) -> float:
    codes = Codes(real.space)
    subnet = codes.subnet(codes.drawn(1, np.random.default_rng(seed))[0])
    with torch.no_grad():
        return float(
            mismatch(real.build(subnet), normalised(resized(images.float() / 255, subnet[RESOLUTION])))
        )


def test_training_images_match_themselves(real: Stored) -> None:
    assert _mismatch(real, real.calibration, 1) < 0.01


def test_noise_does_not(real: Stored) -> None:
    assert _mismatch(real, torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8), 1) > 0.1


@pytest.mark.slow
def test_made_images_do_also_in_subnets_that_were_not_matched(real: Stored) -> None:
    noise = torch.randint(
        0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    losses: list[float] = []
    made = synthesise(real, noise, steps=160, seed=0, told=lambda _step, loss: losses.append(loss))
    assert made.shape == noise.shape and made.dtype == torch.uint8
    assert np.mean(losses[-2:]) < np.mean(losses[:2]) / 2
    for seed in (11, 12):
        assert _mismatch(real, made, seed) < 0.8 * _mismatch(real, noise, seed)


def test_the_network_is_left_as_it_was(real: Stored) -> None:
    net = real.build(real.space.smallest())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    mismatch(net, torch.randn(8, 3, 32, 32))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not net.training and not any(module._forward_hooks for module in net.modules())
    assert dataclasses.replace(real).calibration is real.calibration
