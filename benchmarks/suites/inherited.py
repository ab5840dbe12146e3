"""Whether the weights that subnets inherit tell which of them are good once each is trained on its own.

Subnets whose multiply-accumulates span a factor of four, of one resolution or of several: top-1 with inherited weights
(statistics from training images), and after the same number of steps of fine-tuning each, mean over seeds. Kendall's τ
between the two says how far a search over inherited weights can be trusted, and τ between the trainings of two seeds how
well fine-tuning agrees with itself. The images are those that the supernet was trained on; top-1 is of the validation images.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cells import write_text
from search_spaces.carried import WEIGHTS

if TYPE_CHECKING:
    from search_spaces._views import Images, Views
    from search_spaces.stored import Stored
    from search_spaces.supernet import Subnet

NAME = "inherited"
SUMMARY = "Kendall's tau between the top-1 of subnets with inherited weights and after fine-tuning each."

EXAMPLE = "example: automl bench inherited --images tiny=tiny-imagenet.npz"
#: By what factor the largest exceeds the smallest.
SPAN = 4.0
#: Subnets that are counted to choose from, for each that is wanted.
_DRAWN = 20
#: The field's aim, and the least that the lower end of the interval should be.
AIM, LEAST = 0.70, 0.55
_BATCH = 128


def run(argv: Sequence[str]) -> int:
    """Measure what is missing, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(options.name, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of the draw, and the first of the batches")
    add = parser.add_argument
    add("--images", nargs="+", required=True, metavar="NAME=NPZ", help="that a supernet was trained on")
    add("--supernet", action="append", default=[], metavar="NAME=FILE",
        help="trained on these images (default: the one that the package carries)")  # fmt: skip
    add("--subnets", type=int, default=60, help="of each supernet (default %(default)s)")
    add("--steps", type=int, default=200, help=f"of {_BATCH} images for each subnet (default %(default)s)")
    add("--seeds", type=int, default=2, help="trainings of each subnet, from --seed on (default %(default)s)")
    add("--learning-rate", type=float, default=5e-4, help="peak of AdamW's (default %(default)s)")
    add("--resolution", type=int, nargs="+", default=[], metavar="SIDE",
        help="of the subnets (default: the smallest that the supernet has)")  # fmt: skip
    add("--name", default=NAME, help="of the table's files (default %(default)s)")
    add("--resamples", type=int, default=2000, help="of the bootstrap (default %(default)s)")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment

    check_at_least(options, subnets=3, steps=1, seed=0, seeds=1, resamples=100)
    files = {name: Path(path) for name, path in map(_named, options.supernet)}
    tables = [
        _table(name, Path(path), files.get(name, WEIGHTS), options)
        for name, path in map(_named, options.images)
    ]
    return {
        "schema_version": 3, "suite": NAME, "tables": tables, "steps": options.steps, "batch": _BATCH,
        "learning_rate": options.learning_rate, "seeds": list(_seeds(options)), "environment": environment(),
    }  # fmt: skip


def _seeds(options: argparse.Namespace) -> range:
    return range(options.seed, options.seed + options.seeds)


def _named(text: str) -> tuple[str, str]:
    from automl.errors import InputError

    name, mark, path = text.partition("=")
    if not (name and mark and path):
        raise InputError(f"'{text}' is not NAME=FILE")
    return name, path


def _table(name: str, images: Path, file: Path, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from automl.errors import InputError
    from search_spaces._views import Augmentation, Views, read_images
    from search_spaces.pretrain import judging_images
    from search_spaces.stored import StoredError, load

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        stored = load(file)
        training, validation, names = read_images(images, device)
    except (StoredError, OSError, ValueError) as error:
        raise InputError(str(error)) from None
    if tuple(names) != tuple(stored.about.classes):
        raise InputError(f"{file} was trained on other classes than those of {images}")
    sides = sorted(set(options.resolution)) or [min(stored.about.resolutions)]
    if not set(sides) <= set(stored.about.resolutions):
        raise InputError(f"--resolution is {sides}; the supernet has {list(stored.about.resolutions)}")
    own = dataclasses.replace(stored, net=stored.net.to(device), calibration=judging_images(training))
    chosen = choose(own, sides, options.subnets, options.seed)
    views = Views(training, 8, Augmentation(), options.seed)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    rows = _rows(own, digest, chosen, views, validation, Path(options.work) / f"{name}.jsonl", options)
    return {
        "name": name, "origin": stored.about.origin, "resolutions": sides, "validation_images": len(validation),
        "rows": rows, **figures(rows, options.resamples, options.seed),
    }  # fmt: skip


def choose(stored: Stored, sides: Sequence[int], count: int, seed: int) -> list[dict[str, int]]:
    """Subnets of some resolutions, evenly spaced in the logarithm of their multiply-accumulates over :data:`SPAN`.

    The range is the one around the geometric middle between the smallest subnet at the lowest resolution and the largest
    at the highest.
    """
    import numpy as np

    from search_spaces.propose import Codes
    from search_spaces.stored import RESOLUTION

    codes, rng = Codes(stored.space), np.random.default_rng(seed)
    drawn = [
        {**codes.subnet(row), RESOLUTION: int(rng.choice(sides))} for row in codes.drawn(_DRAWN * count, rng)
    ]
    ends = [
        stored.counted({**end, RESOLUTION: side}).macs
        for end, side in ((stored.space.smallest(), min(sides)), (stored.space.largest(), max(sides)))
    ]
    low = math.sqrt(ends[0] * ends[1] / SPAN)
    work = np.log([stored.counted(subnet).macs for subnet in drawn])
    found: list[int] = []
    for aim in np.linspace(math.log(low), math.log(low * SPAN), count):
        free = [at for at in np.argsort(np.abs(work - aim), kind="stable").tolist() if at not in found]
        found.append(free[0])
    return [drawn[at] for at in found]


def _rows(
    own: Stored,
    digest: str,
    chosen: Sequence[Subnet],
    views: Views,
    validation: Images,
    file: Path,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Each subnet's two scores; what an earlier call with the same settings and code measured is not repeated.

    All subnets with one seed, then with the next: of what is broken off, fewer seeds give a table.
    """
    from benchmarks.environment import sources
    from search_spaces.pretrain import top1
    from search_spaces.stored import RESOLUTION

    settings = [sources(Path(__file__)), options.steps, options.learning_rate, options.seed, digest]
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {
        (line["name"], line["resolution"], line["training"]): line
        for line in _whole_lines(file)
        if line["settings"] == settings
    }
    names = [(own.backbone(subnet).architecture, subnet[RESOLUTION]) for subnet in chosen]
    with file.open("a", encoding="utf-8") as out:
        for seed in _seeds(options):
            for number, (subnet, (name, side)) in enumerate(zip(chosen, names, strict=True)):
                if (name, side, seed) in done:
                    continue
                print(
                    f"{file.stem}: subnet {number + 1} of {len(chosen)}, seed {seed} …",
                    file=sys.stderr,
                    flush=True,
                )
                model, first = own.build(subnet), done.get((name, side, options.seed))
                before = first["inherited"] if first else top1(model, validation, side)
                tune(model, views, len(own.about.classes), side, options.steps, options.learning_rate, seed)
                done[name, side, seed] = {
                    "settings": settings, "name": name, "resolution": side, "training": seed, "inherited": before,
                    "tuned": top1(model, validation, side),
                }  # fmt: skip
                out.write(json.dumps(done[name, side, seed]) + "\n")
                out.flush()
    rows = []
    for subnet, (name, side) in zip(chosen, names, strict=True):
        counted, trainings = own.counted(subnet), [done[name, side, seed] for seed in _seeds(options)]
        each = [one["tuned"] for one in trainings]
        rows.append({
            "name": name, "resolution": side, "macs_m": counted.macs / 1e6, "params_m": counted.params / 1e6,
            "inherited": trainings[0]["inherited"], "tuned": sum(each) / len(each), "tuned_each": each,
        })  # fmt: skip
    return rows


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """What a file of JSON lines holds; one that was broken off while it was written is dropped from it."""
    if not file.is_file():
        return []
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            lines.append(json.loads(text))
    write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
    return lines


def tune(
    model: Any, views: Views, classes: int, side: int, steps: int, learning_rate: float, seed: int
) -> None:
    """Train a network on its own: AdamW with a cosine, cross entropy with smoothed labels.

    Args:
        model: normalised images ``[N, 3, side, side]`` → logits; changed.
        views: of the training images.
        classes: of the labels.
        side: of the images.
        steps: of batches.
        learning_rate: its peak.
        seed: of the batches.
    """
    import torch
    import torch.nn.functional as F

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02)
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))),
    )
    batches = views.batches(_BATCH, lambda _rng: side, classes, seed)
    model.train()
    for _ in range(steps):
        batch = next(batches)
        loss = F.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def figures(rows: Sequence[Mapping[str, Any]], resamples: int, seed: int) -> dict[str, Any]:
    """Kendall's τ between the two scores with the percentiles of a bootstrap over subnets, and what it is held against.

    ``tau_macs`` is the τ between multiply-accumulates and the score after fine-tuning: what counting alone tells.
    ``tau_trainings`` is the mean τ between two trainings' scores, None of one training: what fine-tuning tells of itself.
    """
    from itertools import combinations

    import numpy as np
    from scipy.stats import kendalltau

    inherited, tuned, macs = (np.array([row[k] for row in rows]) for k in ("inherited", "tuned", "macs_m"))
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        at = rng.integers(0, len(rows), len(rows))
        draws.append(kendalltau(inherited[at], tuned[at]).statistic)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    each = np.array([row["tuned_each"] for row in rows]).T
    repeated = [kendalltau(one, other).statistic for one, other in combinations(each, 2)]
    return {
        "tau": float(kendalltau(inherited, tuned).statistic), "low": float(low), "high": float(high),
        "tau_macs": float(kendalltau(macs, tuned).statistic),
        "tau_trainings": float(np.mean(repeated)) if repeated else None, "span": float(macs.max() / macs.min()),
    }  # fmt: skip


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    def scores(rows: Sequence[Mapping[str, Any]], name: str) -> str:
        values = [100 * row[name] for row in rows]
        return f"{min(values):.1f} to {max(values):.1f}"

    head = [
        "images", "pixels", "subnets", "M MACs", "inherited top-1 %", "tuned top-1 %", "τ [95 %]",
        "τ of MACs alone", "τ of two trainings", "reached",
    ]  # fmt: skip
    lines = [
        [
            one["name"],
            ", ".join(map(str, one["resolutions"])),
            str(len(one["rows"])),
            f"{min(r['macs_m'] for r in one['rows']):.1f} to {max(r['macs_m'] for r in one['rows']):.1f}",
            scores(one["rows"], "inherited"),
            scores(one["rows"], "tuned"),
            f"{one['tau']:.2f} [{one['low']:.2f}, {one['high']:.2f}]",
            f"{one['tau_macs']:.2f}",
            "" if one["tau_trainings"] is None else f"{one['tau_trainings']:.2f}",
            "yes" if one["tau"] >= AIM and one["low"] >= LEAST else "no",
        ]
        for one in summary["tables"]
    ]
    origins = "; ".join(f"{one['name']}: {one['origin']}" for one in summary["tables"])
    return "\n".join(
        [
            "# Inherited weights",
            "",
            f"Top-1 of subnets with the weights that they inherit, and after {summary['steps']} steps of "
            f"{summary['batch']} images each (AdamW, peak {summary['learning_rate']:g}; mean over seeds "
            f"{', '.join(map(str, summary['seeds']))}).",
            "",
            *table(head, lines),
            "",
            f"Aim: τ of {AIM:.2f} with a lower end of {LEAST:.2f} or more. Intervals: bootstrap over subnets. "
            f"Validation images: {', '.join(str(one['validation_images']) for one in summary['tables'])}. "
            f"Supernets: {origins}.",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
