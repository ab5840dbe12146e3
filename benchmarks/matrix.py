"""Suites that are declared: tasks × limits × methods × seeds, one cell each, in a small TOML file.

A file of :mod:`benchmarks.suites` names tasks (a path below ``--data-dir``, columns, limits), the budget of a run, methods
(:data:`benchmarks.methods.METHODS`) and how many seeds; its table ``full`` holds what ``--scale full`` changes. The suite
writes ``NAME-runs.parquet``, ``NAME-trials.parquet``, a page with plots, and a table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cells import (
    Cell,
    Suite,
    check_at_least,
    chosen,
    make_parser,
    make_spec,
    run_suite,
    sources,
)

if TYPE_CHECKING:
    import pandas as pd

MODULE = "benchmarks.suites._quality_cell"
#: Tasks whose images come with packages.
BUILT_IN = "built-in:"
_FIELDS = {"summary", "title", "budget", "seeds", "methods", "tasks", "full"}
_OF_TASK = {"name", "data", "columns", "limits", "budget"}


class MatrixError(ValueError):
    """A declared suite is not what it should be."""


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        name: of the task; tasks of the same images under other limits have other names.
        data: path below ``--data-dir``, or ``built-in:NAME``.
        columns: role → column of a table.
        limits: constraints.
        budget: of a run, text; None for that of the suite.
    """

    name: str
    data: str
    columns: Mapping[str, str]
    limits: tuple[str, ...]
    budget: str | None = None


@dataclass(frozen=True)
class Matrix:
    """A declared suite.

    Attributes:
        name: of the suite, that of its file.
        title: heading of its page.
        summary: one line.
        tasks: at least one.
        methods: names.
        budget: of a run, text.
        seeds: how many; they are 0, 1, ….
        full: fields that ``--scale full`` changes.
    """

    name: str
    title: str
    summary: str
    tasks: tuple[Task, ...]
    methods: tuple[str, ...]
    budget: str
    seeds: int
    full: Mapping[str, Any]

    def at(self, scale: str) -> Matrix:
        """The suite at ``small`` or ``full`` scale."""
        if scale == "small":
            return self
        values = {**self.full}
        if "methods" in values:
            values["methods"] = tuple(values["methods"])
        return replace(self, **values)


def read_matrix(file: Path) -> Matrix:
    """Read a declared suite.

    Raises:
        MatrixError: a field is missing, unknown or of the wrong kind.
    """
    from automl.errors import did_you_mean

    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MatrixError(f"{file.name}: {error}") from None

    def check(given: Mapping[str, Any], known: set[str], needed: set[str], where: str) -> None:
        for name in given:
            if name not in known:
                raise MatrixError(
                    f"{file.name}: {where} has unknown '{name}'{did_you_mean(name, sorted(known))}"
                )
        for name in sorted(needed - set(given)):
            raise MatrixError(f"{file.name}: {where} has no '{name}'")

    check(values, _FIELDS, _FIELDS - {"full", "title"}, "the suite")
    check(values.get("full", {}), {"budget", "seeds", "methods"}, set(), "'full'")
    tasks = []
    for task in values["tasks"]:
        check(task, _OF_TASK, {"name", "data"}, "a task")
        limits = tuple(task.get("limits", ()))
        columns = dict(task.get("columns", {}))
        tasks.append(Task(task["name"], task["data"], columns, limits, task.get("budget")))
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        raise MatrixError(f"{file.name}: tasks need names that differ")
    return Matrix(
        file.stem,
        values.get("title", file.stem),
        values["summary"],
        tuple(tasks),
        tuple(values["methods"]),
        values["budget"],
        values["seeds"],
        values.get("full", {}),
    )


def run(file: Path, argv: Sequence[str]) -> int:
    """Run what is missing of a declared suite, write and print the table and the page.

    Exit codes: 0 all there, 1 a cell failed, 2 wrong input.
    """
    matrix = read_matrix(file)
    suite = Suite(
        name=matrix.name,
        module=MODULE,
        parser=_parser(matrix),
        plan=lambda options: plan(matrix, options),
        told=_told,
        summarise=lambda cells, options: summarise(matrix, cells, options),
        to_markdown=lambda summary: to_markdown(matrix, summary),
    )
    return run_suite(suite, argv)


def _parser(matrix: Matrix) -> argparse.ArgumentParser:
    example = f"automl bench {matrix.name} --data-dir datasets --weights-dir weights"
    parser = make_parser(matrix.name, matrix.summary, example, budget=matrix.budget, declared=True)
    parser.set_defaults(budget=None)
    add = parser.add_argument
    add("--data-dir", default=".", help="folder below which the tasks' data lie (default: here)")
    add("--task", action="append", default=[], help="only this one; repeatable")
    add("--methods", help=f"comma-separated (default {','.join(matrix.methods)})")
    add("--seeds", type=int, help=f"how many (default {matrix.seeds})")
    add("--scale", choices=("small", "full"), default="small",
        help="full is what a lab would run: longer budgets, more seeds and methods")  # fmt: skip
    add("--resamples", type=int, default=2000, help="of the bootstrap (default %(default)s)")
    return parser


