"""What the backbones that the package carries are worth: a submit without any other weights, against one from scratch.

Both are whole submits on the same datasets, splits and budget; the second may only train the package's small networks
from scratch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from automl.errors import InputError
from benchmarks import splits
from benchmarks.cells import Cell, Suite, add_resamples, make_parser, run_suite

NAME = "carried"
SUMMARY = "Balanced accuracy of the engine with nothing but the weights that it carries, against training from scratch."

EXAMPLE = "automl bench carried --data parts=data/parts data/cells.csv --budget 2m --splits 3"
_TITLES = {
    "engine": "the engine without weights from elsewhere",
    "scratch": "the engine with networks for training from scratch alone",
}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    suite = Suite(
        name=NAME,
        module="benchmarks.suites._quality_cell",
        parser=_parser(),
        plan=_plan,
        told=splits.told,
        summarise=lambda cells, options: summarise(cells, resamples=options.resamples),
        to_markdown=to_markdown,
    )
    return run_suite(suite, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(NAME, SUMMARY, EXAMPLE, budget="2m")
    splits.add_splits(parser)
    add_resamples(parser)
    return parser


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    if options.weights_dir or options.backbone:
        raise InputError(
            "this compares without weights from elsewhere: leave --weights-dir and --backbone away"
        )
    return splits.plan(options, list(_TITLES))


def summarise(cells: Sequence[Cell], *, resamples: int = 2000) -> dict[str, Any]:
    """Mean scores per dataset, and the paired difference per dataset and over datasets."""
    return splits.summarise(NAME, cells, resamples=resamples)


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text

    note = f"Time of a run: {budget_text(summary)}; both start with an empty home folder."
    return splits.to_markdown("Carried weights", summary, _TITLES, note)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
