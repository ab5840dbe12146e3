"""The plots of the report. Each returns HTML whose outer element carries ``data-plot``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from automl import wording
from automl.report._run import Run, Scores, Trial
from automl.report._svg import BLUE, GREEN, GREY, INK, ORANGE, Axis, Plot, escape

#: Classes up to which the confusion matrix has level headings, shows counts, and is drawn at all.
_WIDE, _COUNTED, DRAWN = 6, 12, 40
_MOST_CURVES = 12
_PR_POINTS = 160


def plot(name: str, inner: str, *, kind: str = "panels") -> str:
    """The element a plot is drawn into."""
    return f'<div class="{kind}" data-plot="{name}">{inner}</div>'


def note(name: str, text: str) -> str:
    """What stands in place of a plot that has nothing to show."""
    return f'<div class="empty" data-plot="{name}"><p>{escape(text)}</p></div>'


def panel(drawing: Plot, caption: str = "") -> str:
    """One drawing of several, with an optional heading."""
    head = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{head}{drawing.svg()}</figure>"


def legend(*entries: tuple[str, str, str]) -> str:
    """A row of (mark, colour, text) with mark ``dot``, ``ring``, ``cross``, ``star``, ``line`` or ``dash``."""
    signs = {"dot": "●", "ring": "○", "cross": "✕", "star": "★", "line": "━", "dash": "┅"}
    items = (
        f'<li><span style="color:{colour}" aria-hidden="true">{signs[mark]}</span> {escape(text)}</li>'
        for mark, colour, text in entries
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


# --- accuracy, latency, size ----------------------------------------------------------------------


def scatter(run: Run) -> str:
    """Score over latency and over size, with the Pareto front, the limits, and the exported model."""
    name = "scatter"
    scored = [t for t in run.trials if t.score is not None]
    objective = run.result.objective
    model_score = (run.result.metrics.get("validation", {}).get(objective) or {}).get("value")
    panels = []
    for metric, axis_title, caption in (
        ("latency_ms", "latency per image, ms", "Score and latency"),
        ("size_mb", "file size, MB", "Score and file size"),
    ):
        cost = _cost_of(metric)
        points = [t for t in scored if cost(t) is not None]
        own = run.result.costs.get(metric)
        if not points and own is None:
            continue
        panels.append(_cost_panel(run, metric, axis_title, caption, points, own, model_score))
    if not panels or (not scored and not wording.known(model_score)):
        return note(
            name, "No trial has both a score and a measured cost, so there is nothing to compare here."
        )
    keys = [
        (
            "dot",
            BLUE,
            "a trial that keeps the limits on latency and size" if run.result.constraints else "a trial",
        ),
        ("dash", INK, "best score for its cost (Pareto front)"),
        ("star", GREEN, "the exported model, measured"),
    ]
    if any(not t.feasible for t in scored):
        keys.insert(1, ("cross", GREY, "a trial that breaks one of them"))
    if any(
        row
        for row in run.result.constraints
        if wording.split_expression(row["expression"])[0] in ("latency_ms", "size_mb")
    ):
        keys.append(("dash", ORANGE, "your limit; models in the shaded part are too slow or too large"))
    return plot(name, "".join(panels)) + legend(*keys)


def _cost_of(metric: str) -> Callable[[Trial], float | None]:
    return lambda trial: trial.latency_ms if metric == "latency_ms" else trial.size_mb


def _cost_panel(
    run: Run,
    metric: str,
    axis_title: str,
    caption: str,
    points: Sequence[Trial],
    own: float | None,
    model_score: Any,
) -> str:
    cost = _cost_of(metric)
    limits = [
        (float(row["limit"]), wording.split_expression(row["expression"])[1])
        for row in run.result.constraints
        if wording.split_expression(row["expression"])[0] == metric
    ]
    star = (own, float(model_score)) if own is not None and wording.known(model_score) else None
    xs = (
        [x for t in points if (x := cost(t)) is not None]
        + [v for v, _ in limits]
        + ([star[0]] if star else [])
    )
    ys = [t.score for t in points if t.score is not None] + ([star[1]] if star else [])
    positive = [x for x in xs if x > 0]
    log = len(positive) == len(xs) and bool(xs) and max(xs) / min(xs) > 6
    x_axis = (
        Axis.around(xs, log=log)
        if log or not xs or min(xs) == max(xs)
        else Axis.around([0.0, *xs], zero=True)
    )
    drawing = Plot(
        x_axis,
        Axis.around(ys, percent=True),
        axis_title,
        f"{wording.title(run.result.objective)}, validation",
        f"{caption}: {len(points)} trials",
    )
    for limit, operator in limits:
        drawing.limit_x(limit, operator, f"limit {wording.limit_value(metric, limit)}")
    front = pareto(
        [(x, t.score) for t in points if t.feasible and t.score is not None and (x := cost(t)) is not None]
    )
    steps: list[tuple[float, float]] = []
    for x, y in front:
        if steps:
            steps.append((x, steps[-1][1]))
        steps.append((x, y))
    drawing.line(steps, INK, width=1.3, dash="2 4", opacity=0.8)
    largest = max((t.size_mb for t in points if t.size_mb is not None), default=0.0)
    for trial in sorted(points, key=lambda t: -(t.size_mb or 0.0)):
        x = cost(trial)
        if x is None or trial.score is None:
            continue
        radius = 4.5
        if metric == "latency_ms" and largest > 0 and trial.size_mb is not None:
            radius = 3.5 + 5.5 * (trial.size_mb / largest) ** 0.5
        costs = ("latency_ms", trial.latency_ms), ("size_mb", trial.size_mb)
        parts = [wording.value(kind, amount) for kind, amount in costs if amount is not None]
        tip = f"{trial.candidate}: {', '.join([wording.share(trial.score), *parts])}"
        drawing.dot(
            x,
            trial.score,
            BLUE if trial.feasible else GREY,
            radius=radius,
            tip=tip,
            shape="dot" if trial.feasible else "cross",
        )
    if star:
        drawing.dot(
            *star,
            GREEN,
            radius=11,
            shape="star",
            tip=f"exported model: {wording.share(star[1])}, {wording.value(metric, star[0])}",
        )
    return panel(drawing, caption)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both cost (lower) and score (higher), by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


# --- learning curves ------------------------------------------------------------------------------


def curves(run: Run) -> str:
    """Score after each epoch, over seconds and over epochs; the members of the model stand out."""
    drawn = [t for t in run.trials if len(t.curve) >= 2]
    if not drawn:
        return note("curves", "No trial reported its score more than once, so there is no curve to draw.")
    best = sorted(
        drawn, key=lambda t: (t.trial_id not in run.members, -(t.score if t.score is not None else -1.0))
    )
    bright = {t.trial_id for t in best if t.trial_id in run.members} or {best[0].trial_id}
    shown = [t for t in drawn if t.trial_id in bright or t in best[:_MOST_CURVES] or len(drawn) <= 40]
    panels = []
    for column, title, caption in (
        (2, "seconds of the trial", "Over time"),
        (0, "epochs (passes over the training images)", "Over epochs"),
    ):
        xs = [p[column] for t in shown for p in t.curve]
        drawing = Plot(
            Axis.around([0.0, *xs], zero=True),
            Axis.around([p[1] for t in shown for p in t.curve], percent=True),
            title,
            f"{wording.title(run.result.objective)}, validation",
            f"Learning curves of {len(shown)} trials",
        )
        for trial in sorted(shown, key=lambda t: t.trial_id in bright):
            points = [(p[column], p[1]) for p in trial.curve]
            tip = f"{trial.candidate} ({trial.status}): {wording.share(points[-1][1])} at the end"
            special = trial.trial_id in bright
            drawing.line(
                points,
                BLUE if special else GREY,
                width=2.6 if special else 1.5,
                opacity=1 if special else 0.6,
                tip=tip,
            )
            drawing.dot(*points[-1], BLUE if special else GREY, radius=4 if special else 2.6, tip=tip)
        panels.append(panel(drawing, caption))
    hidden = f" The {len(shown)} best of {len(drawn)} curves are shown." if len(shown) < len(drawn) else ""
    keys = legend(
        ("line", BLUE, "part of the exported model" if run.members & bright else "best curve"),
        ("line", GREY, "other trials"),
    )
    return (
        plot("curves", "".join(panels))
        + keys
        + (f'<p class="small">{escape(hidden.strip())}</p>' if hidden else "")
    )


# --- confusion ------------------------------------------------------------------------------------


def confusion(run: Run) -> str:
    """True against predicted classes on test images; for many classes the most frequent mistakes only."""
    scores = run.test
    if scores is None:
        return note("confusion", "There are no test images, so mistakes cannot be counted.")
    count = len(run.class_names)
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (scores.labels, scores.predicted), 1)
    table = _matrix_table(run, matrix) if count <= DRAWN else ""
    pairs = _pairs(run, matrix) if count > _COUNTED else ""
    if count > DRAWN and not pairs:
        return note(
            "confusion",
            f"No test image was put into a wrong class ({len(scores.labels):,} images, {count} classes).",
        )
    return plot("confusion", table + pairs, kind="matrix")


def _matrix_table(run: Run, matrix: np.ndarray) -> str:
    counted = len(matrix) <= _COUNTED
    kind = "" if len(matrix) <= _WIDE else " tight" if counted else " dense"
    head = "".join(
        f'<th scope="col" title="{escape(n)}"><span>{escape(n)}</span></th>' for n in run.class_names
    )
    rows = []
    for true, name in enumerate(run.class_names):
        total = int(matrix[true].sum())
        cells = []
        for chosen, other in enumerate(run.class_names):
            hits = int(matrix[true, chosen])
            part = hits / total if total else 0.0
            colour, ink = shade(
                (11, 95, 165) if true == chosen else (180, 83, 9), 0.08 + 0.87 * part if hits else 0.0
            )
            tip = f"{hits} of {total} images of {name} were called {other}" + (
                f" ({wording.share(part)})" if total else ""
            )
            cells.append(
                f'<td style="background:{colour};color:{ink}" data-tip="{escape(tip)}">'
                f"{(hits or '·') if counted else ''}</td>"
            )
        rows.append(
            f'<tr><th scope="row" title="{escape(name)}"><span>{escape(name)}</span></th>{"".join(cells)}<td class="sum">{total:,}</td></tr>'
        )
    return (
        f'<div class="scroll"><table class="confusion{kind}"><thead><tr><td class="corner">true ↓ · predicted →</td>{head}'
        f'<td class="sum">images</td></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def shade(colour: tuple[int, int, int], strength: float) -> tuple[str, str]:
    """A colour mixed with white, and the ink (white or black) that is read better on it (relative luminance, WCAG 2.1)."""
    mixed = [round(255 + strength * (part - 255)) for part in colour]
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (part / 255 for part in mixed)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    white_reads = 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05
    return f"rgb({','.join(map(str, mixed))})", "#fff" if white_reads else "#000"


def _pairs(run: Run, matrix: np.ndarray, most: int = 12) -> str:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = [int(k) for k in np.argsort(-wrong, axis=None, kind="stable")[:most] if wrong.flat[int(k)] > 0]
    rows = []
    for flat in order:
        true, chosen = divmod(flat, len(matrix))
        rows.append(
            f"<tr><td>{escape(run.class_names[true])}</td><td>{escape(run.class_names[chosen])}</td>"
            f"<td>{wrong[true, chosen]} of {matrix[true].sum():,}</td></tr>"
        )
    if not rows:
        return ""
    return (
        '<h3>Most frequent mistakes</h3><div class="scroll"><table class="plain"><thead><tr><th>true class</th><th>was called</th>'
        f"<th>images</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


# --- precision and recall -------------------------------------------------------------------------


def precision_recall(run: Run, most: int = 12) -> str:
    """Precision over recall of each class on test images, with the point the exported label works at."""
    scores = run.test
    if scores is None:
        return note(
            "precision-recall", "There are no test images, so precision and recall cannot be measured."
        )
    limits = _class_limits(run)
    test = run.result.metrics.get("test", {})

    def rank(position: int) -> tuple[bool, float]:
        class_name = run.class_names[position]
        value = (test.get(f"average_precision[{class_name}]") or {}).get("value")
        return class_name not in limits, float(value) if wording.known(value) else 2.0

    present = [k for k in range(len(run.class_names)) if (scores.labels == k).any()]
    chosen = sorted(sorted(present, key=rank)[:most])
    if not chosen:
        return note("precision-recall", "No class has a test image.")
    panels = [
        _pr_panel(run, scores, position, limits.get(run.class_names[position], [])) for position in chosen
    ]
    text = ""
    if len(chosen) < len(run.class_names):
        absent = len(run.class_names) - len(present)
        text = f"{len(chosen)} of {wording.plural(len(run.class_names), 'class')}: those with a limit first, then the hardest."
        text += f" {wording.plural(absent, 'class')} without a test image." if absent else ""
    keys: list[tuple[str, str, str]] = [
        ("line", BLUE, "what other thresholds would give"),
        ("ring", GREEN, "where the exported label works"),
    ]
    if any(limits.get(run.class_names[k]) for k in chosen):
        keys.append(("dash", ORANGE, "your limit"))
    return (
        plot("precision-recall", "".join(panels), kind="panels three")
        + legend(*keys)
        + (f'<p class="small">{escape(text)}</p>' if text else "")
    )


def _class_limits(run: Run) -> dict[str, list[tuple[str, float, str]]]:
    """Class → (metric, limit, operator) of the user's limits; also the class of the objective."""
    found: dict[str, list[tuple[str, float, str]]] = {}
    for row in run.result.constraints:
        metric, operator = wording.split_expression(str(row["expression"]))
        base, class_name = wording.base_name(metric)
        if class_name is not None:
            found.setdefault(class_name, []).append((base, float(row["limit"]), operator))
    goal = wording.base_name(run.result.objective)[1]
    if goal is not None:
        found.setdefault(goal, [])
    return found


