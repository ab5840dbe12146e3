"""Plots of a benchmark page as inline SVG, in colours that follow the light or dark theme of the reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from automl.report._svg import Axis, escape

#: Colours of the first methods on a light and on a dark ground; later ones are spread over the colour circle.
_LIGHT = ("#0b5fa5", "#b45309", "#18794e", "#a21caf", "#b42318", "#0e7490", "#6b5b00", "#5b5b66")
_DARK = ("#6cb4f5", "#f2a65a", "#5fcf97", "#e58bf0", "#f58a80", "#56cfe1", "#d8c24a", "#b5bcc6")
#: Axes whose largest value is so many times the smallest are logarithmic.
_WIDE = 8.0
#: Units between figures that stand side by side.
_BETWEEN = 28.0

STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1c2530;--muted:#56616e;--line:#dde2e8;--soft:#f5f7f9;--best:#e2f3ea;--bad:#b42318;--limit:#b45309}
@media (prefers-color-scheme:dark){:root{--page:#14191f;--ink:#e6eaef;--muted:#a3adb8;--line:#333c46;--soft:#1d242c;--best:#1d3d2e;--bad:#f58a80;--limit:#f2a65a}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 8px;overflow-wrap:anywhere}
h2{font-size:1.3rem;line-height:1.3;margin:0 0 8px}
h3{font-size:1.02rem;margin:20px 0 4px;overflow-wrap:anywhere}
p{margin:0 0 12px;max-width:78ch;overflow-wrap:anywhere}
a{color:inherit}
li,h2{overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:6px 16px;font-size:.93rem;margin-top:14px}
section{margin-top:40px;padding-top:22px;border-top:1px solid var(--line)}
.muted,.small{color:var(--muted)}
.small{display:block;font-size:.8rem;line-height:1.35;white-space:nowrap}
.bad{color:var(--bad)}
.warning{border-left:4px solid var(--limit);padding-left:12px}
.empty{background:var(--soft);border-radius:10px;padding:14px 16px;color:var(--muted)}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;margin:8px 0 14px}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--line);padding:6px 16px 6px 0;text-align:left;vertical-align:top}
thead th{border-bottom-width:2px;vertical-align:bottom;font-weight:600;min-width:6.5em;max-width:13em;overflow-wrap:break-word}
tbody th{font-weight:500;position:sticky;left:0;z-index:1;background:var(--page);min-width:9em;max-width:15em;overflow-wrap:anywhere}
td.best{background:var(--best)}
td.best,td.cell{padding-left:8px;min-width:8em}
td.best b{white-space:nowrap}
.scores thead th+th{padding-left:8px}
figure{margin:0}
figcaption{font-weight:600;font-size:.95rem;overflow-wrap:anywhere}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:18px 26px;margin:10px 0}
svg{display:block;width:100%;height:auto;max-width:440px;font-family:inherit;overflow:visible}
svg text{fill:var(--muted);font-size:12px}
svg text.ink{fill:var(--ink)}
svg text.limit{fill:var(--limit)}
svg .halo{stroke:var(--page);stroke-width:4px;paint-order:stroke;stroke-linejoin:round}
svg .grid{stroke:var(--line)}
svg .axis{stroke:var(--muted)}
svg .rule{stroke:var(--limit);stroke-width:1.5;stroke-dasharray:5 4}
svg .front{stroke:var(--ink);stroke-width:1.3;stroke-dasharray:2 4;fill:none}
svg .joined{stroke:var(--ink);stroke-width:4;stroke-linecap:round}
svg .step{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
svg .band{fill:currentColor;fill-opacity:.14;stroke:none}
svg .interval{stroke:currentColor;stroke-width:1.2;stroke-opacity:.45}
svg .wide{stroke:currentColor;stroke-width:5;stroke-opacity:.35;stroke-linecap:round}
svg .full{fill:currentColor;fill-opacity:.85;stroke:var(--page);stroke-width:.8}
svg .hollow{fill:var(--page);fill-opacity:.5;stroke:currentColor;stroke-width:1.8}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 18px;margin:6px 0 10px;padding:0;font-size:.9rem}
.legend li{overflow-wrap:anywhere}
.legend svg,th svg{display:inline-block;width:14px;height:14px;vertical-align:-2px;margin-right:5px}
footer{margin-top:46px;border-top:1px solid var(--line);padding-top:14px;color:var(--muted);font-size:.88rem}
@media (max-width:560px){main{padding:18px 14px 40px}h1{font-size:1.45rem}section{margin-top:30px}th,td{padding-right:11px}tbody th{min-width:7em;max-width:9em}}
@media print{section{break-inside:avoid}nav{display:none}}
"""


