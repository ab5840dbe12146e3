"""The model card: what a model is, what it was measured to do, and how to use it without this package."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from automl import wording
from automl.result import Result, headline, member_names

#: The lines that label one image; they stand in every card and are run by the tests.
SNIPPET = """\
import json, sys
import numpy as np, onnxruntime as ort
from PIL import Image, ImageOps
about = json.load(open("labels.json", encoding="utf-8"))
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
for side in about["resize"]:
    image = image.resize((side, side), Image.Resampling.BILINEAR)
probabilities, label = ort.InferenceSession("model.onnx").run(None, {"images": np.asarray(image)[None]})
print(about["classes"][label[0]], dict(zip(about["classes"], probabilities[0].tolist())))
"""
_MARKS = re.compile(r"([\\`*_{}\[\]#|~<>&!$])")
_LICENCE_FILES = ("licence", "license", "copying", "provenance")
_FEW = 12


def write_card(run_folder: str | os.PathLike[str]) -> Path:
    """Write ``MODEL_CARD.md`` into a run folder.

    Returns:
        path of the file.

    Raises:
        InputError: the folder has no ``result.json``.
    """
    result = Result.open(run_folder)
    path = result.folder / "MODEL_CARD.md"
    handle, temporary = tempfile.mkstemp(dir=result.folder, prefix=".card-", suffix=".md")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(card_text(result))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def card_text(result: Result) -> str:
    """The card as Markdown."""
    from automl.predict import read_labels

    names, sides, _ranges = read_labels(result.folder)
    content = result.to_dict()
    data = content.get("dataset") or {}
    title = str(
        data.get("name") or Path(str((content.get("task") or {}).get("data", ""))).name or result.folder.name
    )
    sections = (
        (f"# Model card: {_text(title)}", _about(result, content, names, sides[-1])),
        ("## Intended use", _use(result, names)),
        ("## Limits it was asked to keep", _constraints(result, content)),
        ("## Quality", _quality(result, names)),
        ("## Using it", _usage(sides)),
        ("## Data", _data(data, names)),
        ("## Training", _training(content)),
        ("## Licences", _licences(content)),
        ("## What it cannot do", _cautions(result, content, names)),
        ("## Versions", _versions(content)),
    )
    return "\n\n".join(f"{head}\n\n{text.strip()}" for head, text in sections) + "\n"


# --- sections -------------------------------------------------------------------------------------


def _about(result: Result, content: Mapping[str, Any], names: Sequence[str], side: int) -> str:
    members = member_names(content)
    what = "one network" if len(members) < 2 else f"{len(members)} networks combined in one file"
    costs = result.costs
    parts = [f"{wording.value('size_mb', costs.get('size_mb'))} on disk"]
    if "latency_ms" in costs:
        parts.append(
            f"{wording.value('latency_ms', costs['latency_ms'])} per image on {_text(result.device)} (median, one image at a time)"
        )
    if "params_m" in costs:
        parts.append(f"{wording.number(costs['params_m'])} million parameters")
    return (
        f"An image classifier with {wording.plural(len(names), 'class')}: {what}, exported to `model.onnx`. {headline(result.status, result.constraints)}.\n\n"
        f"- {'; '.join(parts)}\n"
        f"- input `images`: uint8 [N, {side}, {side}, 3], RGB; normalisation is inside the file\n"
        f"- outputs: `probabilities` float32 [N, {len(names)}] and `label` int64 [N], with the operating point applied\n"
        f"- found by: {', '.join(_code(name) for name in members) or 'unknown'}"
    )


def _use(result: Result, names: Sequence[str]) -> str:
    return (
        f"To tell these classes apart on pictures like the ones it was trained on: {_listed(names)}. "
        f"It was chosen for the best {_text(wording.title(result.objective))}. Every picture gets one of these classes, also one that shows "
        "something else entirely. Check it on your own pictures before a decision that matters rests on it."
    )


def _constraints(result: Result, content: Mapping[str, Any]) -> str:
    if not result.constraints:
        return "None were set."
    rows = [
        (
            _text(wording.limit_text(row)),
            _text(wording.measured_text(row)),
            "yes" if row["satisfied"] else "**no**",
            _text(wording.EVIDENCE.get(str(row.get("evidence")), str(row.get("evidence")))),
        )
        for row in result.constraints
    ]
    table = _table(("limit", "measured", "holds", "evidence"), rows)
    return f"{table}\n\n{_text(content['needs'])}" if content.get("needs") else table


def _quality(result: Result, names: Sequence[str]) -> str:
    test = result.metrics.get("test", {})
    if not any(wording.known(m.get("value")) for m in test.values()):
        return "There were no test images, so nothing is known about its quality on new pictures."
    general = dict.fromkeys([result.objective, "balanced_accuracy", "accuracy", "macro_f1"])
    rows = [
        (_text(wording.title(name)), _text(wording.metric_text(test.get(name))))
        for name in general
        if name in test
    ]
    text = (
        "On test images, which neither the training nor any choice has seen; 95 % intervals in brackets.\n\n"
        f"{_table(('metric', 'value'), rows)}\n\n"
    )
    columns = ("recall", "precision", "average_precision")
    each = []
    for name in names:
        found = [test.get(f"{c}[{name}]") or {} for c in columns]
        each.append((_text(name), f"{int(found[0].get('n') or 0):,}", *(_short(m) for m in found)))
    return text + _table(("class", "test images", *(wording.title(c) for c in columns)), each)


def _short(found: Mapping[str, Any]) -> str:
    return wording.metric_text(found, images=False) if wording.known(found.get("value")) else "–"


def _usage(sides: Sequence[int]) -> str:
    steps = " then ".join(f"{side}×{side}" for side in sides)
    return (
        f"Pictures are squashed to {steps} pixels with Pillow's bilinear filter. With onnxruntime, numpy and Pillow alone, in the folder of "
        f"`model.onnx` and `labels.json`, `python label.py PICTURE` with this `label.py`:\n\n```python\n{SNIPPET}```\n\n"
        "`automl predict RUN PICTURES…` does the same for many files and also reads 16-bit and floating-point pictures."
    )


def _data(data: Mapping[str, Any], names: Sequence[str]) -> str:
    counts = data.get("counts") or {}
    parts = [p for p in ("train", "validation", "test") if isinstance(counts.get(p), Mapping)]
    if not parts:
        return "The run folder does not say on which images it was trained."
    rows = []
    shown = (
        names
        if len(names) <= 50
        else sorted(names, key=lambda n: -sum(int(counts[p].get(n, 0)) for p in parts))[:50]
    )
    for name in shown:
        rows.append((_text(name), *(f"{int(counts[p].get(name, 0)):,}" for p in parts)))
    if len(shown) < len(names):
        rest = [n for n in names if n not in set(shown)]
        rows.append(
            (
                f"{len(rest)} smaller classes",
                *(f"{sum(int(counts[p].get(n, 0)) for n in rest):,}" for p in parts),
            )
        )
    rows.append(("**all**", *(f"{sum(int(v) for v in counts[p].values()):,}" for p in parts)))
    text = _table(("class", *parts), rows)
    sizes = data.get("sizes") or {}
    if all(wording.known(sizes.get(k)) for k in ("shortest", "median", "longest")):
        text += f"\n\nThe longer side of the pictures is {sizes['shortest']:.0f} to {sizes['longest']:.0f} pixels, {sizes['median']:.0f} in the middle."
    lines = [_text(str(line)) for line in [*(data.get("warnings") or []), *(data.get("notes") or [])]]
    set_aside = len(data.get("unreadable") or [])
    if set_aside:
        lines.append(
            f"{wording.plural(set_aside, 'image')} could not be read and {'was' if set_aside == 1 else 'were'} set aside."
        )
    return text + ("\n\n" + "\n".join(f"- {line}" for line in lines) if lines else "")


def _training(content: Mapping[str, Any]) -> str:
    parts = [_text(str(content["why"]))] if content.get("why") else []
    for member in content.get("members") or []:
        if not isinstance(member, Mapping):
            continue
        strategy, backbone = member.get("strategy") or {}, member.get("backbone") or {}
        lines = [f"**{_code(str(member.get('candidate')))}**"]
        if wording.known(member.get("weight")):
            lines[0] += f", weight {wording.share(member['weight'], 0)}"
        start = "from pretrained weights" if backbone.get("pretrained") else "from scratch"
        recipe = strategy.get("summary") or strategy.get("name") or "unknown"
        lines.append(f"{_text(str(backbone.get('name', 'network')))}, {start}; recipe: {_text(str(recipe))}")
        keys = (
            "method",
            "optimizer",
            "lr",
            "weight_decay",
            "epochs",
            "batch_size",
            "augmentation",
            "loss",
            "label_smoothing",
        )
        settings = ", ".join(
            f"{k} {wording.number(v, 4) if isinstance(v, float) else v}"
            for k in keys
            if (v := strategy.get(k)) is not None
        )
        if settings:
            lines.append(_text(settings))
        if strategy.get("source"):
            lines.append(f"source of the recipe: {_text(str(strategy['source']))}")
        parts.append("- " + "\n  - ".join(lines))
    parts.append(
        f"Seed {content.get('seed')}. Trials and their settings are in `trials.parquet`, weights in `checkpoints/`."
    )
    return "\n\n".join(parts)


def _licences(content: Mapping[str, Any]) -> str:
    lines = []
    for member in content.get("members") or []:
        backbone = member.get("backbone") if isinstance(member, Mapping) else None
        if isinstance(backbone, Mapping):
            line = f"weights of {_text(str(backbone.get('name')))}: {_text(str(backbone.get('licence') or 'unknown'))}"
            if backbone.get("pretrained"):
                line += f" (from {_text(_origin(str(backbone.get('source', 'unknown'))))})"
            lines.append(line)
    lines = list(dict.fromkeys(lines)) or ["weights: unknown"]
    lines.append(f"data: {_data_licence(str((content.get('task') or {}).get('data', '')))}")
    return (
        "\n".join(f"- {line}" for line in lines)
        + "\n\nThe model is made from both; check that they allow what you want to do with it."
    )


def _origin(source: str) -> str:
    """Where weights came from, without the user's folders."""
    return (
        f"a local folder named {Path(source.removeprefix('local-dir:')).name}"
        if source.startswith("local-dir:")
        else source
    )


