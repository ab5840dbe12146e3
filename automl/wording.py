"""Numbers and names as people read them; shared by the summary, the model card and the report."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

_METRIC = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)
_UNITS = {
    "latency_ms": "ms",
    "latency_p95_ms": "ms",
    "size_mb": "MB",
    "memory_mb": "MB",
    "params_m": "M",
    "macs_m": "M",
}
_TITLES = {
    "latency_ms": "latency",
    "latency_p95_ms": "latency, slowest 5 %",
    "size_mb": "file size",
    "memory_mb": "memory",
    "params_m": "parameters",
    "macs_m": "multiply-adds",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
}
#: What stands in the column ``evidence`` of a constraint → what it means.
EVIDENCE = {
    "measured": "measured on the exported file",
    "predicted": "predicted for that device, not measured",
    "proved": "the whole 95 % interval keeps the limit",
    "met": "the measured value keeps the limit, its 95 % interval does not",
    "too_few": "there are too few images to prove it",
    "violated": "the measured value misses the limit",
    "not_measured": "not measured",
}


def plain(text: object) -> str:
    """One line without control characters, so that a class or file name cannot steer a terminal."""
    return "".join(_visible(c) for c in str(text))


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if character in "\u200c\u200d":  # joiners that some scripts need
        return character
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def known(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def share(value: Any, digits: int = 1) -> str:
    """A share as percent; what is not quite 100 % never looks like it.

    >>> share(0.9731), share(1.0), share(0.99996), share(None)
    ('97.3 %', '100 %', '99.996 %', 'unknown')
    """
    if not known(value):
        return "unknown"
    percent = 100.0 * float(value)
    if percent in (0.0, 100.0):
        return f"{percent:.0f} %"
    while digits < 6 and f"{percent:.{digits}f}" in (f"{0:.{digits}f}", f"{100:.{digits}f}"):
        digits += 1
    return f"{percent:.{digits}f} %"


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits and thousands separated.

    >>> number(0.012345), number(5.0), number(1234567.0), number(None)
    ('0.0123', '5', '1,234,567', 'unknown')
    """
    if not known(value):
        return "unknown"
    value = float(value)
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4:
        return f"{value:.{digits - 1}e}"
    text = f"{value:,.{max(0, digits - 1 - size)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: Any) -> str:
    """Seconds as ``42 s``, ``12 min`` or ``1 h 5 min``."""
    if not known(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def base_name(metric: str) -> tuple[str, str | None]:
    """Split ``recall[defect]`` into its name and its class."""
    match = _METRIC.fullmatch(metric)
    return (match[1], match[2]) if match else (metric, None)


def title(metric: str) -> str:
    """A metric in words.

    >>> title("recall[defect]"), title("latency_ms"), title("balanced_accuracy")
    ('recall of defect', 'latency', 'balanced accuracy')
    """
    name, class_name = base_name(metric)
    words = _TITLES.get(name, name.replace("_", " "))
    return plain(f"{words} of {class_name}" if class_name is not None else words)


def is_cost(metric: str) -> bool:
    """Whether it is a property of the file rather than of its predictions."""
    return metric in _UNITS


def value(metric: str, amount: Any, digits: int = 3) -> str:
    """The value of a metric with its unit: a cost with significant digits, a quality as percent."""
    if not known(amount):
        return "unknown"
    if not is_cost(metric):
        return share(amount, digits - 2)
    return f"{number(amount, digits)} {_UNITS[metric]}"


def measured_beside(metric: str, amount: Any, limit: Any) -> str:
    """A measured value with enough digits to tell it from its limit."""
    digits = 3
    while (
        digits < 7
        and known(amount)
        and amount != limit
        and value(metric, amount, digits) == value(metric, limit, digits)
    ):
        digits += 1
    return value(metric, amount, digits)


def limit_value(metric: str, limit: Any) -> str:
    """A limit as the user wrote it, with its unit.

    >>> limit_value("recall[defect]", 0.995), limit_value("latency_ms", 5.0)
    ('99.5 %', '5 ms')
    """
    if not known(limit):
        return "unknown"
    return f"{limit:.10g} {_UNITS[metric]}" if is_cost(metric) else f"{100 * limit:.10g} %"


def split_expression(expression: str) -> tuple[str, str]:
    """The metric and the operator of a constraint such as ``recall[defect]>=0.995``."""
    at = max(expression.rfind("<="), expression.rfind(">="))
    return (expression[:at].strip(), expression[at : at + 2]) if at > 0 else (expression, "")


def limit_text(row: Mapping[str, Any]) -> str:
    """A row of ``constraints`` in words: ``latency at most 5 ms``."""
    metric, operator = split_expression(str(row["expression"]))
    words = {"<=": "at most", ">=": "at least"}.get(operator)
    if words is None:
        return plain(row["expression"])
    return f"{title(metric)} {words} {limit_value(metric, row.get('limit'))}"


def measured_text(row: Mapping[str, Any]) -> str:
    """What was measured for a row of ``constraints``, with its interval where there is one."""
    metric, _ = split_expression(str(row["expression"]))
    text = measured_beside(metric, row.get("measured"), row.get("limit"))
    return text if is_cost(metric) else text + bracket(row)


def bracket(found: Mapping[str, Any]) -> str:
    """The 95 % interval of a quality in brackets, or nothing."""
    if not (known(found.get("low")) and known(found.get("high"))):
        return ""
    return f" ({share(found['low'])[:-2]}–{share(found['high'])})"


def metric_text(found: Mapping[str, Any] | None, *, images: bool = True) -> str:
    """A quality with its interval and the number of images."""
    if not found or not known(found.get("value")):
        return "unknown (no image to measure it on)"
    text = share(found["value"]) + bracket(found)
    return f"{text}, {int(found['n']):,} images" if images and found.get("n") is not None else text


def plural(count: int, word: str) -> str:
    """``1 image``, ``2 images``, ``3 classes``.

    >>> plural(1, "image"), plural(1200, "class")
    ('1 image', '1,200 classes')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}{'es' if word.endswith('s') else 's'}"


def leak_text(data: Mapping[str, Any]) -> str:
    """What to know where given splits share images, from the data report; empty where nothing is known of any."""
    leaks = {key: int(v) for key, v in (data.get("leaks") or {}).items() if known(v) and v > 0}
    if not leaks:
        return ""
    words = {"exact": "an exact copy", "near": "a near copy", "group": "an image of the same group"}
    parts = [f"{plural(count, 'image')} with {words.get(key, key)}" for key, count in leaks.items()]
    return f"The given splits overlap: {', '.join(parts)} in another part. New images may give lower numbers than these."
