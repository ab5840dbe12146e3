"""Extraction: a supernet is trained once, then subnets for random limits are taken out of it.

For every set of limits: the seconds of ``automl extract`` as a command of its own, whether the exported file keeps the
limits when :mod:`benchmarks.remeasure` measures it, and its balanced accuracy against the best of many drawn subnets
that keep the same limits (chosen, as ours, without the test images).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.suites.limits import TOLERANCE

NAME = "extraction"
SUMMARY = (
    "Subnets for random limits out of one supernet: seconds, limits kept, and the best of many drawn subnets."
)

EXAMPLE = (
    "example: automl bench extraction --data data/parts --weights-dir weights --backbone mobilenetv2_100"
)
#: Aims: seconds of an extraction, and points of accuracy behind the best of the drawn subnets.
AIMS = {"seconds": 15.0, "behind": 0.01}
_REMEASURE = Path(__file__).resolve().parents[1] / "remeasure.py"


def run(argv: Sequence[str]) -> int:
    """Measure, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from benchmarks.cells import run_measured

    options = _parser().parse_args(argv)
    return run_measured(NAME, options.results, lambda: _measure(options), to_markdown)


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE)
    add = parser.add_argument
    add("--data", required=True, help="images as for a submit")
    add("--column", action="append", default=[], help="manifest column, as path=COLUMN; repeatable")
    add("--weights-dir", action="append", default=[], help="folder of pretrained models; repeatable")
    add("--backbone", required=True, help="beginning of the name of the one that becomes a supernet")
    add("--resolutions", default="96,128", help="sides that are trained (default %(default)s)")
    add("--seconds", type=float, default=300.0, help="of the training (default %(default)s)")
    add("--sets", type=int, default=20, help="of limits (default %(default)s)")
    add("--subnets", type=int, default=200, help="that are drawn for comparison (default %(default)s)")
    return parser


def draw_sets(count: int, seed: int, latency: Sequence[float], size: Sequence[float]) -> list[list[str]]:
    """Sets of limits, log-uniform between the ends: each on the latency, two in five on the size too."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def between(ends: Sequence[float]) -> float:
        return math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1])))

    sets = []
    for _ in range(count):
        limits = [f"latency_ms<={between(latency):.3g}"]
        if rng.random() < 0.4:
            limits.append(f"size_mb<={between(size):.3g}")
        sets.append(limits)
    return sets


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from automl.cli import _columns
    from automl.errors import InputError
    from benchmarks.cells import check_at_least
    from benchmarks.environment import environment
    from benchmarks.processes import measured

    check_at_least(options, sets=1, subnets=2, seed=0)
    try:
        resolutions = sorted({int(word) for word in options.resolutions.split(",")})
    except ValueError:
        raise InputError(f"--resolutions is '{options.resolutions}'; it takes whole numbers") from None
    work = Path(options.work).resolve() / f"{Path(options.data).name}-{options.backbone}-{options.seed}"
    work.mkdir(parents=True, exist_ok=True)
    for home in ("home", "home-brute"):
        shutil.rmtree(work / home, ignore_errors=True)  # what an earlier run measured would be known
    supernet = work / "supernet.safetensors"
    common = {
        "data": str(Path(options.data).resolve()),
        "columns": _columns(options.column),
        "seed": options.seed,
    }

    def command(name: str, *words: str) -> Any:
        # What the drawn subnets are measured for is not to be known to the extractions.
        home = work / ("home-brute" if name == "brute" else "home")
        return measured(list(words), work / f"{name}.log", home=home)

    def probe(name: str, **spec: Any) -> dict[str, Any]:
        path = work / f"{name}.json"
        path.write_text(json.dumps({**common, "do": name, **spec}), encoding="utf-8")
        print(f"{name} …", file=sys.stderr, flush=True)
        done = command(name, "benchmarks.suites._extraction_probe", str(path))
        if done.code != 0:
            raise RuntimeError(f"{name}: exit code {done.code}: {done.why()} (see {done.log})")
        found: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
        return found

    trained = probe(
        "train", weights_dirs=options.weights_dir, backbone=options.backbone, resolutions=resolutions,
        seconds=options.seconds, out=str(supernet),
    )  # fmt: skip

    def extract(name: str, limits: Sequence[str]) -> tuple[Any, dict[str, Any]]:
        words = [word for limit in limits for word in ("-c", limit)]
        target = work / "out" / name
        _empty(target)
        done = command(name, "automl", "extract", str(supernet), *words, "--out", str(target), "--json")
        if done.code not in (0, 3):
            raise RuntimeError(f"{name}: exit code {done.code}: {done.why()} (see {done.log})")
        return done, json.loads(done.output.strip().splitlines()[-1])

    cold, largest = extract("largest", [])
    _done, smallest = extract("smallest", ["latency_ms<=0.0001"])
    ends = [
        (1.15 * smallest["subnets"][0][cost], largest["subnets"][0][cost])
        for cost in ("latency_ms", "size_mb")
    ]
    sets = draw_sets(options.sets, options.seed, *ends)
    rows = []
    for number, limits in enumerate(sets):
        print(f"set {number + 1} of {len(sets)}: {', '.join(limits)}", file=sys.stderr, flush=True)
        done, told = extract(f"set-{number:02d}", limits)
        one = told["subnets"][0]
        rows.append(
            {
                "limits": limits, "status": told["status"], "seconds": round(done.seconds, 2),
                "measured": told["measured"], "latency_ms": one["latency_ms"], "size_mb": one["size_mb"],
                "resolution": one["resolution"], "predicted": one["predicted_score"],
                "file": str(Path(one["folder"]) / "model.onnx"),
            }
        )  # fmt: skip
    files = {row["file"]: row["resolution"] for row in rows}
    again = _again(list(files))
    scored = probe("score", files=files)
    brute = probe("brute", supernet=str(supernet), count=options.subnets, sets=sets)
    for row, best in zip(rows, brute["best"], strict=True):
        file = row.pop("file")
        row.update(again_ms=again[file]["median_ms"], again_mb=again[file]["bytes"] / 1e6, best=best)
        row.update({part: scored["files"][file][part] for part in ("validation", "test")})
        row["kept"] = row["status"] == "ok" and _keeps(row)
    return {
        "schema_version": 1, "suite": NAME, "dataset": Path(options.data).name, "seed": options.seed,
        "supernet": {**trained, "mb": supernet.stat().st_size / 1e6, "resolutions": resolutions},
        "first_seconds": round(cold.seconds, 2), "rows": rows, "drawn": brute["count"],
        "test_images": scored["test_images"], "aims": AIMS, "tolerance": TOLERANCE, "environment": environment(),
    }  # fmt: skip


def _empty(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)


def _again(files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the separate program measures."""
    print(f"measuring {len(files)} files again …", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-P", str(_REMEASURE), *files], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the files cannot be measured again: {done.stderr.strip()[-200:]}")
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])["files"]
    return found


