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

NAME = "carried"
SUMMARY = "Balanced accuracy of the engine with nothing but the weights that it carries, against training from scratch."

EXAMPLE = "automl bench carried --data parts=data/parts data/cells.csv --budget 2m --splits 3"
_TITLES = {
    "engine": "the engine without weights from elsewhere",
    "scratch": "the engine with networks for training from scratch alone",
}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    parser = splits.parser(NAME, SUMMARY, EXAMPLE, budget="2m")
    return splits.run(NAME, parser, _methods, to_markdown, argv)


def _methods(told: argparse.Namespace) -> list[str]:
    if told.weights_dir or told.backbone:
        raise InputError(
            "this compares without weights from elsewhere: leave --weights-dir and --backbone away"
        )
    return list(_TITLES)


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text

    note = f"Time of a run: {budget_text(summary)}; both start with an empty home folder."
    return splits.to_markdown("Carried weights", summary, _TITLES, note)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
