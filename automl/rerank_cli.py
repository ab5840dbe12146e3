"""``automl rerank``: the nightly job, and how good the ranker is on tasks that it has not seen."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from automl.errors import InputError, did_you_mean

#: Times of a replay that are shown; all of them are in the JSON.
_SHOWN = 5

app = typer.Typer()


@app.callback(invoke_without_command=True, epilog="Example: automl rerank --json")
def nightly(
    context: typer.Context,
    history: Annotated[
        str | None, typer.Option("--history", envvar="AUTOML_HISTORY", help="database URL of the history")
    ] = None,
    seeds: Annotated[int, typer.Option(help="how often everything is judged", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")] = False,
) -> None:
    """Learn from the history and publish a new ranker if it is better than the one in use; made for every night.

    A submit that runs meanwhile is not disturbed. What was published can be taken back with 'automl pool rollback'.
    """
    if context.invoked_subcommand is not None:
        return
    from automl.home import home_folder
    from automl.published import versions
    from strategy_pool.features import LANDMARK_METHOD
    from strategy_pool.history import History, default_url
    from strategy_pool.rerank import Decision, rerank
    from strategy_pool.shipped import with_shipped
    from strategy_pool.strategy import load_catalog
    from strategy_pool.versions import Busy

    known = versions()
    try:
        with known.lock(), History(history or default_url(home_folder())) as store:
            catalog = load_catalog()
            first = [name for name, recipe in catalog.items() if recipe.method == LANDMARK_METHOD]
            trials, tasks = with_shipped(store.ranking_trials(first), store.tasks())
            decision = rerank(trials, tasks, catalog, known, seeds=seeds, progress=_progress)
    except Busy as busy:
        decision = Decision(False, known.in_use, f"{busy}; nothing was done")
    if decision.evaluation is not None:
        print(render(decision.evaluation))
    print(decision.reason)
    if as_json:
        print(json.dumps(decision.to_dict()))


@app.command(epilog="Example: automl rerank evaluate --table trials.parquet --seeds 5 --json")
def evaluate(
    table: Annotated[str, typer.Option(help="trial table, .parquet or .csv")],
    curves: Annotated[
        str | None, typer.Option(help="learning curves of its trials, for the regret over time")
    ] = None,
    by: Annotated[str, typer.Option(help="what is left out together: task or group")] = "task",
    past: Annotated[int | None, typer.Option(help="learn from so many tasks, drawn at random", min=1)] = None,
    draws: Annotated[int, typer.Option(help="how often they are drawn", min=1)] = 20,
    seeds: Annotated[int, typer.Option(help="how often everything is done", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on the last line")] = False,
) -> None:
    """Judge the ranker and three baselines on tasks that were left out of what they learned from."""
    from strategy_pool.evaluation import METHODS, folds
    from strategy_pool.evaluation import evaluate as judge
    from strategy_pool.replay import courses, read_curves
    from strategy_pool.trial_table import TableError, read_trial_table

    if by not in ("task", "group"):
        raise InputError(f"--by is '{by}'{did_you_mean(by, ('task', 'group'))}")
    try:
        trials = read_trial_table(table)
        plan = folds(trials, by, seeds=seeds, past=past, draws=draws)
        epochs = read_curves(curves) if curves else None
    except TableError as error:
        raise InputError(str(error)) from None
    for note in trials.notes:
        print(note, file=sys.stderr)
    timed = courses(trials, epochs) if epochs is not None or trials.has_seconds else None
    found = judge(trials, METHODS, plan, by=by, seeds=seeds, courses=timed, progress=_progress)
    result = found.to_dict()
    print(render(result))
    if as_json:
        print(json.dumps(result))


def _progress(done: int, count: int) -> None:
    end = "\n" if done == count else ""
    if sys.stderr.isatty() or end:
        print(f"\rfold {done} of {count}", end=end, file=sys.stderr, flush=True)


def render(result: dict[str, Any]) -> str:
    """The figures as two tables of text."""
    from strategy_pool.ranking_metrics import METRICS

    width = max(len(name) for name in [*result["methods"], *result["paired"]])
    head = f"{result['tasks']} tasks, left out by {result['by']}, {result['seeds']} seeds; mean ± standard error over tasks"
    lines = [head, " " * width + "".join(f"{name:>18s}" for name in METRICS)]
    for method, figures in result["methods"].items():
        cells = [
            f"{f['mean']:.3f}" + ("" if f["se"] is None else f" ± {f['se']:.3f}") for f in figures.values()
        ]
        lines.append(f"{method:{width}s}" + "".join(f"{cell:>18s}" for cell in cells))
    lines.append("paired differences with 95 % intervals of a bootstrap over tasks")
    for pair, figures in result["paired"].items():
        cells = [f"{f['mean']:+.3f} [{f['low']:+.3f}, {f['high']:+.3f}]" for f in figures.values()]
        lines.append(f"{pair:{width}s}  " + "  ".join(cells))
    if "replay" in result:
        lines += _replay_lines(result["replay"], width)
    return "\n".join(lines)


def _replay_lines(replay: dict[str, Any], width: int) -> list[str]:
    """Regret of each method at a few of the times, one worker."""
    from automl import wording

    times = [point["seconds"] for point in next(iter(replay.values()))]
    shown = sorted({round(part * (len(times) - 1) / (_SHOWN - 1)) for part in range(_SHOWN)})
    lines = ["regret over time, one worker, trial after trial in the method's order"]
    lines.append(" " * width + "".join(f"{wording.duration(times[at]):>18s}" for at in shown))
    for method, points in replay.items():
        cells = [
            f"{points[at]['regret']:.3f}" + ("" if points[at]["se"] is None else f" ± {points[at]['se']:.3f}")
            for at in shown
        ]
        lines.append(f"{method:{width}s}" + "".join(f"{cell:>18s}" for cell in cells))
    return lines
