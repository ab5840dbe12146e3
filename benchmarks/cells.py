"""What every suite of cells shares: arguments, running what is missing, resume, and the files of the table.

A cell is one JSON file, made in a process of its own by a module of ``benchmarks.suites`` (see
:mod:`benchmarks.child`). Cells and tables are small and belong into git, so that a long run can be spread
over days and machines; features, decoded images and run folders are scratch.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Data files with such a name are called after their folder.
_PLAIN_NAMES = frozenset({"images", "data", "dataset", "labels", "manifest"})
#: A cell that takes so many seconds beside ten times its budget hangs; the others go on without it.
_PATIENCE = 900.0
#: How often a cell is begun whose process was killed.
_ATTEMPTS = 2
#: Seconds that processes have to end when they are told to.
_GRACE = 10.0

Spec = Mapping[str, Any]
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Suite:
    """What makes one suite different from another.

    Attributes:
        name: of its command, its tables and its folder of cells.
        module: that makes one cell, run with ``python -m``.
        parser: its arguments, from :func:`make_parser`.
        plan: arguments → one spec per cell (:func:`make_spec`), in the order of running.
        told: a finished cell in a few words.
        summarise: cells and arguments → the table as plain JSON values.
        to_markdown: the table as people read it.
        between: called with specs and arguments between the cells and the table; nothing by default.
        before: likewise before the cells.
    """

    name: str
    module: str
    parser: argparse.ArgumentParser
    plan: Callable[[argparse.Namespace], list[dict[str, Any]]]
    told: Callable[[Cell], str]
    summarise: Callable[[list[dict[str, Any]], argparse.Namespace], dict[str, Any]]
    to_markdown: Callable[[Mapping[str, Any]], str]
    between: Callable[[Sequence[Spec], argparse.Namespace], None] | None = None
    before: Callable[[Sequence[Spec], argparse.Namespace], None] | None = None


def run_suite(suite: Suite, argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    from automl.errors import InputError

    options = suite.parser.parse_args(argv)
    try:
        specs = suite.plan(options)
        if options.table_only:
            failed = []
        else:
            if suite.before is not None:
                suite.before(specs, options)
            failed = run_cells(specs, suite.module, suite.told)
            if suite.between is not None:
                suite.between(specs, options)
        cells = read_cells(specs)
        if not cells:
            print("error: no cell is there to make a table of", file=sys.stderr)
            return 1
        summary = suite.summarise(cells, options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(Path(options.results), suite.name, summary, suite.to_markdown(summary))
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def publish(results: Path, name: str, summary: Mapping[str, Any], text: str) -> None:
    """Write a table as ``NAME.json`` and ``NAME.md`` into the folder of results, and print it."""
    results.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(results / f"{name}.json", figures + "\n")
    write_text(results / f"{name}.md", text)
    print(text)


def run_measured(
    name: str, results: str, measure: Callable[[], Mapping[str, Any]], to_markdown: Callable[[Any], str]
) -> int:
    """Measure, write the table and print it; exit codes: 0 all there, 1 a step failed, 2 wrong input.

    Args:
        name: of the suite.
        results: folder of the table.
        measure: returns the summary; raises ``RuntimeError`` for a step that failed.
        to_markdown: of the summary.
    """
    from automl.errors import InputError

    try:
        summary = measure()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    publish(Path(results), name, summary, to_markdown(summary))
    return 0


def write_text(path: Path, text: str) -> None:
    """Write beside the place and rename."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


# --- arguments --------------------------------------------------------------------------------------


def measured_parser(
    name: str, summary: str, example: str, *, seed: str | None = "of everything", work: bool = True
) -> argparse.ArgumentParser:
    """The arguments that all suites have that :func:`run_measured` runs.

    Args:
        name: of the suite.
        summary: what it measures.
        example: an example.
        seed: what the seed is of; None for a suite that draws nothing.
        work: whether it leaves anything behind besides its table.
    """
    parser = argparse.ArgumentParser(f"automl bench {name}", description=summary, epilog=example)
    add = parser.add_argument
    if seed is not None:
        add("--seed", type=int, default=0, help=f"{seed} (default %(default)s)")
    if work:
        add(
            "--work",
            default=f"benchmarks/work/{name}",
            help="folder of what is scratch (default %(default)s)",
        )
    add("--results", default="benchmarks/results", help="folder of the table (default %(default)s)")
    return parser


