"""Pretraining of a supernet on many images, of a family or of a pretrained model that is converted.

The subnets of a family's are starting points where no pretrained weights can be had.

``python -m search_spaces.pretrain --images IMAGES.npz --teacher local-dir:PATH --seconds 9000 --out DIR`` trains on one
GPU, or on the processor, for that time. A teacher of any classes gives its opinion of fixed views of the images; the
supernet learns it beside the labels (see :mod:`search_spaces._views`), and what only the teacher's classes needed is cut
off at the end. It writes ``FAMILY.safetensors`` (:mod:`search_spaces.stored`) and ``FAMILY.json`` with the recipe, the
curve, and a table of subnets. With ``--backbone local-dir:PATH`` that model becomes the supernet, and names the files; as
it is for the owner of the images, a few of them are in its file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import families
from search_spaces._views import (
    MEAN,
    STD,
    Augmentation,
    Images,
    Views,
    lower,
    memory_format,
    read_images,
)
from search_spaces.backbones import Backbone, create_backbone, find_backbones
from search_spaces.convert import convert
from search_spaces.forecast import judge_subnets, learn_forecast
from search_spaces.stored import CONVERTED, RESOLUTION, About, Known, Stored, blank, check_rebuilt, load
from search_spaces.supernet import Subnet, Supernet
from search_spaces.train import Recipe, Step, train_supernet

#: Images from which the statistics of subnets are estimated, and their side.
_CALIBRATION, _SIDE = 128, 64
#: Training images from which those are estimated that are judged.
_JUDGING = 512
#: Subnets that are counted besides those that are judged.
_COUNTED = 240
#: Validation images at a time.
_BATCH = 250


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a supernet is pretrained.

    Attributes:
        family: of :data:`search_spaces.families.SUPERNETS`.
        seconds: of training, without the teacher's opinions and without evaluations.
        teacher: a timm model with a classifier, ``local-dir:PATH`` or a name; None for none.
        teacher_resolution: side of the views that it sees.
        views: fixed views of each image.
        batch: images of a step.
        resolutions: rising; one is drawn for each step.
        progressive: whether at first the first resolution is drawn alone and the others join one after another, each
            after an equal share of the training (Karras et al. 2018; Tan & Le 2021, EfficientNetV2).
        pruned: share of the images that are learned already which an epoch leaves out
            (:class:`search_spaces.pruning.InfoBatch`).
        recipe: of the supernet.
        how: views are varied.
        seed: of everything that is drawn.
        evaluate_every: seconds between two evaluations.
        start: file of a supernet of the same kind whose weights are begun with, the classifier's too where its classes are
            the same; None for random ones, or those of the backbone.
        backbone: a pretrained timm model, ``local-dir:PATH`` or a name, that becomes the supernet in place of a family's;
            its file then holds training images for the statistics of subnets.
        judged: subnets whose score is measured at the end.
        held_out: training images that are judged on and not learned from, so that no validation image decides anything;
            0 to judge on the validation images.
    """

    family: str
    seconds: float
    teacher: str | None = None
    teacher_resolution: int = 128
    views: int = 8
    batch: int = 128
    resolutions: tuple[int, ...] = (64, 96, 128)
    progressive: bool = True
    pruned: float = 0.0
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    how: Augmentation = dataclasses.field(default_factory=Augmentation)
    seed: int = 0
    evaluate_every: float = 300.0
    start: Path | None = None
    backbone: str | None = None
    judged: int = 60
    held_out: int = 0

    @property
    def name(self) -> str:
        """Of the files that are written."""
        return self.family if self.backbone is None else _name(self.backbone)


@torch.inference_mode()
def right(model: nn.Module, images: Images, resolution: int, precision: torch.dtype | None = None) -> Tensor:
    """Return of each image whether its class is the most probable one, bool ``[n]``."""
    model.eval()
    parts = []
    for pixels, labels in images.batches(_BATCH, resolution):
        with lower(pixels.device.type, precision):
            parts.append(model(pixels).argmax(1) == labels)
    return torch.cat(parts)


