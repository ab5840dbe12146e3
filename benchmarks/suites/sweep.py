"""Sweep: the same candidates on many datasets, and what a ranker learns from them for one that it has not seen.

Every dataset is one cell. The trials become ``sweep.parquet``, a trial table that ``automl rerank evaluate --table``
reads as well.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, Suite, check_at_least, make_parser, make_spec, run_suite, sources

NAME = "sweep"
SUMMARY = "Many candidates on many datasets: a trial table, and how well rankers do on a dataset left out."

EXAMPLE = "automl bench sweep --data parts=data/parts data/cells.csv --weights-dir weights --candidates 60"
_TITLES = {
    "ranker": "the ranker",
    "history_average": "mean normalised score of a candidate on the other datasets",
    "lightgbm_regression": "LightGBM regression",
    "catalog": "the catalog's own order",
    "prior": "what orders the pool before a ranker is published: the history average, shrunk towards the catalog's order",
    "random": "random order",
}


def run(argv: Sequence[str]) -> int:
    """Run what is missing, write and print the table. Exit codes: 0 all there, 1 a cell failed, 2 wrong input."""
    suite = Suite(
        name=NAME,
        module="benchmarks.suites._sweep_cell",
        parser=_parser(),
        plan=_plan,
        told=lambda cell: f"{len(cell['trials'])} trials",
        summarise=summarise,
        to_markdown=to_markdown,
    )
    return run_suite(suite, argv)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(NAME, SUMMARY, EXAMPLE, budget="60s")
    add = parser.add_argument
    add("--candidates", type=int, default=60, help="on each dataset (default %(default)s)")
    add("--seed", type=int, default=0, help="of splits and trials (default %(default)s)")
    add("--ship", metavar="FILE", help="also write the trials as the history that the package carries")
    add("--seeds", type=int, default=5, help="of the rankers that are judged (default %(default)s)")
    return parser


def _plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    check_at_least(options, candidates=2, seed=0, seeds=1)
    return [
        make_spec(
            options,
            source,
            {},
            label=source.name,
            alone=False,
            candidates=options.candidates,
            seed=options.seed,
        )
        | {"runs": options.candidates}
        for source in sources(options)
    ]


def trial_frames(cells: Sequence[Cell]) -> tuple[Any, Any]:
    """Trials and tasks of the cells, as the history gives them; tasks are named after their dataset."""
    import pandas as pd

    trials, tasks = [], []
    for cell in cells:
        name = cell["dataset"]
        told = {part: json.dumps(cell["task"][part]) for part in ("features", "sketch")}
        tasks.append({"task_id": name, **told})
        trials += [{**trial, "task_id": name} for trial in cell["trials"]]
    return pd.DataFrame(trials), pd.DataFrame(tasks)


def summarise(cells: Sequence[Cell], options: argparse.Namespace) -> dict[str, Any]:
    """Figures of each dataset, and of each ranker on datasets left out; writes ``sweep.parquet``."""
    from benchmarks.environment import environment
    from strategy_pool.baselines import CatalogOrder
    from strategy_pool.evaluation import METHODS, evaluate, folds
    from strategy_pool.features import history_table
    from strategy_pool.prior import Prior
    from strategy_pool.replay import courses
    from strategy_pool.strategy import load_catalog

    catalog = load_catalog()
    table = history_table(*trial_frames(cells), catalog)
    Path(options.results).mkdir(parents=True, exist_ok=True)
    table.frame.drop(columns=["value", "overrides"]).to_parquet(Path(options.results) / f"{NAME}.parquet")
    if options.ship:
        ship(cells, Path(options.ship))
    judged = None
    if len(set(table.told().groups().values())) > 1:
        methods = {**METHODS, "catalog": lambda: CatalogOrder(catalog), "prior": lambda: Prior(catalog)}
        plan = folds(table, "group", seeds=options.seeds)
        judged = evaluate(
            table, methods, plan, by="group", seeds=options.seeds, courses=courses(table)
        ).to_dict()
    return {
        "schema_version": 1,
        "suite": NAME,
        "datasets": [_figures(cell) for cell in cells],
        "judged": judged,
        "settings": {"budget": cells[0]["settings"]["budget"], "seed": options.seed},
        "commits": sorted({str(cell["environment"]["commit"]) for cell in cells}),
        "environment": environment(),
    }


def ship(cells: Sequence[Cell], file: Path) -> None:
    """Write the trials as the history that the package carries (:mod:`strategy_pool.shipped`)."""
    from strategy_pool.history import History

    with History("sqlite://") as history:
        for cell in cells:
            name = cell["dataset"]
            created = min(trial["created"] for trial in cell["trials"])
            history.add_task(name, {**cell["task"], "created": created})
            for trial in cell["trials"]:
                told = {**trial, "task_id": name, "uid": f"sweep/{name}/{trial['trial_id']}"}
                for part in ("overrides", "metrics"):
                    told[part] = json.loads(told[part] or "{}")
                history.add_trial(told)
        history.export(file)


def _figures(cell: Cell) -> dict[str, Any]:
    import numpy as np

    trials = cell["trials"]
    scored = [t for t in trials if t["score"] is not None]
    best = max(scored, key=lambda t: t["score"])
    return {
        "dataset": cell["dataset"],
        "images": cell["task"]["features"]["images"],
        "classes": cell["task"]["features"]["classes"],
        "trials": len(trials),
        "failed": sum(t["status"] == "failed" for t in trials),
        "seconds": cell["seconds"],
        "median": float(np.median([t["score"] for t in scored])),
        "best": best["score"],
        "best_candidate": best["candidate"],
    }


def to_markdown(summary: Mapping[str, Any]) -> str:
    """The tables as people read them."""
    from benchmarks.environment import describe
    from benchmarks.tables import table

    rows = [
        [
            row["dataset"], f"{row['images']:.0f}", f"{row['classes']:.0f}", str(row["trials"]), str(row["failed"]),
            f"{row['seconds'] / 3600:.2f}", f"{row['median']:.3f}", f"{row['best']:.3f}", row["best_candidate"],
        ]
        for row in summary["datasets"]
    ]  # fmt: skip
    head = ["dataset", "images", "classes", "trials", "failed", "hours", "median score", "best", "of"]
    lines = [
        "# Sweep",
        "",
        *table(head, rows),
        "",
        f"Each trial had {summary['settings']['budget']:g} s; scores are on validation images, seed "
        f"{summary['settings']['seed']}. Logistic regressions on frozen features, the first trials of every submit, are "
        "not ranked; what they found is among the features of the others.",
    ]
    if summary["judged"]:
        lines += ["", *_judged_lines(summary["judged"])]
    commits = ", ".join(summary["commits"])
    return "\n".join([*lines, "", f"Cells of commits {commits}. {describe(summary['environment'])}.", ""])


def _judged_lines(judged: Mapping[str, Any]) -> list[str]:
    from benchmarks.tables import table
    from strategy_pool.ranking_metrics import METRICS

    def cell(figure: Mapping[str, Any]) -> str:
        return f"{figure['mean']:.3f}" + ("" if figure["se"] is None else f" ± {figure['se']:.3f}")

    def gap(figure: Mapping[str, Any]) -> str:
        return f"{figure['mean']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"

    methods = [
        [name, *(cell(judged["methods"][name][m]) for m in METRICS)]
        for name in _TITLES
        if name in judged["methods"]
    ]
    pairs = [[pair, *(gap(figures[m]) for m in METRICS)] for pair, figures in judged["paired"].items()]
    return [
        f"Each of {judged['tasks']} datasets left out in turn, {judged['seeds']} seeds; mean ± standard error over "
        "datasets, differences with 95 % intervals of a bootstrap over datasets:",
        "",
        *table(["order", *METRICS], methods),
        "",
        *table(["difference", *METRICS], pairs),
        "",
        " ".join(f"*{name}*: {title}." for name, title in _TITLES.items() if name in judged["methods"]),
    ]


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
