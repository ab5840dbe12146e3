"""A supernet in one file: its weights, how it is built, what is known of its subnets, and images for their statistics.

The file is safetensors: tensors, and one JSON text in its metadata. Nothing in it can run code.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import families
from search_spaces._views import memory_format
from search_spaces.backbones import IMAGENET_MEAN, IMAGENET_STD, SUBNET, Backbone
from search_spaces.propose import Codes
from search_spaces.supernet import Dimension, Space, Subnet, Supernet
from search_spaces.train import recalibrate

#: Rises when a stored file changes its meaning.
FORMAT = 2
#: Family of a supernet that was converted from a timm model.
CONVERTED = "timm"
#: Dimension of the space that is the side of the images.
RESOLUTION = "resolution"
#: Buffers that are a subnet's own, and not stored.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_CALIBRATION = "calibration.images"
#: Most images of a batch from which statistics are estimated, and fewest altogether: one alone has no variance.
_BATCH, _LEAST_IMAGES = 64, 2
#: Sides of images that make sense for a network, and the largest that images are resized to before.
_LEAST_SIDE, _LARGEST_SIDE, _LARGEST_SIZE = 16, 1024, 4096


class StoredError(ValueError):
    """A file holds no supernet that can be used; the message is one line."""


@dataclass(frozen=True)
class About:
    """What a supernet is.

    Attributes:
        family: one of :data:`search_spaces.families.SUPERNETS`, or :data:`CONVERTED`.
        classes: names of the outputs.
        resolutions: sides of square images that its subnets can be used at, pixels, rising.
        metric: name of what the scores of subnets are.
        architecture: timm's name of the model that was converted; empty for a family.
        mean, std: normalisation of images in 0..1.
        licence: of the weights.
        origin: one line: what it was trained from, and on.
        arguments: of the model that was converted, see :attr:`search_spaces.backbones.Backbone.arguments`.
        ranges: how files of images become bytes, kept for whoever reads them: kind → what is black and what is white.
        size: side of the squares that images were resized to before they were resized to a resolution; 0 where that is
            not known.
    """

    family: str
    classes: tuple[str, ...]
    resolutions: tuple[int, ...]
    metric: str
    architecture: str = ""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    licence: str = "unknown"
    origin: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Sequence[float]] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class Known:
    """What is known of a subnet.

    Attributes:
        subnet: with its :data:`RESOLUTION`.
        macs: multiply-accumulates for one image, without the classifier.
        params: parameters, without the classifier's.
        score: of its recalibrated weights as they are; None where it was not measured.
        images: that the score was measured on.
    """

    subnet: Subnet
    macs: int
    params: int
    score: float | None = None
    images: int = 0


@dataclass
class Stored:
    """A supernet with all that an extraction needs.

    Attributes:
        about: what it is.
        net: with a classifier for ``about.classes``.
        calibration: training images for the statistics of subnets, uint8 ``[n, 3, R, R]``.
        known: of its subnets.
        learned: what forecasts found in ``known``, so that the next one need not (see
            :func:`search_spaces.forecast.learn_forecast`); plain JSON values.
    """

    about: About
    net: Supernet
    calibration: Tensor
    known: list[Known] = field(default_factory=list)
    learned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def space(self) -> Space:
        """The subnets at all resolutions: the supernet's dimensions, and :data:`RESOLUTION`."""
        side = Dimension(RESOLUTION, self.about.resolutions, RESOLUTION)
        return Space((*self.net.space.dimensions, side))

    def resize_chain(self, resolution: int) -> list[int]:
        """Sides of the successive squashes from an original to a resolution, as the images went that scores are of."""
        size = self.about.size
        if not size:  # an older file: its images are all that it tells
            seen = int(self.calibration.shape[-1])
            return [seen, resolution] if resolution < seen else [resolution]
        return [size] if resolution == size else [size, resolution]

    def images(self, resolution: int) -> Iterator[Tensor]:
        """Give the calibration images as normalised batches ``[N, 3, resolution, resolution]`` of about the same N."""
        mean, std = (
            torch.tensor(v, device=self.calibration.device).view(1, 3, 1, 1) * 255.0
            for v in (self.about.mean, self.about.std)
        )
        for part in self.calibration.tensor_split(-(-len(self.calibration) // _BATCH)):
            pixels = part.float()
            if pixels.shape[-1] != resolution:
                pixels = F.interpolate(
                    pixels, (resolution, resolution), mode="bilinear", antialias=True, align_corners=False
                )
            yield ((pixels - mean) / std).contiguous(memory_format=memory_format(pixels.device))

    def build(self, subnet: Subnet, *, calibrated: bool = True) -> nn.Module:
        """Return a subnet as a plain network in evaluation mode, its statistics those of the calibration images.

        Args:
            subnet: of :attr:`space`.
            calibrated: whether the statistics are estimated, which what only wants its costs does not need.

        Returns:
            normalised images ``[N, 3, R, R]`` → logits ``[N, classes]``; ``classifier`` is a linear layer.
        """
        self.space.check(subnet)
        built: nn.Module = self.net.build(_without_side(subnet))
        if calibrated:
            recalibrate(built, self.images(subnet[RESOLUTION]))
        return built.eval()

    def backbone(self, subnet: Subnet) -> Backbone:
        """Describe a subnet as a backbone, which :func:`plain_network` builds without its weights."""
        codes = Codes(self.net.space)
        text = codes.text(codes.of([_without_side(subnet)])[0])
        about = self.about
        kind = about.architecture or about.family
        return Backbone(
            f"{kind}:{hashlib.sha256(text.encode()).hexdigest()[:6]}",
            f"{about.family}:{about.architecture}",
            text,
            False,
            about.mean,
            about.std,
            about.licence,
            family=SUBNET,
            arguments=dict(about.arguments),
        )

    def counted(self, subnet: Subnet) -> Known:
        """Count a subnet."""
        cost = self.net.cost(_without_side(subnet), subnet[RESOLUTION])
        return Known(dict(subnet), cost.macs, cost.params)

    def rows(self) -> list[dict[str, Any]]:
        """Return what is known as plain JSON values."""
        codes = Codes(self.space)
        return [{**asdict(known), "subnet": codes.text(codes.of([known.subnet])[0])} for known in self.known]

    def save(self, path: Path) -> None:
        """Write the file, atomically: matrices in half precision, the rest as it is."""
        from safetensors.torch import save_file

        tensors = {_CALIBRATION: self.calibration.contiguous()}
        for name, tensor in self.net.state_dict().items():
            if not name.endswith(_STATISTICS):
                kept = tensor.half() if tensor.ndim > 1 else tensor.float()
                tensors[name] = kept.contiguous().cpu()
        described = {
            "format": FORMAT,
            "about": asdict(self.about),
            "known": self.rows(),
            "learned": self.learned,
        }
        text = json.dumps(described)
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            save_file(tensors, temporary, metadata={"supernet": text})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def load(path: Path) -> Stored:
    """Read a file that :meth:`Stored.save` wrote.

    Raises:
        StoredError: there is none, it is damaged, of another kind, or of a newer version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("supernet")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise StoredError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise StoredError(f"{path} cannot be read ({_line(error)})") from None
    if text is None:
        raise StoredError(f"{path} holds no supernet")
    try:
        described = json.loads(text)
        if int(described["format"]) > FORMAT:
            raise StoredError(f"{path} was written by a newer version; update automl to read it")
        about = _about(described["about"])
        if about.family == CONVERTED and int(described["format"]) < FORMAT:
            raise StoredError(
                f"{path} was written by a version that lost settings of its model; train it again"
            )
        images = tensors.pop(_CALIBRATION)
        if images.ndim != 4 or images.dtype != torch.uint8 or len(images) < _LEAST_IMAGES:
            raise ValueError(f"not {_LEAST_IMAGES} images for the statistics")
        most = sum(tensor.numel() for tensor in tensors.values())
        if len(tensors["classifier.weight"]) != len(about.classes):
            raise ValueError(f"its classifier is not of {len(about.classes)} classes")
        net = blank(about.family, about.architecture, len(about.classes), about.arguments, most)
        _fill(net, tensors)
        stored = Stored(about, net, images, learned=dict(described.get("learned", {})))
        codes = Codes(stored.space)
        stored.known = [
            Known(
                codes.subnet(codes.row(row["subnet"])),
                int(row["macs"]),
                int(row["params"]),
                None if row["score"] is None else float(row["score"]),
                int(row["images"]),
            )
            for row in described["known"]
        ]
    except StoredError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise StoredError(f"{path} is damaged ({_line(error)})") from None
    return stored


def plain_network(backbone: Backbone) -> nn.Module:
    """Build the network of a backbone that :meth:`Stored.backbone` described, without its weights.

    Returns:
        normalised images ``[N, 3, R, R]`` → features ``[N, F]``.

    Raises:
        ValueError: it does not describe a subnet.
    """
    family, _, architecture = backbone.source.partition(":")
    # With a classifier, as the space of some networks ends in it.
    net = blank(family, architecture, 1, backbone.arguments)
    codes = Codes(net.space)
    built: Any = net.build(codes.subnet(codes.row(backbone.architecture)))
    built.classifier = None
    return built


def _without_side(subnet: Subnet) -> dict[str, int]:
    return {name: value for name, value in subnet.items() if name != RESOLUTION}


def _about(values: Mapping[str, Any]) -> About:
    def numbers(name: str, of: type) -> tuple[Any, ...]:
        return tuple(of(v) for v in values[name])

    mean, std = numbers("mean", float), numbers("std", float)
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or not min(std) > 0:
        raise ValueError("mean needs three numbers, std three above 0")
    sides = numbers("resolutions", int)
    if not sides or not all(_LEAST_SIDE <= side <= _LARGEST_SIDE for side in sides):
        raise ValueError(f"resolutions are {list(sides)[:8]}; they are {_LEAST_SIDE} to {_LARGEST_SIDE}")
    size = int(values.get("size", 0))  # which older files have not
    if not 0 <= size <= _LARGEST_SIZE:
        raise ValueError(f"size is {size}; it is 0 to {_LARGEST_SIZE}")
    return About(
        str(values["family"]),
        numbers("classes", str),
        sides,
        str(values["metric"]),
        str(values["architecture"]),
        mean,
        std,
        str(values["licence"]),
        str(values["origin"]),
        dict(values.get("arguments", {})),  # which the first format has not
        {
            str(kind): [float(black), float(white)]
            for kind, (black, white) in values.get("ranges", {}).items()
        },
        size,
    )


def blank(
    family: str,
    architecture: str,
    classes: int,
    arguments: Mapping[str, Any] | None = None,
    most: float = math.inf,
) -> Supernet:
    """Return a supernet before its weights.

    Args:
        family: as in :class:`About`.
        architecture: of a converted one.
        classes: of the classifier.
        arguments: of a converted one's architecture.
        most: parameters that a converted one may have without its classifier.

    Raises:
        StoredError: a converted one's architecture is not known, or not with these arguments, or larger.
    """
    if family != CONVERTED:
        return families.supernet(family, classes)
    import timm

    from search_spaces.convert import convert

    if not timm.is_model(architecture):
        raise StoredError(f"this timm has no architecture {architecture!r}; install a newer one")
    given = dict(arguments or {})
    # What timm itself takes, such as a file of weights, is not for a file to say.
    refused = sorted({"num_classes", *inspect.signature(timm.create_model).parameters} & given.keys())
    if refused:
        raise StoredError(f"{refused[0]!r} is no argument of an architecture")

    def build() -> nn.Module:
        model: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **given)
        return model

    try:
        if math.isfinite(most):
            with torch.device("meta"):  # without memory for its weights
                size = sum(p.numel() for p in build().parameters())
            if size > most:
                raise ValueError(f"it has {size} parameters, and {most} are stored")
        model = build()
    except Exception as error:
        raise StoredError(f"{architecture} cannot be built with {given} ({_line(error)})") from None
    return convert(model, classes)


@torch.inference_mode()
def check_rebuilt(about: About, net: Supernet) -> None:
    """Check that what ``about`` says of a supernet gives the same networks again, as a file of it has to.

    Args:
        about: of the supernet.
        net: the supernet, on the processor, with statistics for its largest subnet.

    Raises:
        StoredError: it gives others.
    """
    again = blank(about.family, about.architecture, net.classifier.out_features, about.arguments)  # type: ignore[union-attr, arg-type]
    again.load_state_dict(net.state_dict())
    side = about.resolutions[-1]
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours, theirs = (one.build(one.space.largest()).eval()(images) for one in (net, again))
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max())):
        raise StoredError(
            f"{about.architecture} has settings of its own that a file of its supernet would lose"
        )


def _fill(net: Supernet, tensors: Mapping[str, Tensor]) -> None:
    state = net.state_dict()
    missing = [n for n in state if n not in tensors and not n.endswith(_STATISTICS)]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    net.load_state_dict({**state, **{name: tensor.float() for name, tensor in tensors.items()}})


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
