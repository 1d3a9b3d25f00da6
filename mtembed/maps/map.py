"""``map.png``: cells in their colours with coasts, borders and a graticule; one dataset, or several side by side."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mtembed.maps.raster import STEP, CellColours, Image
from mtembed.maps.view import Flat, Polar, View, degrees, graticule, lines, view_of
from mtembed.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
ALONE_IN, BESIDE_IN = (10.0, 7.5), (6.5, 5.5)  # inches that a map may be wide and high
LEFT_IN, RIGHT_IN, BELOW_IN, ABOVE_IN = 0.55, 0.25, 0.75, 0.55  # around a map
LEAST_IN = 5.0  # that the words around a map need
FINER = 3  # places looked up per pixel and direction, where cells are smaller than LARGE_PX
LARGE_PX = 3.0
MARKED = 5000  # so few cells are marked where they would be smaller than a mark
MARK_PX = 6.0
INK, FAINT, LAND, SEA = "#30343b", "#8a8f98", "#3c4048", "#f6f6f4"
RGB = ("#d62728", "#2ca02c", "#1f5fd6")


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """A map: its ``title``, what was drawn in words, the shares of the variance of its components, the cells."""

    title: str
    note: str
    ratio: tuple[float, ...]
    cells: CellColours

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any], cells: CellColours) -> Panel:
        """From the content of ``pca.json``."""
        model = content["model"]
        what = "central fragments" if content["fragments"] == "central" else "all fragments"
        words = [
            *([name] if model and model not in name else []),
            counted(len(cells)),
            what,
            f"{content['dim']} values",
        ]
        return cls(model or name, ", ".join(words), tuple(content["explained_variance_ratio"]), cells)


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG; several panels show the same part of the earth.  Raises OSError."""
    from matplotlib.figure import Figure

    view = view_of(np.concatenate([panel.cells.bounds for panel in panels]))
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    widest, highest = ALONE_IN if len(panels) == 1 else BESIDE_IN
    left, right, bottom, top = view.box
    width = min(widest, highest * (right - left) / (top - bottom))
    height = width * (top - bottom) / (right - left)
    across, down = max(width, LEAST_IN) + LEFT_IN + RIGHT_IN, height + BELOW_IN + ABOVE_IN
    size = columns * across, rows * down
    figure = Figure(figsize=size, facecolor="white")
    for i, panel in enumerate(panels):
        row, column = divmod(i, columns)
        corner = column * across + LEFT_IN, (rows - 1 - row) * down + BELOW_IN
        axis = figure.add_axes((corner[0] / size[0], corner[1] / size[1], width / size[0], height / size[1]))
        _draw_panel(axis, panel, view, round(width * DPI))
        _legend(axis, panel.ratio, -0.36 / height)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters of a name that the font lacks
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def _draw_panel(axis: Axes, panel: Panel, view: View, width_px: int) -> None:
    from matplotlib.collections import LineCollection

    left, right, bottom, top = view.box
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_aspect("equal")
    axis.set_facecolor(SEA)
    axis.imshow(
        picture(panel.cells, view, width_px), extent=view.box, interpolation="nearest", zorder=2, aspect="equal"
    )
    _mark(axis, panel.cells, view, width_px)
    axis.add_collection(LineCollection(lines(view, "coast"), colors=LAND, linewidths=0.7, zorder=4), autolim=False)
    axis.add_collection(LineCollection(lines(view, "border"), colors=FAINT, linewidths=0.4, zorder=3), autolim=False)
    (_polar_grid if isinstance(view, Polar) else _flat_grid)(axis, view)
    _write(axis, panel.title, 18.0, fontsize=13, fontweight="bold", color=INK)
    _write(axis, panel.note, 5.0, fontsize=8.5, color=FAINT)


