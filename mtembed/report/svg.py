"""The pictures of a report, drawn as SVG text: workers over time, throughput, where a cell's time goes.

Sizes are in CSS pixels of a 960 px wide drawing; colours are the page's CSS variables (``--decode``, ``--forward``),
so that they follow light and dark.  The number of shapes is bounded whatever the size of the archive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape

import numpy as np

from mtembed.report.busy import PAUSE_S, Spans, Work, WorkerUse, intervals
from mtembed.report.timings import Cells, Floats
from mtembed.text import milliseconds
from mtembed.types import STAGES_OF

WIDTH = 960
LEFT = 110  # labels of rows and axes
ROW = 22
ROWS_SHOWN = 24
CELLS_PER_DEVICE = 16
BARS_PER_ROW = 150
BINS = 120
PAUSES_SHOWN = 100


def timeline(cells: Cells, work: Work) -> tuple[str, int]:
    """A row per worker with a bar per cell, over the last cells of the dataset, and how many workers have no row.

    '' when nothing was embedded.
    """
    begin, end = _last_moments(cells, work)
    if end <= begin:
        return "", 0
    rows = [(use, bars) for use in work.uses() if (bars := list(_bars(cells, use, work, begin, end)))]
    shown = rows[:ROWS_SHOWN]
    scale = (WIDTH - LEFT - 10) / (end - begin)
    parts = [_time_axis(end - begin, ROW * len(shown) + 4, scale)]
    several = len({use.process for use, _ in shown}) > 1
    for i, (use, bars) in enumerate(shown):
        top = i * ROW + 3
        name = f"{use.process}: {use.name}" if several else use.name
        parts.append(f'<text x="{LEFT - 8}" y="{top + 12}" class="label">{escape(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 10}" height="{ROW - 6}" class="track"/>')
        parts += [_bar(stage, start - begin, length, top, scale) for stage, start, length in bars]
    return _svg("".join(parts), ROW * len(shown) + 30, "Workers over time"), len(rows) - len(shown)


def _last_moments(cells: Cells, work: Work) -> tuple[float, float]:
    """A window at the end that holds about ``CELLS_PER_DEVICE`` cells of each device worker.

    It begins no earlier than the time of which the workers' busy shares are: when the first cell was on a device.
    """
    begins, _ = intervals(cells, "device")
    whole = cells.embedded
    if not whole.any():
        return 0.0, 0.0
    end = float(cells.end[whole].max())
    stretches = Spans.union(cells.start[whole], cells.end[whole], PAUSE_S)
    recent = whole & (cells.start >= float(stretches.starts[-1]))
    devices = max(1, len(set(cells.device[recent].tolist())))
    latest = np.sort(begins[recent])[-CELLS_PER_DEVICE * devices :]
    everything = len(latest) == int(recent.sum())
    begin = float(cells.start[recent].min() if everything else latest[0])
    at_work = work.on_device.starts
    return max(begin, float(at_work[max(0, int(np.searchsorted(at_work, end)) - 1)])) if len(at_work) else begin, end


def _bars(cells: Cells, use: WorkerUse, work: Work, begin: float, end: float) -> Iterator[tuple[str, float, float]]:
    """(stage, start, seconds) of what a worker did in the window, cut to it, the last ``BARS_PER_ROW`` cells."""
    mine = work.mask(use)
    starts, ends = (times[mine] for times in intervals(cells, use.kind))
    rows = np.flatnonzero(mine)[(ends > begin) & (starts < end)]
    moments = starts[(ends > begin) & (starts < end)]
    order = np.argsort(moments)[-BARS_PER_ROW:]
    for row, moment in zip(rows[order], moments[order], strict=True):
        at = float(moment)
        for stage in STAGES_OF[use.kind]:
            following = at + float(cells.stage(stage)[row]) / 1e3
            left, right = max(at, begin), min(following, end)
            if right > left:
                yield stage, left, right - left
            at = following


def _bar(stage: str, start: float, length: float, top: float, scale: float) -> str:
    width = max(0.5, length * scale - 0.4)  # a sliver of track between neighbours
    return (
        f'<rect x="{LEFT + start * scale:.1f}" y="{top}" width="{width:.1f}" height="{ROW - 6}" '
        f'style="fill:var(--{stage})"><title>{stage} {milliseconds(length * 1e3)}</title></rect>'
    )


def throughput(cells: Cells, work: Work) -> str:
    """Cells per second over the time worked, pauses between starts cut out and marked; '' when nothing was embedded."""
    spans = work.at_work
    done = cells.end[cells.ok]
    if not len(done) or spans.seconds <= 0:
        return ""
    count = int(np.clip(len(done) // 5, 5, BINS))
    rates = np.histogram(worked(spans, done), count, (0.0, spans.seconds))[0] / (spans.seconds / count)
    height, step = 160, (WIDTH - LEFT - 10) / count
    top = nice(float(rates.max()))
    levels = [height - float(rate) / top * (height - 10) for rate in rates]
    path = "".join(f"H{LEFT + i * step:.1f}V{y:.1f}H{LEFT + (i + 1) * step:.1f}" for i, y in enumerate(levels))
    parts = [_time_axis(spans.seconds, height, (WIDTH - LEFT - 10) / spans.seconds)]
    for share in (0.0, 0.5, 1.0):
        y = height - share * (height - 10)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" class="label">{share * top:.3g}</text>')
    parts.append(f'<path d="M{LEFT} {height}{path}V{height}Z" class="area"/>')
    for pause in np.cumsum(spans.ends - spans.starts)[:-1][:PAUSES_SHOWN]:
        x = LEFT + float(pause) / spans.seconds * (WIDTH - LEFT - 10)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" class="pause"/>')
    return _svg("".join(parts), height + 26, "Cells per second over time")


def worked(spans: Spans, moments: Floats) -> Floats:
    """Seconds of work before each moment: pauses do not count."""
    before = np.cumsum(spans.ends - spans.starts) - (spans.ends - spans.starts)
    index = np.maximum(np.searchsorted(spans.starts, moments, "right") - 1, 0)
    return np.asarray(before[index] + np.minimum(moments, spans.ends[index]) - spans.starts[index])


def split(shares: Mapping[str, float], scale: float) -> str:
    """One bar cut into pieces of ``name: milliseconds``; ``scale`` milliseconds are as wide as the drawing."""
    total, at, parts = sum(shares.values()), 0.0, []
    for name, ms in shares.items() if total > 0 else ():
        width = ms / scale * WIDTH
        tip = f"{name} {milliseconds(ms)} ({ms / total:.0%})"
        parts.append(
            f'<rect x="{at:.1f}" y="0" width="{max(0.0, width - 1):.1f}" height="28" style="fill:var(--{name})">'
            f"<title>{tip}</title></rect>"
        )
        if width > 110:
            parts.append(
                f'<text x="{at + 8:.1f}" y="19" class="inside">{name.replace("_", " ")} {ms / total:.0%}</text>'
            )
        at += width
    return _svg("".join(parts), 28, "Where the time of a cell goes")


def spread(median: float | None, high: float | None, least: float, most: float, name: str) -> str:
    """Median (dot) to 99th percentile (tick) on a logarithmic scale from ``least`` to ``most`` milliseconds."""
    if median is None or not high:
        return ""
    left, right = (
        304 * math.log(max(value, least) / least) / math.log(max(most / least, 1.001)) + 8 for value in (median, high)
    )
    return (
        f'<svg viewBox="0 0 320 16" width="320" height="16" role="img" aria-label="{name}">'
        f'<line x1="8" x2="312" y1="8" y2="8" class="grid"/>'
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="8" y2="8" style="stroke:var(--{name});stroke-width:3"/>'
        f'<line x1="{right:.1f}" x2="{right:.1f}" y1="3" y2="13" style="stroke:var(--{name});stroke-width:3"/>'
        f'<circle cx="{left:.1f}" cy="8" r="5" style="fill:var(--{name})"/></svg>'
    )


def nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten that is not below ``value``."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def _time_axis(seconds: float, height: float, scale: float) -> str:
    step = nice(seconds / 8)
    unit, size = ("s", 1.0) if seconds < 600 else ("min", 60.0) if seconds < 36_000 else ("h", 3600.0)
    step = step if unit == "s" else nice(seconds / 8 / size) * size
    parts = []
    for i in range(int(seconds / step) + 1):
        x = LEFT + i * step * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" class="grid"/>')
        parts.append(f'<text x="{x:.1f}" y="{height + 18}" class="tick">{i * step / size:g} {unit}</text>')
    return "".join(parts)


def _svg(body: str, height: float, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" class="wide" role="img" aria-label="{label}">{body}</svg>'
