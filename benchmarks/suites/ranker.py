"""Cost of the ranker: a night's rerank on a long history, and ordering a large pool.

The history is made: candidates with a level each, tasks that like some networks more. Every figure comes from a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "ranker"
SUMMARY = "Seconds and memory of a rerank on a long history, and milliseconds of ordering a large pool."

EXAMPLE = "example: automl bench ranker --trials 100000,1000000 --candidates 10000"
#: Aims: seconds and memory of a rerank, milliseconds of ordering.
AIMS = {"seconds": 300.0, "gb": 4.0, "order_ms": 100.0}


def run(argv: Sequence[str]) -> int:
    """Measure, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)

    def measure() -> dict[str, Any]:
        return summarise([_measure(options, count) for count in _counts(options)], options.seed)

    return run_measured(NAME, options.results, measure, to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of what is made")
    add = parser.add_argument
    add("--trials", default="10000,100000,1000000", help="lengths of the history (default %(default)s)")
    add("--tasks", type=int, default=100, help="in the history (default %(default)s)")
    add("--known", type=int, default=20_000, help="different candidates in the history (default %(default)s)")
    add("--candidates", type=int, default=10_000, help="that are ordered (default %(default)s)")
    return parser


def _counts(options: argparse.Namespace) -> list[int]:
    from automl.errors import InputError
    from benchmarks.cells import check_at_least

    check_at_least(options, tasks=2, known=10, candidates=2, seed=0)
    try:
        counts = sorted({int(word) for word in options.trials.split(",") if word.strip()})
    except ValueError:
        counts = []
    if not counts or counts[0] < 20 * options.tasks:
        raise InputError(
            f"--trials is '{options.trials}'; it takes whole numbers from {20 * options.tasks}, 20 per task"
        )
    return counts


def _measure(options: argparse.Namespace, count: int) -> dict[str, Any]:
    from benchmarks.processes import measured

    work = Path(options.work).resolve() / str(count)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    home, url = work / "home", f"sqlite:///{work}/history.db"
    print(f"{count} trials …", file=sys.stderr, flush=True)

    def probe(**spec: Any) -> dict[str, Any]:
        (work / "spec.json").write_text(json.dumps(spec))
        done = measured(
            ["benchmarks.suites._ranker_probe", str(work / "spec.json")], work / "probe.log", home=home
        )
        return _answer(done)

    made = probe(
        do="history", url=url, trials=count, tasks=options.tasks, candidates=options.known, seed=options.seed
    )
    done = measured(["automl", "rerank", "--history", url, "--json"], work / "rerank.log", home=home)
    decision = _answer(done)
    if not decision["published"]:
        raise RuntimeError(f"{count} trials: nothing was published: {decision['reason']}")
    ordered = probe(do="order", folder=str(home / "ranker"), candidates=options.candidates, seed=options.seed)
    size = (work / "history.db").stat().st_size
    shutil.rmtree(work, ignore_errors=True)
    methods = decision["evaluation"]["methods"]
    return {
        "trials": made["trials"], "tasks": made["tasks"], "import_seconds": round(made["import_seconds"], 1),
        "database_mb": round(size / 1e6, 1), "rerank_seconds": round(done.seconds, 1),
        "rerank_gb": round(done.peaks.total / 1e9, 2),
        "ndcg": {name: methods[name]["ndcg@10"]["mean"] for name in ("ranker", "history_average")},
        "order": ordered,
    }  # fmt: skip


def _answer(done: Any) -> dict[str, Any]:
    if done.code != 0:
        raise RuntimeError(f"exit code {done.code}: {done.why()} (see {done.log})")
    found: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
    return found


def summarise(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """All figures with their aims."""
    from benchmarks.environment import environment
    from benchmarks.processes import MEMORY_IS

    return {
        "schema_version": 1, "suite": NAME, "rows": list(rows), "aims": AIMS, "seed": seed, "memory_is": MEMORY_IS,
        "environment": environment(),
    }  # fmt: skip


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    head = [
        "trials", "tasks", "database MB", "import s", "rerank s", "rerank GB", "NDCG@10 ranker", "history average",
        "candidates", "their rows ms", "order ms",
    ]  # fmt: skip
    rows = [
        [
            str(row["trials"]), str(row["tasks"]), f"{row['database_mb']:.0f}", f"{row['import_seconds']:.0f}",
            f"{row['rerank_seconds']:.0f}", f"{row['rerank_gb']:.2f}", f"{row['ndcg']['ranker']:.3f}",
            f"{row['ndcg']['history_average']:.3f}", str(row["order"]["candidates"]),
            f"{row['order']['rows_ms']:.0f}", f"{row['order']['order_ms']:.0f}",
        ]
        for row in summary["rows"]
    ]  # fmt: skip
    aims = summary["aims"]
    return "\n".join(
        [
            "# Cost of the ranker",
            "",
            *table(head, rows),
            "",
            f"A made history, seed {summary['seed']}. *rerank*: `automl rerank`, all of it. *order*: median of "
            f"{summary['rows'][0]['order']['repeats']} times. Aims at the longest history: {aims['seconds']:g} s, "
            f"{aims['gb']:g} GB, {aims['order_ms']:g} ms for ordering.",
            f"Memory: {summary['memory_is']}. Sampled four times a second.",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
