"""Made images that stand for training images where a supernet's statistics are estimated.

A supernet that is given to others carries no image of the data that it was trained on; yet every subnet needs statistics of
its own. Images are made whose statistics in every normalisation of several subnets are those of training images (Yin et al.
2020, *Dreaming to distill*, section 3.2, equation 4): nothing of any one image is in them but what is left in the means and
deviations of thousands.

``python -m search_spaces.synthesis --supernet NET.safetensors --images IMAGES.npz --out NEW.safetensors`` replaces the
calibration images of a stored supernet.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces._views import normalised, resized
from search_spaces.backbones import IMAGENET_MEAN, IMAGENET_STD
from search_spaces.propose import Codes
from search_spaces.stored import RESOLUTION, Stored
from search_spaces.supernet import Subnet

#: Drawn subnets whose statistics are matched, beside the smallest and the largest.
DRAWN = 6
_RATE, _EPS = 0.05, 1e-5
#: Images of a batch, as :meth:`Stored.images` has them.
_BATCH = 64


def synthesise(
    real: Stored,
    begin: Tensor,
    *,
    steps: int,
    seed: int = 0,
    told: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Tensor:
    """Make images whose statistics are those of training images.

    Args:
        real: a supernet whose calibration images are training images.
        begin: images to begin with, uint8 ``[n, 3, H, W]``.
        steps: of the optimisation; each matches one batch in one subnet.
        seed: of the subnets and their order.
        told: called with the step and the loss, now and then.

    Returns:
        uint8 ``[n, 3, H, W]``.
    """
    rng = np.random.default_rng(seed)
    codes = Codes(real.space)
    subnets: list[Subnet] = [real.space.smallest(), real.space.largest()]
    subnets += [codes.subnet(row) for row in codes.drawn(DRAWN, rng)]
    nets = [real.build(subnet).requires_grad_(False) for subnet in subnets]
    pixels = (begin.float() / 255).clamp(0.02, 0.98).logit().requires_grad_(True)
    optimizer = torch.optim.Adam([pixels], lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        at = step % len(nets)
        rows = torch.from_numpy(rng.permutation(len(begin))[:_BATCH])
        images = normalised(resized(pixels[rows].sigmoid(), int(subnets[at][RESOLUTION])))
        loss = mismatch(nets[at], images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            told(step, float(loss.detach()))
    return (pixels.detach().sigmoid() * 255).round().clamp(0, 255).to(torch.uint8)


def mismatch(net: nn.Module, images: Tensor) -> Tensor:
    """How far the statistics of a batch are from a network's own, averaged over its batch norms.

    Of means the squared distance in deviations, of variances the squared logarithm of their ratio.

    Args:
        net: with running statistics; each norm is given the batch's own, as an estimation of statistics does.
        images: normalised ``[n, 3, R, R]``.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    found: list[Tensor] = []

    def look(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        over = [0, *range(2, x.ndim)]
        mean, variance = x.mean(over), x.var(over, unbiased=False)
        apart = (mean - norm.running_mean).square() / (norm.running_var + _EPS)
        ratio = ((variance + _EPS) / (norm.running_var + _EPS)).log().square()
        found.append(apart.mean() + ratio.mean())
        shape = [1, -1, *[1] * (x.ndim - 2)]
        own = (x - mean.view(shape)) / (variance + norm.eps).sqrt().view(shape)
        return own * norm.weight.view(shape) + norm.bias.view(shape)

    hooks = [norm.register_forward_hook(look) for norm in norms]
    try:
        net.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found).mean()


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command, make the images and write the supernet with them."""
    from search_spaces._views import read_images
    from search_spaces.pretrain import calibration_images, judging_images, top1
    from search_spaces.stored import StoredError, load

    parser = argparse.ArgumentParser(
        description="Replace the calibration images of a stored supernet by made ones."
    )
    parser.add_argument("--supernet", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="npz file that it was trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        stored = load(asked.supernet)
        training, validation, _names = read_images(asked.images, device)
    except (StoredError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if (stored.about.mean, stored.about.std) != (IMAGENET_MEAN, IMAGENET_STD):
        print(
            f"error: {asked.supernet} normalises images in a way of its own; made images are for supernets that "
            "search_spaces.pretrain trained",
            file=sys.stderr,
        )
        return 2
    stored = dataclasses.replace(stored, net=stored.net.to(device))
    real = dataclasses.replace(stored, calibration=judging_images(training, asked.seed))
    photographs = calibration_images(asked.seed).to(device)
    began = time.monotonic()

    def told(step: int, loss: float) -> None:
        print(
            json.dumps({"step": step, "loss": round(loss, 4), "seconds": round(time.monotonic() - began, 1)}),
            flush=True,
        )

    made = synthesise(real, photographs, steps=asked.steps, seed=asked.seed, told=told)
    # Of subnets that were not matched: how right each is with statistics of training, made and photographed images.
    codes = Codes(stored.space)
    for row in codes.drawn(3, np.random.default_rng(asked.seed + 1)):
        subnet = codes.subnet(row)
        scores = {
            name: round(
                top1(
                    dataclasses.replace(stored, calibration=images).build(subnet),
                    validation,
                    subnet[RESOLUTION],
                ),
                4,
            )
            for name, images in (("training", real.calibration), ("made", made), ("photographs", photographs))
        }
        print(json.dumps({"resolution": subnet[RESOLUTION], **scores}), flush=True)
    written = dataclasses.replace(stored, net=stored.net.cpu(), calibration=made.cpu())
    written.save(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
