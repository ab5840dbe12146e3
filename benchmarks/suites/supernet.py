"""What a supernet adds under tight limits: the full engine against ``--no-supernet``, on the same datasets and splits.

The engine trains one where limits on costs keep a good backbone out and the budget is long enough for it; without any weights
from elsewhere it takes subnets of the one that it carries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import splits

NAME = "supernet"
SUMMARY = "Balanced accuracy of the engine under tight limits, with and without a supernet."

EXAMPLE = (
    "automl bench supernet --data parts=data/parts data/cells.csv --weights-dir weights --budget 1h "
    "--limit 'latency_ms<=2.5' --splits 1"
)
_TITLES = {"engine": "engine", "no-supernet": "the engine with --no-supernet"}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    parser = splits.parser(NAME, SUMMARY, EXAMPLE, budget="1h")
    parser.add_argument("--limit", action="append", required=True, help="that all runs have; repeatable")
    return splits.run(NAME, parser, _methods, to_markdown, argv)


def _methods(options: argparse.Namespace) -> list[str]:
    """The methods, once the limits are found to be ones.

    Raises:
        InputError: one is not.
    """
    from automl.task import Constraint

    for text in options.limit:
        Constraint.parse(text)
    return list(_TITLES)


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text

    limits = ", ".join(f"`{text}`" for text in summary["limits"])
    note = (
        f"Limits: {limits}. Pretrained networks at hand: {', '.join(summary['weights']) or 'none'}. "
        f"Time of a run: {budget_text(summary)}; both start with an empty home folder. Scores are compared where both keep the "
        "limits. " + " ".join(_outcomes(name, summary) for name in _TITLES)
    )
    return splits.to_markdown("Supernet: under tight limits", summary, _TITLES, note)


def _outcomes(method: str, summary: Mapping[str, Any]) -> str:
    """In how many of the compared runs of a method a supernet was trained, and a subnet won."""
    found = [d for row in summary["datasets"] for d in row["methods"].get(method, {}).get("details", [])]
    trained = sum(one["supernet"] for one in found)
    won = sum(_of_supernet(one["winner"]) for one in found)
    return (
        f"*{method}*: of {len(found)} runs that are compared, {trained} trained a supernet on the images and in {won} a subnet "
        "won, of that one or of the carried one."
    )


def _of_supernet(winner: Mapping[str, Any]) -> bool:
    """Whether a model's network was taken out of a supernet, that of the run or the carried one."""
    from search_spaces import carried

    names = {backbone.name for backbone in carried.backbones()}
    return winner["source"] == "supernet" or winner.get("backbone") in names


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