def _pr_panel(run: Run, scores: Scores, position: int, limits: Sequence[tuple[str, float, str]]) -> str:
    positive = scores.labels == position
    recall, precision = pr_curve(positive, scores.probabilities[:, position])
    class_name = run.class_names[position]
    drawing = Plot(
        Axis(0.0, 1.02, percent=True),
        Axis(0.0, 1.04, percent=True),
        "recall",
        "precision",
        f"Precision and recall of {class_name}",
        width=300,
        height=250,
        left=50,
    )
    for metric, limit, operator in limits:
        if metric == "recall":
            drawing.limit_x(limit, operator, f"limit {wording.limit_value(metric, limit)}")
        elif metric == "precision":
            drawing.limit_y(limit, operator, f"limit {wording.limit_value(metric, limit)}")
    drawing.line(list(zip(recall.tolist(), precision.tolist(), strict=True)), BLUE, width=2)
    hits, picked = (
        int((positive & (scores.predicted == position)).sum()),
        int((scores.predicted == position).sum()),
    )
    caption = f"{class_name} ({wording.plural(int(positive.sum()), 'image')})"
    if picked:
        at = hits / int(positive.sum()), hits / picked
        tip = f"{class_name}: finds {hits} of {int(positive.sum())} ({wording.share(at[0])}); {hits} of {picked} alarms are right ({wording.share(at[1])})"
        drawing.dot(*at, GREEN, radius=6, hollow=True, tip=tip)
    else:
        drawing.text(drawing.width / 2 + 18, drawing.height / 2, "never predicted", size=13)
    return panel(drawing, caption)