def top1(model: nn.Module, images: Images, resolution: int, precision: torch.dtype | None = None) -> float:
    """Return the share of images whose class is the most probable one."""
    return float(right(model, images, resolution, precision).sum()) / len(images)


def judging_images(training: Images, seed: int = 0) -> Tensor:
    """Training images from which the statistics of subnets that are judged are estimated, uint8 ``[n, 3, H, W]``."""
    chosen = np.random.default_rng(seed).permutation(len(training))[:_JUDGING]
    return training.pixels[torch.from_numpy(chosen).to(training.pixels.device)]


def calibration_images(seed: int = 0) -> Tensor:
    """Crops of the two photographs that scikit-learn carries, uint8 ``[n, 3, side, side]``.

    A supernet that is given to others carries no image of the data that it was trained on.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    found = []
    for number in range(_CALIBRATION):
        whole = photographs[number % len(photographs)]
        side = int(min(whole.size) * rng.uniform(0.15, 1.0))
        x, y = (int(rng.integers(most - side + 1)) for most in whole.size)
        crop = whole.crop((x, y, x + side, y + side)).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(crop)
        found.append(pixels[:, ::-1] if rng.random() < 0.5 else pixels)
    return torch.from_numpy(np.stack(found).transpose(0, 3, 1, 2).copy())


def pretrain(images: Path, out: Path, plan: Plan, tell: Callable[[str], None] = print) -> Path:
    """Pretrain a supernet; write ``FAMILY.safetensors`` and ``FAMILY.json``, again at every evaluation.

    Args:
        images: the file, see :func:`search_spaces._views.read_images`.
        out: folder.
        plan: how.
        tell: is given lines of JSON on how it goes.

    Returns:
        The file of the supernet.

    Raises:
        ValueError: the file has not what is needed.
    """
    torch.manual_seed(plan.seed)
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = torch.bfloat16 if device == "cuda" else None
    backbone = _backbone(plan)
    training, validation, names = read_images(images, device)
    if plan.held_out:
        validation, training = training.parted(plan.held_out, plan.seed)
    views = Views(training, plan.views, plan.how, plan.seed)
    judging = judging_images(training, plan.seed)
    record: dict[str, Any] = {
        "plan": dataclasses.asdict(plan),
        "classes": len(names),
        "training_images": len(training),
        "validation_images": len(validation),
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "curve": [],
    }
    origin = f"{len(training)} images of {len(names)} classes"
    if plan.teacher is not None:
        origin += f", taught by {_name(plan.teacher)}"
        record["plan"]["teacher"] = _name(plan.teacher)
        record["teacher_seconds"] = _ask(views, plan, device, precision, tell)
    if backbone is not None:
        origin = f"{backbone.name}, {origin}"
        record["plan"]["backbone"] = backbone.name
    if plan.start is not None:
        record["plan"]["start"] = plan.start.name
    height, width = training.pixels.shape[-2:]
    about = About(
        plan.family if backbone is None else CONVERTED,
        tuple(names),
        plan.resolutions,
        "top1",
        "" if backbone is None else backbone.architecture,
        MEAN,
        STD,
        "Apache-2.0" if backbone is None else backbone.licence,
        origin,
        {} if backbone is None else dict(backbone.arguments),
        size=height if height == width else 0,
    )
    net = _begun(plan, backbone, about, len(names) + views.teacher_classes)
    net = net.to(device=device, memory_format=memory_format(torch.device(device)))  # type: ignore[call-overload]
    calibration = calibration_images(plan.seed) if backbone is None else judging[:_CALIBRATION].cpu()
    path = out / f"{plan.name}.safetensors"
    began = time.monotonic()
    paused, evaluated = 0.0, began

    def progress(_step: int = 0) -> float:
        return (time.monotonic() - began - paused) / plan.seconds

    def resolution(rng: np.random.Generator) -> int:
        count = len(plan.resolutions)
        joined = min(1 + int(progress() * count), count) if plan.progressive else count
        return int(rng.choice(plan.resolutions[:joined]))

    def judge(stored: Stored, subnet: Subnet) -> float:
        there = Stored(about, stored.net.to(device), judging)
        return top1(there.build(subnet), validation, subnet[RESOLUTION], precision)

    def write(stored: Stored) -> None:
        stored.save(path)
        text = json.dumps(record, indent=1, sort_keys=True)
        (out / f"{plan.name}.json").write_text(text + "\n", encoding="utf-8")

    def evaluate(step: Step) -> None:
        begin = time.monotonic()
        point = {**step.to_dict(), "seconds": begin - began - paused}
        stored = Stored(about, _cut(step.net, about), calibration)
        write(stored)
        for name, subnet in (("largest", stored.space.largest()), ("smallest", stored.space.smallest())):
            point[f"top1_{name}"] = judge(stored, subnet)
        record["curve"].append(point)
        tell(json.dumps({k: round(v, 4) for k, v in point.items()}))

    batches = views.batches(
        plan.batch, resolution, len(names), plan.seed, pruned=plan.pruned, progress=progress
    )
    steps = train_supernet(
        net, batches, plan.recipe, progress, seed=plan.seed, precision=precision, report_every=20
    )
    for step in steps:
        begin = time.monotonic()
        if begin - evaluated >= plan.evaluate_every or step.progress >= 1.0:
            evaluate(step)
            evaluated = time.monotonic()
            paused += evaluated - begin
        net = step.net
    stored = Stored(about, _cut(net, about), calibration)
    write(stored)
    judged = Stored(about, _cut(net, about), calibration)

    def known(one: Known) -> Known:
        score = judge(judged, one.subnet)
        side = one.subnet[RESOLUTION]
        tell(json.dumps({"resolution": side, "macs": one.macs, "top1": round(score, 4)}))
        return dataclasses.replace(one, score=score, images=len(validation))

    counted = _COUNTED if plan.judged else 0  # without scores nothing is proposed, so nothing needs them
    for _done in judge_subnets(stored, known, plan.judged, counted, plan.seed):
        record["subnets"] = [dataclasses.asdict(one) for one in stored.known if one.score is not None]
    learn_forecast(stored, plan.seed)
    write(stored)
    return path


def _name(source: str) -> str:
    return Path(source.removeprefix("local-dir:")).name


def _backbone(plan: Plan) -> Backbone | None:
    """The model that becomes the supernet.

    Raises:
        ValueError: it cannot be had, or sees images in a way of its own.
    """
    if plan.backbone is None:
        return None
    found, skipped = find_backbones((), [plan.backbone])
    if not found:
        raise ValueError("; ".join(skipped))
    if (found[0].mean, found[0].std) != (MEAN, STD):
        raise ValueError(
            f"{found[0].name} normalises images in a way of its own, by {found[0].mean}, {found[0].std}"
        )
    return found[0]


def _begun(plan: Plan, backbone: Backbone | None, about: About, outputs: int) -> Supernet:
    """The supernet before it is trained."""
    net: Supernet
    if backbone is None:
        net = families.supernet(plan.family, outputs)
    else:
        net = convert(create_backbone(backbone), outputs)
        check_rebuilt(about, net)
    if plan.start is not None:
        begin_with(net, plan.start, about)
    return net


def begin_with(net: Supernet, file: Path, about: About) -> None:
    """Give a supernet the weights of a stored one of its kind, the classifier's only where the classes are the same.

    Raises:
        ValueError: the file holds none, or one of another kind.
    """
    stored = load(file)
    theirs, ours = (
        f"{one.family} {one.architecture} {one.arguments or ''}".strip() for one in (stored.about, about)
    )
    if theirs != ours:
        raise ValueError(f"{file} holds a supernet of the kind {theirs}, not {ours}")
    given = stored.net.state_dict()
    last = {name: given.pop(name) for name in ("classifier.weight", "classifier.bias")}
    missing, unknown = net.load_state_dict(given, strict=False)
    if unknown or any(name not in last for name in missing):
        raise ValueError(f"{file} has other dimensions than the family {about.family} has now")
    if stored.about.classes == about.classes:
        own = net.state_dict()
        for name, tensor in last.items():
            own[name][: len(tensor)] = tensor


def _ask(
    views: Views, plan: Plan, device: str, precision: torch.dtype | None, tell: Callable[[str], None]
) -> float:
    """Store the teacher's opinions; seconds that it took."""
    import timm

    began = time.monotonic()
    teacher: Any = timm.create_model(plan.teacher or "", pretrained=True)
    teacher = teacher.to(device=device, memory_format=memory_format(torch.device(device)))

    def told(share: float) -> None:
        tell(json.dumps({"asked": round(share, 3), "seconds": round(time.monotonic() - began, 1)}))

    views.ask(teacher, plan.teacher_resolution, told, precision)
    return time.monotonic() - began