def plan(matrix: Matrix, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One spec per cell, in the order of running: a task's methods one after another, seed by seed."""
    from automl.errors import InputError
    from automl.task import Constraint
    from benchmarks.methods import METHODS

    scaled = matrix.at(options.scale)
    asked = options.budget
    seeds = scaled.seeds if options.seeds is None else options.seeds
    check_at_least(options, resamples=100)
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; it is at least 1")
    methods = chosen(options.methods or ",".join(scaled.methods), list(METHODS), "method")
    names = chosen(",".join(options.task), [task.name for task in matrix.tasks], "task")
    specs = []
    for seed in range(seeds):
        for task in matrix.tasks:
            if names and task.name not in names:
                continue
            for text in task.limits:
                Constraint.parse(text)
            options.budget = asked or task.budget or scaled.budget
            options.data = [f"{task.name}={_path(task, options)}"]
            options.column = [f"{role}={column}" for role, column in task.columns.items()]
            (source,) = sources(options)
            specs += [
                make_spec(
                    options,
                    source,
                    {"split": seed, "method": method},
                    label=f"{task.name}-{seed}-{method}",
                    alone=METHODS[method].alone,
                    limits=list(task.limits),
                    anytime=True,
                )
                | {"keeps_failures": True}
                for method in methods
            ]
    return specs


def _path(task: Task, options: argparse.Namespace) -> Path:
    if task.data.startswith(BUILT_IN):
        from benchmarks.built_in import write

        return write(task.data.removeprefix(BUILT_IN), Path(options.work) / "built-in")
    return Path(options.data_dir).expanduser() / task.data


def _told(cell: Cell) -> str:
    from benchmarks.comparison import balanced_accuracy

    if "failed" in cell:
        return "no model"

    return f"{balanced_accuracy(cell['labels'], cell['predicted']):.3f}"


def runs_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per run, as :func:`benchmarks.page.page` reads them."""
    import pandas as pd

    return pd.DataFrame([_row(cell) for cell in cells])


def _row(cell: Cell) -> dict[str, Any]:
    import numpy as np

    from automl.evaluation.metrics import interval

    if "failed" in cell:
        return _failed_row(cell)
    labels, predicted = cell["labels"], cell["predicted"]
    classes = list(cell["classes"])
    shares = np.full((len(labels), len(classes)), 1 / len(classes))
    score = interval("balanced_accuracy", None, labels, shares, predicted, classes, cell["groups"])
    found = cell["details"].get("run") or {}
    costs = found.get("costs") or {}
    ended = [one["ended"] for one in found.get("trials", []) if one["status"] == "completed"]
    nothing = float("nan")
    return {
        "task": cell["dataset"], "method": cell["method"], "seed": cell["split"],
        "budget": float(cell["settings"]["budget"]), "seconds": float(cell["seconds"]),
        "status": found.get("status") or ("unchecked" if cell["settings"]["limits"] else "ok"), "score": score.value, "low": score.low, "high": score.high,
        "n_test": len(labels), "limits": json.dumps(cell["settings"]["limits"]), "broken": _broken(cell["settings"]["limits"], found.get("again")),
        **{name: float(costs.get(name, nothing)) for name in ("latency_ms", "size_mb", "macs_m")},
        "first_seconds": min(ended, default=nothing), "trials": len(ended),
        "calibration": float(cell["details"].get("calibration", nothing)),
        "curve": json.dumps(found.get("curve") or [[float(cell["seconds"]), None, score.value]]),
        "commit": cell["environment"]["commit"],
    }  # fmt: skip


def _failed_row(cell: Cell) -> dict[str, Any]:
    nothing = float("nan")
    return {
        "task": cell["dataset"], "method": cell["method"], "seed": cell["split"],
        "budget": float(cell["settings"]["budget"]), "seconds": float(cell["seconds"]), "status": "failed",
        **dict.fromkeys(("score", "low", "high", "n_test"), nothing),
        "limits": json.dumps(cell["settings"]["limits"]), "broken": -1,
        **dict.fromkeys(("latency_ms", "size_mb", "macs_m", "first_seconds"), nothing), "trials": 0,
        "calibration": nothing, "curve": "[]", "commit": cell["environment"]["commit"],
    }  # fmt: skip


def _broken(limits: Sequence[str], again: Mapping[str, float] | None) -> int:
    """How many limits on latency and size a file breaks that was measured again; -1 where none was."""
    from automl.task import Constraint

    if again is None:
        return -1
    parsed = [Constraint.parse(text) for text in limits]
    return sum(not limit.satisfied(again[limit.name]) for limit in parsed if limit.name in again)


def trials_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per trial."""
    import pandas as pd

    columns = [
        "task", "method", "seed", "trial_id", "candidate", "purpose", "status", "score", "began", "ended",
    ]  # fmt: skip
    rows = [
        {"task": cell["dataset"], "method": cell["method"], "seed": cell["split"], **trial}
        for cell in cells
        for trial in (cell.get("details", {}).get("run") or {}).get("trials", [])
    ]
    return pd.DataFrame(rows, columns=columns)


def summarise(matrix: Matrix, cells: Sequence[Cell], options: argparse.Namespace) -> dict[str, Any]:
    """Scores of each task and method, ranks, and the engine's differences; writes the frames and the page."""
    from benchmarks.comparison import over_datasets
    from benchmarks.page import page, ranks
    from benchmarks.standings import mean_scores
    from benchmarks.tables import head, interval, method_difference

    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    runs, trials = runs_frame(cells), trials_frame(cells)
    # Tasks of the same pictures are no independent witnesses.
    runs["data"] = runs["task"].map({task.name: task.data for task in matrix.tasks})
    runs.to_parquet(folder / f"{matrix.name}-runs.parquet")
    trials.to_parquet(folder / f"{matrix.name}-trials.parquet")
    by_task: dict[str, dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        if "failed" not in cell:
            by_task[cell["dataset"]][cell["method"]][cell["split"]] = cell
    gaps: dict[str, list[Any]] = defaultdict(list)
    for methods in by_task.values():
        for other in [name for name in methods if name != "engine" and "engine" in methods]:
            found = method_difference(methods, other, resamples=options.resamples)
            if found is not None:
                gaps[other].append(found)
    means = mean_scores(runs)
    summary = {
        **head(matrix.name, cells, metric="balanced_accuracy", resamples=options.resamples),
        "tasks": {task: {m: round(v, 5) for m, v in found.items()} for task, found in means.items()},
        "seeds": {task: {m: sorted(found) for m, found in by_task[task].items()} for task in by_task},
        "ranks": ranks(runs),
        "engine - other": {
            other: {**interval(over_datasets(found)), "tasks": len(found)} for other, found in gaps.items()
        },
        **{
            status: {m: int((rows["status"] == status).sum()) for m, rows in runs.groupby("method")}
            for status in ("infeasible", "unchecked", "failed")
        },
    }
    note = _note(summary)
    (folder / f"{matrix.name}.html").write_text(page(matrix.title, runs, trials, note), encoding="utf-8")
    return summary


def _note(summary: Mapping[str, Any]) -> str:
    from benchmarks.tables import budget_text, foot

    return f"Time of a run: {budget_text(summary)}. {foot(summary)}."


def to_markdown(matrix: Matrix, summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.methods import METHODS
    from benchmarks.tables import signed, table

    methods = [m for m in METHODS if any(m in scores for scores in summary["tasks"].values())]
    lines = [
        [task, *(f"{scores[m]:.3f}" if m in scores else "" for m in methods)]
        for task, scores in summary["tasks"].items()
    ]
    ranked = summary["ranks"]["average"]
    lines.append(["**average rank**", *(f"{ranked[m]:.2f}" if m in ranked else "" for m in methods)])
    gaps = summary["engine - other"]
    lines.append(["**engine − it [95 %]**", *(signed(gaps[m]) if m in gaps else "" for m in methods)])
    lines.append(["limits not kept", *(_not_kept(summary, m) for m in methods)])
    lines.append(["runs without a model", *(str(summary["failed"].get(m, "")) for m in methods)])
    seeds = sorted({seed for task in summary["seeds"].values() for found in task.values() for seed in found})
    return "\n".join(
        [
            f"# {matrix.title}",
            "",
            f"{matrix.summary} Balanced accuracy on test images, mean over seeds {', '.join(map(str, seeds))}.",
            "",
            *table(["task", *methods], lines),
            "",
            " ".join(f"*{m}*: {METHODS[m].title}." for m in methods),
            f"Intervals: paired bootstrap over groups, {summary['resamples']} resamples, mean over tasks that both have. "
            "Ranks say nothing of limits; a run without a model counts as 0 in means and ranks.",
            f"{_note(summary)} The runs, with their curves, are in `{matrix.name}-runs.parquet`, drawn in "
            f"`{matrix.name}.html`.",
            "",
        ]
    )


def _not_kept(summary: Mapping[str, Any], method: str) -> str:
    if summary["unchecked"].get(method):
        return "not measured"
    return str(summary["infeasible"].get(method, ""))


def command(file: Path) -> Any:
    """A declared suite as a module of :mod:`benchmarks.suites` looks: with ``NAME``, ``SUMMARY`` and ``run``."""
    from types import SimpleNamespace

    matrix = read_matrix(file)
    return SimpleNamespace(
        NAME=matrix.name, SUMMARY=matrix.summary, run=lambda argv: run(file, argv), __name__=str(file)
    )


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
