"""Steps of training a supernet on this GPU: with torch alone, with kernels of our own, and with these as CUDA graphs.

Every way runs :func:`search_spaces.train.train_supernet` itself on made images; torch alone has the better one of two memory
layouts.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from search_spaces.train import Batch

NAME = "passes"
SUMMARY = (
    "Seconds of a step of a supernet's training on a GPU, with and without kernels and graphs of our own."
)

EXAMPLE = "example: automl bench passes --batch 512 --sides 64 128"
#: Subnets that are drawn once where passes are graphs.
_POOL = 6
#: Way → memory layout, kernels of our own, graphs.
WAYS: Mapping[str, tuple[str, bool, bool]] = {
    "torch, channels last": ("channels_last", False, False),
    "torch": ("contiguous_format", False, False),
    "kernels": ("contiguous_format", True, False),
    "kernels, graphs": ("contiguous_format", True, True),
}


def run(argv: Sequence[str]) -> int:
    """Measure, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(NAME, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of weights, images and subnets", work=False)
    add = parser.add_argument
    add("--family", default="mobile", help="of supernets (default %(default)s)")
    add("--batch", type=int, default=512, help="images of a step (default %(default)s)")
    add("--sides", type=int, nargs="+", default=[64, 128], help="of the images, pixels (default 64 128)")
    add("--classes", type=int, default=200, help="(default %(default)s)")
    add("--steps", type=int, default=20, help="that are timed (default %(default)s)")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from automl.errors import InputError, did_you_mean
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment
    from search_spaces import families

    if options.family not in families.SUPERNETS:
        raise InputError(
            f"no family '{options.family}'{did_you_mean(options.family, sorted(families.SUPERNETS))}"
        )
    check_at_least(options, batch=2, classes=2, steps=2, seed=0)
    if not torch.cuda.is_available():
        raise InputError("this suite measures a GPU, and torch sees none")
    rows = []
    for side in options.sides:
        for way in WAYS:
            print(f"{side} px, {way} …", file=sys.stderr, flush=True)
            seconds = step_seconds(
                options.family, way, torch.device("cuda"), side, batch=options.batch, classes=options.classes,
                steps=options.steps, seed=options.seed,
            )  # fmt: skip
            rows.append({"side": side, "way": way, **seconds})
    return {
        "schema_version": 1, "suite": NAME, "family": options.family, "batch": options.batch,
        "classes": options.classes, "steps": options.steps, "seed": options.seed,
        "gpu": torch.cuda.get_device_name(), "rows": rows, "environment": environment(),
    }  # fmt: skip


def step_seconds(
    family: str, way: str, device: torch.device, side: int, *, batch: int, classes: int, steps: int, seed: int
) -> dict[str, float]:
    """Median and extremes of the seconds of a step of the sandwich rule, once everything is warm.

    Args:
        family: of supernets.
        way: of :data:`WAYS`.
        device: of the training.
        side: of the images.
        batch: images of a step.
        classes: of the classifier.
        steps: that are timed.
        seed: of weights, images and subnets.

    Returns:
        ``median``, ``low``, ``high``.
    """
    import numpy as np
    import torch

    from search_spaces import families
    from search_spaces.elastic import _conv
    from search_spaces.train import Recipe, train_supernet

    layout, kernels, graphs = WAYS[way]
    form = getattr(torch, layout)
    torch.manual_seed(seed)
    net: Any = families.supernet(family, classes).to(device=device, memory_format=form)  # type: ignore[call-overload]
    recipe = Recipe(pool=_POOL if graphs else 0)
    # Where passes are graphs, every subnet of the pool has to have been seen.
    warm = 12 * _POOL if graphs else 4
    before = _conv._kernels
    if not kernels:
        _conv._kernels = lambda: None  # type: ignore[assignment]
    try:
        times: list[float] = []
        trained = train_supernet(
            net,
            _batches(device, side, batch, classes, seed, form),
            recipe,
            lambda step: step / (warm + steps),
            seed=seed,
            precision=torch.bfloat16 if device.type == "cuda" else None,
            report_every=1,
        )
        began = time.perf_counter()
        for step in trained:
            if device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if step.number > warm:
                times.append(now - began)
            began = now
    finally:
        _conv._kernels = before
    return {"median": float(np.median(times)), "low": min(times), "high": max(times)}


def _batches(
    device: torch.device, side: int, batch: int, classes: int, seed: int, form: torch.memory_format
) -> Iterator[Batch]:
    import torch

    from search_spaces.train import Batch

    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, side, side, generator=generator).to(device=device, memory_format=form)
    labels = torch.randint(0, classes, (batch,), generator=generator).to(device)
    while True:
        yield Batch(images, labels)


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    lines = []
    for side in dict.fromkeys(row["side"] for row in summary["rows"]):
        rows = [row for row in summary["rows"] if row["side"] == side]
        plain = min((row["median"] for row in rows if row["way"].startswith("torch")), default=math.nan)
        lines += [
            [
                str(side), row["way"], f"{1000 * row['median']:.1f}",
                f"{1000 * row['low']:.1f} to {1000 * row['high']:.1f}", f"{plain / row['median']:.2f}",
            ]
            for row in rows
        ]  # fmt: skip
    return "\n".join(
        [
            "# Passes",
            "",
            f"Milliseconds of a step of the sandwich rule (largest, smallest and two drawn subnets) of the family "
            f"{summary['family']}, {summary['batch']} images, bfloat16, on {summary['gpu']}.",
            "",
            *table(["pixels", "way", "median ms", "from, to", "times torch's better layout"], lines),
            "",
            f"{summary['steps']} steps of each, seed {summary['seed']}, once everything is warm. {describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
