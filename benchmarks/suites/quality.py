"""Quality: the engine against what a practitioner does by hand, on several datasets and splits.

Every (dataset, split, method) is one cell. The table compares the engine with the better reference of each
dataset by a paired group bootstrap.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import splits
from benchmarks.cells import chosen

NAME = "quality"
SUMMARY = "Balanced accuracy of the engine against logistic regression and plain fine-tuning."

EXAMPLE = (
    "automl bench quality --data parts=data/parts data/cells.csv --weights-dir weights --budget 4m --splits 3"
)
_TITLES = {
    "engine": "engine",
    "logreg": "logistic regression on frozen features",
    "plain": "plain fine-tuning",
}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    parser = splits.parser(NAME, SUMMARY, EXAMPLE, budget="4m")
    parser.add_argument(
        "--methods", default=",".join(_TITLES), help=f"comma-separated, of {', '.join(_TITLES)} (default all)"
    )
    return splits.run(
        NAME, parser, lambda told: chosen(told.methods, list(_TITLES), "method"), to_markdown, argv
    )


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text

    note = f"Time of the engine and of plain fine-tuning: {budget_text(summary)}."
    return splits.to_markdown("Quality", summary, _TITLES, note)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
