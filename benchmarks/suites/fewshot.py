"""Few images: the engine against the two things that are done with a handful of images per class.

Every (dataset, shots, draw, method) is one cell. A draw takes some images of each class for development and
leaves all that has nothing to do with them for the test (:func:`benchmarks.drawing.draw`).
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import splits
from benchmarks.cells import (
    Cell,
    Suite,
    add_resamples,
    check_at_least,
    chosen,
    make_parser,
    make_spec,
    run_suite,
    sources,
)

NAME = "fewshot"
SUMMARY = "Balanced accuracy with few training images per class, against logistic regression and nearest neighbours."

EXAMPLE = (
    "automl bench fewshot --data parts=data/parts tiles=data/tiles/labels.csv --column tiles:label=binary "
    "--weights-dir weights --shots 10,20,40 --draws 5"
)
_TITLES = {
    "engine": "engine",
    "logreg": "logistic regression on frozen features",
    "knn": "nearest neighbours on frozen features",
}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    suite = Suite(
        name=NAME,
        module="benchmarks.suites._fewshot_cell",
        parser=_parser(),
        plan=_plan,
        told=splits.told,
        summarise=lambda cells, options: summarise(cells, resamples=options.resamples),
        to_markdown=to_markdown,
    )
    return run_suite(suite, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(NAME, SUMMARY, EXAMPLE, budget="60s")
    add = parser.add_argument
    add(
        "--shots", default="10,20,40", help="training images per class, comma-separated (default %(default)s)"
    )
    add("--draws", type=int, default=5, help="number of draws; their seeds are 0, 1, … (default %(default)s)")
    add(
        "--methods", default=",".join(_TITLES), help=f"comma-separated, of {', '.join(_TITLES)} (default all)"
    )
    add_resamples(parser)
    return parser


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    check_at_least(options, draws=1, resamples=100)
    methods = chosen(options.methods, list(_TITLES), "method")
    return [
        make_spec(
            options,
            source,
            {"shots": shots, "draw": draw, "method": method},
            label=f"{source.name}-{shots}-{draw}-{method}",
            alone=method == "engine",
        )
        for source in sources(options)
        for shots in _shots(options.shots)
        for draw in range(options.draws)
        for method in methods
    ]


def _shots(text: str) -> list[int]:
    from automl.errors import InputError

    try:
        found = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        found = []
    if not found or found[0] < 2:
        raise InputError(f"--shots is '{text}'; it is a list of whole numbers from 2, for instance 10,20,40")
    return found


def summarise(cells: Sequence[Cell], *, resamples: int = 2000) -> dict[str, Any]:
    """Mean scores per dataset, shots and method, and the engine's difference to the better reference.

    The intervals resample draws and groups of test images. Beside them stand the mean differences over the
    datasets for each number of shots.
    """
    from benchmarks.comparison import over_datasets
    from benchmarks.tables import compare, head, interval

    by_row: dict[tuple[str, int], dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        by_row[cell["dataset"], cell["shots"]][cell["method"]][cell["draw"]] = cell
    rows, differences = [], defaultdict(list)
    ever = {cell["method"] for cell in cells}
    for (name, shots), methods in by_row.items():
        row, difference = compare(methods, resamples=resamples, each="draws", resample_parts=True)
        rows.append({"dataset": name, "shots": shots, **row})
        # Where a method is missing, the better reference is only the one that there is.
        if difference is not None and not ever - set(methods):
            differences[shots].append(difference)
    return {
        **head(NAME, cells, metric="balanced_accuracy", resamples=resamples),
        "rows": rows,
        "overall": [
            {
                "shots": shots,
                "datasets": len(found),
                "engine - better": interval(over_datasets(found)),
            }
            for shots, found in sorted(differences.items())
        ],
    }


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text, counts_text, foot, seconds_text, signed, table

    rows = summary["rows"]
    methods = [m for m in _TITLES if any(m in row["methods"] for row in rows)]
    columns = ["dataset", "shots", "draws", "training images", "test images", "classes", *methods]
    lines = []
    for row in rows:
        better = row.get("better_reference", "")
        tested = counts_text(row.get("test_classes", []))
        classes = str(row["classes"])
        lines.append(
            [
                row["dataset"],
                str(row["shots"]),
                str(len(row["draws"])),
                counts_text(row.get("development_images", [])),
                counts_text(row.get("test_images", [])),
                classes if tested in (classes, "") else f"{classes} ({tested} tested)",
                *(
                    f"{row['methods'][m]['balanced_accuracy']:.3f}" if m in row["methods"] else ""
                    for m in methods
                ),
                better,
                signed(row["differences"][better]) if better else "",
            ]
        )
    for total in summary["overall"]:
        lines.append(
            [
                "**mean**",
                str(total["shots"]),
                *[""] * (len(columns) - 1),
                f"**{signed(total['engine - better'])}**",
            ]
        )
    draws = sorted({draw for row in rows for draw in row["draws"]})
    timed = [{**row, "name": f"{row['dataset']} {row['shots']}"} for row in rows]
    return "\n".join(
        [
            "# Few images",
            "",
            "Balanced accuracy on test images, mean over draws of so many training images per class "
            f"(seeds {', '.join(map(str, draws)) or 'none'}).",
            "",
            *table([*columns, "better reference", "engine − better [95 %]"], lines),
            "",
            f"Time of the engine: {budget_text(summary)}. "
            + " ".join(f"*{m}*: {_TITLES[m]}." for m in methods if _TITLES[m] != m),
            "The references choose backbone and settings by 4-fold cross-validation on the training images; "
            "the better one of a row is the one with the higher mean on the test images. "
            "At least half of the groups of a class are kept for the test, so a small class may give fewer images.",
            f"Seconds that a run took (mean): {seconds_text(timed, 'name')}.",
            f"Intervals: paired bootstrap over draws and groups, {summary['resamples']} resamples; "
            "a mean's is about these datasets.",
            f"{foot(summary)}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
