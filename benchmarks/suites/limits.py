"""Limits: does a file that is reported to keep its limits keep them when another program measures it?

Every random set of limits is one cell: one ``automl submit``. Afterwards every file that was reported ok is
measured again by :mod:`benchmarks.remeasure`, which shares no code with the engine. A set that cannot be kept
must end with exit code 3 and a model all the same.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import (
    Cell,
    Spec,
    Suite,
    check_at_least,
    make_parser,
    make_spec,
    run_suite,
    sources,
    write_text,
)

NAME = "limits"
SUMMARY = "Random limits on latency and size, and the exported files measured again by another program."

EXAMPLE = "automl bench limits --data parts=data/parts data/cells.csv --weights-dir weights --sets 20"
#: A measured latency may be beyond the limit by this factor before the limit counts as broken.
TOLERANCE = 1.05
#: Every so many sets one is impossible; no network is that fast, no file that small.
_IMPOSSIBLE_EVERY = 10
_IMPOSSIBLE = {"latency_ms": (1e-4, 1e-3), "size_mb": (1e-4, 1e-3)}
_FOLDER = "remeasured"
#: The separate program; it imports nothing of the engine, and is not imported here either.
_REMEASURE = Path(__file__).resolve().parents[1] / "remeasure.py"
_ROUNDS = 5


def run(argv: Sequence[str]) -> int:
    """Run and measure what is missing, write the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    suite = Suite(
        name=NAME,
        module="benchmarks.suites._limits_cell",
        parser=_parser(),
        plan=_plan,
        told=lambda cell: f"exit code {cell['exit_code']}",
        summarise=lambda cells, options: summarise(
            cells, _records(_plan(options)), seed=options.seed, latency=options.latency, size=options.size
        ),
        to_markdown=to_markdown,
        between=lambda specs, _options: measure_again(specs),
    )
    return run_suite(suite, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(NAME, SUMMARY, EXAMPLE, budget="60s")
    add = parser.add_argument
    add(
        "--sets",
        type=int,
        default=20,
        help="sets of limits in total, dealt out over the data (default %(default)s)",
    )
    add("--seed", type=int, default=0, help="of the limits (default %(default)s)")
    add("--latency", default="1,20", help="range of the latency limits, milliseconds (default %(default)s)")
    add("--size", default="0.5,20", help="range of the size limits, MB of 1e6 bytes (default %(default)s)")
    return parser


# --- the sets of limits -----------------------------------------------------------------------------


def draw_limits(
    seed: int, number: int, latency: tuple[float, float], size: tuple[float, float]
) -> tuple[str, list[str]]:
    """One set: its kind (``possible`` or ``impossible``) and its expressions.

    Limits are log-uniform in their ranges; three sets in five limit both latency and size, one in five only
    latency, one in five only size. Every tenth has one limit that nothing keeps.
    """
    import numpy as np

    rng = np.random.default_rng([seed, number])
    ranges = {"latency_ms": latency, "size_mb": size}
    share = rng.random()
    names = list(ranges) if share < 0.6 else ["latency_ms"] if share < 0.8 else ["size_mb"]
    impossible = number % _IMPOSSIBLE_EVERY == _IMPOSSIBLE_EVERY - 1
    hard = names[(number // _IMPOSSIBLE_EVERY) % len(names)] if impossible else ""
    expressions = []
    for name in names:
        low, high = _IMPOSSIBLE[name] if name == hard else ranges[name]
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        expressions.append(f"{name}<={value:.3g}")
    return ("impossible" if impossible else "possible"), expressions


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    check_at_least(options, sets=1, seed=0)
    latency, size = _range(options.latency, "--latency"), _range(options.size, "--size")
    data = sources(options)
    specs = []
    for number in range(options.sets):
        kind, expressions = draw_limits(options.seed, number, latency, size)
        specs.append(
            make_spec(
                options,
                data[number % len(data)],
                {"number": number, "kind": kind},
                label=f"{number:03d}-{data[number % len(data)].name}",
                alone=True,
                constraints=expressions,
                submit_seed=number,
            )
        )
    return specs


def _range(text: str, option: str) -> tuple[float, float]:
    from automl.errors import InputError

    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not 0 < low <= high < math.inf:
        raise InputError(
            f"{option} is '{text}'; it is two numbers above 0, the smaller first, for instance 1,20"
        )
    return low, high


# --- measuring again --------------------------------------------------------------------------------


def measure_again(specs: Sequence[Spec]) -> None:
    """Measure all files that are reported ok and lie here, if one of them was not measured yet.

    What is known of files that were made on another machine stays as it is.

    Raises:
        AutomlError: the program that measures failed.
    """
    from automl.errors import AutomlError
    from benchmarks.suites import _limits_cell

    files: dict[str, Spec] = {}
    missing = False
    for spec in specs:
        target, model = Path(spec["target"]), _limits_cell.run_folder(spec) / "model.onnx"
        cell = json.loads(target.read_text()) if target.exists() else None
        if not cell or cell["exit_code"] != 0 or not model.is_file():
            continue
        if _limits_cell.sha256(model) != cell["model"]["sha256"]:
            continue  # of another attempt
        files[str(model)] = spec
        record = _record(spec)
        missing |= record is None or record["sha256"] != cell["model"]["sha256"]
    if not missing:
        return
    print(f"measuring {len(files)} files again, {_ROUNDS} rounds …", file=sys.stderr, flush=True)
    # Without this module's folder on the path: nothing of the project can be imported.
    program = [sys.executable, "-P", str(_REMEASURE), "--rounds", str(_ROUNDS)]
    done = subprocess.run([*program, *files], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise AutomlError(f"the files cannot be measured again: {last}")
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    conditions = {key: value for key, value in answer.items() if key != "files"}
    for path, spec in files.items():
        record = {**answer["files"][path], "sha256": _limits_cell.sha256(Path(path)), **conditions}
        _record_path(spec).parent.mkdir(exist_ok=True)
        write_text(_record_path(spec), json.dumps(record, separators=(",", ":")) + "\n")


def _record_path(spec: Spec) -> Path:
    target = Path(spec["target"])
    return target.parent / _FOLDER / target.name


def _record(spec: Spec) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(_record_path(spec).read_text())
    except (OSError, ValueError):
        return None
    return found


def _records(specs: Sequence[Spec]) -> dict[int, dict[str, Any]]:
    """Number of the set → what was measured again."""
    return {spec["identity"]["number"]: record for spec in specs if (record := _record(spec)) is not None}


# --- the table --------------------------------------------------------------------------------------


def judge(cell: Cell, record: Mapping[str, Any] | None) -> str:
    """``kept``, ``latency broken``, ``size broken``, ``size wrong``, ``not measured``, ``none, with a model`` or
    ``none, without a model``.

    A latency limit is kept where the latency measured again is at most :data:`TOLERANCE` times the limit, a
    size limit where the bytes of the file are; the reported size must be that of the file to the byte.
    """
    if cell["exit_code"] != 0:
        return "none, with a model" if cell["model"] else "none, without a model"
    if record is None or record["sha256"] != cell["model"]["sha256"]:
        return "not measured"
    limits = _limits(cell)
    if round(cell["costs"]["size_mb"] * 1e6) != record["bytes"]:
        return "size wrong"
    if record["bytes"] > limits.get("size_mb", math.inf) * 1e6:
        return "size broken"
    if record["median_ms"] > TOLERANCE * limits.get("latency_ms", math.inf):
        return "latency broken"
    return "kept"


def _limits(cell: Cell) -> dict[str, float]:
    pairs = (text.split("<=") for text in cell["settings"]["constraints"])
    return {name: float(value) for name, value in pairs}


def _overlooked(cell: Cell, cells: Sequence[Cell], records: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Sets of the same dataset whose file, measured again, keeps the limits that this cell could not keep."""
    limits = _limits(cell)
    return [
        other["number"]
        for other in cells
        if other["dataset"] == cell["dataset"]
        and judge(other, records.get(other["number"])) == "kept"
        and records[other["number"]]["median_ms"] <= limits.get("latency_ms", math.inf)
        and records[other["number"]]["bytes"] <= limits.get("size_mb", math.inf) * 1e6
    ]


def summarise(
    cells: Sequence[Cell], records: Mapping[int, Mapping[str, Any]], **settings: Any
) -> dict[str, Any]:
    """One row per set of limits, and how many were kept.

    Args:
        cells: of the suite.
        records: number of the set → what was measured again.
        settings: of the command, for the table.
    """
    import numpy as np

    from automl.evaluation._intervals import binomial_interval
    from benchmarks.tables import head

    rows = []
    for cell in cells:
        record = records.get(cell["number"]) if cell["exit_code"] == 0 else None
        verdict = judge(cell, record)
        reported = cell["costs"].get("latency_ms")
        row = {
            "number": cell["number"],
            "dataset": cell["dataset"],
            "kind": cell["kind"],
            "limits": cell["settings"]["constraints"],
            "exit_code": cell["exit_code"],
            "latency_ms": reported,
            "size_mb": cell["costs"]["size_mb"],
            "balanced_accuracy": cell["balanced_accuracy"],
            "seconds": cell["seconds"],
            "verdict": verdict,
        }
        if cell["exit_code"] != 0:
            row["overlooked"] = _overlooked(cell, cells, records)
        elif verdict != "not measured" and record is not None:
            row["remeasured"] = {
                key: record[key]
                for key in ("median_ms", "rounds_ms", "runs", "bytes", "load", "cpu", "onnxruntime")
            }
            row["ratio"] = round(record["median_ms"] / reported, 4) if reported else None
        rows.append(row)
    ok = [row for row in rows if row["exit_code"] == 0 and row["verdict"] != "not measured"]
    timed = [row for row in ok if any(text.startswith("latency") for text in row["limits"])]
    none = [row for row in rows if row["exit_code"] != 0]
    impossible = [row for row in rows if row["kind"] == "impossible"]
    ratios = [row["ratio"] for row in ok if row.get("ratio")]

    def share(good: int, whole: int) -> dict[str, Any]:
        low, high = binomial_interval(good, whole)
        return {"good": good, "of": whole, "low": round(low, 4), "high": round(high, 4)}

    return {
        **head(NAME, cells, tolerance=TOLERANCE, rounds=_ROUNDS, **settings),
        "rows": rows,
        "overall": {
            "kept": share(sum(row["verdict"] == "kept" for row in ok), len(ok)),
            "latency kept": share(sum(row["verdict"] != "latency broken" for row in timed), len(timed)),
            "impossible sets with exit code 3 and a model": share(
                sum(row["verdict"] == "none, with a model" for row in impossible), len(impossible)
            ),
            "exit code 3 with a model": share(
                sum(row["verdict"] == "none, with a model" for row in none), len(none)
            ),
            "exit code 3 though another set's file keeps the limits": sum(
                bool(row["overlooked"]) for row in none
            ),
            "not measured": sum(row["verdict"] == "not measured" for row in rows),
            "ratio": {
                "median": round(float(np.median(ratios)), 4),
                "smallest": min(ratios),
                "largest": max(ratios),
            }
            if ratios
            else None,
        },
    }


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.tables import budget_text, foot, table

    lines = []
    for row in summary["rows"]:
        again, quality = row.get("remeasured"), row["balanced_accuracy"]
        verdict = row["verdict"]
        if row.get("overlooked"):
            verdict += f"; the file of {', '.join(map(str, row['overlooked']))} keeps them"
        reported = "" if row["latency_ms"] is None else f"{row['latency_ms']:.2f}"
        lines.append(
            [
                str(row["number"]),
                row["dataset"],
                ", ".join(row["limits"]) + (" (impossible)" if row["kind"] == "impossible" else ""),
                str(row["exit_code"]),
                reported,
                f"{again['median_ms']:.2f} [{min(again['rounds_ms']):.2f}, {max(again['rounds_ms']):.2f}]"
                if again
                else "",
                f"{row['ratio']:.2f}" if row.get("ratio") else "",
                f"{row['size_mb']:.6f}",
                f"{again['bytes'] / 1e6:.6f}" if again else "",
                f"{quality['value']:.3f} [{quality['low']:.3f}, {quality['high']:.3f}], {quality['n']} images",
                verdict,
            ]
        )
    total = summary["overall"]
    sentences = [
        f"{name[0].upper()}{name[1:]}: {part['good']} of {part['of']} "
        f"(95 %: {100 * part['low']:.0f} to {100 * part['high']:.0f} %)."
        for name, part in total.items()
        if isinstance(part, dict) and part.get("of")
    ]
    if total["ratio"]:
        ratio = total["ratio"]
        sentences.append(
            f"Measured again / reported: median {ratio['median']:.2f}, "
            f"{ratio['smallest']:.2f} to {ratio['largest']:.2f}."
        )
    for name in ("exit code 3 though another set's file keeps the limits", "not measured"):
        sentences.append(f"{name[0].upper()}{name[1:]}: {total[name]}.")
    conditions = sorted(
        {f"{row['remeasured']['cpu']}, onnxruntime {row['remeasured']['onnxruntime']}, load "
         f"{min(row['remeasured']['load']):g} to {max(row['remeasured']['load']):g}"
         for row in summary["rows"] if "remeasured" in row}
    )  # fmt: skip
    columns = ["set", "dataset", "limits", "exit code", "reported ms", "measured again ms [rounds]", "ratio"]
    columns += ["reported MB", "file MB", "balanced accuracy", "verdict"]
    return "\n".join(
        [
            "# Limits",
            "",
            f"Random limits (seed {summary['seed']}; latency {summary['latency']} ms, size {summary['size']} MB, "
            f"log-uniform; every tenth set impossible), {budget_text(summary)} each.",
            "",
            *table(columns, lines),
            "",
            " ".join(sentences),
            f"Measured again by a program of its own: {summary['rounds']} rounds over all files, one thread, one image, "
            f"median of the rounds' medians; kept is at most {summary['tolerance']:g} × the latency limit, and the size "
            f"exactly as reported. On: {'; '.join(conditions) or 'nothing yet'}.",
            f"{foot(summary)}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
