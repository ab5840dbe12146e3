"""Pretraining of a family's supernet, and loading of what came of it.

``python -m search_spaces.pretrain --images IMAGES.npz --family mobile --seconds 600 --out DIR`` trains on one
GPU, or on the processor, for that time. ``IMAGES.npz`` holds ``images`` (uint8 ``[N, H, W, 3]``) or the encoded
files in ``data`` (uint8) and ``offsets`` (int64), with ``labels`` and ``split`` (0 training, 1 validation).
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import families
from search_spaces.supernet import Subnet, Supernet
from search_spaces.train import Batch, Recipe, Step, recalibrate, train_supernet

#: Buffers that are a subnet's own, and not stored.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Mean and deviation of the channels that pretrained networks are used to (0..1).
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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

    def batches(self, size: int, resolution: int, most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Give normalised images ``[size, 3, resolution, resolution]`` and labels, in their order."""
        for start in range(0, min(len(self), most or len(self)), size):
            pixels = self.pixels[start : start + size].float() / 255
            yield normalised(_resized(pixels, resolution)), self.labels[start : start + size]


def normalised(pixels: Tensor) -> Tensor:
    """``[N, 3, H, W]`` in 0..1 → zero mean and unit deviation, in the memory format of the device."""
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels - mean) / std).contiguous(memory_format=memory_format(pixels.device))


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on a processor; on a GPU, where kernels for it are made anew for every width, contiguous."""
    return torch.contiguous_format if device.type == "cuda" else torch.channels_last


def read_images(path: Path, device: str) -> tuple[Images, Images, int]:
    """Read training and validation images, and the number of classes.

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
    return parts[0], parts[1], int(labels.max()) + 1


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes:
        area: smallest share of the image that a crop keeps (Szegedy et al. 2015).
        colour: largest relative change of brightness, contrast and saturation.
        mixup: share of the batches that are mixed (Zhang et al. 2018), with Beta(0.8, 0.8).
    """

    area: float = 0.3
    colour: float = 0.4
    mixup: float = 0.5


def varied(pixels: Tensor, side: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, mirror and recolour images: uint8 ``[N, 3, H, W]`` → 0..1 ``[N, 3, side, side]``."""
    count, device = len(pixels), pixels.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, device=device).uniform_(low, high, generator=generator)

    aspect = uniform(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    scale = uniform(how.area, 1.0).sqrt()
    width, height = (scale * aspect).clamp(max=1.0), (scale / aspect).clamp(max=1.0)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    maps = torch.stack([width * mirror, zero, x, zero, height, y], 1).view(count, 2, 3)
    grid = F.affine_grid(maps, [count, 3, side, side], align_corners=False)
    out = F.grid_sample(
        pixels.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    brightness, contrast, saturation = (
        uniform(1 - how.colour, 1 + how.colour).view(-1, 1, 1, 1) for _ in range(3)
    )
    grey = out.mean(1, keepdim=True)
    out = grey + (out - grey) * saturation
    mean = out.mean((1, 2, 3), keepdim=True)
    return ((mean + (out - mean) * contrast) * brightness).clamp(0, 1)


def training_batches(
    images: Images,
    size: int,
    resolutions: tuple[int, ...],
    how: Augmentation,
    classes: int,
    seed: int,
    teacher: nn.Module | None = None,
    teacher_resolution: int = 128,
    precision: torch.dtype | None = None,
) -> Iterator[Batch]:
    """Give varied batches without end, each at a resolution that is drawn; the teacher sees the same crops."""
    device = images.pixels.device
    generator = torch.Generator(device).manual_seed(seed)
    rng = np.random.default_rng(seed)
    while True:
        order = torch.randperm(len(images), generator=generator, device=device)
        for start in range(0, max(len(images) - size + 1, 1), size):
            chosen = order[start : start + size]
            resolution = int(rng.choice(resolutions))
            side = max(resolution, teacher_resolution) if teacher is not None else resolution
            pixels = varied(images.pixels[chosen], side, how, generator)
            labels = F.one_hot(images.labels[chosen], classes).float()
            if rng.random() < how.mixup:
                share = float(rng.beta(0.8, 0.8))
                pixels = share * pixels + (1 - share) * pixels.flip(0)
                labels = share * labels + (1 - share) * labels.flip(0)
            logits = None
            if teacher is not None:
                seen = _resized(pixels, teacher_resolution)
                with torch.no_grad(), _lower(device.type, precision):
                    logits = teacher(normalised(seen)).float()
            yield Batch(normalised(_resized(pixels, resolution)), labels, logits)


def _resized(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _lower(device: str, precision: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device, precision or torch.bfloat16, enabled=precision is not None)


@torch.no_grad()
def top1(model: nn.Module, images: Images, resolution: int, precision: torch.dtype | None = None) -> float:
    """Return the share of images whose class is the most probable one."""
    model.eval()
    right = torch.zeros((), device=images.labels.device)
    for pixels, labels in images.batches(500, resolution):
        with _lower(pixels.device.type, precision):
            right += (model(pixels).argmax(1) == labels).sum()
    return float(right) / len(images)


def evaluate(
    net: Supernet,
    subnet: Subnet,
    training: Images,
    validation: Images,
    resolution: int,
    precision: torch.dtype | None = None,
) -> float:
    """Return top-1 of a subnet that was built and recalibrated on fixed training images (the first 4,000)."""
    model = net.build(subnet)
    with _lower(training.pixels.device.type, precision):
        recalibrate(model, (pixels for pixels, _ in training.batches(500, resolution, 4000)))
    return top1(model, validation, resolution, precision)


def fine_tuned_teacher(
    source: str, training: Images, classes: int, seconds: float, resolution: int, seed: int, precision: Any
) -> nn.Module:
    """Fine-tune a timm model (``local-dir:PATH`` or a name) for a time and return it for evaluation."""
    import timm

    device = training.pixels.device
    model: Any = timm.create_model(source, pretrained=True, num_classes=classes, drop_rate=0.2)
    model = model.to(device=device, memory_format=memory_format(device)).train()
    batches = training_batches(training, 256, (resolution,), Augmentation(area=0.4), classes, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    began, done = time.monotonic(), 0.0
    while done < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, done / 0.05 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))
        batch = next(batches)
        with _lower(device.type, precision):
            loss = F.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        done = (time.monotonic() - began) / seconds
    trained: nn.Module = model.eval()
    return trained


def save(net: Supernet, path: Path) -> None:
    """Store a supernet's weights: matrices in half precision, the rest as it is."""
    from safetensors.torch import save_file

    tensors = {}
    for name, tensor in net.state_dict().items():
        if not name.endswith(_STATISTICS):
            kept = tensor.half() if tensor.ndim > 1 else tensor.float()
            tensors[name] = kept.contiguous().cpu()
    save_file(tensors, path)


def load(path: Path, family: str, classes: int) -> Supernet:
    """Return a family's supernet with stored weights.

    Raises:
        ValueError: the file is of another family or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    net = families.supernet(family, classes)
    try:
        stored = load_file(path)
        state = net.state_dict()
        state.update({name: tensor.float() for name, tensor in stored.items()})
        missing = [n for n in state if n not in stored and not n.endswith(_STATISTICS)]
        if missing:
            raise RuntimeError(f"{missing[0]} is missing")
        net.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} holds no weights of {family!r}: {' '.join(str(error).split())[:200]}"
        ) from None
    return net


def pretrain(
    images: Path,
    family: str,
    out: Path,
    *,
    seconds: float,
    teacher: str | None = None,
    teacher_seconds: float = 0.0,
    device: str = "cpu",
    batch: int = 512,
    resolutions: tuple[int, ...] = (64, 96, 128),
    recipe: Recipe = Recipe(),
    how: Augmentation = Augmentation(),
    seed: int = 0,
    evaluate_every: float = 60.0,
) -> Path:
    """Pretrain a supernet for a time; write ``FAMILY.safetensors`` and ``FAMILY.json``, again at every evaluation.

    Args:
        images: the file, see the module.
        family: of :data:`search_spaces.families.SUPERNETS`.
        out: folder.
        seconds: of training, without the teacher's and the last evaluation.
        teacher: a timm model that is fine-tuned first; None for none.
        teacher_seconds: of its fine-tuning.
        device: ``cuda`` or ``cpu``.
        batch: images of a step.
        resolutions: one is drawn for each step.
        recipe: of the supernet.
        how: of the images.
        seed: of everything that is drawn.
        evaluate_every: seconds between two evaluations.

    Returns:
        The file of weights.
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    precision = torch.bfloat16 if device.startswith("cuda") else None
    training, validation, classes = read_images(images, device)
    record: dict[str, Any] = {
        "family": family,
        "classes": classes,
        "training_images": len(training),
        "validation_images": len(validation),
        "mean": MEAN,
        "std": STD,
        "recipe": dataclasses.asdict(recipe),
        "augmentation": dataclasses.asdict(how),
        "batch": batch,
        "resolutions": resolutions,
        "seed": seed,
        "seconds": seconds,
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name() if precision else f"{platform.machine()} CPU",
        "curve": [],
    }
    taught = None
    if teacher is not None:
        taught = fine_tuned_teacher(teacher, training, classes, teacher_seconds, 128, seed, precision)
        accuracy = top1(taught, validation, 128, precision)
        record["teacher"] = {
            "name": Path(teacher).name,
            "seconds": teacher_seconds,
            "top1": accuracy,
            "resolution": 128,
        }
        print(json.dumps(record["teacher"]), flush=True)
    net = families.supernet(family, classes).to(
        device=device, memory_format=memory_format(torch.device(device))
    )  # type: ignore[call-overload]
    batches = training_batches(training, batch, resolutions, how, classes, seed, taught, 128, precision)
    weights = out / f"{family}.safetensors"
    began = time.monotonic()
    paused, evaluated = 0.0, began

    def progress(_step: int) -> float:
        return (time.monotonic() - began - paused) / seconds

    def write(current: Supernet) -> None:
        save(current, weights)
        text = json.dumps(record, indent=1, sort_keys=True)
        (out / f"{family}.json").write_text(text + "\n", encoding="utf-8")

    def report(step: Step, current: Supernet) -> None:
        nonlocal paused, evaluated
        begin = time.monotonic()
        if begin - evaluated < evaluate_every and step.progress < 1.0:
            return
        point = {**dataclasses.asdict(step), "seconds": begin - began - paused}
        for name, subnet in (("largest", net.space.largest()), ("smallest", net.space.smallest())):
            point[f"top1_{name}"] = evaluate(current, subnet, training, validation, 64, precision)
        record["curve"].append(point)
        print(json.dumps({k: round(v, 4) for k, v in point.items()}), flush=True)
        write(current)
        evaluated = time.monotonic()
        paused += evaluated - begin

    trained = train_supernet(
        net, batches, recipe, progress, seed=seed, precision=precision, report=report, report_every=20
    )
    rng = np.random.default_rng(seed)
    subnets = [net.space.largest(), net.space.smallest()]
    subnets += [net.space.sample(rng, coupled=True) for _ in range(10)]
    record["subnets"] = []
    for subnet in subnets:
        row: dict[str, Any] = {"subnet": subnet}
        for resolution in (64, 128):
            cost = trained.cost(subnet, resolution)
            row[f"macs_{resolution}"], row["params"] = cost.macs, cost.params
            row[f"top1_{resolution}"] = evaluate(trained, subnet, training, validation, resolution, precision)
        record["subnets"].append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "subnet"}), flush=True)
    write(trained)
    return weights


def main() -> None:
    """Read the command and pretrain."""
    parser = argparse.ArgumentParser(description="Pretrain a supernet.")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--family", default="mobile", choices=sorted(families.SUPERNETS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--teacher", help="a timm model, e.g. local-dir:PATH")
    parser.add_argument("--teacher-seconds", type=float, default=60.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    pretrain(
        asked.images,
        asked.family,
        asked.out,
        seconds=asked.seconds,
        teacher=asked.teacher,
        teacher_seconds=asked.teacher_seconds,
        device=asked.device,
        batch=asked.batch,
        recipe=Recipe(learning_rate=asked.learning_rate),
        seed=asked.seed,
    )


if __name__ == "__main__":
    main()
