"""The front table of the README and its picture, from the committed files of a suite: ``python -m benchmarks.front``."""

from __future__ import annotations

import argparse
import bisect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.wording import plural
from benchmarks import plots
from benchmarks.matrix import over, ranked, timed
from benchmarks.standings import incumbents, mean_scores, ranks, records
from benchmarks.tables import ENGINE, budget_text, foot, points, table

if TYPE_CHECKING:
    import pandas as pd

SUITE = "industrial"
#: Between these lines of the README stands what this module writes.
BEGIN, END = "<!-- front table: made by make front -->", "<!-- end of the front table -->"
_RESAMPLES = 2000


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture and the README's part. Exit codes: 0 done, 1 with ``--check`` where it is another, 2 wrong input."""
    options = _parser().parse_args(argv)
    folder, readme = Path(options.results), Path(options.readme)
    files = [folder / f"{options.suite}-runs.parquet", folder / f"{options.suite}.json"]
    missing = [str(path) for path in [*files, readme] if not path.is_file()]
    if missing:
        print(
            f"error: {missing[0]} is not there; automl bench {options.suite} makes the tables",
            file=sys.stderr,
        )
        return 2
    import pandas as pd

    runs, summary = pd.read_parquet(files[0]), json.loads(files[1].read_text(encoding="utf-8"))
    picture = folder / f"{options.suite}-front.svg"
    before = readme.read_text(encoding="utf-8")
    try:
        after = put(before, text(runs, summary, picture.name, options.results))
    except ValueError as error:
        print(f"error: {readme}: {error}", file=sys.stderr)
        return 2
    drawn = draw(runs)
    if options.check:
        same = picture.is_file() and picture.read_text(encoding="utf-8") == drawn and before == after
        print(
            "the front table is that of the files" if same else "the front table is another; run make front"
        )
        return 0 if same else 1
    picture.write_text(drawn, encoding="utf-8")
    readme.write_text(after, encoding="utf-8")
    print(f"wrote {readme} and {picture}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.front", description=__doc__)
    parser.add_argument("--suite", default=SUITE, help="a declared suite (default %(default)s)")
    parser.add_argument("--results", default="benchmarks/results", help="its folder (default %(default)s)")
    parser.add_argument("--readme", default="README.md", help="default %(default)s")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where something would change"
    )
    return parser


