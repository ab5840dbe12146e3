"""Data path: speed of taking images in against Pillow alone, and memory by the number of images.

Every figure comes from a process of its own, one at a time. Speed is measured on several parts of the files in
turn: Pillow alone, the engine, Pillow alone, the engine …, with the same threads on the same files. Larger data
sets are made by reference: tables that name the same files again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.suites._datapath_files import Files, gather

NAME = "datapath"
SUMMARY = "Images per second against Pillow alone, memory per image, and the second opening."

EXAMPLE = "example: automl bench datapath --data data/parts --sizes 5000,10000,20000 --repeat 100000,1000000"
#: Least share of Pillow's own speed that decoding aims at.
SPEED_AIM = 0.85
#: Most seconds to the first trial of a second submit.
SECOND_AIM = 10.0
#: Bytes per image that one index may take.
INDEX_AIM = 200.0


def run(argv: Sequence[str]) -> int:
    """Measure what is missing, write the table, print it. Exit codes: 0 all there, 1 a step failed, 2 wrong input."""
    from automl.errors import InputError
    from benchmarks.cells import publish

    options = _parser().parse_args(argv)
    try:
        specs = _plan(options)
        failed: list[str] = []
        cells = [cell for spec in specs if (cell := _cell(spec, failed)) is not None]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    if not cells:
        return 1
    summary = summarise(cells)
    publish(Path(options.results), NAME, summary, to_markdown(summary))
    return 1 if failed else 0


# --- what is asked for ------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from benchmarks.cells import measured_parser

    parser = measured_parser(NAME, SUMMARY, EXAMPLE, seed="of the parts and of the submits")
    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="[NAME=]PATH", help="image folders, tables or npz files")
    add("--images", type=int, default=None, metavar="N", help="use N evenly spaced images only")
    add("--parts", type=int, default=4, help="parts on which both speeds are measured in turn (default 4)")
    add("--sizes", default="", metavar="N,N", help="different images taken in, for memory per image")
    add("--repeat", default="", metavar="N,N", help="sizes by reference: files are named again and again")
    add("--submit", default=None, metavar="BUDGET", help="also submit twice; time to the first trials")
    add("--weights-dir", action="append", default=[], help="for the submits: pretrained models; repeatable")
    return parser


def _numbers(text: str, option: str) -> list[int]:
    from automl.errors import InputError

    try:
        values = sorted({int(word) for word in text.split(",") if word.strip()})
    except ValueError:
        values = [0]
    if any(value < 1 for value in values):
        raise InputError(f"{option} is {text!r}; it takes whole numbers from 1, as in 10000,20000")
    return values


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    from automl.errors import InputError
    from automl.task import Budget
    from benchmarks.cells import source_paths
    from benchmarks.environment import environment

    if options.parts < 1:
        raise InputError(f"--parts is {options.parts}; it is at least 1")
    if options.images is not None and options.images < 1:
        raise InputError(f"--images is {options.images}; it is at least 1")
    if options.seed < 0:
        raise InputError(f"--seed is {options.seed}; it is at least 0")
    for folder in options.weights_dir:
        if not Path(folder).is_dir():
            raise InputError(f"weights folder '{folder}' does not exist or is not a folder")
    settings = {
        "images": options.images,
        "parts": options.parts,
        "sizes": _numbers(options.sizes, "--sizes"),
        "repeat": _numbers(options.repeat, "--repeat"),
        "submit": None if options.submit is None else Budget.parse(options.submit).seconds,
        "seed": options.seed,
        "threads": environment()["cores"],
    }
    out = Path(options.work).resolve()
    return [
        {
            "dataset": name, "source": str(source), "settings": settings, "work": str(out / name),
            "weights_dirs": [str(Path(folder).resolve()) for folder in options.weights_dir],
        }
        for name, source in source_paths(options.data).items()
    ]  # fmt: skip


# --- measuring --------------------------------------------------------------------------------------


class _Steps:
    """Runs the steps of a cell in processes of their own and keeps each answer in a file."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.work = Path(spec["work"])
        self.kept = self.work / "steps.json"
        self.answers: dict[str, Any] = {}
        self.work.mkdir(parents=True, exist_ok=True)
        if self.kept.exists():
            from automl.errors import InputError

            before = json.loads(self.kept.read_text())
            if before["settings"] != spec["settings"]:
                raise InputError(f"{self.kept} is of other settings; use another --out or remove it")
            self.answers = before["answers"]
        self.settings = spec["settings"]

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The answer of a step, measured where it is not there."""
        from benchmarks.cells import write_text

        if name not in self.answers:
            print(f"  {name} …", file=sys.stderr, flush=True)
            self.answers[name] = make()
            write_text(self.kept, json.dumps({"settings": self.settings, "answers": self.answers}))
        answer: dict[str, Any] = self.answers[name]
        return answer

    def probe(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Run a probe; its answer, with ``peak`` and ``uss`` (bytes) and ``process`` (seconds)."""
        from benchmarks.processes import measured

        path = self.work / "probe.json"
        path.write_text(json.dumps(spec))
        done = measured(
            ["benchmarks.suites._datapath_probe", str(path)],
            self.work / "probe.log",
            home=self.work / "home",
            seconds=0.05,
            unique=spec["do"] == "intake",
        )
        if done.code != 0:
            raise RuntimeError(f"exit code {done.code}: {done.why()}")
        answer: dict[str, Any] = json.loads(done.output.strip().splitlines()[-1])
        return {**answer, "peak": done.peaks.total, "uss": done.peaks.uss, "process": done.seconds}


