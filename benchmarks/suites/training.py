"""Training speed: images per second of a training step in float32, in torch's autocast, and as trials train.

The three take turns step by step in one process with one thread and with the memory settings of a search's workers,
so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "training"
SUMMARY = "Images per second of a training step: float32, torch's autocast, and the engine's mixed precision."

EXAMPLE = "example: automl bench training --weights-dir weights --sides 128,224"
MODES = ("float32", "autocast", "engine")
_CLASSES = 6
_WARM_UP = 2


def run(argv: Sequence[str]) -> int:
    """Measure, write the table, print it. Exit codes: 0 measured, 1 the process failed, 2 wrong input."""
    from automl.errors import InputError
    from automl.machine import KEEP_PAGES
    from benchmarks.cells import publish, write_text
    from benchmarks.environment import environment
    from benchmarks.processes import measured

    options = _parser().parse_args(argv)
    try:
        asked = _asked(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    work = Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / "asked.json", json.dumps(asked))
    done = measured(
        ["benchmarks.suites.training", "--measure", str(work / "asked.json")],
        work / "log.txt",
        home=work / "home",
        environment={**KEEP_PAGES, "OMP_NUM_THREADS": "1"},
    )
    if done.code != 0:
        print(f"failed: exit code {done.code}: {done.why()} (see {done.log})", file=sys.stderr)
        return 1
    found = json.loads(done.output.strip().splitlines()[-1])
    settings = {key: value for key, value in asked.items() if key != "weights_dirs"}
    summary = {"schema_version": 1, "suite": NAME, **settings, **found, "environment": environment()}
    publish(Path(options.results), NAME, summary, to_markdown(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed=None)
    add = parser.add_argument
    add("--weights-dir", action="append", default=[], help="folder of pretrained models; repeatable")
    add("--sides", default="128,224", help="sides of the input (default %(default)s)")
    add("--batch", type=int, default=32, help="images in a step (default %(default)s)")
    add("--steps", type=int, default=12, help="timed steps of each (default %(default)s)")
    return parser


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    from automl.errors import InputError

    if not options.weights_dir:
        raise InputError("nothing to measure; give --weights-dir FOLDER")
    for folder in options.weights_dir:
        if not Path(folder).is_dir():
            raise InputError(f"weights folder '{folder}' does not exist or is not a folder")
    try:
        sides = [int(part) for part in options.sides.split(",")]
    except ValueError:
        raise InputError(f"--sides is {options.sides!r}; it is whole numbers with commas between") from None
    if min(sides) < 32:
        raise InputError(f"--sides is {options.sides!r}; a side is at least 32")
    if options.batch < 2 or options.steps < 3:
        raise InputError("--batch is at least 2, --steps at least 3")
    folders = [str(Path(folder).resolve()) for folder in options.weights_dir]
    return {"weights_dirs": folders, "sides": sides, "batch": options.batch, "steps": options.steps}


def measure(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Time the steps.

    Returns:
        ``native_bfloat16`` and ``rows``: ``backbone``, ``side``, and per mode median images per second, with the
        median over steps of each step's ratio to the float32 step beside it.
    """
    import torch

    from automl.training._precision import native_bfloat16
    from search_spaces.backbones import find_backbones

    torch.set_num_threads(1)
    backbones, _skipped = find_backbones(asked["weights_dirs"], [])
    rows = [
        {"backbone": backbone.name, "side": side, **_times(backbone, side, asked["batch"], asked["steps"])}
        for backbone in backbones
        if backbone.pretrained
        for side in asked["sides"]
    ]
    return {"native_bfloat16": native_bfloat16(), "rows": rows}


def _times(backbone: Any, side: int, batch: int, steps: int) -> dict[str, Any]:
    import torch

    from automl.training import mixed_precision, new_model
    from automl.training._heads import LinearHead
    from automl.training._precision import layout

    place = torch.device("cpu")
    model = new_model(backbone, LinearHead(1, _CLASSES))
    with torch.no_grad():
        width = model.body.eval()(torch.zeros(1, 3, side, side)).shape[1]
    model.head = LinearHead(width, _CLASSES)
    model.to(place, memory_format=layout(place))  # type: ignore[call-overload]
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), generator=generator).float()
    images = images.contiguous(memory_format=layout(place))
    labels = torch.arange(batch) % _CLASSES
    precisions: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
        "float32": contextlib.nullcontext,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "engine": lambda: mixed_precision(place),
    }
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(_WARM_UP + steps):
        for mode in MODES:
            began = time.perf_counter()
            with precisions[mode]():
                logits = model(images)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if number >= _WARM_UP:
                seconds[mode].append(time.perf_counter() - began)
    return {
        "images_per_second": {mode: round(batch / statistics.median(seconds[mode]), 1) for mode in MODES},
        "against_float32": {
            mode: round(
                statistics.median(a / b for a, b in zip(seconds["float32"], seconds[mode], strict=True)), 2
            )
            for mode in MODES
        },
    }


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    rows = []
    for row in summary["rows"]:
        speed, ratio = row["images_per_second"], row["against_float32"]
        told = [f"{speed[mode]:.0f} ({ratio[mode]:.2f}×)" for mode in MODES[1:]]
        rows.append([row["backbone"], str(row["side"]), f"{speed['float32']:.0f}", *told])
    native = (
        "in hardware" if summary["native_bfloat16"] else "not in hardware, so the engine trains in float32"
    )
    return "\n".join(
        [
            "# Training speed",
            "",
            *table(["backbone", "side", "float32", "torch's autocast", "engine"], rows),
            "",
            f"Images per second of whole training steps (all weights, AdamW, batch {summary['batch']}, one thread, images "
            f"in memory): median of {summary['steps']} steps each, taken in turns in one process; in brackets the median "
            f"ratio to the float32 step beside it. This processor multiplies bfloat16 {native}.",
            "",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(json.loads(Path(sys.argv[2]).read_text()))))
        sys.exit(0)
    sys.exit(run(sys.argv[1:]))
