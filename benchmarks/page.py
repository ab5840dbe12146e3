"""A benchmark suite as one HTML page that needs nothing else."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from automl import wording
from automl.report._svg import escape
from automl.wording import known, plural, share
from benchmarks import plots
from benchmarks.standings import (
    Run,
    anytime,
    incumbents,
    mean_scores,
    pareto,
    ranks,
    records,
    times_to_reference,
)
from benchmarks.tables import ENGINE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RUNS", "TRIALS", "page", "ranks", "times_to_reference"]

#: Columns of the runs and of the trials.
RUNS = (
    "task", "method", "seed", "budget", "seconds", "trained", "status", "score", "low", "high", "n_test", "limits", "broken",
    "latency_ms", "size_mb", "macs_m", "first_seconds", "curve",
)  # fmt: skip
TRIALS = ("task", "method", "seed", "candidate", "status", "score", "began", "ended")


def page(title: str, runs: pd.DataFrame, trials: pd.DataFrame, note: str) -> str:
    """The page of a suite: one HTML text that loads nothing and has no script.

    Args:
        title: heading.
        runs: one row per finished run, with the columns :data:`RUNS`. ``score`` is the balanced accuracy on
            ``n_test`` test images (NaN where the run failed) with its 95 % interval ``low``, ``high``; ``status``
            is ``ok``, ``infeasible``, ``unchecked`` or ``failed``; ``limits`` a JSON list of expressions such as
            ``latency_ms<=5``; ``broken`` the limits that the file breaks when it is measured again (-1: it was
            not); ``trained`` the seconds after which its last model was trained; ``curve`` a JSON list of [seconds, validation score, test score] of the incumbents.
        trials: one row per trial, with the columns :data:`TRIALS`.
        note: text under the heading; an empty line begins a new paragraph.

    Raises:
        ValueError: rows without one of these columns.
    """
    for frame, columns, name in ((runs, RUNS, "runs"), (trials, TRIALS, "trials")):
        missing = [c for c in columns if c not in frame.columns]
        if len(frame) and missing:
            raise ValueError(f"the {name} have no column {missing[0]!r}; they need {', '.join(columns)}")
    found = records(runs)
    methods = sorted({run["method"] for run in found}, key=lambda m: (m != ENGINE, m))
    colours = {method: at for at, method in enumerate(methods)}
    sections = [
        ("scores", "Scores", _scores(runs, colours)),
        ("ranks", "Average ranks", _average_ranks(runs, colours)),
        ("anytime", "Score over time", _anytime(found, colours)),
        ("reference", "Time to a reference", _reference(runs, colours)),
        ("costs", "Score, latency and size", _costs(found, colours)),
        ("limits", "Limits", _limits(found, colours)),
        ("effort", "Time spent", _effort(found, records(trials), colours)),
    ]
    body = "".join(f'<section id="{k}"><h2>{escape(head)}</h2>{text}</section>' for k, head, text in sections)
    links = "".join(f'<a href="#{k}">{escape(head)}</a>' for k, head, _ in sections)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{plots.STYLE}{plots.palette(len(methods))}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1>{_head(found, note)}<nav>{links}</nav></header>{body}"
        "<footer>This file holds everything it shows and loads nothing from anywhere. A pointer that rests on a mark "
        "shows its values.</footer></main></body></html>\n"
    )


def _head(runs: Sequence[Run], note: str) -> str:
    paragraphs = "".join(f"<p>{escape(part)}</p>" for part in note.split("\n\n") if part.strip())
    tasks = {run["task"] for run in runs}
    counts = (len(runs), "run"), (len(tasks), "task"), (len({run["method"] for run in runs}), "method")
    text = f'<p class="muted">{", ".join(plural(n, word) for n, word in counts)}</p>{paragraphs}'
    budgets = {task: {run["budget"] for run in runs if run["task"] == task} for task in tasks}
    mixed = sorted(task for task, found in budgets.items() if len(found) > 1)
    if mixed:
        text += (
            f'<p class="warning">The budgets differ within a task ({escape(", ".join(mixed))}), and the page averages '
            "over them.</p>"
        )
    return text


def _empty(text: str) -> str:
    return f'<p class="empty">{escape(text)}</p>'


def _method(name: str, colours: Mapping[str, int]) -> str:
    return f"{plots.symbol(colours[name])}{escape(name)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "plain") -> str:
    """A table that scrolls sideways; all is HTML, and a cell that begins with ``<td`` stands as it is."""
    head = "".join(f'<th scope="col">{h}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _small(text: str, kind: str = "") -> str:
    return f'<span class="small {kind}">{escape(text)}</span>'


def _scores(frame: pd.DataFrame, colours: Mapping[str, int]) -> str:
    runs, means, rows = records(frame), mean_scores(frame), []
    if not runs:
        return _empty("No run is finished, so there are no scores.")
    for task, found in means.items():
        tested = sorted({int(run["n_test"]) for run in runs if run["task"] == task and known(run["n_test"])})
        images = "–".join(f"{n:,}" for n in dict.fromkeys((tested[0], tested[-1]))) if tested else "unknown"
        cells = [f"{escape(task)}{_small(f'test images: {images}')}"]
        for method in colours:
            own = [run for run in runs if run["task"] == task and run["method"] == method]
            cells.append(_score_cell(own, found.get(method), max(found.values())))
        rows.append(cells)
    missing = sum(len(colours) - len(found) for found in means.values())
    text = (
        "<p>Each cell is the mean balanced accuracy on the test images over the seeds; higher is better, and the best of "
        "a row is shaded and has a star. A run without a score counts as 0, for it left no model. Below the mean stand "
        "the lowest and the highest seed or, of a single run, its 95 % interval, and how many files break a limit.</p>"
    )
    if missing:
        text += f"<p>{escape(plural(missing, 'cell'))} without a run: “no run”.</p>"
    return text + _table(["Task", *(_method(m, colours) for m in colours)], rows, "scores")


def _score_cell(own: Sequence[Run], mean: float | None, best: float) -> str:
    if mean is None:
        return '<td class="cell muted">no run</td>'
    scored = [run for run in own if known(run["score"])]
    notes = []
    if len(own) > 1 and scored:
        ends = sorted(run["score"] for run in scored)
        text = share(ends[0]) if ends[0] == ends[-1] else f"{share(ends[0])[:-2]}–{share(ends[-1])}"
        notes.append(_small(f"{text}, {plural(len(scored), 'seed')}"))
    elif scored and known(scored[0]["low"]) and known(scored[0]["high"]):
        notes.append(_small(f"95 %: {share(scored[0]['low'])[:-2]}–{share(scored[0]['high'])}"))
    if 0 < len(scored) < len(own):
        notes.append(_small(f"{len(own) - len(scored)} of {len(own)} no score", "bad"))
    over = sum(not _keeps(run) for run in scored)
    if over:
        notes.append(_small(f"{over} of {len(own)} over a limit", "bad"))
    if not scored:
        return '<td class="cell bad">failed</td>'
    if mean == best:
        return f'<td class="best"><b>★ {share(mean)}</b>{"".join(notes)}</td>'
    return f'<td class="cell">{share(mean)}{"".join(notes)}</td>'


def _keeps(run: Run) -> bool:
    """Whether nothing is known of a limit that the file breaks: by its method, by its costs, or measured again."""
    costs = [
        (run[metric], operator, amount)
        for metric, operator, amount in _limits_of(run)
        if metric in ("latency_ms", "size_mb", "macs_m") and known(run[metric])
    ]
    over = any(cost > amount if operator == "<=" else cost < amount for cost, operator, amount in costs)
    return (
        run["status"] in ("ok", "unchecked") and not over and not (known(run["broken"]) and run["broken"] > 0)
    )


def _average_ranks(runs: pd.DataFrame, colours: Mapping[str, int]) -> str:
    found = ranks(runs)
    if len(found["methods"]) < 2:
        return _empty("There are not two methods, so there is nothing to rank.")
    left_out = (
        f"<p>Left out, because a method has no run there: {escape(', '.join(found['left_out']))}.</p>"
        if found["left_out"]
        else ""
    )
    if not found["tasks"]:
        return _empty("No task was run by all methods, so there are no ranks.") + left_out
    order = sorted(found["average"], key=lambda m: (found["average"][m], m))
    text = (
        f"<p>On each of {escape(plural(len(found['tasks']), 'task'))} the best method has rank 1, and equal scores share "
        "their ranks; the marks are the averages over the tasks, lower is better. Limits play no part in it. Tasks of the "
        f"same pictures are averaged first, which leaves {escape(plural(len(found['data']), 'data set'))}; the bars are 95 % "
        "intervals of a bootstrap that draws those with replacement.</p>"
    )
    intervals = {m: (found["low"][m], found["high"][m]) for m in order}
    figures = plots.strip(
        "average rank", {m: [found["average"][m]] for m in order}, colours, intervals=intervals
    )
    critical, more = found["critical_difference"], ""
    if critical is None:
        more = _empty("A critical difference needs at least two data sets.")
    else:
        more = (
            "<p>In the diagram with the scale on top, methods that a thick bar joins lie less than the critical difference "
            f"of {critical:.2f} ranks apart, so that the Nemenyi test at 5 % does not tell them apart. The test of Friedman "
            f"that the methods are all alike has p = {wording.number(found['p'], 2)}; above 0.05 no two should be called different."
            "</p>"
        )
        figures += plots.differences(found["average"], critical, found["groups"], colours)
    rows = [
        [
            _method(m, colours),
            f"{found['average'][m]:.2f}",
            f"{found['low'][m]:.2f}–{found['high'][m]:.2f}",
        ]
        for m in order
    ]
    table = _table(["Method", "Average rank", "95 % interval"], rows)
    return f'{text}{left_out}{more}<div class="panels">{figures}</div>{table}'


def _anytime(runs: Sequence[Run], colours: Mapping[str, int]) -> str:
    panels, without = [], []
    for task in sorted({run["task"] for run in runs}):
        curves = {}
        for method in colours:
            own = [incumbents(run) for run in runs if run["task"] == task and run["method"] == method]
            if found := anytime(own):
                curves[method] = found
        if curves:
            panels.append(plots.anytime(task, curves, colours))
        else:
            without.append(task)
    if not panels:
        return _empty("No run says how its test score developed, so there are no curves.")
    text = (
        "<p>Each line is the median over the seeds of the test score that a method would deliver if it were stopped then; "
        "higher and further to the left is better. The band goes from the lowest to the highest seed that has a model, and "
        "the sign at the end is the delivered file. A line begins where more than half of the runs have a model.</p>"
    )
    if without:
        text += f"<p>No test score over time is known for: {escape(', '.join(without))}.</p>"
    return text + plots.legend(colours) + f'<div class="panels">{"".join(panels)}</div>'


def _reference(runs: pd.DataFrame, colours: Mapping[str, int]) -> str:
    if ENGINE not in colours:
        return _empty(f"There is no run of a method called {ENGINE}, so nothing is timed.")
    found = times_to_reference(runs)
    if not any(row["pairs"] for row in found.values()):
        return _empty(
            f"No scored run of another method shares its task and seed with one of {ENGINE}, so nothing is timed."
        )
    rows = []
    for method, row in found.items():
        shares = [s for _, _, s in row["shares"] if s is not None]
        middle, low, high = (
            f"{100 * row[key]:.0f} %" if row[key] is not None else "never"
            for key in ("median", "low", "high")
        )
        rows.append(
            [
                _method(method, colours),
                f"{middle} ({low} to {high})" if row["pairs"] else "–",
                f"{100 * min(shares):.0f}–{100 * max(shares):.0f} %" if shares else "–",
                f"{row['never']} of {row['pairs']}",
                str(row["unscored"]),
                str(row["unpaired"]),
            ]
        )
    heads = [
        "Method",
        "Median share of its time (95 %)",
        "Lowest and highest, where reached",
        "Never reached",
    ]
    heads += ["Without a score to reach", f"Without a run of {ENGINE}"]
    text = (
        f"<p>How much of a method's time {ENGINE} needed until it had that method's final test score for good, on the same "
        "task with the same seed: below 100 % it was there earlier. Both times go from the start of a run to the end of the "
        "training after which the score never fell below it again. Pairs in which it was never reached count as infinitely "
        "long, so that “never” stands where they are half or more. For the interval data sets are drawn.</p>"
    )
    return text + _table(heads, rows)


def _limits_of(run: Run) -> list[tuple[str, str, float]]:
    """Metric, operator and value of each limit that can be read."""
    text, out = run["limits"], []
    for expression in json.loads(text) if isinstance(text, str) and text else []:
        metric, operator = wording.split_expression(str(expression))
        try:
            amount = float(str(expression).rpartition("=")[2])
        except ValueError:
            continue
        if operator and math.isfinite(amount):
            out.append((metric, operator, amount))
    return out


def _cost_points(runs: Sequence[Run], metric: str) -> list[dict[str, Any]]:
    points = []
    for run in runs:
        if not known(run["score"]) or not known(run[metric]):
            continue
        facts = [f"{run['method']}, seed {run['seed']}: {share(run['score'])}"]
        facts += [wording.value(key, run[key]) for key in ("latency_ms", "size_mb") if known(run[key])]
        facts += [f"{wording.value('macs_m', run['macs_m'])} multiply-adds"] if known(run["macs_m"]) else []
        facts += [] if _keeps(run) else ["over a limit"]
        ends = {key: float(run[key]) if known(run[key]) else None for key in ("low", "high")}
        seen = {"cost": float(run[metric]), "score": float(run["score"]), "method": run["method"]}
        points.append({**seen, **ends, "keeps": _keeps(run), "tip": ", ".join(facts)})
    return points


def _costs(runs: Sequence[Run], colours: Mapping[str, int]) -> str:
    parts, seen = [], 0
    for task in sorted({run["task"] for run in runs}):
        own = [run for run in runs if run["task"] == task]
        found = sorted({limit for run in own for limit in _limits_of(run)})
        panels = []
        for metric, axis in (("latency_ms", "latency of an image, ms"), ("size_mb", "file size, MB")):
            points = _cost_points(own, metric)
            if not points:
                panels.append(
                    _empty(f"{task}: no file has both a score and a known {wording.title(metric)}.")
                )
                continue
            limits = [
                (
                    amount,
                    f"{'≤' if operator == '<=' else '≥'} {wording.limit_value(name, amount)}",
                    name == metric,
                )
                for name, operator, amount in found
                if name in (metric, "balanced_accuracy")
            ]
            front = pareto([(p["cost"], p["score"]) for p in points if p["keeps"]])
            panels.append(plots.costs(task, axis, points, front, limits, colours))
            seen += 1
        parts.append(f'<h3>{escape(task)}</h3><div class="panels">{"".join(panels)}</div>')
    if not seen:
        return _empty("No file has both a score and a known latency or size.")
    text = (
        "<p>Each mark is the file of one run with the 95 % interval of its score; higher and further to the left is better. "
        "The dotted line is the best score for its cost (the Pareto front) among the files that keep their limits; "
        "hollow marks are files that do not. Dashed lines are the limits.</p>"
    )
    return text + plots.legend(colours) + "".join(parts)


def _limits(runs: Sequence[Run], colours: Mapping[str, int]) -> str:
    if not runs:
        return _empty("No run is finished, so nothing is known of limits.")
    rows, again = [], 0
    for method in colours:
        own = [run for run in runs if run["method"] == method]
        states = Counter(str(run["status"]) for run in own)
        measured = [int(run["broken"]) for run in own if known(run["broken"]) and run["broken"] >= 0]
        again += len(measured)
        limited = sum(bool(_limits_of(run)) for run in own)
        counts = [len(own), limited]
        counts += [states[state] for state in ("ok", "infeasible", "unchecked", "failed")] + [len(measured)]
        broke = sum(n > 0 for n in measured)
        rows.append(
            [
                _method(method, colours),
                *(str(n) for n in counts),
                (f'<b class="bad">{broke}</b>' if broke else "0") if measured else "–",
            ]
        )
    heads = [
        "Method",
        "Runs",
        "With limits",
        "Ok",
        "Infeasible",
        "Unchecked",
        "Failed",
        "Files measured again",
    ]
    heads.append("Of these broke a limit")
    text = (
        "<p>“Ok” counts the runs whose method says that its file keeps all limits, “infeasible” those in which it says that no "
        "file did, “unchecked” those of methods that know no limits and leave no file that could be measured. The last two columns are files that were measured again afterwards, and those of them that broke at least "
        "one limit then.</p>"
    )
    if not again:
        text += _empty("No file was measured again.")
    return text + _table(heads, rows)


def _effort(runs: Sequence[Run], trials: Sequence[Run], colours: Mapping[str, int]) -> str:
    if not runs:
        return _empty("No run is finished, so no time was spent.")
    counts = Counter((trial["task"], trial["method"], trial["seed"]) for trial in trials)
    rows, parts = [], {}
    for method in colours:
        own = [run for run in runs if run["method"] == method]
        spent = [float(run["seconds"]) for run in own if known(run["seconds"])]
        used = [
            100 * run["seconds"] / run["budget"]
            for run in own
            if known(run["seconds"]) and known(run["budget"]) and run["budget"] > 0
        ]
        first = [float(run["first_seconds"]) for run in own if known(run["first_seconds"])]
        tried = [counts[run["task"], method, run["seed"]] for run in own]
        if used:
            parts[method] = used
        unknown = f" ({len(own) - len(first)} unknown)" if first and len(first) < len(own) else ""
        rows.append(
            [
                _method(method, colours),
                str(len(own)),
                wording.duration(statistics.median(spent)) if spent else "unknown",
                f"{statistics.median(used):.0f} %" if used else "unknown",
                f"{max(used):.0f} %" if used else "unknown",
                wording.duration(statistics.median(first)) + unknown if first else "unknown",
                f"{statistics.median(tried):g} ({min(tried)}–{max(tried)})" if any(tried) else "none listed",
            ]
        )
    heads = ["Method", "Runs", "Time spent, median", "Share of the budget, median", "Largest share"]
    heads += ["First finished trial, median", "Trials per run, median (fewest–most)"]
    text = "<p>What the runs took. A share over 100 % of the budget is time that a method was not given; each mark of the "
    text += "plot is a run.</p>"
    if not parts:
        return text + _empty("No run has both a known time and a budget.") + _table(heads, rows)
    strip = plots.strip("seconds spent, % of the budget", parts, colours, rule=100.0, zero=True)
    return f'{text}{_table(heads, rows)}<div class="panels">{strip}</div>'