def _cell(spec: Mapping[str, Any], failed: list[str]) -> dict[str, Any] | None:
    """Everything about one data set; None where a step failed."""
    settings = spec["settings"]
    print(f"{spec['dataset']} …", file=sys.stderr, flush=True)
    steps = _Steps(spec)
    scratch, cache = steps.work / "scratch", steps.work / "cache"
    try:
        files = gather(spec["source"], scratch)
        whole = files.spread(min(settings["images"] or len(files.names), len(files.names)))
        table = whole.table(scratch / "whole.csv")

        def fresh(source: Path) -> dict[str, Any]:
            shutil.rmtree(cache, ignore_errors=True)
            return steps.probe({"do": "intake", "source": str(source), "cache": str(cache)})

        def by_size(name: str, count: int) -> dict[str, Any]:
            made = files if name == "size" else whole
            return fresh(made.spread(count).table(scratch / f"{name}-{count}.csv"))

        def both() -> dict[str, Any]:
            first = fresh(table)
            again = steps.probe({"do": "intake", "source": str(table), "cache": str(cache)})
            return {"first": first, "again": again}

        opened = steps.get("whole set, twice", both)
        side = int(opened["first"]["side"])
        parts = []
        for number, rows in enumerate(_parts(len(whole.names), settings["parts"], settings["seed"]), 1):
            pair = partial(_pair, steps, whole.some(rows), side, number, fresh)
            parts.append(steps.get(f"speed, part {number}", pair))
        grown: dict[str, list[dict[str, Any]]] = {"size": [], "repeat": []}
        for kind, option in (("size", "sizes"), ("repeat", "repeat")):
            for count in settings[option]:
                grown[kind].append(steps.get(f"{kind} {count}", partial(by_size, kind, count)))
        submits = None
        if settings["submit"] is not None:
            submits = steps.get("two submits", lambda: _submits(steps, spec, table, ("first", "second")))
            if settings["repeat"]:
                count = settings["repeat"][-1]
                longest = whole.spread(count).table(scratch / "longest.csv")
                name = f"{count} by reference"
                submits |= steps.get(f"submit of {name}", lambda: _submits(steps, spec, longest, (name,)))
    except RuntimeError as error:
        failed.append(f"{spec['dataset']}: {error} (see {steps.work / 'probe.log'})")
        return None
    finally:
        for folder in (scratch, cache):
            shutil.rmtree(folder, ignore_errors=True)
    return {
        "dataset": spec["dataset"],
        "settings": settings,
        **figures(opened, parts, grown),
        "submits": submits,
    }


def _parts(count: int, parts: int, seed: int) -> list[list[int]]:
    import numpy as np

    order = np.random.default_rng(seed).permutation(count)
    return [sorted(part.tolist()) for part in np.array_split(order, parts)]


def _pair(
    steps: _Steps, part: Files, side: int, number: int, fresh: Callable[[Path], dict[str, Any]]
) -> dict[str, Any]:
    """Pillow alone and the engine on the same files, one after the other."""
    listed = steps.work / "paths"
    listed.write_text("\0".join(part.paths()), encoding="utf-8")
    alone = steps.probe(
        {"do": "bare", "paths": str(listed), "side": side, "threads": steps.settings["threads"]}
    )
    engine = fresh(part.table(part.folder / f"part-{number}.csv"))
    return {"bare": alone, "engine": engine}