def pr_curve(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at every threshold between different scores, highest threshold first, thinned out."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    recall, precision = hits[last] / max(int(positive.sum()), 1), hits[last] / (last + 1)
    full = int(np.argmax(recall >= recall[-1])) + 1
    recall, precision = recall[:full], precision[:full]
    recall, precision = np.append(0.0, recall), np.append(precision[0], precision)
    if len(recall) > _PR_POINTS:
        keep = np.unique(np.linspace(0, len(recall) - 1, _PR_POINTS).astype(int))
        recall, precision = recall[keep], precision[keep]
    return recall, precision


# --- data -----------------------------------------------------------------------------------------


def class_bars(run: Run, most: int = 20) -> str:
    """Images per class and part of the data."""
    counts = run.data.get("counts") or {}
    parts = [p for p in ("train", "validation", "test") if isinstance(counts.get(p), dict)]
    totals = {name: sum(int(counts[p].get(name, 0)) for p in parts) for name in run.class_names}
    if not parts or not any(totals.values()):
        return note("classes", "The run folder does not say how many images each class has.")
    names = run.class_names
    if len(names) > most:
        by_size = sorted(names, key=lambda n: -totals[n])
        names = [*by_size[: most // 2], *by_size[-most // 2 :]]
    largest = max(totals.values())
    rows = []
    for name in names:
        bars = "".join(
            f'<i class="{p}" style="width:{100 * int(counts[p].get(name, 0)) / largest:.2f}%"></i>'
            for p in parts
        )
        tip = f"{name}: " + ", ".join(f"{int(counts[p].get(name, 0)):,} {p}" for p in parts)
        rows.append(
            f'<div class="bar" data-tip="{escape(tip)}"><b title="{escape(name)}">{escape(name)}</b><span>{bars}</span><em>{totals[name]:,}</em></div>'
        )
        if len(run.class_names) > most and len(rows) == most // 2:
            rows.append(f'<p class="small">… {len(run.class_names) - most} more classes …</p>')
    keys = "".join(f'<li><i class="{p}"></i> {p}</li>' for p in parts)
    return plot("classes", f'{"".join(rows)}<ul class="legend bars">{keys}</ul>', kind="classbars")