def _cut(net: Supernet, about: About) -> Supernet:
    """The supernet on the processor, without the outputs that learned the teacher's classes."""
    classes = len(about.classes)
    found = blank(about.family, about.architecture, classes, about.arguments)
    state = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][:classes]
    found.load_state_dict(state)
    return found.eval()


def main() -> None:
    """Read the command and pretrain."""
    parser = argparse.ArgumentParser(description="Pretrain a supernet.")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--family", default="mobile", choices=sorted(families.SUPERNETS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--start", type=Path, help="supernet whose weights are begun with")
    parser.add_argument(
        "--backbone", help="a pretrained timm model that becomes the supernet, e.g. local-dir:PATH"
    )
    parser.add_argument(
        "--judged", type=int, default=Plan.judged, help="subnets whose score is measured at the end"
    )
    parser.add_argument("--teacher", help="a timm model with a classifier, e.g. local-dir:PATH")
    parser.add_argument("--views", type=int, default=Plan.views)
    parser.add_argument(
        "--area", type=float, default=Augmentation.area, help="smallest share of an image that a view keeps"
    )
    parser.add_argument(
        "--colour", type=float, default=Augmentation.colour, help="largest change of a view's colours"
    )
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--resolutions", type=int, nargs="+", default=list(Plan.resolutions))
    parser.add_argument(
        "--all-resolutions", action="store_true", help="from the first step; see Plan.progressive"
    )
    parser.add_argument("--pruned", type=float, default=Plan.pruned, help="see Plan.pruned")
    parser.add_argument("--pool", type=int, default=0, help="subnets that are drawn once; see Recipe.pool")
    parser.add_argument("--draws", type=int, default=Recipe.draws)
    parser.add_argument("--coupled", type=float, default=Recipe.coupled, help="see Recipe.coupled")
    parser.add_argument("--shrinking", type=float, default=Recipe.shrinking, help="see Recipe.shrinking")
    parser.add_argument("--ema", type=float, default=Recipe.ema)
    parser.add_argument("--teacher-resolution", type=int, default=Plan.teacher_resolution)
    parser.add_argument("--evaluate-every", type=float, default=Plan.evaluate_every)
    parser.add_argument("--mode", default=Recipe.mode, choices=("sandwich", "random", "largest"))
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument(
        "--held-out",
        type=int,
        default=0,
        help="training images that are judged on, not the validation images",
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    plan = Plan(
        asked.family,
        asked.seconds,
        teacher=asked.teacher,
        views=asked.views,
        batch=asked.batch,
        resolutions=tuple(asked.resolutions),
        progressive=not asked.all_resolutions,
        pruned=asked.pruned,
        recipe=Recipe(
            mode=asked.mode,
            learning_rate=asked.learning_rate,
            pool=asked.pool,
            draws=asked.draws,
            ema=asked.ema,
            shrinking=asked.shrinking,
            coupled=asked.coupled,
        ),
        seed=asked.seed,
        teacher_resolution=asked.teacher_resolution,
        evaluate_every=asked.evaluate_every,
        start=asked.start,
        backbone=asked.backbone,
        judged=asked.judged,
        held_out=asked.held_out,
        how=Augmentation(area=asked.area, colour=asked.colour),
    )
    try:
        pretrain(asked.images, asked.out, plan, lambda line: print(line, flush=True))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