def make_parser(
    name: str, summary: str, example: str, *, budget: str, declared: bool = False
) -> argparse.ArgumentParser:
    """The arguments that all suites have; one that is declared names its data itself."""
    parser = argparse.ArgumentParser(
        f"automl bench {name}", description=summary, epilog=f"example: {example}"
    )
    add = parser.add_argument
    if not declared:
        add(
            "--data",
            nargs="+",
            required=True,
            metavar="[NAME=]PATH",
            help="image folders, tables or npz files",
        )
        add("--column", action="append", default=[], metavar="[NAME:]ROLE=COLUMN",
            help="column of a table, for all datasets or the named one; ROLE is path, label, split or group; "
            "an empty COLUMN ignores the role; repeatable")  # fmt: skip
    add("--weights-dir", action="append", default=[], help="folder of pretrained models; repeatable")
    add("--backbone", action="append", default=[], help="only these pretrained models; repeatable")
    add("--budget", default=budget, help="wall-clock time of the engine (default %(default)s)")
    add("--results", default="benchmarks/results", help="folder of the table (default %(default)s)")
    add("--cells", help=f"folder of the cells (default cells/{name} in that of the table)")
    add("--work", default=f"benchmarks/work/{name}", help="folder of what is scratch (default %(default)s)")
    add("--table-only", action="store_true", help="run nothing; make the table of what is there")
    parser.set_defaults(suite=name)
    return parser


def add_resamples(parser: argparse.ArgumentParser) -> None:
    """The argument of suites that compare methods."""
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default %(default)s)")


def check_at_least(options: argparse.Namespace, **lowest: int) -> None:
    """Check numbers of the command.

    Raises:
        InputError: one is too small.
    """
    from automl.errors import InputError

    for name, low in lowest.items():
        if getattr(options, name) < low:
            raise InputError(f"--{name} is {getattr(options, name)}; it is at least {low}")


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """Comma-separated names.

    Raises:
        InputError: one is unknown.
    """
    from automl.errors import InputError, did_you_mean

    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"unknown {what} '{name}'{did_you_mean(name, known)}")
    return names


@dataclass(frozen=True)
class Source:
    """One dataset of the command: where it is, and the settings that all its cells share."""

    name: str
    path: Path
    settings: dict[str, Any]


def sources(options: argparse.Namespace) -> list[Source]:
    """The datasets, with budget, backbones and columns checked.

    Raises:
        InputError: anything is not what it should be.
    """
    from automl.errors import InputError
    from automl.task import Budget

    budget = Budget.parse(options.budget).seconds
    for folder in options.weights_dir:
        if not Path(folder).is_dir():
            raise InputError(f"weights folder '{folder}' does not exist or is not a folder")
    paths = source_paths(options.data)
    columns = _columns(options.column, list(paths))
    return [
        Source(name, path, {"budget": budget, "backbones": options.backbone, "columns": columns[name]})
        for name, path in paths.items()
    ]


def make_spec(
    options: argparse.Namespace,
    source: Source,
    identity: Mapping[str, Any],
    *,
    label: str,
    alone: bool,
    **settings: Any,
) -> dict[str, Any]:
    """What a child process is told.

    Args:
        options: arguments of the command.
        source: the dataset.
        identity: what tells this cell from the others; it goes into the cell.
        label: the same as a file name.
        alone: whether the cell starts without a history, a cache or decoded images, as on a new machine.
        settings: beside those of the dataset; cells of other settings are refused.
    """
    work = Path(options.work).resolve()
    cells = Path(options.cells) if options.cells else Path(options.results) / "cells" / options.suite
    return {
        "label": label,
        "identity": {"dataset": source.name, **identity},
        "settings": {**source.settings, **settings},
        "alone": alone,
        "source": str(source.path),
        "weights_dirs": [str(Path(folder).resolve()) for folder in options.weights_dir],
        "weights": sorted(
            path.parent.name for folder in options.weights_dir for path in Path(folder).glob("*/config.json")
        ),
        "shared": str(work),
        "work": str(work / "work" / label),
        "target": str(cells.resolve() / f"{label}.json"),
    }


def source_paths(texts: Sequence[str]) -> dict[str, Path]:
    from automl.errors import InputError

    found: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or os.path.exists(text):
            name, rest = "", text
        path = Path(os.path.abspath(Path(rest).expanduser()))
        if not path.exists():
            raise InputError(f"data '{rest}' does not exist; give a folder of images, a table, or an npz")
        if not name:
            stem = path.stem if path.is_file() else path.name
            name = path.parent.name if stem.lower() in _PLAIN_NAMES else stem
        if name in found or "/" in name:
            raise InputError(f"dataset name '{name}' is used twice or has a slash; write --data NAME={rest}")
        found[name] = path
    return found