def _submits(steps: _Steps, spec: Mapping[str, Any], table: Path, names: Sequence[str]) -> dict[str, Any]:
    """Submits of the same data with one home folder, new for the first: seconds to the first trial, and memory."""
    from benchmarks.processes import measured, torch_alone, trial_times

    settings = spec["settings"]
    home = steps.work / "home-submit"
    shutil.rmtree(home, ignore_errors=True)
    alone = torch_alone(home, steps.work / "torch.txt")
    found: dict[str, Any] = {"budget": settings["submit"], "torch_alone": alone}
    for number, name in enumerate(names):
        run_folder = steps.work / f"run-{number}"
        shutil.rmtree(run_folder, ignore_errors=True)
        command = ["automl", "submit", str(table), "--budget", f"{settings['submit']:g}s"]
        command += ["--seed", str(settings["seed"]), "--out", str(run_folder)]
        for folder in spec["weights_dirs"]:
            command += ["--weights-dir", folder]
        done = measured(command, steps.work / "probe.log", home=home)
        times = trial_times(run_folder)
        if done.code not in (0, 3) or not times:
            raise RuntimeError(f"submit: exit code {done.code}: {done.why()}")
        # Ray also starts workers ahead that stay idle; what those take is beyond torch.
        workers = int(json.loads((run_folder / "result.json").read_text())["seconds"]["workers"])
        found[name] = {
            "first_trial_begins": round(min(t.began for t in times) - done.started, 2),
            "first_trial_ends": round(times[0].ended - done.started, 2),
            "total": round(done.seconds, 2),
            "peak_mb": done.peaks.megabytes(),
            "beyond_torch_mb": round((done.peaks.total - (1 + workers) * alone) / 1e6, 1),
        }
    shutil.rmtree(home, ignore_errors=True)
    return found


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Least-squares slope of y over x; None for fewer than two different x."""
    import numpy as np

    x, y = np.array([p[0] for p in points], float), np.array([p[1] for p in points], float)
    if len(np.unique(x)) < 2:
        return None
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def figures(
    opened: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]],
    grown: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """What the steps of one data set tell; speeds in images/s, memory in MB (1e6 bytes) above the start."""
    import numpy as np

    first, again = opened["first"], opened["again"]
    pairs = []
    for part in parts:
        alone, engine = part["bare"], part["engine"]
        rate = alone["images"] / alone["seconds"]
        decoding = engine["images"] / (engine["decoding"] or engine["seconds"])
        whole = engine["images"] / engine["seconds"]
        pairs.append(
            {"images": engine["images"], "bare": round(rate, 1), "pool": alone["pool"], "decoding": round(decoding, 1),
             "intake": round(whole, 1), "decoding_ratio": round(decoding / rate, 4),
             "intake_ratio": round(whole / rate, 4),
             "cpu_ratio": round(alone["cpu"] / alone["images"] / (engine["cpu"] / engine["images"]), 4)}
        )  # fmt: skip
    mean_bare = len(pairs) / sum(1 / pair["bare"] for pair in pairs)
    median = {
        key: round(float(np.median([p[key] for p in pairs])), 4)
        for key in ("decoding_ratio", "intake_ratio", "cpu_ratio")
    }
    whole_set = {
        "images": first["images"],
        "stored": first["stored"],
        "side": first["side"],
        "seconds": round(first["seconds"], 2),
        "decoding_seconds": round(first["decoding"] or 0.0, 2),
        "per_second": round(first["images"] / first["seconds"], 1),
        "of_bare": round(first["images"] / first["seconds"] / mean_bare, 4),
        "decoding_of_bare": round(first["images"] / (first["decoding"] or first["seconds"]) / mean_bare, 4),
        **_memory(first),
    }
    growth = {}
    for kind, answers in grown.items():
        points = [(float(a["images"]), float(a["peak"] - a["base"])) for a in answers]
        per_image = slope(points)
        growth[kind] = {
            "steps": [
                {
                    "images": a["images"],
                    "stored": a["stored"],
                    "seconds": round(a["seconds"], 2),
                    **_memory(a),
                }
                for a in answers
            ],
            "bytes_per_image": None if per_image is None else round(per_image, 1),
        }
    return {
        "whole": whole_set,
        "second_opening_seconds": round(again["seconds"], 3),
        "speed": {"parts": pairs, "median": median},
        "growth": growth,
    }


def _memory(answer: Mapping[str, Any]) -> dict[str, float]:
    return {
        "start_mb": round(answer["base"] / 1e6, 1),
        "peak_mb": round(answer["peak"] / 1e6, 1),
        "uss_mb": round(answer["uss"] / 1e6, 1),
        "bytes_per_image": round((answer["peak"] - answer["base"]) / max(1, answer["images"]), 1),
    }


# --- the table --------------------------------------------------------------------------------------


def summarise(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All cells, the aims, and the machine."""
    from benchmarks.environment import environment
    from benchmarks.processes import MEMORY_IS

    return {
        "schema_version": 1,
        "suite": NAME,
        "aims": {"decoding_ratio": SPEED_AIM, "second_submit": SECOND_AIM, "bytes_per_image": INDEX_AIM},
        "memory_is": MEMORY_IS,
        "datasets": list(cells),
        "environment": environment(),
    }


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The tables as people read them."""
    from benchmarks.environment import describe

    lines = ["# Data path", ""]
    for cell in summary["datasets"]:
        lines += _section(cell)
    aims = summary["aims"]
    lines += [
        f"Aims: decoding at {aims['decoding_ratio']:.0%} of Pillow alone or more; the first trial of a second submit "
        f"within {aims['second_submit']:g} s; at most {aims['bytes_per_image']:g} bytes per image by reference.",
        f"Memory: {summary['memory_is']}; sampled 20 times a second. The unique set (USS) also counts file pages that "
        "only this process maps.",
        "Pillow alone: open, convert to RGB, resize, on as many threads or processes as there are cores, whichever pool "
        "is faster (started beforehand); files were read once before. *decoding*: while images are decoded, by processes that have started as well; *intake*: until the data set is ready, with the search "
        "for copies and the splits. *CPU ratio*: processor seconds per image of Pillow alone / of the whole intake, "
        "which other work on the machine disturbs least.",
        f"{describe(summary['environment'])}.",
        "",
    ]
    return "\n".join(lines)


def _section(cell: Mapping[str, Any]) -> list[str]:
    whole, speed, settings = cell["whole"], cell["speed"], cell["settings"]
    lines = [
        f"## {cell['dataset']}",
        "",
        f"{whole['images']} images ({whole['stored']} different) at {whole['side']} px, {settings['threads']} "
        f"threads, seed {settings['seed']}: taken in within {whole['seconds']:.1f} s, {whole['decoding_seconds']:.1f} s "
        f"of them decoding ({whole['decoding_of_bare']:.2f} of Pillow alone; all of it {whole['of_bare']:.2f}); peak "
        f"{whole['peak_mb']:.0f} MB (USS {whole['uss_mb']:.0f} MB), {whole['start_mb']:.0f} MB of them before the "
        f"start. Opened again in {cell['second_opening_seconds']:.2f} s.",
        "",
        "| part | images | Pillow alone /s | decoding /s | intake /s | decoding ratio | intake ratio | CPU ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, part in enumerate(speed["parts"], 1):
        lines.append(
            f"| {number} | {part['images']} | {part['bare']:.0f} ({part['pool']}) | {part['decoding']:.0f} | {part['intake']:.0f} | "
            f"{part['decoding_ratio']:.2f} | {part['intake_ratio']:.2f} | {part['cpu_ratio']:.2f} |"
        )
    median = speed["median"]
    lines += [
        f"| median | | | | | {median['decoding_ratio']:.2f} | {median['intake_ratio']:.2f} | "
        f"{median['cpu_ratio']:.2f} |",
        "",
    ]
    for kind, title in (("size", "Different images"), ("repeat", "By reference")):
        growth = cell["growth"][kind]
        if not growth["steps"]:
            continue
        lines += [
            f"| {title} | stored | seconds | peak MB | USS MB |",
            "|---|---|---|---|---|",
            *(
                f"| {s['images']} | {s['stored']} | {s['seconds']:.1f} | {s['peak_mb']:.0f} | {s['uss_mb']:.0f} |"
                for s in growth["steps"]
            ),
        ]
        if growth["bytes_per_image"] is not None:
            lines += ["", f"Slope: {growth['bytes_per_image']:.0f} bytes per image."]
        lines.append("")
    submits = cell["submits"]
    if submits:
        lines += [
            f"Submits, budget {submits['budget']:g} s each; the second one has the home folder of the first, others "
            "an empty one:",
            "",
        ]
        for name, one in submits.items():
            if name in ("budget", "torch_alone"):
                continue
            lines.append(
                f"- {name}: first trial begins after {one['first_trial_begins']:.1f} s, ends after "
                f"{one['first_trial_ends']:.1f} s; all of it takes {one['total']:.0f} s; peak of driver and workers "
                f"{one['peak_mb']['total']:.0f} MB, {one['beyond_torch_mb']:.0f} MB beyond torch."
            )
        lines.append("")
    return lines


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
