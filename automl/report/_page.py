"""The report's page: one HTML text without anything from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from automl import wording
from automl.report import _figures, _tables
from automl.report._gallery import gallery
from automl.report._run import Run
from automl.report._svg import escape
from automl.result import headline, winner_text


def render(run: Run) -> str:
    """The page of a run."""
    style, script = _asset("style.css"), _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sections = [
        ("limits", "Limits", _limits(run)),
        ("quality", "How good it is", _quality(run)),
        ("mistakes", "Its worst mistakes", gallery(run)),
        ("tradeoff", "Accuracy, latency and size", _tradeoff(run)),
        ("why", "What won, and why", _tables.winner(run)),
        ("tried", "What was tried", _tried(run)),
        ("data", "The data", _data(run)),
        ("environment", "How it was made", _tables.environment(run)),
    ]
    body = "".join(
        f'<section id="{key}"><h2>{escape(title)}</h2>{text}</section>' for key, title, text in sections
    )
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light">'
        f'<link rel="icon" href="data:,"><title>{escape(run.name)}: report</title><style>{style}</style></head><body data-errors="0">'
        f"<main>{_head(run)}<nav>{links}</nav>{body}"
        "<footer>This file holds everything it shows and loads nothing from anywhere. The numbers behind it are in <code>result.json</code>, "
        "<code>trials.parquet</code> and <code>search/</code> beside it.</footer></main>"
        f"<script>{script}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return (files("automl.report") / name).read_text(encoding="utf-8")


# --- the sections ---------------------------------------------------------------------------------


def _head(run: Run) -> str:
    result, content = run.result, run.content
    test = result.metrics.get("test", {})
    kept = result.status == "ok"
    text = escape(headline(result.status, result.constraints))
    needs = f"<p>{escape(content['needs'])}</p>" if content.get("needs") else ""
    if content.get("interrupted"):
        needs += "<p>The search was interrupted; this is the best model until then.</p>"
    tiles = [_quality_tile(result.objective, test.get(result.objective), "on test images")]
    if result.objective != "accuracy":
        tiles.append(_quality_tile("accuracy", test.get("accuracy"), "on test images"))
    costs = result.costs
    if "latency_ms" in costs:
        tiles.append(
            (
                "Latency",
                wording.value("latency_ms", costs["latency_ms"]),
                f"one image on {result.device}, median",
            )
        )
    else:
        tiles.append(("Latency", "not measured", ""))
    tiles.append(("File size", wording.value("size_mb", costs.get("size_mb")), "model.onnx"))
    boxes = "".join(
        f'<div class="tile"><span>{escape(a)}</span><b>{escape(b)}</b><span>{escape(c)}</span></div>'
        for a, b, c in tiles
    )
    classes = wording.plural(len(run.class_names), "class")
    images = run.data.get("images")
    about = f"{wording.plural(int(images), 'image')}, {classes}" if wording.known(images) else classes
    return (
        f'<header><h1>{escape(run.name)}</h1><p class="muted">{escape(about)} · model: {escape(winner_text(content))}</p>'
        f'<div class="banner {"ok" if kept else "bad"}"><b>{"✓" if kept else "✕"} {text}</b>{needs}</div><div class="tiles">{boxes}</div></header>'
    )


def _quality_tile(metric: str, found: Mapping[str, Any] | None, where: str) -> tuple[str, str, str]:
    title = wording.title(metric)
    title = title[:1].upper() + title[1:]
    if not found or not wording.known(found.get("value")):
        return title, "unknown", f"no image to measure it {where}"
    interval = wording.bracket(found).strip(" ()")
    images = f"{wording.plural(int(found['n']), 'image')}" if found.get("n") is not None else where
    return (
        title,
        wording.share(found["value"]),
        f"{where}; 95 % interval {interval}; {images}" if interval else where,
    )


def _limits(run: Run) -> str:
    rows = run.result.constraints
    if not rows:
        return "<p>No limit was set, so the best model won whatever its size and speed.</p>"
    out = []
    for row in rows:
        holds, evidence = bool(row["satisfied"]), str(row.get("evidence", ""))
        chip = '<span class="chip ok">✓ holds</span>' if holds else '<span class="chip bad">✕ missed</span>'
        if holds and evidence in ("met", "too_few", "predicted"):
            chip += (
                f' <span class="chip warn">{"predicted" if evidence == "predicted" else "not proved"}</span>'
            )
        out.append(
            _tables.row(
                ("limit", escape(wording.limit_text(row))),
                ("measured", escape(wording.measured_text(row))),
                ("verdict", chip),
                ("evidence", escape(wording.EVIDENCE.get(evidence, evidence))),
            )
        )
    return (
        "<p>Each limit is checked on the exported file itself: speed and size on the device, quality on test images that no choice was made on. "
        "The range in brackets is the 95 % interval: the true value lies in it for 95 of 100 such tests.</p>"
        + _tables.table(("Limit", "Measured", "Verdict", "Evidence"), out, kind="plain stack")
    )


def _quality(run: Run) -> str:
    leaks = wording.leak_text(run.data)
    warning = f'<p><span class="chip warn">careful</span> {escape(leaks)}</p>' if leaks else ""
    return (
        "<p>All but the column of validation is measured with the exported file on test images, which neither the training nor any choice "
        "has seen. Validation scores are those that it was chosen by: each image was judged by a model that had not been trained on it, "
        "before the last training, which may take in those images too, and before the export.</p>"
        + warning
        + _tables.quality(run)
        + f"<h3>Which classes it confuses</h3><p>{_confusion_text(run)}</p>"
        + _figures.confusion(run)
        + "<h3>Finding all of a class against raising false alarms</h3><p>Recall is the part of a class that is found. Precision is the part of "
        "those alarms that are right. The line shows what one could trade; the ring is where the exported label stands.</p>"
        + _figures.precision_recall(run)
    )


def _confusion_text(run: Run) -> str:
    if len(run.class_names) > _figures.DRAWN:
        return f"A table of {len(run.class_names)} classes would be too large to read; these are the most frequent mistakes."
    return (
        "Each row is a true class; the row shows what its images were called. "
        "Blue is right, orange is wrong, darker is a larger part of the row."
    )


def _tradeoff(run: Run) -> str:
    sizes = (
        "In the first plot a larger dot is a larger file. " if any(t.latency_ms for t in run.trials) else ""
    )
    return (
        f"<p>Each dot is one trial: higher is better, further left is faster or smaller. {sizes}"
        "Trials are placed at the cost of the same network, measured or estimated from measured ones (column basis of "
        "trials.parquet); the star is the exported file itself.</p>"
        + _figures.scatter(run)
        + "<h3>How the trials learned</h3><p>Each line is the score of one trial while it trained. Lines that end early were stopped because "
        "others looked better, or because their time was over.</p>" + _figures.curves(run)
    )


def _tried(run: Run) -> str:
    return _tables.trials(run)


def _data(run: Run) -> str:
    lines, warnings = _report_lines(run.data)
    said = "".join(f"<li>{escape(line)}</li>" for line in warnings)
    found = f'<h3>Worth a look</h3><ul class="warnings">{said}</ul>' if said else ""
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return (
        "<p>Training images teach the model, validation images choose among models, test images only judge the one that was chosen.</p>"
        + text
        + _figures.class_bars(run)
        + found
    )


def _report_lines(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What the data check said: plain lines, and findings."""
    from automl.data import DataReport

    try:
        lines = DataReport.from_dict(data).lines()
    except (KeyError, TypeError, AttributeError, ValueError):
        return [], [str(line) for line in _sequence(data.get("warnings"))]
    findings = [line for line in lines if line.startswith(("warning: ", "set aside: "))]
    plain = [line for line in lines if line not in findings and not line.startswith("images per class:")]
    return plain, [line.removeprefix("warning: ") for line in findings]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