def _keeps(row: Mapping[str, Any]) -> bool:
    """Whether the file keeps its limits when it is measured again."""
    limits = dict(text.split("<=") for text in row["limits"])
    quick = row["again_ms"] <= TOLERANCE * float(limits.get("latency_ms", math.inf))
    return bool(quick and row["again_mb"] <= float(limits.get("size_mb", math.inf)))


def overall(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often limits were kept, how long it took, and how far behind the best drawn subnet it stayed."""
    import numpy as np

    ok = [row for row in rows if row["status"] == "ok"]
    seconds = [row["seconds"] for row in rows]
    against = [row for row in ok if row["best"] is not None]
    behind = np.array([row["best"]["test"] - row["test"] for row in against])
    error = float(behind.std(ddof=1) / math.sqrt(len(behind))) if len(behind) > 1 else math.nan
    return {
        "ok": len(ok), "kept": sum(bool(row["kept"]) for row in ok), "of": len(rows),
        "seconds_median": float(np.median(seconds)), "seconds_most": max(seconds),
        "behind": float(behind.mean()) if len(behind) else None, "behind_error": error if error == error else None,
        "behind_validation": float(np.mean([row["best"]["validation"] - row["validation"] for row in against]))
        if against
        else None,
        "compared": len(against),
    }  # fmt: skip


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    total, supernet = overall(summary["rows"]), summary["supernet"]
    lines = []
    for row in summary["rows"]:
        best = row["best"]
        lines.append(
            [
                ", ".join(row["limits"]),
                row["status"],
                f"{row['seconds']:.1f}",
                f"{row['latency_ms']:.2f}",
                f"{row['again_ms']:.2f}",
                f"{row['again_mb']:.2f}",
                "kept" if row["kept"] else "not kept",
                f"{row['test']:.3f}",
                f"{best['test']:.3f} of {best['kept']}" if best else "none kept them",
            ]
        )
    behind = "" if total["behind"] is None else (
        f" On the test images ours are {100 * total['behind']:.2f} points"
        + ("" if total["behind_error"] is None else f" ± {100 * total['behind_error']:.2f}")
        + f" behind the best of the drawn ones over {total['compared']} sets (on the validation images, which both were "
        f"chosen by, {100 * total['behind_validation']:.2f}; aim {100 * summary['aims']['behind']:g})."
    )  # fmt: skip
    columns = [
        "limits",
        "status",
        "seconds",
        "ms",
        "ms again",
        "MB again",
        "measured again",
        "balanced accuracy",
    ]
    return "\n".join(
        [
            "# Extraction",
            "",
            f"{summary['dataset']}: {supernet['backbone']} became a supernet in {supernet['seconds']:.0f} s on "
            f"{supernet['threads']} threads ({supernet['mb']:.1f} MB, {supernet['judged']} subnets judged on "
            f"{supernet['validation_images']} validation images). The first extraction, which also learns how fast the "
            f"device is, took {summary['first_seconds']:.1f} s.",
            "",
            *table([*columns, f"best of {summary['drawn']} drawn"], lines),
            "",
            f"{total['ok']} of {total['of']} sets were answered, {total['kept']} of these kept when another program measured "
            f"them (at most {summary['tolerance']:g} × the latency). Seconds of the whole command: median "
            f"{total['seconds_median']:.1f}, most {total['seconds_most']:.1f} (aim {summary['aims']['seconds']:g}).{behind} "
            f"{summary['test_images']} test images, seed {summary['seed']}.",
            f"{describe(summary['environment'])}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