def _data_licence(source: str) -> str:
    """What a licence or provenance file in the data says about licences, at most three lines of it."""
    folder = Path(source)
    if source and folder.is_file():
        folder = folder.parent
    if not source or not folder.is_dir():
        return "as provided by you"
    for path in sorted(folder.iterdir()):
        if (
            not path.is_file()
            or path.stem.lower() not in _LICENCE_FILES
            or path.suffix.lower() not in ("", ".md", ".txt", ".rst")
        ):
            continue
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read(100_000)
        except OSError:
            continue
        lines = [line.strip(" -*#\t") for line in text.splitlines()]
        said = [line[:240] for line in lines if re.search(r"licen[cs]e", line, re.IGNORECASE)] or [
            line[:240] for line in lines if line
        ][:1]
        quote = " / ".join(_text(line) for line in said[:3])
        return (
            f"as provided by you; its {_code(path.name)} says: {quote}"
            if quote
            else f"as provided by you; see its {_code(path.name)}"
        )
    return "as provided by you"


def _cautions(result: Result, content: Mapping[str, Any], names: Sequence[str]) -> str:
    test = result.metrics.get("test", {})
    lines = [
        "It knows only these classes and always names one of them.",
        "The numbers above hold for pictures like the test images; another camera, light or place can make it worse without a sign.",
        "Probabilities are comparable among pictures of this kind; they are no guarantee for a single picture.",
    ]
    leaks = wording.leak_text(content.get("dataset") or {})
    if leaks:
        lines.insert(2, leaks)
    few = [n for n in names if wording.known(v := (test.get(f"recall[{n}]") or {}).get("n")) and v < _FEW]
    if few:
        lines.append(
            f"Fewer than {_FEW} test images: {_listed(few)}. Little is known about {'it' if len(few) == 1 else 'them'}."
        )
    unproved = [
        row for row in result.constraints if row["satisfied"] and row.get("evidence") in ("met", "too_few")
    ]
    for row in unproved:
        lines.append(f"{_text(wording.limit_text(row))}: {wording.EVIDENCE[row['evidence']]}.")
    if "latency_ms" in result.costs:
        lines.append(
            f"Latency was measured on {_text(result.device)} of the machine that made it; it is another one elsewhere."
            if result.measured
            else f"Latency is that of {_text(result.device)}, from a kit of networks that was measured there; measure it."
        )
    if content.get("interrupted"):
        lines.append("The search was interrupted; a longer one might have found a better model.")
    return "\n".join(f"- {line}" for line in lines)


def _versions(content: Mapping[str, Any]) -> str:
    return (
        _text(", ".join(f"{name} {version}" for name, version in (content.get("versions") or {}).items()))
        or "unknown"
    )


# --- Markdown -------------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    plain = wording.plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(lambda m: m[0] if m[0] in "&" else "\\" + m[0], plain)


def _code(text: str) -> str:
    """Text as code; backticks and bars cannot stand in it."""
    return "`" + wording.plain(text).replace("`", "'").replace("|", "¦") + "`"


def _listed(names: Sequence[str], most: int = 30) -> str:
    shown = ", ".join(_text(name) for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join('---' for _ in heads)}|"]
    lines.extend(f"| {' | '.join(row)} |" for row in rows)
    return "\n".join(lines)