def _write(axis: Axes, text: str, height: float, **style: Any) -> None:
    """A line above the map, ``height`` points above it."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axis.annotate(_plain(text), (0.0, 1.0), (0.0, height), **place, **style)


def picture(cells: CellColours, view: View, width_px: int) -> Image:
    """RGBA uint8 [rows, cols, 4] of a view: a pixel has the mean colour of the cells in it, however few."""
    left, right, bottom, top = view.box
    cols, rows = width_px, max(1, round(width_px * (top - bottom) / (right - left)))
    finer = FINER if _cell_px(view, width_px) < LARGE_PX else 1
    image = np.zeros((rows, cols, 4), np.uint8)
    x = left + (np.arange(cols * finer) + 0.5) * (right - left) / (cols * finer)
    for row in range(rows):
        at = row * finer + np.arange(finer) + 0.5
        y = top - at * (top - bottom) / (rows * finer)
        lon, lat = view.place(*np.broadcast_arrays(x[None, :], y[:, None]))
        fine = cells.at(lat, lon).reshape(finer, cols, finer, 4)
        covered = fine[..., 3:] > 0
        number = covered.sum(axis=(0, 2))
        total = (fine[..., :3] * covered).sum(axis=(0, 2), dtype=np.int64)
        image[row, :, :3] = np.round(total / np.maximum(1, number))
        image[row, :, 3] = np.where(number[:, 0] > 0, 255, 0)
    return image


def _cell_px(view: View, width_px: int) -> float:
    """The height of a cell, in pixels."""
    return STEP * width_px / (view.box[1] - view.box[0])


def _mark(axis: Axes, cells: CellColours, view: View, width_px: int) -> None:
    """A square for each of few cells, where they would be too small to see."""
    if len(cells) > MARKED or _cell_px(view, width_px) >= MARK_PX:
        return
    bounds = cells.bounds
    lon, lat = bounds[:, 2:].mean(axis=1), bounds[:, :2].mean(axis=1)
    if isinstance(view, Flat):
        lon = (lon - view.middle + 180.0) % 360.0 - 180.0 + view.middle
    side = MARK_PX * 72 / DPI
    axis.scatter(*view.plane(lon, lat), s=side**2, c=cells.colours / 255.0, marker="s", linewidths=0, zorder=5)


def _flat_grid(axis: Axes, view: View) -> None:
    lons, lats = graticule(view)
    x, _ = view.plane(lons, np.zeros(len(lons)))
    axis.set_xticks(x, [degrees(value, "EW") for value in lons])
    axis.set_yticks(lats, [degrees(value, "NS") for value in lats])
    axis.grid(color=FAINT, linewidth=0.4, alpha=0.6, zorder=1)
    axis.set_axisbelow(True)
    _frame(axis)


def _polar_grid(axis: Axes, view: View) -> None:
    lons, lats = graticule(view)
    around = np.linspace(-180.0, 180.0, 361)
    sign = float(np.sign(lats[0]))
    for lat in lats:
        axis.plot(
            *view.plane(around, np.full(361, lat)),
            color=FAINT,
            linewidth=0.4,
            alpha=0.6,
            zorder=1,
            scalex=False,
            scaley=False,
        )
        label = view.plane(np.array([15.0]), np.array([lat]))
        axis.text(label[0][0], label[1][0], degrees(lat, "NS"), fontsize=7, color=INK, clip_on=True, zorder=6)
    for lon in lons:
        far = sign * np.array([0.0, 90.0])
        axis.plot(
            *view.plane(np.full(2, lon), far),
            color=FAINT,
            linewidth=0.4,
            alpha=0.6,
            zorder=1,
            scalex=False,
            scaley=False,
        )
        edge = 0.97 * view.box[1] / max(abs(np.sin(np.radians(lon))), abs(np.cos(np.radians(lon))))
        x, y = edge * np.sin(np.radians(lon)), -sign * edge * np.cos(np.radians(lon))
        axis.text(x, y, degrees(lon, "EW"), fontsize=7, color=INK, ha="center", va="center", zorder=6)
    axis.set_xticks([])
    axis.set_yticks([])
    _frame(axis)


def _frame(axis: Axes) -> None:
    axis.tick_params(labelsize=7.5, colors=INK, length=3, width=0.5)
    for spine in axis.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color(INK)


def _legend(axis: Axes, ratio: Sequence[float], below: float) -> None:
    """The shares of the variance that the channels show."""
    from matplotlib.lines import Line2D

    colours = RGB if len(ratio) > 1 else ("#777777",)
    shown = list(zip(colours, ratio, strict=False))
    handles = [Line2D([], [], color=colour, marker="s", linestyle="", markersize=7) for colour, _ in shown]
    labels = [f"component {i + 1}: {share:.1%}" for i, (_, share) in enumerate(shown)]
    handles.insert(0, Line2D([], [], linestyle=""))
    labels.insert(0, "Share of the variance")
    axis.legend(
        handles, labels, ncols=len(labels), loc="upper left", bbox_to_anchor=(0.0, below), frameon=False,
        fontsize=8, labelcolor=INK, handletextpad=0.2, columnspacing=1.2, borderpad=0, borderaxespad=0, handlelength=1,
    )  # fmt: skip


def _plain(text: str) -> str:
    """One line of printable letters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:80]
