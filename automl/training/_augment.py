"""Augmentation of a whole batch at once, from uint8 images in memory-mapped storage to float tensors.

Geometry (crop, scale, flip, rotation, shear, shift) is composed into one affine map per image and
sampled once; colour is one affine map of the channels per image. So any strength costs one
resampling per image, which on a CPU is small beside a training step. Where nothing is turned or sheared it
is the resize of a box of whole pixels, which is quicker.

Sources: random resized crop as in Szegedy et al. 2015; RandAugment (Cubuk et al. 2020, table 1);
TrivialAugment (Müller & Hutter 2021, algorithm 1); mixup (Zhang et al. 2018); cutmix (Yun et al. 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Policy:
    """Strengths of one augmentation.

    Attributes:
        scale: smallest area that a crop keeps, as a share.
        ratio: log of the largest aspect change.
        hflip, vflip: probability of each flip.
        rotate: largest rotation, degrees.
        shear: largest shear.
        brightness, contrast, saturation: largest relative change.
        operations: number of random operations drawn on top (RandAugment's N).
        magnitude: their strength in 0..1; None draws it anew for each image (TrivialAugment).
        erase: probability that a random rectangle is filled with the image's mean (Zhong et al. 2020).
    """

    scale: float = 1.0
    ratio: float = 0.0
    hflip: float = 0.0
    vflip: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    operations: int = 0
    magnitude: float | None = 0.3
    erase: float = 0.0


_LIGHT = Policy(scale=0.65, ratio=0.15, hflip=0.5, brightness=0.2)
POLICIES = {
    "none": Policy(),
    "flips": Policy(hflip=0.5, vflip=0.5),
    "light": _LIGHT,
    "fitting": _LIGHT,  # where it was not replaced by what fits the images
    "medium": Policy(
        scale=0.5, ratio=0.25, hflip=0.5, vflip=0.1, rotate=10, brightness=0.3, contrast=0.3, saturation=0.2
    ),
    "randaugment": Policy(scale=0.5, ratio=0.25, hflip=0.5, operations=2, magnitude=0.3),
    "trivialaugment": Policy(scale=0.65, ratio=0.2, hflip=0.5, operations=1, magnitude=None),
    "strong": Policy(
        scale=0.35,
        ratio=0.3,
        hflip=0.5,
        vflip=0.5,
        rotate=20,
        shear=0.1,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        erase=0.25,
    ),
}

_OPERATIONS = ("rotate", "shear_x", "shear_y", "shift_x", "shift_y", "brightness", "contrast", "saturation")


class Augment:
    """Apply a policy to batches.

    Args:
        policy: a name of :data:`POLICIES`.
        generator: the only source of randomness, so that a seed repeats a run.
    """

    def __init__(self, policy: str, generator: torch.Generator) -> None:
        if policy not in POLICIES:
            raise ValueError(f"unknown augmentation {policy!r}; known: {', '.join(POLICIES)}")
        self.policy = POLICIES[policy]
        self.generator = generator

    def __call__(self, images: Tensor, side: int) -> Tensor:
        """Return float images ``[N, 3, side, side]`` in 0..255 from uint8 ``[N, H, W, 3]``."""
        pictures = images.permute(0, 3, 1, 2)
        p, n = self.policy, len(images)
        drawn = self._draw(n)
        rotate = self._signed(n) * p.rotate + drawn["rotate"] * 30
        angle = rotate * torch.pi / 180
        area = (
            torch.exp(self._uniform(n) * float(torch.log(torch.tensor(p.scale))))
            if p.scale < 1
            else torch.ones(n)
        )
        aspect = torch.exp(self._signed(n) * p.ratio / 2)
        width, height = (area.sqrt() * aspect).clamp(max=1), (area.sqrt() / aspect).clamp(max=1)
        shift_x = self._signed(n) * (1 - width) + drawn["shift_x"] * 0.3
        shift_y = self._signed(n) * (1 - height) + drawn["shift_y"] * 0.3
        flip_x, flip_y = self._flip(n, p.hflip), self._flip(n, p.vflip)
        shear_x = self._signed(n) * p.shear + drawn["shear_x"] * 0.3
        shear_y = drawn["shear_y"] * 0.3
        if not (p.rotate or p.shear or p.operations):
            x = mirrored(
                cropped(pictures, side, shift_x, shift_y, width, height), flip_x < 0, flip_y < 0
            ).float()
        else:
            cos, sin = angle.cos(), angle.sin()
            theta = torch.zeros(n, 2, 3)
            theta[:, 0, 0] = width * flip_x * cos
            theta[:, 0, 1] = height * flip_y * (-sin + shear_x)
            theta[:, 1, 0] = width * flip_x * (sin + shear_y)
            theta[:, 1, 1] = height * flip_y * cos
            theta[:, 0, 2], theta[:, 1, 2] = shift_x, shift_y
            x = F.grid_sample(
                pictures.float(),
                affine_grid(theta, side),
                mode="bilinear",
                padding_mode="reflection",
                align_corners=False,
            )
        x = self._colour(x, drawn)
        return self._erase(x) if p.erase else x

    def _uniform(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator)

    def _signed(self, n: int) -> Tensor:
        return self._uniform(n) * 2 - 1

    def _flip(self, n: int, probability: float) -> Tensor:
        return torch.where(self._uniform(n) < probability, -1.0, 1.0)

    def _draw(self, n: int) -> dict[str, Tensor]:
        """Strength in -1..1 of each operation for each image; zero where it was not drawn."""
        drawn = {name: torch.zeros(n) for name in _OPERATIONS}
        for _ in range(self.policy.operations):
            choice = torch.randint(len(_OPERATIONS), (n,), generator=self.generator)
            size = (
                self._uniform(n) if self.policy.magnitude is None else torch.full((n,), self.policy.magnitude)
            )
            sign = torch.where(self._uniform(n) < 0.5, -1.0, 1.0)
            for index, name in enumerate(_OPERATIONS):
                drawn[name] = torch.where(choice == index, size * sign, drawn[name])
        return drawn

    def _colour(self, x: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        p, n = self.policy, len(x)

        def amount(largest: float, name: str) -> Tensor:
            return (1 + self._signed(n) * largest + drawn[name] * 0.9).clamp(min=0.05).view(n, 1, 1, 1)

        if not (p.brightness or p.contrast or p.saturation or p.operations):
            return x
        x = x * amount(p.brightness, "brightness")
        if p.contrast or p.operations:
            centre = x.mean(dim=(1, 2, 3), keepdim=True)
            x = centre + (x - centre) * amount(p.contrast, "contrast")
        if p.saturation or p.operations:
            grey = x.mean(dim=1, keepdim=True)
            x = grey + (x - grey) * amount(p.saturation, "saturation")
        return x.clamp_(0, 255)

    def _erase(self, x: Tensor) -> Tensor:
        n, side = len(x), x.shape[2]
        hit = self._uniform(n) < self.policy.erase
        size = (0.1 + 0.3 * self._uniform(n)) * side
        top, left = self._uniform(n) * (side - size), self._uniform(n) * (side - size)
        axis = torch.arange(side)
        rows = (axis >= top[:, None]) & (axis < (top + size)[:, None])
        columns = (axis >= left[:, None]) & (axis < (left + size)[:, None])
        mask = (rows[:, :, None] & columns[:, None, :] & hit[:, None, None]).unsqueeze(1)
        return torch.where(mask, x.mean(dim=(2, 3), keepdim=True), x)


def cropped(
    pictures: Tensor, side: int, shift_x: Tensor, shift_y: Tensor, width: Tensor, height: Tensor
) -> Tensor:
    """A box of each picture, to the next whole pixel, resized bilinearly.

    Args:
        pictures: uint8 ``[N, C, H, W]``.
        side: of what comes back.
        shift_x, shift_y: ``[N]``, from the middle of the picture to that of its box, in half pictures.
        width, height: ``[N]``, shares of the picture's.

    Returns:
        uint8 ``[N, C, side, side]``, of which the channels lie together in memory.
    """
    rows, columns = pictures.shape[2:]
    resize = partial(F.interpolate, size=(side, side), mode="bilinear")
    if bool((width == 1).all()) and bool((height == 1).all()):
        return pictures.clone() if rows == columns == side else resize(pictures)

    def span(shift: Tensor, share: Tensor, whole: int) -> list[list[int]]:
        length = (share * whole).round().long().clamp(1, whole)
        first = ((shift + 1 - share) / 2 * whole).round().long().clamp(min=0)
        first = torch.minimum(first, whole - length)
        return torch.stack([first, first + length], dim=1).tolist()

    n, channels = pictures.shape[:2]
    out = torch.empty(n, side, side, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    boxes = zip(span(shift_y, height, rows), span(shift_x, width, columns), strict=True)
    for at, ((top, bottom), (left, right)) in enumerate(boxes):
        out[at] = resize(pictures[at : at + 1, :, top:bottom, left:right])[0]
    return out


def mirrored(pictures: Tensor, horizontally: Tensor, vertically: Tensor) -> Tensor:
    """Pictures ``[N, C, H, W]``, changed in place: those chosen (bool ``[N]``) with left and right, top and bottom swapped."""
    for chosen, axis in ((horizontally, 3), (vertically, 2)):
        if chosen.any():
            pictures[chosen] = pictures[chosen].flip(axis)
    return pictures


def affine_grid(theta: Tensor, side: int) -> Tensor:
    """What ``F.affine_grid`` returns for ``theta`` ``[N, 2, 3]`` without aligned corners, ``[N, side, side, 2]``, sooner."""
    middles = (2 * torch.arange(side) + 1) / side - 1
    along = theta[:, :, 0, None] * middles
    across = theta[:, :, 1, None] * middles + theta[:, :, 2, None]
    return (along[:, :, None, :] + across[:, :, :, None]).permute(0, 2, 3, 1)


def mix(
    images: Tensor, targets: Tensor, *, mixup: float, cutmix: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch with a permutation of itself; with both given, one is drawn per batch.

    Args:
        images: ``[N, ...]``; cutmix needs ``[N, C, H, W]``.
        targets: class probabilities ``[N, C]``.
        mixup, cutmix: parameter of the beta distribution, 0 for off.
        generator: source of randomness.
    """
    if not (mixup or cutmix) or len(images) < 2:
        return images, targets
    cut = bool(cutmix) and images.ndim == 4 and (not mixup or float(torch.rand(1, generator=generator)) < 0.5)
    share = float(_beta(cutmix if cut else mixup or cutmix, generator))
    order = torch.randperm(len(images), generator=generator)
    if cut:
        height, width = images.shape[2:]
        side = (1 - share) ** 0.5
        h, w = int(height * side), int(width * side)
        top = int(torch.randint(height - h + 1, (1,), generator=generator))
        left = int(torch.randint(width - w + 1, (1,), generator=generator))
        images = images.clone()
        images[:, :, top : top + h, left : left + w] = images[order][:, :, top : top + h, left : left + w]
        share = 1 - h * w / (height * width)
    else:
        images = images * share + images[order] * (1 - share)
    return images, targets * share + targets[order] * (1 - share)


def _beta(alpha: float, generator: torch.Generator) -> Tensor:
    draw = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    return draw[0] / draw.sum().clamp_min(1e-12)
