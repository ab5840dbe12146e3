"""Ablation: the full engine against ``--no-pool``, on the same datasets, splits and budget.

Without the pool there is no ranking by history and by first trials and no search: the catalog is tried in its
own order.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import splits

NAME = "ablation"
SUMMARY = "Balanced accuracy of the engine with and without its pool and search."

EXAMPLE = "automl bench ablation --data parts=data/parts data/cells.csv --weights-dir weights --budget 4m --splits 3"
_TITLES = {
    "engine": "engine",
    "no-pool": "the engine with --no-pool: the catalog's order, no ranking and no search",
}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    parser = splits.parser(NAME, SUMMARY, EXAMPLE, budget="4m")
    return splits.run(NAME, parser, lambda _told: list(_TITLES), to_markdown, argv)


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text

    note = f"Time of a run: {budget_text(summary)}; both start with an empty home folder."
    return splits.to_markdown("Ablation: without the pool", summary, _TITLES, note)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
