"""The tables of the report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from automl import wording
from automl.report._run import Run, Trial
from automl.report._svg import escape

_MOST_TRIALS = 500
_STATUS = {
    "completed": "completed",
    "stopped": "stopped early",
    "timeout": "time was over",
    "failed": "failed",
}
_SOURCE = {"pool": "recipe pool", "search": "search", "refit": "refit", "supernet": "supernet"}


def row(*cells: tuple[str, str], kind: str = "") -> str:
    """A row of (column title for narrow screens, HTML)."""
    inside = "".join(f'<td data-label="{escape(label)}"><span>{text}</span></td>' for label, text in cells)
    return f'<tr class="{kind}">{inside}</tr>' if kind else f"<tr>{inside}</tr>"


def table(heads: Sequence[str], rows: Iterable[str], *, kind: str = "plain") -> str:
    """A table that scrolls sideways where the screen is narrow."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def quality(run: Run) -> str:
    """Averages on test and validation images, and every class."""
    parts = run.result.metrics
    test, validation = parts.get("test", {}), parts.get("validation", {})
    names = list(dict.fromkeys([run.result.objective, "balanced_accuracy", "accuracy", "macro_f1"]))
    averages = [
        row(
            (
                "metric",
                escape(wording.title(name)) + (" <b>(the goal)</b>" if name == run.result.objective else ""),
            ),
            ("test", escape(wording.metric_text(test.get(name)))),
            ("validation", escape(wording.metric_text(validation.get(name)))),
        )
        for name in names
        if name in test or name in validation
    ]
    columns = ("recall", "precision", "auroc", "average_precision")
    classes = []
    for name in run.class_names:
        n = (test.get(f"recall[{name}]") or {}).get("n")
        cells = [
            (wording.title(c), escape(wording.metric_text(test.get(f"{c}[{name}]"), images=False)))
            for c in columns
        ]
        cells = [(label, text if not text.startswith("unknown") else "–") for label, text in cells]
        classes.append(
            row(("class", escape(name)), ("test images", f"{int(n):,}" if n is not None else "–"), *cells)
        )
    each = table(
        ("Class", "Test images", "Recall", "Precision", "AUROC", "Average precision"),
        classes,
        kind="plain stack",
    )
    inner = f"<details{' open' if len(classes) <= 10 else ''}><summary>Every class on test images</summary>{each}</details>"
    return (
        table(("Metric", "Test", "Validation (choices were made on it)"), averages, kind="plain stack")
        + inner
    )


def winner(run: Run) -> str:
    """Why it won, and the recipe of each member."""
    content = run.content
    text = f"<p>{escape(content['why'])}</p>" if content.get("why") else ""
    members = [m for m in content.get("members") or [] if isinstance(m, Mapping)]
    if len(members) > 1:
        text += (
            f"<p>The file holds {len(members)} networks. Their probabilities are combined with the weights below; "
            "latency and size are those of the whole file.</p>"
        )
    for member in members:
        strategy, backbone = member.get("strategy") or {}, member.get("backbone") or {}
        facts = [
            ("candidate", member.get("candidate")),
            ("weight", wording.share(member.get("weight"), 0) if len(members) > 1 else None),
            ("recipe", strategy.get("summary") or strategy.get("name")),
            ("recipe from", strategy.get("source")),
            (
                "pretrained",
                None
                if "pretrained" not in backbone
                else "yes"
                if backbone["pretrained"]
                else "no, trained from scratch",
            ),
            ("licence of the weights", backbone.get("licence")),
            (
                "trial",
                f"{member.get('trial')}, trained further as {member['refit']}"
                if member.get("refit")
                else member.get("trial"),
            ),
        ]
        text += definitions(facts)
        settings = [(k, v) for k, v in strategy.items() if k not in ("name", "summary", "source", "order")]
        if settings:
            text += f"<details><summary>All settings of {escape(strategy.get('name', 'the recipe'))}</summary>{definitions(settings)}</details>"
    return text or "<p>The run folder does not say what the model was made of.</p>"


def definitions(facts: Iterable[tuple[str, Any]]) -> str:
    """A list of names and values; values that are None are left out."""
    rows = (
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_shown(value))}</dd>"
        for name, value in facts
        if value is not None
    )
    return f"<dl>{''.join(rows)}</dl>"


