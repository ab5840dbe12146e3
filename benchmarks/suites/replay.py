"""Rankers, searchers and early stopping on recorded learning curves, in simulated time.

Each search runs over the trials of a task that nothing was learned from, with the engine's own driver, proposer and
early stopping (:mod:`benchmarks.simulated`). Thousands of them take minutes, and every figure is the same at every run.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.suites._replay_methods import METHODS, Settings

if TYPE_CHECKING:
    from benchmarks.suites._replay_part import Tables

NAME = "replay"
SUMMARY = "Rankers, searchers and early stopping on recorded learning curves, in simulated time."

EXAMPLE = "example: automl bench replay --table trials.parquet --curves curves.parquet --searches 1000"


def run(argv: Sequence[str]) -> int:
    """Replay, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(NAME, options.results, lambda: measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of fits and searches", work=False)
    add = parser.add_argument
    add("--table", required=True, help="trial table, .parquet or .csv")
    add("--curves", required=True, help="its learning curves: task, strategy, epoch, score, seconds")
    add("--methods", default=",".join(METHODS), help="with commas between (default %(default)s)")
    add("--workers", type=int, default=1, help="trials at a time in each search (default %(default)s)")
    add("--searches", type=int, default=1000, help="at least so many in all (default %(default)s)")
    add("--hours", default="1.6,4,8,16", help="at which regret is read (default %(default)s)")
    add("--first-rung", type=float, metavar="SECONDS",
        help="of training before which nothing is stopped early (default: as a submit of the last hours has it)")  # fmt: skip
    add(
        "--by",
        choices=("task", "group"),
        default="task",
        help="what is left out together (default %(default)s)",
    )
    add("--processes", type=int, default=os.cpu_count() or 1, help="side by side (default %(default)s)")
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Fit on what is not judged, search, and sum up.

    Raises:
        InputError: the tables or the options are not what they should be.
    """
    from automl.errors import InputError
    from benchmarks.cells import check_at_least, chosen
    from benchmarks.suites._replay_part import Tables
    from strategy_pool.evaluation import folds
    from strategy_pool.trial_table import TableError

    check_at_least(options, workers=1, searches=1, seed=0, processes=1)
    began = time.perf_counter()
    methods = tuple(chosen(options.methods, list(METHODS), "method"))
    if not methods:
        raise InputError(f"--methods names none; known: {', '.join(METHODS)}")
    hours = _hours(options.hours)
    try:
        tables = Tables.read(options.table, options.curves)
        parts = folds(tables.table, options.by)
    except TableError as error:
        raise InputError(str(error)) from None
    left_out = tables.reasons(methods)
    methods = tuple(name for name in methods if name not in left_out)
    if not methods:
        raise InputError(f"no method is left: {'; '.join(left_out.values())}")
    each = len(tables.tasks) * len(methods)
    settings = Settings(
        options.table, options.curves, methods, options.by, options.workers, options.seed,
        max(1, math.ceil(options.searches / each)), hours, _first_rung(options.first_rung, hours[-1]),
    )  # fmt: skip
    rows, learning = [], 0.0
    for number, (found, seconds) in enumerate(_all(settings, tables, len(parts), options.processes), 1):
        rows += found
        learning += seconds
        print(
            f"[{number}/{len(parts)}] {len(rows)} of {settings.seeds * each} searches",
            file=sys.stderr,
            flush=True,
        )
    told = {
        "tasks": len(tables.tasks), "trials": sum(map(len, tables.tasks.values())), "left_out_together": options.by,
        "left_out": left_out, "processes": options.processes, "learning_seconds": round(learning, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "command": f"automl bench {NAME} --table {Path(options.table).name} --curves {Path(options.curves).name} "
        f"--methods {options.methods} --workers {options.workers} --searches {options.searches} "
        f"--hours {options.hours} --by {options.by} --seed {options.seed}"
        + (f" --first-rung {options.first_rung:g}" if options.first_rung else ""),
    }  # fmt: skip
    return summarise(rows, settings, told)


def _hours(text: str) -> tuple[float, ...]:
    from automl.errors import InputError

    try:
        hours = sorted({float(word) for word in text.split(",") if word.strip()})
    except ValueError:
        hours = []
    if not hours or not 0 < hours[0] <= hours[-1] < math.inf:
        raise InputError(f"--hours is '{text}'; it takes numbers above 0 with commas between")
    return tuple(hours)


def _first_rung(asked: float | None, hours: float) -> float:
    from automl.errors import InputError
    from automl.plan import Clock

    found = Clock(0.0, 3600 * hours).first_rung() if asked is None else asked
    if found is None or not 0 < found < math.inf:
        raise InputError(f"--first-rung is {asked}; it is seconds, above 0")
    return float(found)


def _all(
    settings: Settings, tables: Tables, parts: int, processes: int
) -> Iterator[tuple[list[dict[str, Any]], float]]:
    """What :func:`search_part` finds, part by part, in order."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from benchmarks.suites._replay_part import open_tables, search_part

    processes = min(processes, parts)
    if processes == 1:
        open_tables(settings, tables)
        yield from map(search_part, range(parts))
        return
    # Forked processes would share the threads of LightGBM, and hang.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, initializer=open_tables, initargs=(settings,)) as pool:
        yield from pool.map(search_part, range(parts))


def summarise(
    rows: Sequence[Mapping[str, Any]], settings: Settings, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Means over tasks and seeds with their intervals over the tasks, and differences to the first method."""
    import pandas as pd

    from benchmarks.environment import environment

    frame = pd.DataFrame(rows)
    first = settings.methods[0]
    methods: dict[str, Any] = {}
    regrets: dict[str, list[dict[str, float]]] = {}
    for name in settings.methods:
        of = frame[frame["method"] == name]
        each = pd.DataFrame(of["regret"].tolist(), index=of["task"]).groupby(level=0).mean()
        regrets[name] = [each[at].to_dict() for at in range(len(settings.hours))]
        methods[name] = {
            "title": METHODS[name].title,
            "regret": [_interval(regret, dict.fromkeys(regret, 0.0)) for regret in regrets[name]],
            "tried": round(float(of["tried"].mean()), 1),
            "stopped": round(float(of["stopped"].mean()), 1),
            "milliseconds": round(1000 * float(of["seconds"].mean()), 1),
        }
    return {
        "schema_version": 1, "suite": NAME, **told, "searches": len(frame), "seeds": settings.seeds,
        "seed": settings.seed, "workers": settings.workers, "hours": list(settings.hours),
        "first_rung_seconds": settings.first_rung, "searching_seconds": round(float(frame["seconds"].sum()), 1),
        "searches_per_second": round(len(frame) / max(told["seconds"], 0.1), 2), "methods": methods, "against": first,
        "differences": {
            name: [_interval(one, other) for one, other in zip(regrets[name], regrets[first], strict=True)]
            for name in settings.methods[1:]
        },
        "environment": environment(),
    }  # fmt: skip


def _interval(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    from strategy_pool.ranking_metrics import paired_bootstrap

    return {key: round(value, 5) for key, value in paired_bootstrap(first, second).items()}


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import signed, table

    hours = [f"{hour:g} h" for hour in summary["hours"]]
    methods = summary["methods"]
    rows = [
        [name]
        + [f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in of["regret"]]
        + [f"{of['tried']:g}", f"{of['stopped']:g}", f"{of['milliseconds']:.0f}"]
        for name, of in methods.items()
    ]
    differences = [[name, *map(signed, of)] for name, of in summary["differences"].items()]
    beside = [f"{name}: left out, as {why}." for name, why in summary["left_out"].items()]
    workers = summary["workers"]
    return "\n".join(
        [
            "# Searches on recorded learning curves",
            "",
            *table(["method", *hours, "tried", "stopped", "ms"], rows),
            "",
            "Regret after so many hours of simulated time: 1 − the best score so far, min–max normalised within the task; mean "
            f"over {summary['tasks']} tasks and {summary['seeds']} seed{'s' * (summary['seeds'] > 1)} each, with 95 % bootstrap intervals over the tasks. "
            "*tried*: different candidates; *stopped*: early, of these; *ms*: of the processor, for one search.",
            "",
            *(
                [f"Difference to {summary['against']}, paired by task (above 0: more regret):", "",
                 *table(["method", *hours], differences), ""]
                if differences else []
            ),
            *(f"- {name}: {of['title']}" for name, of in methods.items()),
            "",
            *beside,
            *([""] if beside else []),
            f"{summary['trials']} recorded trials; learned from all tasks but those of the {summary['left_out_together']} "
            f"that is searched; one fit per part, seed {summary['seed']}. {workers} worker{'s' * (workers > 1)}. A trial takes its "
            "recorded seconds per epoch, a stopped one what it ran; a recorded failure counts as one. The driver, the proposer "
            f"and the early stopping are the engine's; nothing is stopped before {summary['first_rung_seconds']:.0f} s of training.",
            f"{summary['searches']} searches in {summary['seconds']:.0f} s with {summary['processes']} "
            f"process{'es' * (summary['processes'] > 1)}, {summary['searches_per_second']:g} per second; "
            f"{summary['learning_seconds']:.0f} s of the processor for fits and orders, {summary['searching_seconds']:.0f} s for searches.",
            "",
            f"`{summary['command']}`",
            "",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