def _columns(texts: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    from automl.errors import InputError, did_you_mean

    columns: dict[str, dict[str, str]] = {name: {} for name in names}
    for text in texts:
        role, equals, column = text.partition("=")
        dataset, colon, role = role.rpartition(":")
        if not equals:
            raise InputError(f"--column '{text}' has not the form [NAME:]ROLE=COLUMN")
        if colon and dataset not in columns:
            raise InputError(f"--column '{text}': no dataset '{dataset}'{did_you_mean(dataset, names)}")
        for name in [dataset] if colon else names:
            columns[name][role] = column
    return columns


# --- cells ------------------------------------------------------------------------------------------


def run_cells(specs: Sequence[Spec], module: str, told: Callable[[Cell], str]) -> list[str]:
    """Run what is missing, one process after the other; return one line per failure.

    Raises:
        InputError: a cell was measured with other settings, says that its input is wrong, or is being measured.
    """
    from automl.errors import InputError

    read_cells(specs)  # cells of other settings are refused before anything runs
    failed = []
    for number, spec in enumerate(specs, 1):
        label = f"[{number}/{len(specs)}] {spec['label']}"
        if Path(spec["target"]).exists():
            kept = json.loads(Path(spec["target"]).read_text()).get("failed")
            print(f"{label}: is there{f', without a model: {kept}' if kept else ''}", file=sys.stderr)
            if kept:
                failed.append(f"{label}: {kept}; remove {spec['target']} to try again")
            continue
        print(f"{label} …", file=sys.stderr, flush=True)
        log = Path(spec["work"]) / "log.txt"
        began = time.monotonic()
        with _alone(Path(spec["work"]), label) as lock:
            for _ in range(_ATTEMPTS):
                code = _run(spec, module, log, lock)
                killed = code < 0 or code > 128
                if not killed:
                    break
                print("  its process was killed", file=sys.stderr)
        if code == 0:
            (cell,) = read_cells([spec])
            print(f"  {told(cell)} in {cell['seconds']:.0f} s", file=sys.stderr)
            continue
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        if code == 2:
            raise InputError(last.removeprefix("error: "))
        failed.append(f"{label}: exit code {code}: {last} (see {log})")
        print(f"  failed: {last}", file=sys.stderr)
        # Who kills a process says nothing of the method.
        if not killed and spec.get("keeps_failures"):
            _keep_failure(spec, last, time.monotonic() - began)
            print(
                f"  it counts as a run without a model; remove {spec['target']} to try again", file=sys.stderr
            )
    return failed


def _keep_failure(spec: Spec, why: str, seconds: float) -> None:
    from benchmarks.environment import environment

    cell = {
        "schema_version": 2, **spec["identity"], "settings": spec["settings"], "weights": spec["weights"],
        "failed": why[:300],
        "seconds": round(seconds, 2), "environment": environment(),
    }  # fmt: skip
    write_text(Path(spec["target"]), json.dumps(cell, ensure_ascii=False, separators=(",", ":")) + "\n")


@contextmanager
def _alone(work: Path, label: str) -> Iterator[int]:
    """Keep others from measuring the same cell at the same time; the descriptor of the lock."""
    from automl.errors import InputError

    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{label} is being measured by another process; wait for it, or give another --work folder"
            ) from None
        yield handle.fileno()


def _run(spec: Spec, module: str, log: Path, lock: int) -> int:
    from automl.machine import KEEP_PAGES

    work = Path(spec["work"])
    for folder in (work, Path(spec["target"]).parent):
        folder.mkdir(parents=True, exist_ok=True)
    home = work / "home" if spec["alone"] else Path(spec["shared"]) / "home"
    if spec["alone"]:
        shutil.rmtree(home, ignore_errors=True)
        if "known" in spec:
            shutil.copytree(spec["known"], home)
    (work / "spec.json").write_text(json.dumps(spec))
    environment = {**os.environ, "AUTOML_HOME": str(home)}
    environment.pop("AUTOML_HISTORY", None)
    if not spec["alone"]:
        # As the engine's workers: what these settings save is not what is compared here.
        environment |= KEEP_PAGES
    patience = _PATIENCE + spec.get("runs", 1) * 10 * spec["settings"]["budget"]
    with open(log, "w", encoding="utf-8") as out:
        code = run_whole(
            [sys.executable, "-m", module, str(work / "spec.json")], patience,
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment,
            pass_fds=(lock,),  # should this process be killed, the cell's own one still holds it
        )  # fmt: skip
        if code is None:
            code = 1
            out.write(f"\nit was ended after {patience:.0f} seconds\n")
    if spec["alone"]:
        shutil.rmtree(home, ignore_errors=True)
    return code


def end_on_sigterm() -> None:
    """Let SIGTERM end this process in order, so that no process that was started for it stays behind."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def run_whole(command: Sequence[str], seconds: float, **options: Any) -> int | None:
    """Run a command; whatever ends this, the processes that it started end too.

    Args:
        command: and its arguments.
        seconds: that it may take.
        options: of ``subprocess.Popen``.

    Returns:
        its exit code, None where it took longer.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_cells(specs: Sequence[Spec]) -> list[dict[str, Any]]:
    """The cells that are there; those with predictions as :func:`benchmarks.images.unpack` gives them.

    Raises:
        InputError: one was measured with other settings, or its list of images is missing.
    """
    from automl.errors import InputError
    from benchmarks.images import unpack

    cells = []
    for spec in specs:
        path = Path(spec["target"])
        if not path.exists():
            continue
        cell = json.loads(path.read_text())
        if cell["settings"] != spec["settings"]:
            raise InputError(
                f"{path} was measured with other settings ({json.dumps(cell['settings'])}); "
                "use another --cells or remove it"
            )
        if cell.get("weights", spec["weights"]) != spec["weights"]:
            raise InputError(
                f"{path} was measured with other weights at hand ({', '.join(cell['weights']) or 'none'}); "
                "use another --cells or remove it"
            )
        cells.append(unpack(cell, path.parent) if "predicted" in cell else cell)
    return cells
