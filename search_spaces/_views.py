"""Images for pretraining: read once, seen through views that are fixed, with a teacher's opinion of each view stored once.

The teacher has to see what the student sees (Beyer et al. 2022, *Knowledge distillation: a good teacher is patient and
consistent*), which by itself costs more than the student on a processor. So each image has a number of fixed views, and
the teacher's most probable classes are stored for each of them (Shen & Xing 2022, *A fast knowledge distillation
framework*, section 3; Wu et al. 2022, TinyViT, section 3.1).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.pruning import InfoBatch
from search_spaces.train import Batch

#: Mean and deviation of the channels that pretrained networks are used to (0..1).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Classes of the teacher that are stored for a view.
KEPT = 16


@dataclasses.dataclass(frozen=True)
class Images:
    """Images and labels on one device.

    Attributes:
        pixels: uint8 ``[N, 3, H, W]``.
        labels: int64 ``[N]``.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def parted(self, count: int, seed: int) -> tuple[Images, Images]:
        """So many drawn at random, and the others.

        Raises:
            ValueError: none would be left on one side.
        """
        if not 0 < count < len(self):
            raise ValueError(f"{count} of {len(self)} images cannot be held out")
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(self))).to(self.labels.device)
        first, others = order[:count].sort().values, order[count:].sort().values
        return Images(self.pixels[first], self.labels[first]), Images(
            self.pixels[others], self.labels[others]
        )

    def batches(self, size: int, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give normalised images ``[size, 3, resolution, resolution]`` and labels, in their order."""
        for start in range(0, len(self), size):
            pixels = self.pixels[start : start + size].float() / 255
            yield normalised(resized(pixels, resolution)), self.labels[start : start + size]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How views differ from their image.

    Attributes:
        area: smallest share of the image that a crop keeps (Szegedy et al. 2015).
        colour: largest relative change of brightness, contrast and saturation.
    """

    area: float = 0.3
    colour: float = 0.4


class Views:
    """Fixed views of images.

    Args:
        images: of which.
        count: views of each image.
        how: they are varied.
        seed: of the views.
    """

    def __init__(self, images: Images, count: int, how: Augmentation, seed: int) -> None:
        self.images, self.count = images, count
        generator = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(count, len(images)).uniform_(low, high, generator=generator)

        aspect = uniform(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
        scale = uniform(how.area, 1.0).sqrt()
        width, height = (scale * aspect).clamp(max=1.0), (scale / aspect).clamp(max=1.0)
        mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        zero = torch.zeros_like(width)
        device = images.pixels.device
        self._crops = torch.stack([width * mirror, zero, x, zero, height, y], 2).to(device)
        self._colours = torch.stack([uniform(1 - how.colour, 1 + how.colour) for _ in range(3)], 2).to(device)
        self._classes: Tensor | None = None
        self._shares: Tensor | None = None
        self.teacher_classes = 0

    def pixels(self, view: int, rows: Tensor, side: int) -> Tensor:
        """Return the view of some images, 0..1 ``[n, 3, side, side]``."""
        maps = self._crops[view, rows].view(-1, 2, 3)
        seen = max(side, self.images.pixels.shape[-1])
        grid = F.affine_grid(maps, [len(rows), 3, seen, seen], align_corners=False)
        whole = self.images.pixels[rows].float() / 255
        out = F.grid_sample(whole, grid, mode="bilinear", padding_mode="border", align_corners=False)
        brightness, contrast, saturation = self._colours[view, rows].view(-1, 3, 1, 1, 1).unbind(1)
        grey = out.mean(1, keepdim=True)
        out = grey + (out - grey) * saturation
        mean = out.mean((1, 2, 3), keepdim=True)
        return resized(((mean + (out - mean) * contrast) * brightness).clamp(0, 1), side)

    @torch.no_grad()
    def ask(
        self,
        teacher: nn.Module,
        resolution: int,
        told: Callable[[float], None],
        precision: torch.dtype | None,
    ) -> None:
        """Store the most probable classes of every view.

        Args:
            teacher: normalised images ``[N, 3, R, R]`` → logits ``[N, T]``.
            resolution: R.
            told: called with the share that is done, now and then.
            precision: of the arithmetic; None for the weights' own.
        """
        teacher.eval()
        device, size = self.images.pixels.device, 256
        classes: Tensor | None = None
        shares: Tensor | None = None
        for view in range(self.count):
            for start in range(0, len(self.images), size):
                rows = torch.arange(start, min(start + size, len(self.images)), device=device)
                with lower(device.type, precision):
                    logits = teacher(normalised(self.pixels(view, rows, resolution))).float()
                self.teacher_classes = logits.shape[1]
                if classes is None or shares is None:
                    shape = (self.count, len(self.images), min(KEPT, logits.shape[1]))
                    classes = torch.empty(shape, dtype=torch.int16, device=device)
                    shares = torch.empty(shape, dtype=torch.float16, device=device)
                top = logits.softmax(1).topk(shares.shape[2], dim=1)
                classes[view, rows], shares[view, rows] = top.indices.short(), top.values.half()
            told((view + 1) / self.count)
        self._classes, self._shares = classes, shares

    def opinion(self, view: int, rows: Tensor) -> Tensor | None:
        """Return log-probabilities ``[n, T]`` of the teacher; what was not stored is shared out evenly. None without one."""
        if self._classes is None or self._shares is None:
            return None
        shares = self._shares[view, rows].float()
        others = max(1, self.teacher_classes - shares.shape[1])
        rest = (1 - shares.sum(1, keepdim=True)).clamp(min=1e-6) / others
        whole = rest.repeat(1, self.teacher_classes)
        return whole.scatter_(1, self._classes[view, rows].long(), shares).clamp(min=1e-8).log()

    def batches(
        self,
        size: int,
        resolution: Callable[[np.random.Generator], int],
        classes: int,
        seed: int,
        *,
        pruned: float = 0.0,
        progress: Callable[[], float] = lambda: 0.0,
    ) -> Iterator[Batch]:
        """Give batches without end, each at a resolution that is drawn; every epoch sees another view, in turn.

        Args:
            size: images of a batch.
            resolution: draws the side of the next one.
            classes: of the labels.
            seed: of the order.
            pruned: share of the images that are learned already which an epoch leaves out; see
                :class:`search_spaces.pruning.InfoBatch`.
            progress: share of the training that is done, which ends the pruning.
        """
        device = self.images.pixels.device
        pruning = InfoBatch(len(self.images), pruned, seed=seed, device=device)
        rng = np.random.default_rng(seed)
        epoch = 0
        while True:
            order, weights = pruning.epoch(progress())
            for start in range(0, max(len(order) - size + 1, 1), size):
                rows, view = order[start : start + size], epoch % self.count
                labels = F.one_hot(self.images.labels[rows], classes).float()
                pixels = self.pixels(view, rows, resolution(rng))
                batch = Batch(normalised(pixels), labels, self.opinion(view, rows))
                if pruned:
                    told = functools.partial(pruning.note, rows)
                    batch = dataclasses.replace(batch, weights=weights[start : start + size], told=told)
                yield batch
            epoch += 1


def normalised(pixels: Tensor) -> Tensor:
    """``[N, 3, H, W]`` in 0..1 → zero mean and unit deviation, in the memory format of the device."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels - mean) / std).contiguous(memory_format=memory_format(pixels.device))


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on a processor; on a GPU, where kernels for it are made anew for every width, contiguous."""
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


def resized(pixels: Tensor, side: int) -> Tensor:
    """Square images of another side."""
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)


def lower(device: str, precision: torch.dtype | None) -> torch.autocast:
    """Arithmetic of a lower precision; of the weights' own with None."""
    return torch.autocast(device, precision or torch.bfloat16, enabled=precision is not None)


def read_images(path: Path, device: str) -> tuple[Images, Images, list[str]]:
    """Read training and validation images, and the names of the classes.

    Args:
        path: an ``.npz`` with ``images`` (uint8 ``[N, H, W, 3]``) or the encoded files in ``data`` (uint8) and
            ``offsets`` (int64), ``labels``, ``split`` (0 training, 1 validation) and, if they have names, ``class_names``.
        device: where they are kept.

    Raises:
        ValueError: the file has not what is needed, or images differ in size.
    """
    from PIL import Image

    with np.load(path, allow_pickle=False) as stored:
        missing = {"labels", "split"} - set(stored.files)
        if missing or not {"images", "data"} & set(stored.files):
            raise ValueError(
                f"{path} has {', '.join(stored.files)}; images (or data and offsets), labels, split are needed"
            )
        labels, split = stored["labels"].astype(np.int64), stored["split"]
        names = [str(name) for name in stored["class_names"]] if "class_names" in stored.files else []
        if "images" in stored.files:
            pixels = stored["images"]
        else:
            data, offsets = stored["data"], stored["offsets"]

            def decode(i: int) -> np.ndarray:
                encoded = data[offsets[i] : offsets[i + 1]].tobytes()
                return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))

            with ThreadPoolExecutor() as pool:
                pixels = np.stack(list(pool.map(decode, range(len(labels)))))
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"images are {pixels.dtype} {pixels.shape}; uint8 [N, H, W, 3] is needed")
    parts = []
    for part in (0, 1):
        chosen = np.flatnonzero(split == part)
        if not len(chosen):
            raise ValueError(
                f"{path} has no image of split {part}; 0 (training) and 1 (validation) are needed"
            )
        tensor = torch.from_numpy(np.ascontiguousarray(pixels[chosen].transpose(0, 3, 1, 2)))
        parts.append(Images(tensor.to(device), torch.from_numpy(labels[chosen]).to(device)))
    return parts[0], parts[1], names or [str(number) for number in range(int(labels.max()) + 1)]
