"""Draw charts as inline SVG. Colours are variables of the page's style, and each kind has its own shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .numbers import interval, number

BAR = (300, 34)
DOT = (130, 22)
PLOT = (420, 260)
PLOT_MARGINS = (44, 92, 22, 34)  # left, right, top, bottom
NUM_TICKS = 5
LABEL_HEIGHT, LABEL_WIDTH = 15, 120


@dataclass(frozen=True)
class Series:
    """A curve: at each x a mean, its interval and the values of the runs."""

    label: str
    kind: str
    x: list[int]
    means: list[float]
    intervals: list[tuple[float, float] | None]
    runs: list[list[float]]


@dataclass(frozen=True)
class Point:
    """A labelled point of a scatter plot."""

    label: str
    kind: str
    x: float
    y: float


def draw_limit(
    value: float, bounds: Sequence[float] | None, limit: float, status: str, is_minimum: bool, name: str
) -> Markup:
    """Draw a value with its interval on a track whose allowed side of the limit is tinted."""
    width, height = BAR
    ends = [value, limit, *(bounds or ())]
    pad = 0.15 * (max(ends) - min(ends)) or 0.1
    low, high = (0.0, 1.0) if is_minimum else (min(0.0, *ends) - pad, max(ends) + pad)

    def place(amount: float) -> float:
        return 6 + (min(max(amount, low), high) - low) / (high - low) * (width - 12)

    middle, at = height / 2, place(limit)
    start, end = (at, width - 6) if is_minimum else (6, at)
    parts = [
        f'<rect class="track" x="6" y="{middle - 5}" width="{width - 12}" height="10" rx="5"/>',
        f'<rect class="allowed" x="{start:.1f}" y="{middle - 5}" width="{end - start:.1f}" height="10" rx="5"/>',
    ]
    if bounds is not None:
        left, right = place(bounds[0]), place(bounds[1])
        parts.append(
            f'<rect class="range {status}" x="{left:.1f}" y="{middle - 2}" width="{right - left:.1f}" height="4"/>'
        )
    parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="4" y2="{height - 4}"/>')
    parts.append(_draw_mark(place(value), middle, {"holds": "circle", "fails": "diamond"}.get(status, "ring"), status))
    text = f"{name}: {number(value, bounds)}, interval {interval(bounds)}, limit {number(limit)}"
    return _wrap(BAR, parts, text)


def draw_interval(value: float, bounds: Sequence[float] | None, scale: Sequence[float], kind: str, name: str) -> Markup:
    """Draw a value with its interval on a scale that the rows of a table share."""
    width, height = DOT
    low, high = scale

    def place(amount: float) -> float:
        return 7 + (amount - low) / (high - low or 1) * (width - 14)

    middle = height / 2
    parts = [f'<line class="track" x1="7" x2="{width - 7}" y1="{middle}" y2="{middle}"/>']
    if bounds is not None:
        left, right = place(bounds[0]), place(bounds[1])
        parts.append(
            f'<rect class="range {kind}" x="{left:.1f}" y="{middle - 2}" width="{right - left:.1f}" height="4"/>'
        )
    parts.append(_draw_mark(place(value), middle, SHAPES[kind], kind))
    return _wrap(DOT, parts, f"{name}: {number(value, bounds)}, interval {interval(bounds)}")


SHAPES = {"gold": "circle", "llm": "square", "remedy": "diamond", "control": "ring"}


def draw_curves(series: Sequence[Series], x_label: str, y_label: str) -> Markup:
    """Draw curves with their bands and runs, labelled at their ends. x is on a logarithmic scale."""
    values = [value for curve in series for run in curve.runs for value in run]
    values += [bound for curve in series for bounds in curve.intervals if bounds for bound in bounds]
    values += [mean for curve in series for mean in curve.means]
    xs = sorted({x for curve in series for x in curve.x})
    frame = _Frame.around([math.log(x) for x in xs], values)
    parts = frame.axes([(math.log(x), f"{x:,}") for x in xs], x_label, y_label)
    ends = []
    for curve in series:
        across = [frame.x(math.log(x)) for x in curve.x]
        bands = [(x, bounds) for x, bounds in zip(across, curve.intervals, strict=True) if bounds]
        if len(bands) > 1:
            corners = [(x, high) for x, (_, high) in bands] + [(x, low) for x, (low, _) in reversed(bands)]
            outline = " ".join(f"{x:.1f},{frame.y(value):.1f}" for x, value in corners)
            parts.append(f'<polygon class="band {curve.kind}" points="{outline}"/>')
        for x, bounds in bands if len(bands) == 1 else ():
            top = frame.y(bounds[1])
            size = f'width="6" height="{frame.y(bounds[0]) - top:.1f}"'
            parts.append(f'<rect class="range {curve.kind}" x="{x - 3:.1f}" y="{top:.1f}" {size}/>')
        for x, run in zip(across, curve.runs, strict=True):
            parts += [
                f'<circle class="run {curve.kind}" cx="{x:.1f}" cy="{frame.y(value):.1f}" r="2.5"/>' for value in run
            ]
        line = " ".join(f"{x:.1f},{frame.y(mean):.1f}" for x, mean in zip(across, curve.means, strict=True))
        parts.append(f'<polyline class="curve {curve.kind}" points="{line}"/>')
        parts += [
            _draw_mark(x, frame.y(mean), SHAPES[curve.kind], curve.kind)
            for x, mean in zip(across, curve.means, strict=True)
        ]
        ends.append((across[-1], frame.y(curve.means[-1]), curve.label, curve.kind))
    parts += _draw_labels(ends)
    described = "; ".join(
        f"{curve.label}: {', '.join(f'{number(mean)} at {x:,}' for x, mean in zip(curve.x, curve.means, strict=True))}"
        for curve in series
    )
    return _wrap(PLOT, parts, f"{y_label} by {x_label}. {described}.")


def draw_scatter(points: Sequence[Point], line: Sequence[tuple[float, float]], x_label: str, y_label: str) -> Markup:
    """Draw labelled points, and a line to compare them with."""
    frame = _Frame.around(
        [*(p.x for p in points), *(x for x, _ in line)], [*(p.y for p in points), *(y for _, y in line)]
    )
    low, high = frame.x_range
    parts = frame.axes(
        [(value, f"{value:,.0f}") for value in _choose_ticks(low, high) if low <= value <= high], x_label, y_label
    )
    parts.append(
        f'<polyline class="curve gold" points="{" ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)}"/>'
    )
    parts += [_draw_mark(frame.x(p.x), frame.y(p.y), SHAPES[p.kind], p.kind) for p in points]
    parts += _draw_labels([(frame.x(p.x), frame.y(p.y), p.label, p.kind) for p in points])
    described = "; ".join(f"{p.label}: {number(p.y)} at {p.x:,.0f}" for p in points)
    return _wrap(PLOT, parts, f"{y_label} by {x_label}. {described}.")


@dataclass(frozen=True)
class _Frame:
    """The area of a plot, and the values at its edges."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> "_Frame":
        pad = (max(ys) - min(ys)) * 0.05 or 0.05
        return cls((min(xs), max(xs)), (min(ys) - pad, max(ys) + pad))

    def x(self, value: float) -> float:
        left, right, _, _ = PLOT_MARGINS
        low, high = self.x_range
        return left + ((value - low) / (high - low) if high > low else 0.5) * (PLOT[0] - left - right)

    def y(self, value: float) -> float:
        _, _, top, bottom = PLOT_MARGINS
        low, high = self.y_range
        return top + (high - value) / (high - low) * (PLOT[1] - top - bottom)

    def axes(self, x_ticks: Sequence[tuple[float, str]], x_label: str, y_label: str) -> list[str]:
        left, right, _, bottom = PLOT_MARGINS
        end, base = PLOT[0] - right, PLOT[1] - bottom
        parts = [f'<text x="2" y="12">{y_label}</text>']
        parts.append(f'<text x="{(left + end) / 2}" y="{PLOT[1] - 3}" text-anchor="middle">{x_label}</text>')
        ticks = _choose_ticks(*self.y_range)
        digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
        for value in ticks:
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{left}" x2="{end}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{value:.{digits}f}</text>')
        parts += [
            f'<text x="{self.x(value):.1f}" y="{base + 15}" text-anchor="middle">{text}</text>'
            for value, text in x_ticks
        ]
        return parts


