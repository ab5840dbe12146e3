"""Small plots as inline SVG: axes, ticks, marks. Sizes are in the units of a 440 wide drawing that scales with the page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from automl import wording

BLUE, ORANGE, GREEN, RED, GREY, INK, MUTED, LINE = (
    "#0b5fa5", "#b45309", "#18794e", "#b42318", "#8a94a0", "#1c2530", "#56616e", "#dde2e8",
)  # fmt: skip


def escape(text: object) -> str:
    """Text for HTML, also inside attributes; control characters are made visible."""
    return html.escape(wording.plain(text), quote=True)


@dataclass
class Axis:
    """One axis.

    Attributes:
        low, high: ends, in data units.
        log: whether it is logarithmic.
        percent: whether the values are shares.
    """

    low: float
    high: float
    log: bool = False
    percent: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], *, log: bool = False, percent: bool = False, zero: bool = False
    ) -> Axis:
        """An axis around all values, with room on both sides."""
        found = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
        if not found:
            return cls(0.0, 1.0, percent=percent)
        low, high = min(found), max(found)
        if log:
            pad = max((high / low) ** 0.06, 1.08)
            return cls(low / pad, high * pad, log=True)
        if zero:
            return cls(0.0, high * 1.06 or 1.0, percent=percent)
        if percent:  # differences of less than 2 points are not blown up
            middle, half = (low + high) / 2, max(0.58 * (high - low), 0.01)
            low, high = max(middle - half, 0.0), min(middle + half, 1.02)
            return cls(min(low, 1.0), max(high, 0.02), percent=True)
        span = high - low or max(abs(high) * 0.1, 0.02)
        return cls(low - 0.08 * span, high + 0.08 * span)

    def at(self, value: float) -> float:
        """Position 0..1."""
        if self.log:
            return (math.log(max(value, 1e-12)) - math.log(self.low)) / (
                math.log(self.high) - math.log(self.low)
            )
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values to write at the axis."""
        if self.log:
            found = [
                m * 10.0**e
                for e in range(math.floor(math.log10(self.low)) - 1, math.ceil(math.log10(self.high)) + 1)
                for m in (1, 2, 5)
            ]
            inside = [v for v in found if self.low <= v <= self.high]
            if len(inside) > 7:
                inside = [v for v in inside if f"{v:e}"[0] == "1"] or inside
            if len(inside) >= 2:
                return inside
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / count))
        for times in (1, 2, 2.5, 5, 10):
            if (self.high - self.low) / (step * times) <= count + 0.5:
                step *= times
                break
        first = math.ceil(self.low / step - 1e-9)
        values = [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        return [v for v in values if not self.percent or v <= 1.0 + 1e-9]

    def labels(self) -> list[tuple[float, str]]:
        """Tick values with their texts, all with the same number of decimals."""
        ticks = self.ticks()
        if not self.percent:
            return [(v, wording.number(v)) for v in ticks]
        step = 100 * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
        digits = 0 if abs(step - round(step)) < 1e-6 else 1 if abs(10 * step - round(10 * step)) < 1e-6 else 2
        return [(v, f"{100 * v:.{digits}f} %") for v in ticks]


@dataclass
class Plot:
    """A drawing with two axes; marks are added in data units and lie inside the frame."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    label: str
    width: float = 440.0
    height: float = 300.0
    left: float = 54.0
    right: float = 14.0
    top: float = 36.0
    bottom: float = 46.0
    _marks: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Horizontal position of a value, kept inside the frame."""
        return self.left + min(max(self.x.at(value), 0.0), 1.0) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Vertical position of a value, kept inside the frame."""
        return (
            self.height
            - self.bottom
            - min(max(self.y.at(value), 0.0), 1.0) * (self.height - self.top - self.bottom)
        )

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 2.0, dash: str = "",
        opacity: float = 1.0, tip: str = "",
    ) -> None:  # fmt: skip
        """A polyline."""
        if len(points) < 2:
            return
        path = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)
        more = f' stroke-dasharray="{dash}"' if dash else ""
        more += f' data-tip="{escape(tip)}"' if tip else ""
        self._marks.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" '
            f'stroke-linejoin="round" stroke-linecap="round"{more}/>'
        )

    def dot(
        self,
        x: float,
        y: float,
        colour: str,
        *,
        radius: float = 4.5,
        tip: str = "",
        hollow: bool = False,
        shape: str = "dot",
    ) -> None:
        """A mark: ``dot``, ``cross`` or ``star``; ``tip`` is shown on hover and tap."""
        at_x, at_y = self.px(x), self.py(y)
        more = f' data-tip="{escape(tip)}"' if tip else ""
        if shape == "cross":
            r = radius * 0.8
            self._marks.append(
                f'<path d="M{at_x - r:.1f} {at_y - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}" '
                f'stroke="{colour}" stroke-width="2" fill="none" pointer-events="all"{more}/>'
            )
        elif shape == "star":
            corners = [
                (at_x + r * math.sin(math.pi * k / 5), at_y - r * math.cos(math.pi * k / 5))
                for k in range(10)
                for r in [radius if k % 2 == 0 else radius * 0.45]
            ]
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
            self._marks.append(
                f'<polygon points="{path}" fill="{colour}" stroke="#fff" stroke-width="1.5"{more}/>'
            )
        else:
            style = (
                f'fill="#fff" stroke="{colour}" stroke-width="2"'
                if hollow
                else f'fill="{colour}" fill-opacity="0.75"'
            )
            self._marks.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="{radius:.1f}" {style}{more}/>')

    def limit_x(self, value: float, operator: str, text: str) -> None:
        """A vertical limit; the forbidden side is shaded."""
        at, right = self.px(value), self.width - self.right
        begin, end = (at, right) if operator == "<=" else (self.left, at)
        self._shade(begin, self.top, end - begin, self.height - self.top - self.bottom)
        self._rule(at, self.top, at, self.height - self.bottom)
        anchor = "end" if at > (self.left + right) / 2 else "start"
        self.text(at + (-3 if anchor == "end" else 3), self.top - 6, text, ORANGE, anchor)

    def limit_y(self, value: float, operator: str, text: str) -> None:
        """A horizontal limit; the forbidden side is shaded."""
        at, floor = self.py(value), self.height - self.bottom
        begin, end = (at, floor) if operator == ">=" else (self.top, at)
        self._shade(self.left, begin, self.width - self.left - self.right, end - begin)
        self._rule(self.left, at, self.width - self.right, at)
        self.text(self.left + 4, at + 14 if at < (self.top + floor) / 2 else at - 5, text, ORANGE, "start")

    def text(
        self, x: float, y: float, text: str, colour: str = MUTED, anchor: str = "middle", size: float = 12
    ) -> None:
        """Text at a position of the drawing."""
        self._marks.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size:g}">{escape(text)}</text>'
        )

    def _shade(self, x: float, y: float, width: float, height: float) -> None:
        if width > 0 and height > 0:
            self._marks.insert(
                0,
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{ORANGE}" fill-opacity="0.08"/>',
            )

    def _rule(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self._marks.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{ORANGE}" stroke-width="1.5" stroke-dasharray="5 4"/>'
        )

    def svg(self) -> str:
        """The drawing."""
        out = [
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-label="{escape(self.label)}" '
            f'style="max-width:{self.width * 1.22:.0f}px">'
        ]
        floor, right = self.height - self.bottom, self.width - self.right
        for value, text in self.y.labels():
            at = self.py(value)
            out.append(f'<line x1="{self.left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" stroke="{LINE}"/>')
            out.append(
                f'<text x="{self.left - 7}" y="{at + 4:.1f}" text-anchor="end" fill="{MUTED}" font-size="12">{escape(text)}</text>'
            )
        for value, text in self.x.labels():
            at = self.px(value)
            out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}" stroke="{MUTED}"/>')
            out.append(
                f'<text x="{at:.1f}" y="{floor + 18}" text-anchor="middle" fill="{MUTED}" font-size="12">{escape(text)}</text>'
            )
        out.append(f'<line x1="{self.left}" x2="{right}" y1="{floor}" y2="{floor}" stroke="{MUTED}"/>')
        middle = (self.left + right) / 2
        out.append(
            f'<text x="{middle}" y="{self.height - 8}" text-anchor="middle" fill="{INK}" font-size="12.5">{escape(self.x_title)}</text>'
        )
        if self.y_title:
            out.append(f'<text x="4" y="13" fill="{INK}" font-size="12.5">{escape(self.y_title)}</text>')
        return "".join([*out, *self._marks, "</svg>"])
