"""Pictures of an evaluation as SVG text; colours are classes of the page's style sheet, so they follow light and dark.

The number of shapes is bounded whatever the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from mtembed.evaluation.words import number, with_interval

Floats = npt.NDArray[np.float64]
WIDTH = 960
LEFT = 300  # labels of bars
ROW = 24
MAP_WIDTH, MAP_HEIGHT = 900, 480
MOST_POINTS = 4_000
MOST_PANELS = 5  # places far apart that have a map each
APART = 2.0  # degrees
FILLED = 0.05  # share of the whole box that places fill: from here on one map shows them
LABELS = 52  # room left of a map
SHADES = 11  # of residuals, from far below to far above


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its interval; ``own``: of the embedding."""

    label: str
    value: float
    low: float | None
    high: float | None
    own: bool


def drawing(parts: Sequence[str], width: float, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" class="wide" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers between two values."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / count))
    step = next(step * k for k in (1, 2, 5, 10) if step * k * count >= high - low)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def bars(rows: Sequence[Bar], least: float | None, most: float | None, title: str) -> str:
    """Points with intervals, one row each; the axis ends at ``least`` and ``most`` at the latest."""
    ends = [x for row in rows for x in (row.value, row.low, row.high) if x is not None and math.isfinite(x)]
    if not ends:
        return ""
    low, high = min([0.0, *ends]), max(ends)
    low, high = max(low, least if least is not None else low), min(high, most if most is not None else high)
    high = high if high > low else low + 1
    room = WIDTH - LEFT - 190
    height = ROW * len(rows)

    def at(value: float) -> float:
        return LEFT + (min(max(value, low), high) - low) / (high - low) * room

    parts = []
    for tick in ticks(low, high):
        parts.append(f'<line x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="0" y2="{height}" class="grid"/>')
        parts.append(f'<text x="{at(tick):.1f}" y="{height + 16}" class="tick">{tick:g}</text>')
    for i, row in enumerate(rows):
        y, kind = i * ROW + ROW / 2, "own" if row.own else "other"
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" class="label {kind}-text">{escape(row.label)}</text>')
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line x1="{at(row.low):.1f}" x2="{at(row.high):.1f}" y1="{y}" y2="{y}" class="{kind}-line"/>'
            )
        if math.isfinite(row.value):
            parts.append(f'<circle cx="{at(row.value):.1f}" cy="{y}" r="5" class="{kind}"/>')
        text = with_interval(row.value, row.low, row.high)
        parts.append(f'<text x="{WIDTH - 180}" y="{y + 4}" class="{kind}-text">{text}</text>')
    return drawing(parts, WIDTH, height + 22, title)


@dataclass(frozen=True, slots=True)
class Curve:
    """Values over numbers of labels: (x, value, low, high); x = inf is all of them."""

    label: str
    points: tuple[tuple[float, float, float | None, float | None], ...]
    own: bool


def curves(lines: Sequence[Curve], floor: float | None, name: str, title: str) -> str:
    """Few-shot curves over a logarithmic axis; ``floor`` is a dashed line: what a constant gets."""
    xs = sorted({x for line in lines for x, *_ in line.points if math.isfinite(x)})
    if not xs:
        return ""
    every = [v for line in lines for _, *values in line.points for v in values if v is not None and math.isfinite(v)]
    every += [] if floor is None else [floor]
    median = float(np.median(every))
    low, high = max(min(every), median - 2, -1.0 if max(every) <= 1 else -math.inf), max(every)
    high = high if high > low else low + 1
    width, height, left = WIDTH, 260, 70
    place = {x: left + 30 + i * (width - left - 80) / max(1, len(xs)) for i, x in enumerate([*xs, math.inf])}

    def y(value: float) -> float:
        return height - 10 - (min(max(value, low), high) - low) / (high - low) * (height - 25)

    parts = [
        f'<line x1="{left}" x2="{width - 10}" y1="{y(t):.1f}" y2="{y(t):.1f}" class="grid"/>'
        f'<text x="{left - 8}" y="{y(t) + 4:.1f}" class="label">{t:g}</text>'
        for t in ticks(low, high, 5)
    ]
    for x, at in place.items():
        parts.append(f'<text x="{at:.1f}" y="{height + 14}" class="tick">{"all" if x == math.inf else f"{x:g}"}</text>')
    if floor is not None and low <= floor <= high:
        parts.append(f'<line x1="{left}" x2="{width - 10}" y1="{y(floor):.1f}" y2="{y(floor):.1f}" class="floor"/>')
    for line in lines:
        kind = "own" if line.own else "other"
        path = " ".join(f"{place[x]:.1f},{y(v):.1f}" for x, v, *_ in line.points)
        parts.append(f'<polyline points="{path}" class="{kind}-path"/>')
        for x, value, below, above in line.points:
            if below is not None and above is not None:
                ends = f'y1="{y(below):.1f}" y2="{y(above):.1f}"'
                parts.append(f'<line x1="{place[x]:.1f}" x2="{place[x]:.1f}" {ends} class="{kind}-line thin"/>')
            tip = f"{line.label}, {'all' if x == math.inf else f'{x:g}'} labels: {name} {number(value)}"
            where = f'cx="{place[x]:.1f}" cy="{y(value):.1f}"'
            parts.append(f'<circle {where} r="4" class="{kind}"><title>{escape(tip)}</title></circle>')
    return drawing(parts, width, height + 22, title)


