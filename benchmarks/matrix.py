"""Suites that are declared: tasks × limits × methods × seeds, one cell each, in a small TOML file.

A file of :mod:`benchmarks.suites` names tasks (a path below ``--data-dir``, columns, limits), the budget of a run, methods
(:data:`benchmarks.methods.METHODS`) and how many seeds; its table ``full`` holds what ``--scale full`` changes. The suite
writes ``NAME-runs.parquet``, ``NAME-trials.parquet``, a page with plots, and a table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    Cell,
    Spec,
    Suite,
    check_at_least,
    chosen,
    make_parser,
    make_spec,
    run_suite,
    sources,
)

MODULE = "benchmarks.suites._quality_cell"
#: Tasks whose images come with packages.
BUILT_IN = "built-in:"
_FIELDS = {"summary", "title", "budget", "seeds", "methods", "tasks", "known_device", "full"}
_OPTIONAL = {"title", "known_device", "full"}
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
        known_device: whether what networks cost on the machine is measured once, before all runs, as it is known after a
            user's first submit; else every run measures it anew.
        full: fields that ``--scale full`` changes.
    """

    name: str
    title: str
    summary: str
    tasks: tuple[Task, ...]
    methods: tuple[str, ...]
    budget: str
    seeds: int
    known_device: bool
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

    check(values, _FIELDS, _FIELDS - _OPTIONAL, "the suite")
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
        values.get("known_device", False),
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
        before=prepare,
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
    add("--judge-again", action="store_true",
        help="test anew what the runs that lie below --work would have delivered at any time; nothing is trained")  # fmt: skip
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
            known = matrix.known_device and bool(task.limits)
            specs += [
                make_spec(
                    options,
                    source,
                    {"split": seed, "method": method},
                    label=f"{task.name}-{seed}-{method}",
                    alone=METHODS[method].alone,
                    limits=list(task.limits),
                    anytime=True,
                    **({"known_device": True} if known else {}),
                )
                | {"keeps_failures": True}
                | ({"known": _known(options)} if known and METHODS[method].alone else {})
                for method in methods
            ]
    return specs


def _known(options: argparse.Namespace) -> str:
    """Folder of what is known of the machine."""
    return str(Path(options.work).resolve() / "known")


def prepare(specs: Sequence[Spec], options: argparse.Namespace) -> None:
    """Check that the peers of runs that are missing are installed, and measure what is to be known of the machine.

    Raises:
        InputError: a peer is not installed, or the measuring failed.
    """
    if options.judge_again:
        _judge_again(specs)
    from automl.errors import InputError
    from automl.wording import plural
    from benchmarks.peers import PEERS, python_of
    from benchmarks.transfer import TRANSFER

    missing = [spec for spec in specs if not Path(spec["target"]).exists()]
    methods = {spec["identity"]["method"] for spec in missing}
    for peer in sorted({TRANSFER[m].peer if m in TRANSFER else m for m in methods} & set(PEERS)):
        python_of(peer)
    asked = {
        json.dumps([spec["source"], spec["settings"]["columns"], spec["settings"]["limits"]]): spec
        for spec in missing
        if "known" in spec
    }
    if not asked:
        return
    print(
        f"measuring what networks cost here, for {plural(len(asked), 'task')} …", file=sys.stderr, flush=True
    )
    known = Path(_known(options))
    known.mkdir(parents=True, exist_ok=True)
    file = Path(options.work).resolve() / "known.json"
    file.write_text(json.dumps(list(asked.values())))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.known_device", str(file)],
        env={**os.environ, "AUTOML_HOME": str(known)}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputError("what networks cost here could not be measured")


def _judge_again(specs: Sequence[Spec]) -> None:
    from benchmarks.anytime import first_choice, judge_again
    from benchmarks.searchers import SEARCHERS, best_trial

    for spec in specs:
        choose = best_trial if spec["identity"]["method"] in SEARCHERS else first_choice
        if judge_again(spec, choose):
            print(f"{spec['label']}: judged again", file=sys.stderr, flush=True)


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


