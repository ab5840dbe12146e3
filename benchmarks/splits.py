"""What the suites share whose cells are (dataset, split, method): plan, summary and table."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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


def parser(name: str, summary: str, example: str, budget: str) -> argparse.ArgumentParser:
    """What such a suite is told."""
    found = make_parser(name, summary, example, budget=budget)
    found.add_argument(
        "--splits",
        type=int,
        default=3,
        help="number of splits; their seeds are 0, 1, … (default %(default)s)",
    )
    add_resamples(found)
    return found


def run(
    name: str,
    parser: argparse.ArgumentParser,
    methods: Callable[[argparse.Namespace], Sequence[str]],
    to_markdown: Callable[[Mapping[str, Any]], str],
    argv: Sequence[str],
) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input.

    Args:
        name: of the suite.
        parser: from :func:`parser`.
        methods: from what the suite was told to the methods of its cells.
        to_markdown: from a summary to the table.
        argv: what it is told.
    """
    suite = Suite(
        name=name,
        module="benchmarks.suites._quality_cell",
        parser=parser,
        plan=lambda options: plan(options, methods(options)),
        told=told,
        summarise=lambda cells, options: summarise(name, cells, resamples=options.resamples),
        to_markdown=to_markdown,
    )
    return run_suite(suite, argv)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Limits that all cells have, where the suite has the option."""
    return {"limits": options.limit} if getattr(options, "limit", None) else {}


def plan(options: argparse.Namespace, methods: Sequence[str]) -> list[dict[str, Any]]:
    """One spec per cell, in the order of running."""
    from benchmarks.methods import METHODS

    check_at_least(options, splits=1, resamples=100)
    return [
        make_spec(
            options,
            source,
            {"split": split, "method": method},
            label=f"{source.name}-{split}-{method}",
            alone=METHODS[method].alone,
            **settings(options),
        )
        for source in sources(options)
        for split in range(options.splits)
        for method in methods
    ]


def told(cell: Cell) -> str:
    """The score of a cell, for the log."""
    from benchmarks.comparison import balanced_accuracy

    return f"{balanced_accuracy(cell['labels'], cell['predicted']):.3f}"


def summarise(suite: str, cells: Sequence[Cell], *, resamples: int = 2000) -> dict[str, Any]:
    """Mean scores per dataset and method, the engine's difference to the better one, and their mean.

    A dataset on which a method is still missing shows the better one of those there are; the mean leaves it out. Where there
    are limits, scores are compared only on splits on which all methods keep them; ``kept`` counts who does.
    """
    from benchmarks.comparison import over_datasets
    from benchmarks.tables import compare, head, interval

    by_dataset: dict[str, dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        by_dataset[cell["dataset"]][cell["method"]][cell["split"]] = cell
    rows, differences = [], []
    ever = {cell["method"] for cell in cells}
    for name, methods in by_dataset.items():
        row, difference = compare(methods, resamples=resamples, usable=_keeps)
        row["kept"] = {m: [sum(map(_keeps, found.values())), len(found)] for m, found in methods.items()}
        missing = sorted(ever - set(methods))
        rows.append({"dataset": name, **row, "missing": missing})
        if difference is not None and not missing:
            differences.append(difference)
    limits = sorted({text for cell in cells for text in cell["settings"].get("limits", [])})
    return {
        **head(suite, cells, metric="balanced_accuracy", resamples=resamples),
        **({"limits": limits} if limits else {}),
        "weights": sorted({name for cell in cells for name in cell.get("weights", [])}),
        "datasets": rows,
        "overall": {
            "engine - better": interval(over_datasets(differences)) if differences else None,
            "datasets": len(differences),
        },
    }


def _keeps(cell: Cell) -> bool:
    """Whether a run keeps the limits that it was given."""
    return not cell["settings"].get("limits") or cell["details"].get("status") == "ok"


def to_markdown(title: str, summary: Mapping[str, Any], titles: Mapping[str, str], note: str) -> str:
    """The table as people read it.

    Args:
        title: of the table.
        summary: from :func:`summarise`.
        titles: method → what it is; those with other names are explained below the table.
        note: first sentence below the table.
    """
    from benchmarks.tables import foot, seconds_text, signed, table

    rows = summary["datasets"]
    methods = [m for m in titles if any(m in row["methods"] or m in row.get("kept", {}) for row in rows)]
    several = len(methods) > 2
    gap_title = (
        f"engine − {'better' if several else methods[-1]} [95 %]" if len(methods) > 1 else "difference"
    )
    columns = ["dataset", "classes", "test images", *methods, *(["better reference"] if several else [])]
    lines = []
    for row in rows:
        found = [
            (f"{row['methods'][m]['balanced_accuracy']:.3f}" if m in row["methods"] else "–")
            + _kept(row, m, summary)
            for m in methods
        ]
        better = row.get("better_reference", "")
        label = f"{better} ({', '.join(row['missing'])} not run)" if better and row["missing"] else better
        tests = " + ".join(str(n) for n in row.get("test_images", []))
        gap = signed(row["differences"][better]) if better else ""
        lines.append([row["dataset"], str(row["classes"]), tests, *found, *([label] if several else []), gap])
    overall = summary["overall"]["engine - better"]
    if overall is not None:
        whole = sum(1 for row in rows if not row["missing"])
        which = "mean" if whole == len(rows) else f"mean of the {whole} with all methods"
        lines.append([f"**{which}**", *[""] * (len(columns) - 1), f"**{signed(overall)}**"])
    splits = sorted({split for row in rows for split in row["splits"]})
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Balanced accuracy on test images, mean over splits (seeds {', '.join(map(str, splits)) or 'none'}).",
            "",
            *table([*columns, gap_title], lines),
            "",
            note + " " + " ".join(f"*{m}*: {titles[m]}." for m in methods if titles[m] != m),
            f"Seconds that a run took (mean): {seconds_text(rows)}.",
            f"Intervals: paired bootstrap over groups, {summary['resamples']} resamples; "
            "the mean's is about these datasets.",
            f"{foot(summary)}.",
            "",
        ]
    )


def _kept(row: Mapping[str, Any], method: str, summary: Mapping[str, Any]) -> str:
    """Where there are limits: how many runs keep them."""
    if not summary.get("limits") or method not in row["kept"]:
        return ""
    kept, count = row["kept"][method]
    return f" (limits kept in {kept} of {count})"
