"""Small plots as SVG text: sharp at any size, no library. Shapes differ as well as colours.

Every function returns one ``<svg>`` element; lengths in the arguments are data units, never pixels.
"""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.colours import IMAGINED_RGB, REAL_RGB, css

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
LETTER = 6.3  # about the width of one, in a font of 12 pixels
MOST_MARKS = 12  # points of a curve that are marked one by one
REAL, IMAGINED = css(REAL_RGB), css(IMAGINED_RGB)


class Line(NamedTuple):
    """One curve: its name, points, colour, whether it is dashed, and the interval of y at every point."""

    name: str
    points: Float[np.ndarray, "N 2"]
    colour: str
    is_dashed: bool = False
    interval: Float[np.ndarray, "N 2"] | None = None  # low and high


class _Axes(NamedTuple):
    """Data to pixels."""

    low: np.ndarray
    high: np.ndarray

    def place(self, points: np.ndarray) -> np.ndarray:
        share = (np.asarray(points, dtype=float) - self.low) / (self.high - self.low)
        size = np.array([WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM])
        return np.array([LEFT, HEIGHT - BOTTOM]) + share * size * [1, -1]


def line_chart(lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """Curves over a common x, their names above them. Points that are not finite are left out; few are marked."""
    shown = [finite for line in lines if len((finite := _finite(line)).points)]
    if not shown:
        return _svg("nothing to show", '<text x="180" y="110" text-anchor="middle">nothing to show</text>')
    every = np.concatenate([points for line in shown for points in (line.points, *_ends(line))])
    low, high = every.min(axis=0), every.max(axis=0)
    margin = np.maximum((high - low) * [0.02, 0.12], [1e-9, 1e-3 + 0.01 * np.abs(high[1])])
    axes = _Axes(low - margin, high + margin)
    bars = [_bars(axes, line) for line in shown]
    parts = [_frame(axes, x_name, y_name), *bars, *(_curve(axes, line) + _marks(axes, line) for line in shown)]
    legend, height = _legend(shown)
    inside = f'{legend}<g transform="translate(0 {height})">{"".join(parts)}</g>'
    return _svg(f"{y_name} over {x_name}", inside, HEIGHT + height)


def path_plot(lines: Sequence[Line], x_name: str, y_name: str) -> str:
    """Paths in a plane of space, in metres, with equal scales; a ring marks the start, a disc the end."""
    every = np.concatenate([line.points for line in lines])
    middle = (every.min(axis=0) + every.max(axis=0)) / 2
    size = np.array([WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM], dtype=float)
    metres_per_pixel = max(float((np.ptp(every, axis=0) / size).max()) * 1.15, 0.02 / size[1])
    axes = _Axes(middle - size / 2 * metres_per_pixel, middle + size / 2 * metres_per_pixel)
    parts = [_frame(axes, x_name, y_name)]
    for line in lines:
        start, end = axes.place(line.points[[0, -1]])
        parts.append(_curve(axes, line))
        parts.append(f'<circle cx="{start[0]:.1f}" cy="{start[1]:.1f}" r="3.5" fill="#fff" stroke="{line.colour}"/>')
        parts.append(f'<circle cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="3" fill="{line.colour}"/>')
    return _svg(f"paths, {y_name} against {x_name}", "".join(parts))


def histogram(values: Sequence[float], x_name: str) -> str:
    """How often values fall where; the dashed line is the median."""
    data = np.asarray(values, dtype=float)
    counts, edges = np.histogram(data, bins=min(12, max(4, len(data) // 2)))
    axes = _Axes(np.array([edges[0], 0.0]), np.array([edges[-1], counts.max() * 1.1]))
    parts = [_frame(axes, x_name, "decisions", whole=True)]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        (x0, y0), (x1, y1) = axes.place(np.array([[left, 0], [right, count]]))
        parts.append(f'<rect x="{x0 + 1:.1f}" y="{y1:.1f}" width="{x1 - x0 - 2:.1f}" height="{y0 - y1:.1f}" ')
        parts.append(f'fill="{REAL}" fill-opacity=".75"/>')
    median = axes.place(np.array([[np.median(data), 0], [np.median(data), axes.high[1]]]))
    parts.append(_polyline(median, "#1d2430", "5 4"))
    return _svg(f"histogram of {x_name}", "".join(parts))


def interval_chart(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Shares with their intervals, one row each: (name, low, value, high), all within 0..1."""
    row_height, left = 40, 16
    height = 8 + row_height * len(rows) + 24
    span = WIDTH - 2 * left
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * span
        parts.append(f'<path d="M{x:.1f} 8V{height - 24}" stroke="#e6e9ed"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:.0%}</text>')
    for index, (name, low, value, high) in enumerate(rows):
        y = 8 + row_height * index + 28
        x0, x1, x2 = (left + v * span for v in (low, value, high))
        parts.append(f'<text x="{left}" y="{y - 12}">{html.escape(name)}</text>')
        parts.append(f'<path d="M{x0:.1f} {y}H{x2:.1f}" stroke="{REAL}" stroke-width="6" stroke-opacity=".3"/>')
        parts.append(f'<circle cx="{x1:.1f}" cy="{y}" r="5" fill="{REAL}"/>')
    return _svg("success rate with its interval", "".join(parts), height)


def figure(panels: Sequence[str], columns: int = 3) -> str:
    """Several plots side by side as one SVG file that stands alone."""
    rows = -(-len(panels) // columns)
    heights = [int(panel.split('viewBox="0 0 ')[1].split('"')[0].split()[1]) for panel in panels]
    row_height = max(heights) + 8
    parts = []
    for index, (panel, height) in enumerate(zip(panels, heights, strict=True)):
        x, y = index % columns * WIDTH, index // columns * row_height
        parts.append(panel.replace("<svg ", f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{height}" ', 1))
    size = f"{WIDTH * min(columns, len(panels))} {row_height * rows}"
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#5b6472"'
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" {style}>{background}{"".join(parts)}</svg>\n'


def _svg(label: str, inside: str, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">{inside}</svg>'


def _frame(axes: _Axes, x_name: str, y_name: str, *, whole: bool = False) -> str:
    """Grid lines at round numbers (on y only whole ones, if asked), their values, and the names of the axes."""
    parts = []
    for x in _round_numbers(axes.low[0], axes.high[0], 5):
        px = axes.place(np.array([x, axes.low[1]]))[0]
        parts.append(f'<path d="M{px:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e6e9ed"/>')
        parts.append(f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:g}</text>')
    for y in _round_numbers(axes.low[1], axes.high[1], 4):
        if whole and y % 1:
            continue
        py = axes.place(np.array([axes.low[0], y]))[1]
        parts.append(f'<path d="M{LEFT} {py:.1f}H{WIDTH - RIGHT}" stroke="#e6e9ed"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{y:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_name)}</text>')
    up = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(11 {up}) rotate(-90)" text-anchor="middle">{html.escape(y_name)}</text>')
    return "".join(parts)


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers between two bounds."""
    rough = (high - low) / count
    power = 10 ** np.floor(np.log10(rough))
    step = next(float(m * power) for m in (1, 2, 5, 10) if m * power >= rough)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return [float(round(tick, 10)) + 0.0 for tick in ticks]  # + 0.0: never "-0"


def _finite(line: Line) -> Line:
    kept = np.isfinite(line.points).all(axis=1)
    interval = None if line.interval is None else line.interval[kept]
    return line._replace(points=line.points[kept], interval=interval)


def _ends(line: Line) -> list[np.ndarray]:
    """The ends of a line's intervals as points; a point without a finite interval stands for itself."""
    if line.interval is None:
        return []
    ends = np.where(np.isfinite(line.interval), line.interval, line.points[:, 1:])
    return [np.stack([line.points[:, 0], end], axis=1) for end in ends.T]


def _bars(axes: _Axes, line: Line) -> str:
    parts = []
    for low, high in zip(*_ends(line), strict=True) if line.interval is not None else ():
        (x, y0), (_, y1) = axes.place(low), axes.place(high)
        parts.append(f'<path d="M{x:.1f} {y0:.1f}V{y1:.1f}" stroke="{line.colour}" stroke-width="6" ')
        parts.append('stroke-opacity=".25" stroke-linecap="round"/>')
    return "".join(parts)


def _curve(axes: _Axes, line: Line) -> str:
    return _polyline(axes.place(line.points), line.colour, "6 4" if line.is_dashed else "none")


def _marks(axes: _Axes, line: Line) -> str:
    points = axes.place(line.points) if len(line.points) <= MOST_MARKS else []
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{line.colour}"/>' for x, y in points)


def _polyline(points: np.ndarray, colour: str, dash: str) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{text}" fill="none" stroke="{colour}" stroke-width="2.2" stroke-dasharray="{dash}" '
        'stroke-linejoin="round"/>'
    )


def _legend(lines: Sequence[Line]) -> tuple[str, int]:
    """The names side by side above the plot, in as many rows as they need; and the height of that."""
    parts, x, y = [], float(LEFT), 12
    for line in lines:
        width = 44 + LETTER * len(line.name)
        if x > LEFT and x + width > WIDTH:
            x, y = float(LEFT), y + 16
        dash = "6 4" if line.is_dashed else "none"
        parts.append(_polyline(np.array([[x, y], [x + 24, y]]), line.colour, dash))
        parts.append(f'<text x="{x + 30:.1f}" y="{y + 4}">{html.escape(line.name)}</text>')
        x += width
    return "".join(parts), y + 4