def put(readme: str, part: str) -> str:
    """A README with another front table.

    Raises:
        ValueError: it has no place for one.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if len(pattern.findall(readme)) != 1:
        raise ValueError(f"it needs the line '{BEGIN}' and, below, '{END}', once")
    return pattern.sub(lambda _: f"{BEGIN}\n{part}\n{END}", readme)


def text(runs: pd.DataFrame, summary: Mapping[str, Any], picture: str, folder: str) -> str:
    """The table in Markdown, with what it is of, the picture, and where the rest is.

    Args:
        runs: as of :func:`benchmarks.page.page`.
        summary: of the suite.
        picture: name of its file.
        folder: of the results, as the README names it.
    """
    from benchmarks.methods import METHODS

    scores, standing = mean_scores(runs), ranks(runs)
    methods = sorted(standing["methods"], key=lambda m: (standing["average"].get(m, np.inf), m))
    rows = [
        [task, *("" if m not in found else _share(found[m], max(found.values())) for m in methods)]
        for task, found in scores.items()
    ]
    rows.append(["average rank", *(ranked(standing, m) for m in methods)])
    gaps = summary["engine - other"]
    rows.append(["engine − it, points", *(points(gaps[m]) if m in gaps else "" for m in methods)])
    times = summary["times"]
    rows.append(["time of the engine / its time", *(timed(times[m]) if m in times else "" for m in methods)])
    rows.append(["runs over a limit", *(over(summary, m) for m in methods)])
    seeds = sorted({int(seed) for seed in runs["seed"]})
    tested = [int(n) for n in (runs["n_test"].min(), runs["n_test"].max())]
    return "\n".join(
        [
            f"Balanced accuracy in percent on {tested[0]:,} to {tested[1]:,} test images, mean over {plural(len(seeds), 'seed')} "
            f"({', '.join(map(str, seeds))}), {budget_text(summary)} for each run: of the engine and of searchers from reading the "
            "images to the measured file, of others for training alone. Ranks say nothing of limits. Times: median share of the "
            "other method's time after which the engine has that method's final score for good. The 95 % intervals of ranks "
            "and times draw data sets, that of a difference images (paired bootstrap).",
            "",
            *table(["task", *methods], rows),
            "",
            " ".join(f"*{m}*: {METHODS[m].title}." for m in methods if m in METHODS),
            f"{foot(summary)}.",
            "",
            f"![Average ranks of the methods, and their mean score over time]({folder}/{picture})",
            "",
            "Right: the test score that a run would deliver if it were stopped then, mean over tasks and seeds; no model counts as 0. "
            f"The band is the 95 % interval of *{ENGINE}* (tasks are drawn).",
        ]
    )  # fmt: skip


def _share(score: float, best: float) -> str:
    return f"**{100 * score:.1f}**" if score == best else f"{100 * score:.1f}"


def mean_curve(runs: pd.DataFrame, method: str, *, seed: int = 0) -> list[tuple[float, float, float, float]]:
    """Mean test score over time of a method's runs; one that has no model yet counts as 0.

    Args:
        runs: as of :func:`benchmarks.page.page`.
        method: which.
        seed: of the draws.

    Returns:
        (seconds, mean, low, high), with the 95 % interval of a bootstrap over tasks.
    """
    by_task: dict[str, list[list[tuple[float, float]]]] = {}
    for run in records(runs):
        if run["method"] == method:
            by_task.setdefault(run["task"], []).append(incumbents(run))
    times = sorted({s for curves in by_task.values() for curve in curves for s, _ in curve})
    if not times:
        return []

    def at(curve: Sequence[tuple[float, float]], time: float) -> float:
        passed = bisect.bisect_right([s for s, _ in curve], time)
        return curve[passed - 1][1] if passed else 0.0

    scores = np.array(
        [[np.mean([at(curve, time) for curve in curves]) for time in times] for curves in by_task.values()]
    )
    drawn = np.random.default_rng(seed).multinomial(
        len(scores), np.full(len(scores), 1 / len(scores)), _RESAMPLES
    )
    low, high = np.percentile(drawn @ scores / len(scores), [2.5, 97.5], axis=0)
    return [
        (float(time), float(mean), float(lower), float(upper))
        for time, mean, lower, upper in zip(times, scores.mean(axis=0), low, high, strict=True)
    ]


def draw(runs: pd.DataFrame) -> str:
    """Average ranks beside the mean scores over time, as one SVG file; the signs of the left part name those of the right."""
    standing = ranks(runs)
    order = sorted(standing["methods"], key=lambda m: (m != ENGINE, m))
    colours = {method: at for at, method in enumerate(order)}
    figures = []
    if standing["average"]:
        ranked = sorted(standing["average"], key=lambda m: (standing["average"][m], m))
        intervals = {m: (standing["low"][m], standing["high"][m]) for m in ranked}
        figures.append(
            plots.strip(
                "average rank", {m: [standing["average"][m]] for m in ranked}, colours, intervals=intervals
            )
        )
    curves = {m: found for m in order if (found := mean_curve(runs, m))}
    # The intervals of all would hide one another.
    curves = {
        m: found if m == ENGINE else [(time, mean, mean, mean) for time, mean, _, _ in found]
        for m, found in curves.items()
    }
    if curves:
        figures.append(plots.anytime("", curves, colours))
    return plots.standalone(figures, len(order))


if __name__ == "__main__":
    sys.exit(main())
