"""Subnets of a supernet as they are, without any training of their own: top-1 against what they cost.

Each is built, its statistics are estimated from training images, and it is exported; what is measured, speed and top-1,
is the exported file's. The images are those that the supernet was pretrained on; top-1 is of the validation images.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.carried import WEIGHTS

if TYPE_CHECKING:
    from search_spaces._views import Images
    from search_spaces.stored import Known, Stored

NAME = "subnets"
SUMMARY = "Top-1 of subnets of a pretrained supernet against multiply-accumulates and measured latency."

EXAMPLE = "example: automl bench subnets --images tiny-imagenet.npz"
#: Images of which the files' answers are asked at a time.
_BATCH = 100


def run(argv: Sequence[str]) -> int:
    """Measure, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(options.name, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed=None, work=False)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="npz file that the supernet was pretrained on")
    add("--supernet", type=Path, default=WEIGHTS, help="file (default: the one that the package carries)")
    add(
        "--subnets",
        type=int,
        default=16,
        help="of all sizes, of those that were judged (default %(default)s)",
    )
    add("--within", type=float, nargs="*", default=[], metavar="MILLION",
        help="multiply-accumulates: also the subnet with the best stored score within so many")  # fmt: skip
    add("--device", default="cpu:1", help="that they are timed on (default %(default)s)")
    add("--name", default=NAME, help="of the table's files (default %(default)s)")
    return parser


def choose(known: Sequence[Known], count: int, within: Sequence[float] = ()) -> list[Known]:
    """Return subnets of all sizes: evenly among those with a score, in the order of multiply-accumulates.

    Beside them is the one with the best score within each of so many million multiply-accumulates, where there is one.
    """
    import numpy as np

    judged = sorted((one for one in known if one.score is not None), key=lambda one: (one.macs, one.params))
    places = np.unique(np.linspace(0, len(judged) - 1, min(count, len(judged))).round().astype(int))
    chosen = {int(place) for place in places}
    for most in within:
        kept = [place for place, one in enumerate(judged) if one.macs <= most * 1e6]
        chosen |= {max(kept, key=lambda place: judged[place].score or 0.0)} if kept else set()
    return [judged[place] for place in sorted(chosen)]


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from automl._subnets import Subnets
    from automl.device import Device
    from automl.errors import InputError
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment
    from search_spaces._views import read_images
    from search_spaces.pretrain import judging_images
    from search_spaces.stored import StoredError, load

    check_at_least(options, subnets=2)
    device = Device.parse(options.device)
    try:
        stored = load(options.supernet)
        training, validation, _names = read_images(options.images, "cpu")
    except (StoredError, OSError, ValueError) as error:
        raise InputError(str(error)) from None
    chosen = choose(stored.known, options.subnets, options.within)
    if len(chosen) < 2:
        raise InputError(f"{options.supernet} has no scores of its subnets")
    own = dataclasses.replace(stored, calibration=judging_images(training))
    rows = []
    with Subnets(own, device) as subnets:
        for number, known in enumerate(chosen):
            print(f"subnet {number + 1} of {len(chosen)} …", file=sys.stderr, flush=True)
            rows.append(_row(own, subnets, known, validation))
    return {
        "schema_version": 1, "suite": NAME, "origin": stored.about.origin, "device": device.label, "rows": rows,
        "within": options.within, "images": len(validation), "calibration": len(own.calibration), "environment": environment(),
    }  # fmt: skip


def _row(own: Stored, subnets: Any, known: Known, validation: Images) -> dict[str, Any]:
    from search_spaces.stored import RESOLUTION

    side = int(known.subnet[RESOLUTION])
    with tempfile.TemporaryDirectory(prefix="automl-subnets-") as folder:
        file = Path(folder) / "model.onnx"
        costs = subnets.write(known.subnet, file).costs
        right = _right(file, side, validation)
    return {
        "subnet": own.backbone(known.subnet).architecture, "resolution": side, "macs_m": known.macs / 1e6,
        "params_m": known.params / 1e6, "size_mb": costs["size_mb"], "latency_ms": costs["latency_ms"], "right": right,
        "stored_score": known.score,
    }  # fmt: skip


def _right(file: Path, side: int, validation: Images) -> int:
    """For how many images the file says the right class."""
    import onnxruntime

    from search_spaces._views import resized

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    right = 0
    for start in range(0, len(validation), _BATCH):
        pixels = resized(validation.pixels[start : start + _BATCH].float(), side)
        images = pixels.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        said = session.run(["probabilities"], {"images": images})[0].argmax(1)
        right += int((said == validation.labels[start : start + _BATCH].numpy()).sum())
    return right


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from scipy.stats import binomtest

    from benchmarks.environment import describe
    from benchmarks.tables import table

    count, within = summary["images"], summary.get("within", [])
    lines = []
    for row in sorted(summary["rows"], key=lambda row: row["macs_m"]):
        ends = binomtest(row["right"], count).proportion_ci(method="wilson")
        lines.append(
            [
                str(row["resolution"]),
                f"{row['macs_m']:.1f}",
                f"{row['params_m']:.2f}",
                f"{row['size_mb']:.2f}",
                f"{row['latency_ms']:.2f}",
                f"{100 * row['stored_score']:.1f}",
                f"{100 * row['right'] / count:.1f} [{100 * ends.low:.1f}, {100 * ends.high:.1f}]",
            ]
        )
    columns = [
        "pixels",
        "M MACs",
        "M parameters",
        "MB",
        f"ms on {summary['device']}",
        "stored %",
        "top-1 % [95 %]",
    ]
    return "\n".join(
        [
            "# Subnets",
            "",
            f"Subnets of one supernet ({summary['origin']}), exported without any training of their own.",
            "",
            *table(columns, lines),
            "",
            f"Multiply-accumulates and parameters without the classifier. Latency: median of one image, measured on the "
            f"exported file. *stored*: the score that the supernet's file has. Top-1: of the file, on {count} validation "
            f"images; statistics of {summary['calibration']} training images."
            + (
                f" Those with the best stored score within {', '.join(f'{most:g}' for most in within)} M MACs are among them; "
                "where stored scores are of these same images, their top-1 is flattered by the choice."
                if within
                else ""
            ),
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
