"""Overhead: what a submit spends besides training, how well it keeps its budget, and the memory it takes.

Each dataset is submitted in a process of its own, on an empty home folder, as on a new machine. Times are read
from the run folder: a trial ends when its outcome is written. What a trial costs besides its training is told by trials
that do nothing, and how quickly it trains by two trials beside two bare loops.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "overhead"
SUMMARY = "Time besides training, the budget kept, and the memory of a submit."

EXAMPLE = "example: automl bench overhead --data data/parts --weights-dir weights --budget 4m --empty 100"
#: How far a whole run may be from its budget.
OFF_LIMIT = 0.10


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write the table, print it. Exit codes: 0 all there, 1 a submit failed, 2 wrong input."""
    from automl.errors import InputError
    from benchmarks.cells import publish

    options = _parser().parse_args(argv)
    try:
        specs = _plan(options)
        failed = _run_cells(specs)
        empty = _run_empty(options, failed)
        training = _run_training(options, specs, failed)
        cells = [
            json.loads(Path(spec["target"]).read_text()) for spec in specs if Path(spec["target"]).exists()
        ]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    if not cells and not empty and not training:
        return 1
    summary = summarise(cells, empty, training)
    publish(Path(options.results), NAME, summary, to_markdown(summary))
    return 1 if failed else 0


# --- what is asked for ------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of the submits")
    add = parser.add_argument
    add("--data", nargs="*", default=[], metavar="[NAME=]PATH", help="image folders, tables or npz files")
    add("--weights-dir", action="append", default=[], help="folder of pretrained models; repeatable")
    add("--constraint", action="append", default=[], help="limit of the submits; repeatable")
    add("--column", action="append", default=[], help="passed on to the submits; repeatable")
    add("--budget", default="4m", help="wall-clock time of each submit (default 4m)")
    add("--workers", type=int, default=None, help="trials at a time (default one per core)")
    add("--empty", type=int, default=0, metavar="N", help="also run N trials that do nothing, 2 or more")
    add("--train", action="append", default=[], metavar="NETWORK",
        help="also train this pretrained model on the first data, in two trials and in two bare loops; repeatable")  # fmt: skip
    add("--rounds", type=int, default=3, help="of that (default %(default)s)")
    return parser


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    from automl.errors import InputError
    from automl.task import Budget
    from benchmarks.cells import source_paths

    budget = Budget.parse(options.budget).seconds
    if not options.data and not options.empty:
        raise InputError("nothing to measure; give --data PATH, --empty N, or both")
    if options.empty and options.empty < 2:
        raise InputError(f"--empty is {options.empty}; it is 0 or at least 2")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers is {options.workers}; it is at least 1")
    if options.seed < 0:
        raise InputError(f"--seed is {options.seed}; it is at least 0")
    if options.train and not (options.data and options.weights_dir):
        raise InputError("--train needs --data PATH and --weights-dir FOLDER")
    if options.rounds < 1:
        raise InputError(f"--rounds is {options.rounds}; it is at least 1")
    for folder in options.weights_dir:
        if not Path(folder).is_dir():
            raise InputError(f"weights folder '{folder}' does not exist or is not a folder")
    out = Path(options.work).resolve()
    settings = {
        "budget": budget, "constraints": options.constraint, "columns": options.column,
        "workers": options.workers, "seed": options.seed,
    }  # fmt: skip
    specs = []
    for name, source in source_paths(options.data).items():
        spec = {
            "dataset": name, "source": str(source), "settings": settings, "work": str(out / name),
            "weights_dirs": [str(Path(folder).resolve()) for folder in options.weights_dir],
            "target": str(out / "cells" / f"{name}.json"),
        }  # fmt: skip
        target = out / "cells" / f"{name}.json"
        if target.exists() and json.loads(target.read_text())["settings"] != settings:
            raise InputError(f"{target} was measured with other settings; use another --out or remove it")
        specs.append(spec)
    return specs


# --- submits ----------------------------------------------------------------------------------------


def submit_command(spec: Mapping[str, Any], run_folder: Path) -> list[str]:
    """Module and arguments of the submit of a spec."""
    settings = spec["settings"]
    command = ["automl", "submit", spec["source"], "--budget", f"{settings['budget']:g}s"]
    command += ["--seed", str(settings["seed"]), "--out", str(run_folder)]
    if settings["workers"] is not None:
        command += ["--workers", str(settings["workers"])]
    for option, values in (
        ("--constraint", settings["constraints"]),
        ("--column", settings["columns"]),
        ("--weights-dir", spec["weights_dirs"]),
    ):
        for value in values:
            command += [option, value]
    return command


