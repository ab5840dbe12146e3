"""Quality: the engine against what a practitioner does by hand, on several datasets and splits.

Every (dataset, split, method) is one JSON file with the test labels, groups and predictions, made in a
process of its own, one after the other; a second call goes on where the first one ended. The table compares
the engine with the better reference of each dataset by a paired group bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "quality"
SUMMARY = "Balanced accuracy of the engine against logistic regression and plain fine-tuning."

EXAMPLE = "example: automl bench quality --data parts=data/parts data/cells.csv --weights-dir weights --budget 4m --splits 3"
#: Data files with such a name are called after their folder.
_PLAIN_NAMES = frozenset({"images", "data", "dataset", "labels", "manifest"})
_TITLES = {
    "engine": "engine",
    "logreg": "logistic regression on frozen features",
    "plain": "plain fine-tuning",
}


def run(argv: Sequence[str]) -> int:
    """Run the missing cells, write the table, print it. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    from automl.errors import InputError

    parser = _parser()
    options = parser.parse_args(argv)
    try:
        specs = _plan(options)
        failed = [] if options.table_only else _run_cells(specs)
        cells = _read(specs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not cells:
        print("error: no cell is there to make a table of", file=sys.stderr)
        return 1
    summary = summarise(cells, resamples=options.resamples)
    text = to_markdown(summary)
    results = Path(options.results)
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{NAME}.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    (results / f"{NAME}.md").write_text(text)
    print(text)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


# --- what is asked for ------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"automl bench {NAME}", description=SUMMARY, epilog=EXAMPLE)
    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="[NAME=]PATH", help="image folders, tables or npz files")
    add("--column", action="append", default=[], metavar="[NAME:]ROLE=COLUMN",
        help="column of a table, for all datasets or the named one; ROLE is path, label, split or group; "
        "an empty COLUMN ignores the role; repeatable")  # fmt: skip
    add("--weights-dir", action="append", default=[], help="folder of pretrained models; repeatable")
    add("--backbone", action="append", default=[], help="only these pretrained models; repeatable")
    add("--budget", default="4m", help="wall-clock time of the engine, and of plain fine-tuning (default 4m)")
    add("--splits", type=int, default=3, help="number of splits; their seeds are 0, 1, … (default 3)")
    add(
        "--methods", default=",".join(_TITLES), help=f"comma-separated, of {', '.join(_TITLES)} (default all)"
    )
    add("--out", default="benchmarks/work/quality", help="folder of the cells (default %(default)s)")
    add("--results", default="benchmarks/results", help="folder of the table (default %(default)s)")
    add("--resamples", type=int, default=2000, help="of the bootstrap (default 2000)")
    add("--table-only", action="store_true", help="run nothing; make the table of what is there")
    return parser


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One spec per cell, in the order of running."""
    from automl.errors import InputError, did_you_mean
    from automl.task import Budget

    budget = Budget.parse(options.budget).seconds
    if options.splits < 1:
        raise InputError(f"--splits is {options.splits}; it is at least 1")
    if options.resamples < 100:
        raise InputError(f"--resamples is {options.resamples}; it is at least 100")
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    for name in methods:
        if name not in _TITLES:
            raise InputError(f"unknown method '{name}'{did_you_mean(name, _TITLES)}")
    for folder in options.weights_dir:
        if not Path(folder).is_dir():
            raise InputError(f"weights folder '{folder}' does not exist or is not a folder")
    sources = _sources(options.data)
    columns = _columns(options.column, list(sources))
    out = Path(options.out).resolve()
    specs = []
    for name, source in sources.items():
        settings = {"budget": budget, "backbones": options.backbone, "columns": columns[name]}
        for split in range(options.splits):
            for method in methods:
                cell = f"{name}-{split}-{method}"
                specs.append(
                    {
                        "dataset": name, "split": split, "method": method, "settings": settings,
                        "source": str(source), "shared": str(out), "work": str(out / "work" / cell),
                        "weights_dirs": [str(Path(folder).resolve()) for folder in options.weights_dir],
                        "target": str(out / "cells" / f"{cell}.json"),
                    }
                )  # fmt: skip
    return specs


def _sources(texts: Sequence[str]) -> dict[str, Path]:
    from automl.errors import InputError

    found: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not equals or os.path.exists(text):
            name, rest = "", text
        path = Path(rest).expanduser().resolve()
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

    chosen: dict[str, dict[str, str]] = {name: {} for name in names}
    for text in texts:
        role, equals, column = text.partition("=")
        dataset, colon, role = role.rpartition(":")
        if not equals:
            raise InputError(f"--column '{text}' has not the form [NAME:]ROLE=COLUMN")
        if colon and dataset not in chosen:
            raise InputError(f"--column '{text}': no dataset '{dataset}'{did_you_mean(dataset, names)}")
        for name in [dataset] if colon else names:
            chosen[name][role] = column
    return chosen


# --- cells ------------------------------------------------------------------------------------------


def _run_cells(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Run what is missing, one process after the other; return one line per failure."""
    from automl.errors import InputError

    _read(specs)  # cells of other settings are refused before anything runs
    failed = []
    for number, spec in enumerate(specs, 1):
        label = f"[{number}/{len(specs)}] {spec['dataset']}, split {spec['split']}, {spec['method']}"
        if Path(spec["target"]).exists():
            print(f"{label}: is there", file=sys.stderr)
            continue
        print(f"{label} …", file=sys.stderr, flush=True)
        work, shared = Path(spec["work"]), Path(spec["shared"])
        for folder in (work, Path(spec["target"]).parent):
            folder.mkdir(parents=True, exist_ok=True)
        # The engine starts without a history, a cache or decoded images, as on a new machine.
        alone = spec["method"] == "engine"
        home = work / "home" if alone else shared / "home"
        if alone:
            shutil.rmtree(home, ignore_errors=True)
        (work / "spec.json").write_text(json.dumps(spec))
        environment = {**os.environ, "AUTOML_HOME": str(home)}
        environment.pop("AUTOML_HISTORY", None)
        with open(work / "log.txt", "w", encoding="utf-8") as log:
            code = subprocess.run(
                [sys.executable, "-m", "benchmarks.suites._quality_cell", str(work / "spec.json")],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, check=False,
            ).returncode  # fmt: skip
        if alone:
            shutil.rmtree(home, ignore_errors=True)
        if code == 0:
            cell = json.loads(Path(spec["target"]).read_text())
            print(f"  {_scores(cell)['balanced_accuracy']:.3f} in {cell['seconds']:.0f} s", file=sys.stderr)
            continue
        lines = (work / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = lines[-1] if lines else "it said nothing"
        if code == 2:
            raise InputError(last.removeprefix("error: "))
        failed.append(f"{label}: exit code {code}: {last} (see {work / 'log.txt'})")
        print(f"  failed: {last}", file=sys.stderr)
    return failed


def _read(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells that are there.

    Raises:
        InputError: one was measured with other settings.
    """
    from automl.errors import InputError

    cells = []
    for spec in specs:
        path = Path(spec["target"])
        if not path.exists():
            continue
        cell = json.loads(path.read_text())
        if cell["settings"] != spec["settings"]:
            raise InputError(
                f"{path} was measured with other settings ({json.dumps(cell['settings'])}); "
                "use another --out or remove it"
            )
        cells.append(cell)
    return cells


def _scores(cell: Mapping[str, Any]) -> dict[str, float]:
    import numpy as np
    from sklearn.metrics import f1_score

    from benchmarks.comparison import balanced_accuracy

    labels, predicted = np.array(cell["labels"]), np.array(cell["predicted"])
    return {
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "accuracy": float((labels == predicted).mean()),
        "macro_f1": float(f1_score(labels, predicted, average="macro", labels=np.unique(labels))),
    }


# --- the table --------------------------------------------------------------------------------------


def summarise(cells: Sequence[Mapping[str, Any]], *, resamples: int = 2000) -> dict[str, Any]:
    """Mean scores per dataset and method, and the engine's difference to the better reference with its interval.

    The better reference of a dataset is the one with the higher mean balanced accuracy on the test images,
    a choice in the reference's favour. A dataset's comparison uses the splits that all its methods have.
    """
    from benchmarks.comparison import over_datasets, paired_difference
    from benchmarks.environment import environment

    by_dataset: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        by_dataset[cell["dataset"]][cell["method"]][cell["split"]] = cell
    rows, better_differences = [], []
    for name, methods in by_dataset.items():
        splits = sorted(set.intersection(*(set(found) for found in methods.values())))
        first = next(iter(next(iter(methods.values())).values()))
        row: dict[str, Any] = {
            "dataset": name,
            "images": first["images"],
            "classes": len(first["classes"]),
            "splits": splits,
            "methods": {},
        }
        rows.append(row)
        if not splits:
            continue
        row["test_images"] = [len(next(iter(methods.values()))[s]["labels"]) for s in splits]
        for method, found in methods.items():
            row["methods"][method] = _method_row([found[s] for s in splits])
        references = [m for m in methods if m != "engine"]
        if "engine" not in methods or not references:
            continue
        parts = _test_parts(methods, splits)
        better = max(references, key=lambda m: row["methods"][m]["balanced_accuracy"])
        row["better_reference"] = better
        row["differences"] = {}
        for reference in references:
            difference = paired_difference(parts, "engine", reference, resamples=resamples)
            row["differences"][reference] = _interval(difference)
            if reference == better:
                better_differences.append(difference)
    overall = _interval(over_datasets(better_differences)) if better_differences else None
    return {
        "schema_version": 1,
        "suite": NAME,
        "metric": "balanced_accuracy",
        "budget_seconds": sorted({cell["settings"]["budget"] for cell in cells}),
        "resamples": resamples,
        "datasets": rows,
        "overall": {"engine - better reference": overall, "datasets": len(better_differences)},
        "commits": sorted({str(cell["environment"]["commit"]) for cell in cells}),
        "environment": environment(),
    }


def _method_row(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    import numpy as np

    scores = [_scores(cell) for cell in cells]
    return {
        **{key: round(float(np.mean([s[key] for s in scores])), 5) for key in scores[0]},
        "by_split": [round(s["balanced_accuracy"], 5) for s in scores],
        "seconds": round(float(np.mean([cell["seconds"] for cell in cells])), 1),
        "details": [cell["details"] for cell in cells],
    }


def _test_parts(methods: Mapping[str, Mapping[int, Mapping[str, Any]]], splits: Sequence[int]) -> list[Any]:
    import numpy as np

    from automl.errors import InputError
    from benchmarks.comparison import ScoredPart

    parts = []
    for split in splits:
        cells = {method: found[split] for method, found in methods.items()}
        first = next(iter(cells.values()))
        for cell in cells.values():
            if any(cell[key] != first[key] for key in ("index", "labels", "groups", "fingerprint")):
                raise InputError(
                    f"the cells of {first['dataset']}, split {split}, are about different images; use another --out"
                )
        parts.append(
            ScoredPart(
                np.array(first["labels"]),
                np.array(first["groups"]),
                {method: np.array(cell["predicted"]) for method, cell in cells.items()},
            )
        )
    return parts


def _interval(difference: Any) -> dict[str, float]:
    return {key: round(getattr(difference, key), 5) for key in ("mean", "low", "high")}


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The table as people read it."""
    from benchmarks.environment import describe

    rows = summary["datasets"]
    methods = [m for m in _TITLES if any(m in row["methods"] for row in rows)]
    head = ["dataset", "classes", "test images", *methods, "better reference", "engine − better [95 %]"]
    lines = [
        "# Quality",
        "",
        "Balanced accuracy on test images, mean over splits.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---' for _ in head)}|",
    ]
    for row in rows:
        scores = [
            f"{row['methods'][m]['balanced_accuracy']:.3f}" if m in row["methods"] else "" for m in methods
        ]
        better = row.get("better_reference", "")
        gap = _signed(row["differences"][better]) if better else ""
        tests = " + ".join(str(n) for n in row.get("test_images", []))
        lines.append(f"| {' | '.join([row['dataset'], str(row['classes']), tests, *scores, better, gap])} |")
    overall = summary["overall"]["engine - better reference"]
    if overall is not None:
        blank = [""] * (len(methods) + 3)
        lines.append(f"| {' | '.join(['**mean**', *blank, f'**{_signed(overall)}**'])} |")
    budget = " and ".join(f"{seconds:g} s" for seconds in summary["budget_seconds"])
    lines += [
        "",
        f"Time of the engine and of plain fine-tuning: {budget}. "
        + " ".join(f"*{m}*: {_TITLES[m]}." for m in methods if _TITLES[m] != m),
        "Seconds that a run took (mean): "
        + "; ".join(
            f"{row['dataset']} " + ", ".join(f"{m} {v['seconds']:.0f}" for m, v in row["methods"].items())
            for row in rows
        )
        + ".",
        f"Intervals: paired bootstrap over groups, {summary['resamples']} resamples; "
        "the mean's is about these datasets.",
        f"Cells of commits {', '.join(summary['commits'])}. {describe(summary['environment'])}.",
        "",
    ]
    return "\n".join(lines)


def _signed(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
