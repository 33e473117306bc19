"""Line charts as inline SVG: they need no library, no network, and no script to be read."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

WIDTH, WIDE, HEIGHT = 560, 1120, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 28
POINTS = 300
"""The most parts into which a line's points are gathered: a picture has no room for more."""

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: for the legend.
        points: (x, y), x rising.
        style: CSS class, of `report_page.STYLE`.
        errors: half the height of the bar at each point; empty: no bars.
    """

    name: str
    points: Points
    style: str = "main"
    errors: Sequence[float] = ()


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    log: bool = False,
    note: str = "",
    marks: Sequence[float] = (),
    wide: bool = False,
) -> str:
    """A figure: title, legend, axes, lines, and the numbers that a script shows under the pointer.

    Args:
        title: what is shown, with its unit.
        lines: with finite numbers only; those without points are left out. `log`: only positive ones.
        log: a logarithmic vertical axis.
        note: a sentence below.
        marks: where on the horizontal axis something happened (vertical dashes).
        wide: across the whole page.

    Returns:
        HTML; empty if there is nothing to show.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    width = WIDE if wide else WIDTH
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    for line in lines:
        ends = [y + sign * e for (_, y), e in zip(line.points, line.errors, strict=False) for sign in (-1, 1)]
        ys += [end for end in ends if end > 0 or not log]
    to_x = _Axis(0.0 if min(xs) < 0.2 * max(xs) else min(xs), max(xs), LEFT, width - RIGHT)
    low, high = _margin(min(ys), max(ys), log)
    to_y = _Axis(low, high, HEIGHT - BOTTOM, TOP, log)
    body = []
    for tick in to_y.ticks(5):
        y = to_y(tick)
        body.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        body.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in to_x.ticks(6):
        body.append(f'<text x="{to_x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{number(tick)}</text>')
    body += [f'<path class="mark" d="M{to_x(x):.1f} {TOP}V{HEIGHT - BOTTOM}"/>' for x in marks]
    for line in lines:
        body += _drawn(line, to_x, to_y)
    body.append(f'<path class="cursor" d="M0 {TOP}V{HEIGHT - BOTTOM}" visibility="hidden"/>')
    named = [line for line in lines if line.name]
    legend = "".join(f'<span class="{line.style}"><i></i>{escape(line.name)}</span>' for line in named)
    data = {
        "x": [to_x.low, to_x.high, LEFT, width - RIGHT, width],
        "lines": [
            {"name": line.name or title, "style": line.style, "points": [[x, _short(y)] for x, y in line.points]}
            for line in lines
        ],
    }
    return (
        f'<figure class="chart{" wide" if wide else ""}"><figcaption>{escape(title)}</figcaption>'
        + (f'<div class="legend">{legend}</div>' if len(named) > 1 else "")
        + f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'
        + f'<script type="application/json">{inert_json(data)}</script>'
        + (f"<p>{escape(note)}</p>" if note else "")
        + "</figure>"
    )


def _drawn(line: Line, to_x: "_Axis", to_y: "_Axis") -> list[str]:
    places = [(to_x(x), to_y(y)) for x, y in line.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    shapes = [f'<path class="line {line.style}" d="M{path}"/>'] if len(places) > 1 else []
    if len(places) <= 40 and line.style != "raw":
        shapes += [f'<circle class="dot {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places]
    for (x, value), error in zip(line.points, line.errors, strict=False):
        shapes.append(
            f'<path class="line {line.style}" d="M{to_x(x):.1f} {to_y(value - error):.1f}V{to_y(value + error):.1f}"/>'
        )
    return shapes


def gathered(points: Points) -> Points:
    """At most `POINTS` points: means of neighbours."""
    return [(part[-1][0], fmean(y for _, y in part)) for part in _parts(points, POINTS)]


def extremes(points: Points) -> Points:
    """At most `POINTS` points: the lowest and the highest of neighbours, so that what stands out is not lost."""
    kept = []
    for part in _parts(points, POINTS // 2):
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def smoothed(points: Points) -> Points:
    """A running average over about a fortieth of the points, of the logarithms: for positive values on a log axis.

    It runs forwards and backwards, so that it does not lag behind a loss that falls.
    """
    logs = [math.log(y) for _, y in points]
    decay = 1 - 1 / max(1.0, len(points) / 40)
    both = zip(_running(logs, decay), reversed(_running(logs[::-1], decay)), strict=True)
    return gathered([(x, math.exp((a + b) / 2)) for (x, _), (a, b) in zip(points, both, strict=True)])


def _running(values: Sequence[float], decay: float) -> list[float]:
    average = weight = 0.0
    means = []
    for value in values:
        average = decay * average + (1 - decay) * value
        weight = decay * weight + 1 - decay
        means.append(average / weight)
    return means


def _parts(points: Points, count: int) -> list[Points]:
    size = math.ceil(len(points) / count)
    return [points[i : i + size] for i in range(0, len(points), max(1, size))]


@dataclass(frozen=True)
class _Axis:
    """From values to places in the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            value, low, high = math.log(max(value, 1e-300)), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        where = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, where)) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """About `count` round numbers."""
        if self.log and self.high / self.low > 8:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5)):
                found = [m * 10.0**e for e in decades for m in digits if self.low <= m * 10.0**e <= self.high]
                if len(found) >= 3:
                    return found[:: math.ceil(len(found) / 8)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / count or 1.0))
        step = next(m * step for m in (1, 2, 5, 10) if (self.high - self.low) / (m * step) <= count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def _margin(low: float, high: float, log: bool) -> tuple[float, float]:
    """The range of the vertical axis: some air above and below."""
    if log:
        air = max((high / low) ** 0.05, 1.02)
        return low / air, high * air
    air = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    # what is close to zero starts there, and what cannot be negative does not go below
    return (0.0 if 0 <= low < 0.4 * high else low - air), high + air


def number(value: float) -> str:
    """A number as an axis shows it."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.2g}".split("e") if "e" in f"{value:.2g}" else f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def inert_json(value: object) -> str:
    """JSON that can stand inside a <script> element, whatever it holds."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _short(value: float) -> float:
    return float(f"{value:.5g}")