def _choose_ticks(low: float, high: float) -> list[float]:
    """Return at most NUM_TICKS + 1 round values from low to high."""
    rough = (high - low) / NUM_TICKS or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _draw_labels(ends: Sequence[tuple[float, float, str, str]]) -> list[str]:
    """Write labels next to their points, each at the nearest height at which it covers no other label."""
    parts: list[str] = []
    taken: list[tuple[float, float]] = []
    steps = sorted(range(-len(ends), len(ends) + 1), key=abs)
    for x, y, label, kind in sorted(ends, key=lambda end: end[1]):
        heights = [y + step * LABEL_HEIGHT for step in steps]
        inside = [height for height in heights if LABEL_HEIGHT <= height <= PLOT[1] - LABEL_HEIGHT]
        free = (
            height
            for height in inside
            if all(abs(x - i) > LABEL_WIDTH or abs(height - j) >= LABEL_HEIGHT for i, j in taken)
        )
        at = next(free, y)
        taken.append((x, at))
        parts.append(f'<text class="label {kind}" x="{x + 9:.1f}" y="{at + 4:.1f}">{Markup.escape(label)}</text>')
    return parts


def _draw_mark(x: float, y: float, shape: str, kind: str) -> str:
    if shape == "square":
        return f'<rect class="mark {kind}" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    if shape == "diamond":
        return f'<path class="mark {kind}" d="M{x:.1f} {y - 6.5:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"/>'
    hollow = " hollow" if shape == "ring" else ""
    return f'<circle class="mark {kind}{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def make_file(svg: str, style: str) -> str:
    """Return the content of an SVG file that looks as in a page."""
    inner = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" class="first-screen" ', 1)
    return inner.replace(">", f"><style>{style.replace('.first-screen svg', '.first-screen')}</style>", 1)


def _wrap(size: tuple[int, int], parts: list[str], text: str) -> Markup:
    width, height = size
    return Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">').format(
        width, height, width, height, text
    ) + Markup("".join(parts) + "</svg>")  # noqa: S704 - numbers, fixed words and escaped labels