def scatter(lat: Floats, lon: Floats, classes: Sequence[str], tips: Sequence[str], title: str) -> str:
    """Points on a map in plain degrees, stretched so that a kilometre is as long both ways in the middle; a few places
    far apart are maps side by side.

    ``classes`` are those of the style sheet.  No more than ``MOST_POINTS`` are drawn, evenly spread over the rows.
    """
    chosen = np.unique(np.linspace(0, len(lat) - 1, min(len(lat), MOST_POINTS)).astype(int))
    place = _places(lat[chosen], lon[chosen])
    count = int(place.max(initial=0)) + 1
    room, parts, below, left = MAP_WIDTH / count, [], 0.0, 0.0
    for one in range(count):
        mine = chosen[place == one]
        frame = _Frame.around(lat[mine], lon[mine], left, room)
        parts += frame.axes(5 if count == 1 else 2)
        for i in mine.tolist():
            x, y = frame.at(float(lon[i]), float(lat[i]))
            tip = f"<title>{escape(tips[i])}</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{classes[i]}">{tip}</circle>')
        below, left = max(below, frame.height), left + room
    return drawing(parts, MAP_WIDTH + 10, below + 22, title)


def _places(lat: Floats, lon: Floats) -> npt.NDArray[np.int64]:
    """A number for each point, the same for points of one place; places are over ``APART`` degrees from each other.

    All 0 where there are more than ``MOST_PANELS`` of them, or where one map shows them well.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    squares, inverse = np.unique(np.floor(np.stack([lat, lon], axis=1) / APART), axis=0, return_inverse=True)
    near = KDTree(squares).query_pairs(1, p=np.inf, output_type="ndarray")
    graph = coo_matrix((np.ones(len(near)), (near[:, 0], near[:, 1])), shape=(len(squares), len(squares)))
    count, group = connected_components(graph, directed=False)
    sizes = [np.prod(np.ptp(squares[group == one], axis=0) + 1) for one in range(count)]
    together = count > MOST_PANELS or sum(sizes) > FILLED * np.prod(np.ptp(squares, axis=0) + 1)
    return np.asarray(np.zeros(len(lat)) if together else group[inverse.ravel()], np.int64)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A map: degrees of its edges, and where it lies in the drawing; ``squeeze`` is the cosine of the latitude."""

    west: float
    north: float
    east: float
    south: float
    squeeze: float
    scale: float
    left: float

    @classmethod
    def around(cls, lat: Floats, lon: Floats, left: float, room: float) -> _Frame:
        squeeze = max(0.05, math.cos(math.radians(float(np.mean(lat)))))
        south, north, west, east = (
            float(f(v)) for v, f in ((lat, np.min), (lat, np.max), (lon, np.min), (lon, np.max))
        )
        margin = 0.06 * max(north - south, (east - west) * squeeze, 0.01)
        south, north, west, east = south - margin, north + margin, west - margin / squeeze, east + margin / squeeze
        scale = min((room - LABELS - 10) / ((east - west) * squeeze), min(MAP_HEIGHT, room) / (north - south))
        return cls(west, north, east, south, squeeze, scale, left + LABELS)

    @property
    def width(self) -> float:
        return (self.east - self.west) * self.squeeze * self.scale

    @property
    def height(self) -> float:
        return (self.north - self.south) * self.scale

    def at(self, lon: float, lat: float) -> tuple[float, float]:
        return self.left + (lon - self.west) * self.squeeze * self.scale, (self.north - lat) * self.scale

    def axes(self, count: int) -> list[str]:
        """The edge, and about ``count`` lines each way with their degrees."""
        right, bottom = self.left + self.width, self.height
        parts = [f'<rect x="{self.left:.1f}" y="0" width="{self.width:.1f}" height="{bottom:.1f}" class="frame"/>']
        for t in ticks(self.west, self.east, count):
            x, _ = self.at(t, self.north)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom:.1f}" class="grid"/>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 15:.1f}" class="tick">{t:g}°</text>')
        for t in ticks(self.south, self.north, count):
            _, y = self.at(self.west, t)
            parts.append(f'<line x1="{self.left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
            parts.append(f'<text x="{self.left - 6:.1f}" y="{y + 4:.1f}" class="label">{t:g}°</text>')
        return parts


def shade(residual: float, spread: float) -> str:
    """The class of a residual: r0 far below what is true, r5 right, r10 far above."""
    share = 0.5 + 0.5 * min(1.0, max(-1.0, residual / (2 * spread))) if spread > 0 else 0.5
    return f"r{round(share * (SHADES - 1))}"