def summarise(matrix: Matrix, cells: Sequence[Cell], options: argparse.Namespace) -> dict[str, Any]:
    """Scores of each task and method, ranks, times, and the engine's differences; writes the frames and the page."""
    from benchmarks.frames import runs_frame, trials_frame
    from benchmarks.gaps import gaps
    from benchmarks.page import page, ranks
    from benchmarks.standings import mean_scores, times_to_reference
    from benchmarks.tables import head

    folder = Path(options.results)
    folder.mkdir(parents=True, exist_ok=True)
    runs, trials = runs_frame(cells), trials_frame(cells)
    # Tasks of the same pictures are no independent witnesses.
    data = {task.name: task.data for task in matrix.tasks}
    runs["data"] = runs["task"].map(data)
    runs.to_parquet(folder / f"{matrix.name}-runs.parquet")
    trials.to_parquet(folder / f"{matrix.name}-trials.parquet")
    kept = (runs["status"] == "ok") & (runs["broken"] <= 0)
    by_task: dict[str, dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        by_task[cell["dataset"]][cell["method"]][cell["split"]] = cell
    speeds = runs["calibration"].dropna() / (runs["calibration"].median() or 1.0)
    summary = {
        **head(matrix.name, cells, metric="balanced_accuracy", resamples=options.resamples),
        "tasks": {
            task: {m: round(v, 5) for m, v in found.items()} for task, found in mean_scores(runs).items()
        },
        "seeds": {
            task: {
                m: sorted(split for split, cell in found.items() if "failed" not in cell)
                for m, found in by_task[task].items()
            }
            for task in by_task
        },
        "ranks": ranks(runs),
        "ranks where a run over a limit counts as 0": ranks(runs.assign(score=runs["score"].where(kept))),
        "engine - other": gaps(by_task, data, options.resamples),
        "engine at the other's time - other": gaps(by_task, data, options.resamples, runs),
        "times": times_to_reference(runs),
        "over a limit": {
            m: int(((rows["status"] == "infeasible") | (rows["broken"] > 0)).sum())
            for m, rows in runs.groupby("method")
        },
        **{
            status: {m: int((rows["status"] == status).sum()) for m, rows in runs.groupby("method")}
            for status in ("unchecked", "failed")
        },
        "trials": {m: float(rows["trials"].mean()) for m, rows in runs.groupby("method")},
        "judged": sorted({str(cell["judged"]) for cell in cells if "judged" in cell}),
        "calibration": [round(float(speeds.min()), 4), round(float(speeds.max()), 4)]
        if len(speeds)
        else None,
    }
    note = _note(summary)
    (folder / f"{matrix.name}.html").write_text(page(matrix.title, runs, trials, note), encoding="utf-8")
    return summary


def _note(summary: Mapping[str, Any]) -> str:
    from benchmarks.tables import budget_text, foot

    note = f"Time of a run: {budget_text(summary)}. {foot(summary)}."
    if summary["calibration"] is not None:
        low, high = summary["calibration"]
        note += f" A fixed piece of training took {low:.2f} to {high:.2f} of its median time, once beside each run."
    if summary["judged"]:
        commits = ", ".join(summary["judged"])
        note += f" Of some runs what they would have delivered before their end was judged later, at commit {commits}."
    return note


def to_markdown(matrix: Matrix, summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.methods import METHODS
    from benchmarks.tables import points, table

    methods = [m for m in METHODS if any(m in scores for scores in summary["tasks"].values())]
    lines = [
        [task, *(f"{scores[m]:.3f}" if m in scores else "" for m in methods)]
        for task, scores in summary["tasks"].items()
    ]
    for name, key in (
        ("average rank [95 %]", "ranks"),
        ("the same, a run over a limit counting as 0", "ranks where a run over a limit counts as 0"),
    ):
        lines.append([f"**{name}**", *(ranked(summary[key], m) for m in methods)])
    for name, key in (
        ("engine − it, points [95 %]", "engine - other"),
        ("the same after its time", "engine at the other's time - other"),
    ):
        found = summary[key]
        lines.append([f"**{name}**", *(points(found[m]) if m in found else "" for m in methods)])
    times = summary["times"]
    lines.append(
        ["**time of the engine / its time**", *(timed(times[m]) if m in times else "" for m in methods)]
    )
    lines.append(["runs in which the engine never reaches it", *(_never(times.get(m)) for m in methods)])
    lines.append(["runs over a limit", *(over(summary, m) for m in methods)])
    lines.append(["runs without a model", *(str(summary["failed"].get(m, "")) for m in methods)])
    lines.append(["trials of a run", *(_trials(summary, m) for m in methods)])
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
            f"Differences: mean over data sets, paired bootstrap over groups of images, {summary['resamples']} resamples; "
            "after its time: what the engine would have delivered when the other method's last model was trained. Ranks and "
            "times: data sets are drawn. Times: median share of the other method's time after which the engine has that "
            "method's final score for good; both from the start of the run to the end of a training. A run without a model "
            "counts as one that is wrong everywhere.",
            f"{_note(summary)} The runs, with their curves, are in `{matrix.name}-runs.parquet`, drawn in "
            f"`{matrix.name}.html`.",
            "",
        ]
    )


def ranked(ranks: Mapping[str, Any], method: str) -> str:
    """A rank and its interval."""
    if method not in ranks["average"]:
        return ""
    average, low, high = (ranks[key][method] for key in ("average", "low", "high"))
    return f"{average:.2f} [{low:.2f}, {high:.2f}]"


def timed(times: Mapping[str, Any]) -> str:
    """A share of time and its interval."""
    if not times["pairs"]:
        return ""
    middle, low, high = (
        "∞" if times[key] is None else f"{times[key]:.2f}" for key in ("median", "low", "high")
    )
    return f"{middle} [{low}, {high}]"


def _never(times: Mapping[str, Any] | None) -> str:
    return f"{times['never']} of {times['pairs']}" if times and times["pairs"] else ""


def over(summary: Mapping[str, Any], method: str) -> str:
    """In how many runs the method's model broke a limit, as the tables have it."""
    if summary["unchecked"].get(method):
        return "not measured"
    return str(summary["over a limit"].get(method, ""))


def _trials(summary: Mapping[str, Any], method: str) -> str:
    count = summary["trials"].get(method, 0.0)
    return f"{count:.1f}" if count else ""


def command(file: Path) -> Any:
    """A declared suite as a module of :mod:`benchmarks.suites` looks: with ``NAME``, ``SUMMARY`` and ``run``."""
    from types import SimpleNamespace

    matrix = read_matrix(file)
    return SimpleNamespace(
        NAME=matrix.name, SUMMARY=matrix.summary, run=lambda argv: run(file, argv), __name__=str(file)
    )


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
