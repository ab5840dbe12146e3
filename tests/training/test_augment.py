"""Augmentation: shapes, ranges, repeatability, and what each strength does to a picture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from automl.training._augment import POLICIES, Augment, Policy, affine_grid, cropped, mix
from strategy_pool.strategy import AUGMENTATIONS
from tests._models import pictures


def augmented(policy: str, images: Tensor, side: int = 32, seed: int = 0) -> Tensor:
    return Augment(policy, torch.Generator().manual_seed(seed))(images, side)


def by(policy: Policy, images: Tensor, seed: int = 0) -> Tensor:
    """Apply a policy that has no name."""
    augment = Augment("none", torch.Generator().manual_seed(seed))
    augment.policy = policy
    return augment(images, images.shape[1])


def test_every_augmentation_of_a_recipe_is_known_here() -> None:
    assert set(AUGMENTATIONS) == set(POLICIES)


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'heavy'; known: none, flips"):
        Augment("heavy", torch.Generator())


@pytest.mark.parametrize("side", [24, 32, 48])
@pytest.mark.parametrize("policy", POLICIES)
def test_shape_and_range(policy: str, side: int) -> None:
    out = augmented(policy, pictures(5), side)
    assert out.shape == (5, 3, side, side)
    assert out.dtype == torch.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 255


@pytest.mark.parametrize("policy", POLICIES)
def test_the_generator_alone_decides(policy: str) -> None:
    images = pictures(6)
    first = augmented(policy, images, seed=3)
    torch.rand(5)  # the global generator plays no part
    assert torch.equal(first, augmented(policy, images, seed=3))
    if policy != "none":
        assert not torch.equal(first, augmented(policy, images, seed=4))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_input_is_left_alone(policy: str) -> None:
    images = pictures(4)
    before = images.clone()
    augmented(policy, images)
    assert torch.equal(images, before)


def test_none_is_the_identity() -> None:
    images = pictures(4)
    assert torch.equal(augmented("none", images), images.permute(0, 3, 1, 2).float())


def test_none_at_another_side_keeps_what_is_seen() -> None:
    images = torch.full((2, 32, 32, 3), 77, dtype=torch.uint8)
    torch.testing.assert_close(augmented("none", images, 20), torch.full((2, 3, 20, 20), 77.0))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_flips_only_mirror(seed: int) -> None:
    images = pictures(4)
    plain = images.permute(0, 3, 1, 2).float()
    out = augmented("flips", images, seed=seed)
    for image, changed in zip(plain, out, strict=True):
        mirrored = [image, image.flip(2), image.flip(1), image.flip((1, 2))]
        assert any(torch.allclose(changed, view, atol=1e-2) for view in mirrored)


def test_a_certain_flip_mirrors_left_and_right() -> None:
    images = pictures(3)
    out = by(Policy(hflip=1.0), images)
    torch.testing.assert_close(out, images.permute(0, 3, 1, 2).float().flip(3), atol=1e-2, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([20, 32, 40]))
def test_a_crop_is_a_resized_box_of_whole_pixels(seed: int, side: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=rng).permute(0, 3, 1, 2)
    width, height = torch.rand(3, generator=rng), torch.rand(3, generator=rng)
    shift = torch.rand(2, 3, generator=rng) * 2 - 1
    shift_x, shift_y = shift[0] * (1 - width), shift[1] * (1 - height)
    out = cropped(images, side, shift_x, shift_y, width, height)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for at, image in enumerate(images):
        left, top = (
            (float(s[at]) + 1 - float(share[at])) / 2 * 32
            for s, share in ((shift_x, width), (shift_y, height))
        )
        w, h = (max(1, round(32 * float(share[at]))) for share in (width, height))
        x, y = min(round(left), 32 - w), min(round(top), 32 - h)
        box = image[None, :, y : y + h, x : x + w].float()
        grid = affine_grid(torch.eye(2, 3)[None], side)
        wanted = torch.nn.functional.grid_sample(box, grid, padding_mode="border", align_corners=False)
        torch.testing.assert_close(out[at].float(), wanted[0], atol=1.5, rtol=0)


def test_the_input_is_not_what_whole_pictures_come_back_in() -> None:
    images = pictures(2).permute(0, 3, 1, 2)
    nothing, all_of_it = torch.zeros(2), torch.ones(2)
    out = cropped(images, images.shape[2], nothing, nothing, all_of_it, all_of_it)
    assert torch.equal(out, images)
    assert out.data_ptr() != images.data_ptr()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_grid_is_that_of_torch(seed: int, side: int) -> None:
    theta = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(seed))
    wanted = torch.nn.functional.affine_grid(theta, [4, 3, side, side], align_corners=False)
    torch.testing.assert_close(affine_grid(theta, side), wanted, atol=1e-5, rtol=1e-5)


def test_crops_show_a_part_at_a_larger_scale() -> None:
    ramp = torch.arange(64).mul(4).to(torch.uint8)
    images = ramp.view(1, 1, 64, 1).expand(8, 64, 64, 3)
    out = by(Policy(scale=0.25), images)
    span = out[:, 0, 32].amax(1) - out[:, 0, 32].amin(1)
    assert float(span.min()) >= 0.45 * 252
    assert float(span.min()) < 0.95 * 252
    assert float(span.max()) <= 252


def test_brightness_scales_whole_images() -> None:
    images = torch.full((16, 8, 8, 3), 100, dtype=torch.uint8)
    out = by(Policy(brightness=0.3), images)
    assert (out.flatten(1).std(1) < 1e-3).all()
    assert 70 - 1e-3 <= float(out.min()) < 95 and 105 < float(out.max()) <= 130 + 1e-3


def test_contrast_keeps_the_mean_and_saturation_keeps_grey_pictures() -> None:
    images = torch.randint(90, 160, (8, 16, 16, 3), dtype=torch.uint8)
    plain = images.permute(0, 3, 1, 2).float()
    out = by(Policy(contrast=0.3), images)
    torch.testing.assert_close(out.mean((1, 2, 3)), plain.mean((1, 2, 3)), atol=0.1, rtol=0)
    grey = images[..., :1].expand(-1, -1, -1, 3)
    out = by(Policy(saturation=0.9), grey)
    torch.testing.assert_close(out, grey.permute(0, 3, 1, 2).float(), atol=1e-2, rtol=0)


def test_erasing_fills_one_rectangle_with_the_mean_colour() -> None:
    images = pictures(4)
    plain = images.permute(0, 3, 1, 2).float()
    out = by(Policy(erase=1.0), images)
    for image, changed in zip(plain, out, strict=True):
        hit = ((image - changed).abs() > 0.05).any(0)
        rows, columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
        inside = changed[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        mean = image.mean((1, 2)).view(3, 1, 1).expand_as(inside)
        torch.testing.assert_close(inside, mean, atol=0.1, rtol=0)
        assert 2 <= len(rows) <= 14 and 2 <= len(columns) <= 14


def soft(count: int, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.arange(count) % classes, classes).float()


shares = st.sampled_from([0.0, 0.05, 0.2, 1.0, 4.0])


@settings(max_examples=60, deadline=None)
@given(shares, shares, st.integers(2, 9), st.integers(2, 5), st.integers(0, 99))
def test_mixed_targets_sum_to_one(mixup: float, cutmix: float, count: int, classes: int, seed: int) -> None:
    images = pictures(count, 8).permute(0, 3, 1, 2).float()
    before = images.clone()
    generator = torch.Generator().manual_seed(seed)
    mixed, targets = mix(images, soft(count, classes), mixup=mixup, cutmix=cutmix, generator=generator)
    assert mixed.shape == images.shape
    assert torch.equal(images, before)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert float(targets.min()) >= 0
    assert float(mixed.min()) >= 0 and float(mixed.max()) <= 255 + 1e-3
    if not (mixup or cutmix):
        assert mixed is images


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999))
def test_a_mixed_target_is_the_share_of_pixels(seed: int) -> None:
    """Image i is filled with the value i, so pixels tell where they come from."""
    count = 5
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(count, 1, 8, 8)
    generator = torch.Generator().manual_seed(seed)
    mixed, targets = mix(images, torch.eye(count), mixup=0.0, cutmix=1.0, generator=generator)
    for row in range(count):
        pixels = torch.stack([(mixed[row] == value).float().mean() for value in range(count)])
        torch.testing.assert_close(pixels, targets[row])


def test_mixup_mixes_pixels_as_it_mixes_targets() -> None:
    images = torch.arange(4).float().view(-1, 1).expand(4, 7)
    generator = torch.Generator().manual_seed(1)
    mixed, targets = mix(images, torch.eye(4), mixup=1.0, cutmix=0.0, generator=generator)
    torch.testing.assert_close(mixed[:, 0], targets @ torch.arange(4).float())


def test_a_single_image_and_flat_inputs_are_never_cut() -> None:
    generator = torch.Generator().manual_seed(0)
    one = pictures(1).float()
    assert mix(one, torch.eye(1), mixup=1.0, cutmix=1.0, generator=generator)[0] is one
    flat = torch.arange(6).float().view(3, 2)
    mixed, targets = mix(flat, torch.eye(3), mixup=0.0, cutmix=1.0, generator=generator)
    torch.testing.assert_close(mixed, targets @ flat)
