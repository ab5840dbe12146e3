"""Pretrained backbones that the package carries, for where no others can be had.

They are subnets of one supernet (``weights/mobile.safetensors``, trained by :mod:`search_spaces.pretrain`), from a small
one to the largest. A subnet needs statistics of its own; those of the backbones are kept in ``weights/ladder.safetensors``,
estimated from the images that the supernet was trained on, which the package does not carry.

``python -m search_spaces.carried --images IMAGES.npz`` chooses the backbones again and writes that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.backbones import SUBNET, Backbone, BackboneError
from search_spaces.counts import COUNTED_SIDE, Counts

if TYPE_CHECKING:
    from torch import nn

    from search_spaces.stored import Stored

_FOLDER = Path(__file__).with_name("weights")
FAMILY = "mobile"
#: Source of the carried backbones.
SOURCE = f"{FAMILY}:carried"
_LICENCE = "Apache-2.0 (trained on images of tiny-imagenet, whose terms are for research and education)"
#: The supernet.
WEIGHTS = _FOLDER / f"{FAMILY}.safetensors"
_LADDER = _FOLDER / "ladder.safetensors"
#: Buffers of a norm that are a subnet's own.
_STATISTICS = ("running_mean", "running_var")
#: By how much the next larger backbone has to be better to be carried too.
_WORTH = 0.01


@dataclasses.dataclass(frozen=True)
class Rung:
    """One backbone.

    Attributes:
        code: of the subnet (:class:`search_spaces.propose.Codes`), without its resolution.
        macs: multiply-accumulates for one image of :data:`COUNTED_SIDE` pixels, without the classifier.
        params: parameters, without the classifier's.
        width: of the features.
        top1: share of right classes on validation images, by which the backbones were chosen.
        images: how many those were.
    """

    code: str
    macs: int
    params: int
    width: int
    top1: float
    images: int

    @property
    def name(self) -> str:
        """Name of the backbone."""
        return f"{FAMILY}_{round(self.macs / 1e6)}m.tiny_imagenet"


@functools.cache
def rungs() -> tuple[Rung, ...]:
    """Return what is carried, from small to large; reads no tensor."""
    from safetensors import safe_open

    with safe_open(_LADDER, framework="np") as file:
        return tuple(Rung(**values) for values in json.loads(file.metadata()["rungs"]))


def backbones() -> list[Backbone]:
    """Describe the carried backbones, the largest first."""
    return [
        Backbone(
            rung.name,
            SOURCE,
            rung.code,
            True,
            licence=_LICENCE,
            num_features=rung.width,
            family=SUBNET,
        )
        for rung in reversed(rungs())
    ]


def counts(backbone: Backbone) -> Counts | None:
    """Return the counts of a carried backbone; None of any other."""
    for rung in rungs():
        if backbone.pretrained and rung.code == backbone.architecture:
            return Counts(rung.macs, rung.params, rung.width)
    return None


def network(backbone: Backbone) -> nn.Module:
    """Build a carried backbone with its weights and statistics.

    Returns:
        normalised images ``[N, 3, R, R]`` → features ``[N, F]``, in evaluation mode.

    Raises:
        BackboneError: it is none of these.
    """
    from safetensors import safe_open

    from search_spaces.propose import Codes

    codes = [rung.code for rung in rungs()]
    if backbone.architecture not in codes:
        raise BackboneError(
            f"{backbone.name} is not carried by this version; known: {', '.join(rung.name for rung in rungs())}"
        )
    at = codes.index(backbone.architecture)
    net = _stored().net
    space = Codes(net.space)
    built: Any = net.build(space.subnet(space.row(backbone.architecture)))
    built.classifier = None
    buffers = dict(built.named_buffers())
    with safe_open(_LADDER, framework="pt") as file:
        for name in buffers:
            if name.endswith(_STATISTICS):
                buffers[name].copy_(file.get_tensor(f"{at}.{name}"))
    found: nn.Module = built.eval()
    return found


@functools.cache
def _stored() -> Stored:
    from search_spaces.stored import load

    return load(WEIGHTS)


def write(images: Path) -> None:
    """Choose the backbones, estimate their statistics, and write them.

    Those that were judged when the supernet was trained and those whose dimensions all rise together are candidates; each
    that is clearly better than all smaller ones is taken.

    Args:
        images: the file that the supernet was trained on, see :func:`search_spaces._views.read_images`.
    """
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from search_spaces._views import read_images
    from search_spaces.pretrain import judging_images, top1
    from search_spaces.propose import Codes
    from search_spaces.stored import RESOLUTION

    stored = _stored()
    training, validation, _names = read_images(images, "cpu")
    own = dataclasses.replace(stored, calibration=judging_images(training, seed=0))
    space, side = stored.net.space, stored.about.resolutions[-1]
    scores = {
        tuple(known.subnet.items()): known.score
        for known in stored.known
        if known.score is not None and known.subnet[RESOLUTION] == side
    }
    for place in np.arange(0.0, 1.0, 0.05):
        together = {
            d.name: d.choices[min(int(place * len(d.choices)), len(d.choices) - 1)] for d in space.dimensions
        }
        subnet = {**space.canonical(together), RESOLUTION: side}
        if tuple(subnet.items()) not in scores:
            scores[tuple(subnet.items())] = score = top1(own.build(subnet), validation, side)
            print(json.dumps({"macs": own.counted(subnet).macs, "top1": round(score, 4)}), flush=True)
    tensors: dict[str, torch.Tensor] = {}
    kept: list[Rung] = []
    codes = Codes(space)
    for known in sorted((own.counted(dict(items)) for items in scores), key=lambda known: known.macs):
        score = scores[tuple(known.subnet.items())]
        if kept and score < kept[-1].top1 + _WORTH:
            continue
        built: Any = own.build(known.subnet)
        subnet = {name: value for name, value in known.subnet.items() if name != RESOLUTION}
        for name, buffer in built.named_buffers():
            if name.endswith(_STATISTICS):
                tensors[f"{len(kept)}.{name}"] = buffer.clone()
        kept.append(
            Rung(
                codes.text(codes.of([subnet])[0]),
                stored.net.cost(subnet, COUNTED_SIDE).macs,
                known.params,
                built.classifier.in_features,
                round(score, 4),
                len(validation),
            )
        )
    text = json.dumps([dataclasses.asdict(rung) for rung in kept])
    save_file(tensors, _LADDER, metadata={"rungs": text})


def main() -> None:
    """Read the command and write the file."""
    parser = argparse.ArgumentParser(description="Choose the backbones that the package carries.")
    parser.add_argument("--images", type=Path, required=True)
    write(parser.parse_args().images)


if __name__ == "__main__":
    main()
