"""Whether recipes do well to leave their augmentation to the images: one recipe with each of the policies they choose from.

Every split of a dataset is one cell. It holds what the first models of a submit say of the images (their affinity upside
down, :mod:`automl.affinity`), and the score on validation images after the same time with ``flips`` and with ``light``. The
rule that chooses between the two is held against always taking the same one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cells import (
    Cell,
    Suite,
    add_resamples,
    check_at_least,
    make_parser,
    make_spec,
    run_suite,
    sources,
)

NAME = "augmentation"
SUMMARY = "One recipe with flips and with crops on many datasets, and which of them the engine would take."

EXAMPLE = (
    "automl bench augmentation --data parts=data/parts data/cells.csv --weights-dir weights "
    "--network mobilenetv2_100.ra_in1k"
)
#: That the rule chooses from.
POLICIES = ("flips", "light")


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    suite = Suite(
        name=NAME,
        module="benchmarks.suites._augmentation_cell",
        parser=_parser(),
        plan=_plan,
        told=lambda cell: f"{cell['fitting']}, {100 * _gain(cell):+.1f} points of flips",
        summarise=lambda cells, options: summarise(cells, resamples=options.resamples),
        to_markdown=to_markdown,
    )
    return run_suite(suite, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(NAME, SUMMARY, EXAMPLE, budget="90s")
    add = parser.add_argument
    add("--network", required=True, help="pretrained model that is trained")
    add("--recipe", default="full_plain_128", help="of the catalog (default %(default)s)")
    add(
        "--splits",
        type=int,
        default=2,
        help="number of splits; their seeds are 0, 1, … (default %(default)s)",
    )
    add_resamples(parser)
    return parser


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    check_at_least(options, splits=1, resamples=100)
    return [
        make_spec(
            options,
            source,
            {"split": split},
            label=f"{source.name}-{split}",
            alone=False,
            network=options.network,
            recipe=options.recipe,
        )
        for split in range(options.splits)
        for source in sources(options)
    ]


def _gain(cell: Cell) -> float:
    """Score with flips minus that with crops."""
    scored = cell["trained"]
    return float(scored["flips"]["score"] - scored["light"]["score"])


def summarise(cells: Sequence[Cell], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Per dataset the affinity and the scores, and what the rule gains on each fixed policy, over the datasets."""
    import numpy as np

    from benchmarks.tables import head

    rows = []
    for name in dict.fromkeys(cell["dataset"] for cell in cells):
        own = [cell for cell in cells if cell["dataset"] == name]
        affinities = [affinity for cell in own for affinity in cell["affinities"]]
        rows.append({
            "dataset": name,
            "splits": [cell["split"] for cell in own],
            "images": own[0]["images"],
            "classes": own[0]["classes"],
            "affinity": float(np.mean(affinities)) if affinities else None,
            "affinities": [cell["affinities"] for cell in own],
            "fitting": [cell["fitting"] for cell in own],
            "epochs": float(np.mean([t["epochs"] for cell in own for t in cell["trained"].values()])),
            **{policy: [cell["trained"][policy]["score"] for cell in own] for policy in POLICIES},
        })  # fmt: skip
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(rows), (resamples, len(rows)))
    overall = {}
    for policy in POLICIES:
        gains = np.array([np.mean(_rule_gains(row, policy)) for row in rows])
        low, high = np.percentile(gains[drawn].mean(axis=1), [2.5, 97.5])
        overall[policy] = {"mean": float(gains.mean()), "low": float(low), "high": float(high)}
    settings = {key: cells[0]["settings"][key] for key in ("network", "recipe")}
    return {**head(NAME, cells, **settings, resamples=resamples), "rows": rows, "overall": overall}


def _rule_gains(row: Mapping[str, Any], policy: str) -> list[float]:
    """On each split, the score with the policy that the rule takes minus that with a fixed one."""
    return [row[taken][at] - row[policy][at] for at, taken in enumerate(row["fitting"])]


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it; the datasets by affinity."""
    from automl.affinity import LEAST_AFFINITY
    from benchmarks.tables import budget_text, foot, points, table

    def scores(values: Sequence[float]) -> str:
        return f"{sum(values) / len(values):.3f}"

    lines = []
    for row in sorted(summary["rows"], key=lambda row: -1.0 if row["affinity"] is None else row["affinity"]):
        gains = [100 * (flips - light) for flips, light in zip(row["flips"], row["light"], strict=True)]
        lines.append([
            row["dataset"], str(row["images"]), str(row["classes"]),
            "" if row["affinity"] is None else f"{row['affinity']:.2f}",
            scores(row["light"]), scores(row["flips"]),
            f"{sum(gains) / len(gains):+.1f} ({', '.join(f'{gain:+.1f}' for gain in gains)})",
            ", ".join(dict.fromkeys(row["fitting"])), f"{row['epochs']:.0f}",
        ])  # fmt: skip
    splits = sorted({split for row in summary["rows"] for split in row["splits"]})
    return "\n".join(
        [
            "# Augmentation",
            "",
            f"{summary['network']} with the recipe `{summary['recipe']}` for {budget_text(summary)}: `light` (crops, mirrored or not) "
            "and `flips` (in both directions, no crops). Score on validation images, mean over splits (seeds "
            f"{', '.join(map(str, splits))}).",
            "",
            *table(
                ["dataset", "development images", "classes", "affinity", "light", "flips", "flips − light, points (each split)",
                 "the rule takes", "epochs"], lines,
            ),
            "",
            f"Affinity: accuracy of the first models on images upside down over that on upright ones; from {LEAST_AFFINITY:g} on the "
            f"rule takes `flips`. The rule against always `light`: {points(summary['overall']['light'])} points; against always "
            f"`flips`: {points(summary['overall']['flips'])} (mean over {len(summary['rows'])} datasets, 95 % bootstrap over them, "
            f"{summary['resamples']} resamples). Each score is of one training.",
            f"{foot(summary)}.",
            "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
