"""Tables that compare the engine with other methods on the same test images, and their last lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.comparison import Difference, ScoredPart, balanced_accuracy, paired_difference
from benchmarks.environment import describe, environment

ENGINE = "engine"


def scores(cell: Mapping[str, Any]) -> dict[str, float]:
    """Balanced accuracy, accuracy and macro F1 on a cell's test images."""
    from sklearn.metrics import f1_score

    labels, predicted = cell["labels"], cell["predicted"]
    return {
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "accuracy": float((labels == predicted).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=np.unique(labels))),
    }


def compare(
    methods: Mapping[str, Mapping[int, Mapping[str, Any]]],
    *,
    resamples: int,
    each: str = "splits",
    resample_parts: bool = False,
    usable: Callable[[Mapping[str, Any]], bool] = lambda _cell: True,
) -> tuple[dict[str, Any], Difference | None]:
    """Mean scores per method, and the engine's difference to the better reference with its interval.

    The better reference is the one with the higher mean balanced accuracy on the test images, a choice in the
    reference's favour. Only the splits count that all methods have.

    Args:
        methods: method → number of the split → cell.
        resamples: of the bootstrap.
        each: what the splits are called in the row.
        resample_parts: see :func:`benchmarks.comparison.paired_difference`.
        usable: cell → whether its score may be compared; a split with one that may not is left out.

    Returns:
        the row, and the difference to the better reference (None without one).

    Raises:
        InputError: cells of one split are about different images.
    """
    splits = sorted(
        split
        for split in set.intersection(*(set(found) for found in methods.values()))
        if all(usable(found[split]) for found in methods.values())
    )
    first = next(iter(next(iter(methods.values())).values()))
    row: dict[str, Any] = {
        "images": first["images"],
        "classes": len(first["classes"]),
        each: splits,
        "methods": {},
    }
    if not splits:
        return row, None
    shown = [next(iter(methods.values()))[s] for s in splits]
    row["test_images"] = [len(cell["labels"]) for cell in shown]
    row["test_classes"] = [len(np.unique(cell["labels"])) for cell in shown]
    row["development_images"] = [cell["development_images"] for cell in shown]
    for method, found in methods.items():
        row["methods"][method] = _method_row([found[s] for s in splits])
    references = [m for m in methods if m != ENGINE]
    if ENGINE not in methods or not references:
        return row, None
    parts = scored_parts(methods, splits)
    better = max(references, key=lambda m: row["methods"][m]["balanced_accuracy"])
    row["better_reference"] = better
    found_differences = {
        m: paired_difference(parts, ENGINE, m, resamples=resamples, resample_parts=resample_parts)
        for m in references
    }
    row["differences"] = {m: interval(d) for m, d in found_differences.items()}
    return row, found_differences[better]


def method_difference(
    methods: Mapping[str, Mapping[int, Mapping[str, Any]]], other: str, *, resamples: int
) -> Difference | None:
    """The engine's difference to one method over the splits that both have; None where there is none."""
    splits = sorted(set(methods[ENGINE]) & set(methods[other]))
    if not splits:
        return None
    parts = scored_parts({name: methods[name] for name in (ENGINE, other)}, splits)
    return paired_difference(parts, ENGINE, other, resamples=resamples)


def _method_row(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = [scores(cell) for cell in cells]
    return {
        **{key: round(float(np.mean([s[key] for s in found])), 5) for key in found[0]},
        "each": [round(s["balanced_accuracy"], 5) for s in found],
        "seconds": round(float(np.mean([cell["seconds"] for cell in cells])), 1),
        "details": [cell["details"] for cell in cells],
    }


def scored_parts(
    methods: Mapping[str, Mapping[int, Mapping[str, Any]]], splits: Sequence[int]
) -> list[ScoredPart]:
    """The test images of each split with what every method said.

    Raises:
        InputError: methods were tested on different images.
    """
    from automl.errors import InputError

    parts = []
    for split in splits:
        cells = {method: found[split] for method, found in methods.items()}
        first = next(iter(cells.values()))
        for cell in cells.values():
            same = cell["images_id"] == first["images_id"] and np.array_equal(cell["index"], first["index"])
            if not same:
                raise InputError(
                    f"the cells of {first['dataset']}, number {split}, are about different images; use another --cells"
                )
        parts.append(
            ScoredPart(first["labels"], first["groups"], {m: cell["predicted"] for m, cell in cells.items()})
        )
    return parts


def interval(difference: Difference) -> dict[str, float]:
    """Plain JSON values."""
    return {key: round(getattr(difference, key), 5) for key in ("mean", "low", "high")}


def head(suite: str, cells: Sequence[Mapping[str, Any]], **settings: Any) -> dict[str, Any]:
    """What every table's JSON begins with: suite, budget, settings, commits and machines of the cells."""
    return {
        "schema_version": 2,
        "suite": suite,
        "cells": len(cells),
        "budget_seconds": sorted({cell["settings"]["budget"] for cell in cells}),
        **settings,
        "commits": sorted({str(cell["environment"].get("commit")) for cell in cells}),
        "environments": _distinct([cell["environment"] for cell in cells]),
        "environment": environment(),
    }


def _distinct(environments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for values in environments:
        plain = {key: value for key, value in values.items() if key != "commit"}
        if plain not in found:
            found.append(plain)
    return found


def foot(summary: Mapping[str, Any]) -> str:
    """The last line of every table: cells, commits and machines that made them."""
    machines = " Also: ".join(describe(values) for values in summary["environments"])
    return f"{summary['cells']} cells, of commits {', '.join(summary['commits'])}, made on: {machines}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('---' for _ in columns)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def points(values: Mapping[str, float]) -> str:
    """A difference and its interval in percentage points."""
    mean, low, high = (100 * values[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def signed(values: Mapping[str, float]) -> str:
    """A difference and its interval."""
    return f"{values['mean']:+.3f} [{values['low']:+.3f}, {values['high']:+.3f}]"


def budget_text(summary: Mapping[str, Any]) -> str:
    """For instance ``60 s``."""
    return " and ".join(f"{seconds:g} s" for seconds in summary["budget_seconds"])


def counts_text(counts: Sequence[int]) -> str:
    """One number where all are equal, else the smallest and the largest."""
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}" if counts else ""


def seconds_text(rows: Sequence[Mapping[str, Any]], name: str = "dataset") -> str:
    """Which method took how long."""
    return "; ".join(
        f"{row[name]} " + ", ".join(f"{m} {v['seconds']:.0f}" for m, v in row["methods"].items())
        for row in rows
        if row["methods"]
    )