def trials(run: Run) -> str:
    """Every trial, sortable."""
    counts = run.content.get("trials") or {}
    skipped = counts.get("infeasible_not_trained") or 0
    text = f"{wording.plural(len(run.trials), 'trial')} ran. Rows of the exported model are shaded; a click on a heading sorts."
    if not run.trials:
        text = "The run folder has no table of trials."
    if skipped:
        text += (
            f" {skipped:,} further settings of network, resolution and precision were not trained, because their untrained file, measured or "
            "estimated from measured ones, already breaks a limit on speed or size." if skipped > 1 else
            " One further setting was not trained, because its untrained file already breaks a limit on speed or size."
        )  # fmt: skip
    if not run.trials:
        return f"<p>{escape(text)}</p>"
    shown = sorted(run.trials, key=lambda t: (-(t.score if t.score is not None else -1.0), t.trial_id))[
        :_MOST_TRIALS
    ]
    if len(shown) < len(run.trials):
        text += f" The {len(shown)} best are listed; all are in trials.parquet."
    columns = (
        ("Trial", "ascending"), ("Network", "ascending"), ("Pixels", "descending"), ("Precision", "ascending"), ("Recipe", "ascending"),
        ("Score", "descending"), ("Time", "ascending"), ("Epochs", "descending"), ("Latency", "ascending"), ("Size", "ascending"),
        ("Limits", "ascending"), ("Ended", "ascending"), ("From", "ascending"), ("What went wrong", "descending"),
    )  # fmt: skip
    right = {"Pixels", "Score", "Time", "Epochs", "Latency", "Size"}
    heads = "".join(
        f'<th scope="col" data-first="{first}" aria-sort="{"descending" if name == "Score" else "none"}"'
        f'{" class=num" if name in right else ""}><button type="button">{escape(name)}</button></th>'
        for name, first in columns
    )
    rows = "".join(_trial_row(run, trial) for trial in shown)
    return (
        f'<p>{escape(text)}</p><div class="tallscroll"><table class="plain trials" data-sortable><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _trial_row(run: Run, trial: Trial) -> str:
    def figure(value: float | None, text: str) -> str:
        return f'<td class="num" data-value="{"" if value is None else repr(value)}">{escape(text) if value is not None else "–"}</td>'

    limits = (
        '<span class="chip ok">✓ keeps</span>' if trial.feasible else '<span class="chip bad">✕ breaks</span>'
    )
    member = ' class="member"' if trial.trial_id in run.members else ""
    return (
        f"<tr{member}><td>{escape(trial.trial_id)}</td><td>{escape(trial.architecture)}</td>"
        f"{figure(trial.resolution, str(trial.resolution))}<td>{escape(trial.precision)}</td><td>{escape(trial.strategy)}</td>"
        f"{figure(trial.score, wording.share(trial.score))}{figure(trial.seconds, wording.duration(trial.seconds))}"
        f"{figure(trial.epochs, str(trial.epochs))}{figure(trial.latency_ms, wording.value('latency_ms', trial.latency_ms))}"
        f"{figure(trial.size_mb, wording.value('size_mb', trial.size_mb))}<td>{limits}</td>"
        f"<td>{escape(_STATUS.get(trial.status, trial.status))}</td><td>{escape(_SOURCE.get(trial.source, trial.source))}</td>"
        f"<td{' class=wrap' if trial.error else ''}>{escape(trial.error)}</td></tr>"
    )


def environment(run: Run) -> str:
    """Time, device, seed, versions, notes."""
    content = run.content
    seconds, task = content.get("seconds") or {}, content.get("task") or {}
    device = content.get("device") or {}
    measured = isinstance(device, Mapping) and device.get("measured")
    parts = (("data", "reading the data"), ("search", "search"), ("final", "export and checks"))
    facts = [
        ("goal", wording.title(run.result.objective)),
        (
            "device",
            run.result.device + (" (measured on this machine)" if measured else ""),
        ),
        (
            "budget",
            f"{task['max_trials']} trials"
            if task.get("max_trials")
            else wording.duration(task.get("budget")),
        ),
        ("time", wording.duration(seconds.get("total"))),
        *(
            (f"– {name}", wording.duration(seconds.get(key)))
            for key, name in parts
            if wording.known(seconds.get(key))
        ),
        ("trials at a time", seconds.get("workers")),
        ("seed", content.get("seed")),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in (content.get("versions") or {}).items())
    facts.append(("versions", versions or None))
    notes = "".join(f"<li>{escape(line)}</li>" for line in content.get("notes") or [])
    return definitions(facts) + (f'<h3>Notes</h3><ul class="warnings">{notes}</ul>' if notes else "")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return wording.number(value, 4)
    return value if isinstance(value, str) else json.dumps(value)