def palette(count: int) -> str:
    """CSS classes ``m0``, ``m1``, …, one per method, each with its colour on light and on dark ground."""

    def rules(fixed: Sequence[str], lightness: int) -> str:
        more = (f"hsl({at * 137.5 % 360:.0f} 60% {lightness}%)" for at in range(len(fixed), count))
        return "".join(f".m{at}{{color:{c}}}" for at, c in enumerate([*fixed[:count], *more]))

    return f"{rules(_LIGHT, 36)}\n@media (prefers-color-scheme:dark){{{rules(_DARK, 70)}}}\n"


def symbol(method: int) -> str:
    """The sign of a method, for legends and tables."""
    path = _shape(method, 7.0, 7.0, 5.0)
    return (
        f'<svg viewBox="0 0 14 14" class="m{method}" aria-hidden="true"><path class="full" d="{path}"/></svg>'
    )


def legend(methods: Mapping[str, int], *more: str) -> str:
    """A row of signs and names.

    Args:
        methods: name → number of its colour and sign.
        more: further entries, as HTML.
    """
    items = [f"{symbol(at)}{escape(name)}" for name, at in methods.items()]
    return f'<ul class="legend">{"".join(f"<li>{item}</li>" for item in [*items, *more])}</ul>'


def _shape(method: int, x: float, y: float, r: float) -> str:
    """Path of a sign around a position: circle, square, triangle, diamond or inverted triangle, by turns."""
    kind = method % 5
    if kind == 0:
        return (
            f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0z"
        )
    sides, first = {1: (4, 45), 2: (3, 0), 3: (4, 0), 4: (3, 180)}[kind]
    turns = [math.radians(first + 360 * k / sides) for k in range(sides)]
    return (
        "M"
        + "L".join(f"{x + 1.2 * r * math.sin(t):.1f} {y - 1.2 * r * math.cos(t):.1f}" for t in turns)
        + "z"
    )


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass
class Drawing:
    """A drawing with two axes, 360 units wide; marks are added in data units and are kept inside the frame.

    Attributes:
        x, y: axes.
        x_title, y_title: what stands at them.
        label: what a person hears who cannot see it.
    """

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    label: str
    width: float = 360.0
    height: float = 250.0
    left: float = 46.0
    right: float = 12.0
    top: float = 26.0
    bottom: float = 44.0
    _marks: list[str] = field(default_factory=list)
    _limits: int = 0

    def px(self, value: float) -> float:
        """Horizontal position of a value."""
        return self.left + min(max(self.x.at(value), 0.0), 1.0) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Vertical position of a value."""
        inside = self.height - self.top - self.bottom
        return self.height - self.bottom - min(max(self.y.at(value), 0.0), 1.0) * inside

    def steps(self, points: Sequence[tuple[float, float]], method: int | None, tip: str = "") -> None:
        """A line that keeps each value until the next; without a method it is the dashed one of a front."""
        if len(points) < 2:
            return
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in _staircase(points))
        kind = "front" if method is None else f"step m{method}"
        self._marks.append(f'<polyline class="{kind}" points="{path}">{_tip(tip)}</polyline>')

    def band(self, points: Sequence[tuple[float, float, float]], method: int) -> None:
        """The part between two step lines, of (x, low, high)."""
        if len(points) < 2:
            return
        low = _staircase([(x, value) for x, value, _ in points])
        high = _staircase([(x, value) for x, _, value in points])
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in [*low, *reversed(high)])
        self._marks.insert(0, f'<polygon class="band m{method}" points="{path}"/>')

    def mark(self, x: float, y: float, method: int, tip: str = "", *, hollow: bool = False) -> None:
        """The sign of a method."""
        path = _shape(method, self.px(x), self.py(y), 4.4)
        kind = "hollow" if hollow else "full"
        self._marks.append(f'<g class="m{method}"><path class="{kind}" d="{path}">{_tip(tip)}</path></g>')

    def interval(self, x: float, low: float, high: float, method: int) -> None:
        """A thin upright line."""
        at = self.px(x)
        ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{self.py(low):.1f}" y2="{self.py(high):.1f}"'
        self._marks.insert(0, f'<line class="interval m{method}" {ends}/>')

    def limit(self, value: float, text: str, *, upright: bool = True) -> None:
        """A line at a value of the x axis, or of the y axis where it is not upright."""
        floor, right = self.height - self.bottom, self.width - self.right
        if upright:
            at = self.px(value)
            x, y = at, self.top - 4 + 13 * self._limits
            self._limits += 1
            ends = f'x1="{at:.1f}" x2="{at:.1f}" y1="{self.top:.1f}" y2="{floor:.1f}"'
        else:
            at = self.py(value)
            x, y = right, at - 4
            ends = f'x1="{self.left:.1f}" x2="{right:.1f}" y1="{at:.1f}" y2="{at:.1f}"'
        anchor = "end" if x > (self.left + right) / 2 else "start"
        self._marks.append(f'<line class="rule" {ends}/>{_text(x, y, text, anchor, "limit halo")}')

    def svg(self) -> str:
        """The drawing."""
        floor, right = self.height - self.bottom, self.width - self.right
        out = []
        for value, text in self.y.labels():
            at = self.py(value)
            out.append(f'<line class="grid" x1="{self.left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            out.append(_text(self.left - 6, at + 4, text, "end"))
        for value, text in self.x.labels():
            at = self.px(value)
            out.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}"/>')
            out.append(_text(at, floor + 17, text))
        out.append(f'<line class="axis" x1="{self.left}" x2="{right}" y1="{floor}" y2="{floor}"/>')
        out.append(_text((self.left + right) / 2, self.height - 8, self.x_title, kind="ink"))
        out.append(_text(2, 12, self.y_title, "start", "ink"))
        return _svg(self.width, self.height, self.label, [*out, *self._marks])


def _staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    found = list(points[:1])
    for x, y in points[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found


def _tip(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    more = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _svg(width: float, height: float, label: str, inside: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(inside)}</svg>"


def _figure(caption: str, drawing: str) -> str:
    head = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{head}{drawing}</figure>"


def standalone(figures: Sequence[str], methods: int) -> str:
    """Figures of this module side by side, as a file that a text can show.

    Args:
        figures: as the functions of this module return them.
        methods: how many colours they use.
    """
    drawings, width, height = [], 0.0, 0.0
    for figure in figures:
        head, _, rest = figure[figure.index("<svg ") :].partition(">")
        _, _, wide, high = map(float, head.split('viewBox="', 1)[1].split('"', 1)[0].split())
        inside = rest[: rest.rindex("</svg>")]
        drawings.append(f'<g transform="translate({width:g} 0)">{inside}</g>')
        width, height = width + wide + _BETWEEN, max(height, high)
    width, height = max(width - _BETWEEN, 1.0), max(height, 1.0)
    font = "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" style="width:{width:g}px;height:{height:g}px;max-width:none"><style>{escape(STYLE + palette(methods) + font)}</style>'
        f'<rect width="100%" height="100%" style="fill:var(--page)"/>{"".join(drawings)}</svg>\n'
    )


def _seconds_or_cost(values: Sequence[float]) -> Axis:
    """Logarithmic where the values lie far apart, from 0 otherwise."""
    positive = [v for v in values if v > 0]
    if len(positive) == len(values) and max(values) > _WIDE * min(values):
        return Axis.around(values, log=True)
    return Axis.around([0.0, *values], zero=True)


def anytime(
    task: str, curves: Mapping[str, Sequence[tuple[float, float, float, float]]], colours: Mapping[str, int]
) -> str:
    """Scores over seconds of one task.

    Args:
        task: heading.
        curves: method → (seconds, median, low, high) by rising seconds, at least one.
        colours: method → number of its colour.
    """
    points = [point for curve in curves.values() for point in curve]
    seconds = [point[0] for point in points]
    drawing = Drawing(
        _seconds_or_cost(seconds),
        Axis.around([v for point in points for v in point[1:]], percent=True),
        "seconds",
        "balanced accuracy, test",
        f"{task}: score over time of {len(curves)} methods",
    )
    for method, curve in curves.items():
        drawing.band([(s, low, high) for s, _, low, high in curve], colours[method])
    for method, curve in curves.items():
        drawing.steps([(s, middle) for s, middle, _, _ in curve], colours[method], method)
        last = curve[-1]
        drawing.mark(
            last[0], last[1], colours[method], f"{method}: {100 * last[1]:.1f} % after {last[0]:.0f} s"
        )
    return _figure(task, drawing.svg())


def costs(
    task: str,
    title: str,
    points: Sequence[Mapping[str, Any]],
    front: Sequence[tuple[float, float]],
    limits: Sequence[tuple[float, str, bool]],
    colours: Mapping[str, int],
) -> str:
    """Scores over a cost of the files of one task.

    Args:
        task: what the drawing is about.
        title: of the cost, with its unit.
        points: ``cost``, ``score``, ``low``, ``high`` (None where unknown), ``method``, ``keeps`` (limits),
            ``tip``; at least one.
        front: (cost, score) by rising cost.
        limits: value, text, and whether it is one on the cost (on the score otherwise).
        colours: method → number of its colour.
    """
    across = [p["cost"] for p in points] + [value for value, _, on_cost in limits if on_cost]
    upwards = [v for p in points for v in (p["score"], p["low"], p["high"]) if v is not None]
    upwards += [value for value, _, on_cost in limits if not on_cost]
    drawing = Drawing(
        _seconds_or_cost(across),
        Axis.around(upwards, percent=True),
        title,
        "balanced accuracy, test",
        f"{task}: score over {title} of {len(points)} files",
    )
    drawing.top += 13.0 * max(0, sum(on_cost for _, _, on_cost in limits) - 1) + 4.0
    drawing.height += drawing.top - 26.0
    for value, text, on_cost in limits:
        drawing.limit(value, text, upright=on_cost)
    drawing.steps(front, None, "best score for its cost")
    for p in points:
        number = colours[p["method"]]
        if p["low"] is not None and p["high"] is not None:
            drawing.interval(p["cost"], p["low"], p["high"], number)
        drawing.mark(p["cost"], p["score"], number, p["tip"], hollow=not p["keeps"])
    return _figure("", drawing.svg())


def differences(
    average: Mapping[str, float],
    critical: float,
    groups: Sequence[Sequence[str]],
    colours: Mapping[str, int],
) -> str:
    """A critical-difference diagram (Demšar 2006, figure 1), the best method on the left.

    Args:
        average: method → average rank, at least two.
        critical: the critical difference, in ranks.
        groups: methods that are not told apart; joined by a bar.
        colours: method → number of its colour.
    """
    width, begin, end, line = 360.0, 24.0, 336.0, 52.0
    most = max(len(average), 2)

    def at(rank: float) -> float:
        return begin + (rank - 1.0) / (most - 1.0) * (end - begin)

    shown = min(critical, most - 1.0)
    text = f"critical difference {critical:.2f}" + (
        ", more than all ranks apart" if critical > most - 1 else ""
    )
    out = [f'<line class="rule" x1="{begin}" x2="{at(1 + shown):.1f}" y1="22" y2="22"/>']
    out += [
        _text(begin, 15, text, "start"),
        f'<line class="axis" x1="{begin}" x2="{end}" y1="{line}" y2="{line}"/>',
    ]
    for rank in range(1, most + 1):
        out.append(
            f'<line class="axis" x1="{at(rank):.1f}" x2="{at(rank):.1f}" y1="{line - 5}" y2="{line}"/>'
        )
        out.append(_text(at(rank), line - 9, str(rank)))
    for number, group in enumerate(groups):
        ranks = [average[m] for m in group]
        y = line + 9 + 8 * number
        ends = f'x1="{at(min(ranks)):.1f}" x2="{at(max(ranks)):.1f}" y1="{y}" y2="{y}"'
        out.append(f'<line class="joined" {ends}>{_tip(", ".join(group))}</line>')
    order = sorted(average, key=lambda m: (average[m], m))
    half = (len(order) + 1) // 2
    first = line + 30 + 8 * len(groups)
    names = []
    for side, members in (("start", order[:half]), ("end", order[half:][::-1])):
        edge = 2.0 if side == "start" else width - 2.0
        for row, method in enumerate(members):
            x, y = at(average[method]), first + 26 * row
            path = f"{x:.1f},{line} {x:.1f},{y:.1f} {edge:.1f},{y:.1f}"
            out.append(f'<polyline class="step m{colours[method]}" points="{path}"/>')
            name = f"{_clipped(method, 22)} {average[method]:.2f}"
            names.append(_text(edge, y - 5, name, side, "ink halo"))
    height = first + 26 * (half - 1) + 10
    said = "; ".join(f"{m} {average[m]:.2f}" for m in order)
    return _figure("", _svg(width, height, f"average ranks: {said}; {text}", [*out, *names]))


def strip(
    title: str,
    rows: Mapping[str, Sequence[float]],
    colours: Mapping[str, int],
    *,
    rule: float | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    zero: bool = False,
) -> str:
    """One row of signs per method.

    Args:
        title: of the axis.
        rows: method → values; at least one value in all.
        colours: method → number of its colour.
        rule: an upright line is drawn here.
        intervals: method → (low, high), drawn as a bar.
        zero: whether the axis begins at 0.
    """
    pairs = intervals or {}
    every = [v for values in rows.values() for v in values] + [v for pair in pairs.values() for v in pair]
    every += [] if rule is None else [rule]
    x = Axis.around(every, zero=zero)
    height, floor = 42.0 + 34 * len(rows), 4.0 + 34 * len(rows)
    drawing = Drawing(x, Axis(0, 1), title, "", title, left=10.0, right=14.0)
    out, right = [], drawing.width - drawing.right
    for value, text in x.labels():
        at = drawing.px(value)
        out.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{floor}"/>')
        out.append(_text(at, floor + 15, text))
    out.append(f'<line class="axis" x1="{drawing.left}" x2="{right}" y1="{floor}" y2="{floor}"/>')
    out.append(_text((drawing.left + right) / 2, height - 6, title, kind="ink"))
    if rule is not None:
        at = drawing.px(rule)
        out.append(f'<line class="rule" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{floor}"/>')
    for number, (method, values) in enumerate(rows.items()):
        y, colour = 4 + 34 * number + 25, colours[method]
        out.append(_text(drawing.left, y - 12, _clipped(method, 46), "start", "ink halo"))
        if method in pairs:
            low, high = (drawing.px(v) for v in pairs[method])
            out.append(f'<line class="wide m{colour}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        for value in values:
            path = _shape(colour, drawing.px(value), y, 4.4)
            tip = _tip(f"{method}: {value:.3g}")
            out.append(f'<g class="m{colour}"><path class="full" d="{path}">{tip}</path></g>')
    return _figure("", _svg(drawing.width, height, title, out))