def _run_cells(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Submit what is missing, one after the other; return one line per failure."""
    from benchmarks.cells import write_text
    from benchmarks.environment import environment
    from benchmarks.processes import measured, torch_alone

    failed = []
    for number, spec in enumerate(specs, 1):
        label = f"[{number}/{len(specs)}] {spec['dataset']}"
        target, work = Path(spec["target"]), Path(spec["work"])
        if target.exists():
            print(f"{label}: is there", file=sys.stderr)
            continue
        print(f"{label} …", file=sys.stderr, flush=True)
        shutil.rmtree(work, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        done = measured(submit_command(spec, work / "run"), work / "log.txt", home=work / "home")
        if done.code not in (0, 3):
            failed.append(f"{label}: exit code {done.code}: {done.why()} (see {done.log})")
            continue
        alone = torch_alone(work / "home", work / "torch.txt")
        cell = {
            "dataset": spec["dataset"],
            "settings": spec["settings"],
            **figures(work / "run", done, spec["settings"]["budget"], alone),
            "environment": environment(),
        }
        write_text(target, json.dumps(cell))
        shutil.rmtree(work / "home", ignore_errors=True)
    return failed


def figures(run_folder: Path, done: Any, budget: float, torch_bytes: float) -> dict[str, Any]:
    """What one submit tells.

    Args:
        run_folder: of the submit.
        done: its :class:`benchmarks.processes.Finished`.
        budget: seconds it was given.
        torch_bytes: of a process that has only imported torch.

    Returns:
        ``seconds`` (``total``, ``first_trial``: from the start of the process until the first trial had ended,
        ``before``: until the first trial began, ``search``: from there to the end of the last trial, ``after``,
        ``in_trials``: summed over trials), ``share_in_trials`` (of budget × workers), ``off`` (total / budget - 1),
        ``trials``, ``failed_trials``, ``workers``, ``memory_mb`` and ``phases`` (as the engine itself counts them).
    """
    from benchmarks.processes import trial_times

    result = json.loads((run_folder / "result.json").read_text(encoding="utf-8"))
    own = result["seconds"]
    workers = int(own["workers"])
    times = trial_times(run_folder)
    usable = [trial for trial in times if trial.status != "failed"]
    if not usable:
        raise RuntimeError(f"{run_folder} has no trial that did not fail")
    began, ended = min(t.began for t in times), max(t.ended for t in times)
    inside = sum(t.ended - t.began for t in times)
    peaks = done.peaks
    return {
        "seconds": {
            "total": round(done.seconds, 2),
            "first_trial": round(usable[0].ended - done.started, 2),
            "before": round(began - done.started, 2),
            "search": round(ended - began, 2),
            "after": round(done.started + done.seconds - ended, 2),
            "in_trials": round(inside, 2),
        },
        "share_in_trials": round(inside / (budget * workers), 4),
        "off": round(done.seconds / budget - 1, 4),
        "trials": len(times),
        "failed_trials": len(times) - len(usable),
        "workers": workers,
        "memory_mb": {
            **peaks.megabytes(),
            "torch_alone": round(torch_bytes / 1e6, 1),
            "beyond_torch": round((peaks.total - (1 + workers) * torch_bytes) / 1e6, 1),
        },
        "phases": {k: round(v, 2) for k, v in own.items() if k != "workers" and isinstance(v, int | float)},
    }


def _run_empty(options: argparse.Namespace, failed: list[str]) -> dict[str, Any] | None:
    """Run the empty trials in a process of their own."""
    if not options.empty:
        return None
    from benchmarks.environment import environment
    from benchmarks.processes import measured

    work = Path(options.work).resolve() / "empty"
    shutil.rmtree(work, ignore_errors=True)
    workers = options.workers or int(environment()["cores"])
    print(f"{options.empty} empty trials …", file=sys.stderr, flush=True)
    done = measured(
        ["benchmarks.suites._overhead_empty", str(options.empty), str(work / "run"), str(workers)],
        work / "log.txt",
        home=work / "home",
    )
    if done.code != 0:
        failed.append(f"empty trials: exit code {done.code}: {done.why()} (see {done.log})")
        return None
    found: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
    return found


def _run_training(
    options: argparse.Namespace, specs: Sequence[Mapping[str, Any]], failed: list[str]
) -> list[dict[str, Any]]:
    """Train in trials and in bare loops, in a process of its own, with the memory settings of a search's workers."""
    if not options.train:
        return []
    from automl.machine import KEEP_PAGES
    from benchmarks.cells import write_text
    from benchmarks.processes import measured

    work = Path(options.work).resolve() / "training"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    asked = {
        "source": specs[0]["source"], "seed": options.seed,
        "columns": dict(column.split("=", 1) for column in specs[0]["settings"]["columns"] if "=" in column),
        "weights_dirs": specs[0]["weights_dirs"], "networks": options.train, "rounds": options.rounds,
        "work": str(work),
    }  # fmt: skip
    write_text(work / "asked.json", json.dumps(asked))
    print(f"training of {', '.join(options.train)} …", file=sys.stderr, flush=True)
    done = measured(
        ["benchmarks.suites._overhead_training", str(work / "asked.json")],
        work / "log.txt",
        home=work / "home",
        environment=KEEP_PAGES,
    )
    if done.code != 0:
        failed.append(f"training: exit code {done.code}: {done.why()} (see {done.log})")
        return []
    found: list[dict[str, Any]] = json.loads(done.output.strip().splitlines()[-1])
    return [{"dataset": specs[0]["dataset"], **one} for one in found]


# --- the table --------------------------------------------------------------------------------------


def summarise(
    cells: Sequence[Mapping[str, Any]],
    empty: Mapping[str, Any] | None,
    training: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """All cells with their settings, and what the limit on the budget says of them."""
    from benchmarks.environment import environment
    from benchmarks.processes import MEMORY_IS

    rows = [{**cell, "within_limit": abs(cell["off"]) <= OFF_LIMIT} for cell in cells]
    for row in rows:
        row["commit"] = row.pop("environment")["commit"]
    return {
        "schema_version": 1,
        "suite": NAME,
        "off_limit": OFF_LIMIT,
        "memory_is": MEMORY_IS,
        "datasets": rows,
        "empty": dict(empty) if empty else None,
        "training": list(training),
        "commits": sorted({str(row["commit"]) for row in rows}),
        "environment": environment(),
    }


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe

    lines = ["# Overhead", ""]
    rows = summary["datasets"]
    if rows:
        head = [
            "dataset", "budget s", "workers", "first trial ended s", "before s", "after s", "in trials",
            "off budget", "trials", "peak MB: all", "driver", "workers", "beyond torch",
        ]  # fmt: skip
        lines += [f"| {' | '.join(head)} |", f"|{'|'.join('---' for _ in head)}|"]
    for row in rows:
        seconds, memory = row["seconds"], row["memory_mb"]
        off = f"{row['off']:+.1%}" + ("" if row["within_limit"] else " (missed)")
        cells = [
            row["dataset"], f"{row['settings']['budget']:g}", str(row["workers"]),
            f"{seconds['first_trial']:.1f}", f"{seconds['before']:.1f}", f"{seconds['after']:.1f}",
            f"{row['share_in_trials']:.1%}", off, str(row["trials"]),
            f"{memory['total']:.0f}", f"{memory['driver']:.0f}", f"{memory['workers']:.0f}",
            f"{memory['beyond_torch']:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    if rows:
        limit = summary["off_limit"]
        lines += [
            "",
            "Seconds from the start of the process: until the first trial had ended, until the first trial began "
            "(before), from the end of the last trial to the end of the process (after). *in trials*: seconds inside "
            f"trials / (budget × workers). *off budget*: whole run / budget − 1; the limit is ±{limit:.0%}.",
            f"Memory: {summary['memory_is']}; *beyond torch*: less what a process that only imports torch and timm "
            "takes, for the driver and each worker. Sampled four times a second.",
            "Settings: empty home folder, "
            + "; ".join(f"{row['dataset']}: {_settings(row['settings'])}" for row in rows)
            + ".",
        ]
    empty = summary["empty"]
    if empty:
        lines += [
            "",
            f"{empty['trials']} trials that do nothing, {empty['workers']} at a time with Ray: the first ends after "
            f"{empty['first']:.2f} s, Ray's start among them; each further one takes {empty['each']:.4f} s.",
        ]
    if summary["training"]:
        from benchmarks.suites._overhead_training import to_lines

        lines += ["", *to_lines(summary["training"])]
    commits = f"Runs of commits {', '.join(summary['commits'])}. " if summary["commits"] else ""
    lines += ["", f"{commits}{describe(summary['environment'])}.", ""]
    return "\n".join(lines)


def _settings(settings: Mapping[str, Any]) -> str:
    limits = ", ".join(settings["constraints"]) or "no limits"
    return f"{limits}, seed {settings['seed']}"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
