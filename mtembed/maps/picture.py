"""A picture of embedded cells: what the satellite saw, and below it the fragments coloured by their embeddings.

The colour of a fragment is its place along the first three principal components of its cell's embeddings, so
fragments that look alike to the model look alike here.  Axes are UTM kilometres.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import shapely

from mtembed.archive import tiff
from mtembed.archive.reader import ShardReader, blob_of
from mtembed.sources import SOURCES
from mtembed.types import FloatArray, Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRETCH = (2.0, 98.0)  # percentiles of a cell that become black and white
SCREEN_PX = 400  # a cell is averaged down to about so many pixels a side before it is drawn
DPI = 100
INK = "#30343b"


@dataclass(frozen=True, slots=True)
class Panel:
    """A cell to draw: row group 0 of ``shard`` and the ``part`` made from it; ``outline`` is (row, col, side) in px."""

    source: Source
    shard: Path
    part: Path
    outline: tuple[int, int, int] | None = None
    note: str = ""


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Write a PNG with one column for each panel.  Raises OSError, CellError and pyarrow's errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.7 * len(panels) + 0.5, 7.9), layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(panels), squeeze=False)
    for panel, (above, below) in zip(panels, axes.T, strict=True):
        extent = _draw_image(above, panel)
        _draw_fragments(below, panel, extent)
    for column, labels in enumerate((("northing (km)",) * 2, *[("",) * 2] * (len(panels) - 1))):
        for axis, label in zip(axes[:, column], labels, strict=True):
            axis.set_ylabel(label)
    _explain(figure, panels)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256).save(path, "PNG", optimize=True)


Extent = tuple[float, float, float, float]


def _draw_image(axis: Axes, panel: Panel) -> Extent:
    image, extent, pixel_km = read_image(panel.source, panel.shard)
    axis.imshow(image, extent=extent, interpolation="antialiased")
    if panel.outline:
        from matplotlib.patches import Rectangle

        row, col, side = (value * pixel_km for value in panel.outline)
        corner = (extent[0] + col, extent[3] - row - side)
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linewidth=1.6))
    spec = SOURCES[panel.source]
    colours = ", ".join((*spec.picture, " - ".join(spec.picture)) if spec.radar else spec.picture)
    axis.set_title(f"{spec.title}\n", fontsize=13, color=INK, fontweight="bold")
    label = f"as red, green, blue: {colours}"
    axis.text(0.5, 1.02, label, transform=axis.transAxes, ha="center", fontsize=9, color=INK)
    _frame(axis, extent)
    return extent


def _draw_fragments(axis: Axes, panel: Panel, extent: Extent) -> None:
    from matplotlib.collections import PolyCollection

    table = pq.read_table(panel.part, columns=["embedding", "utm_footprint"])
    vectors = np.stack(table.column("embedding").to_numpy()).astype(np.float64)
    footprints = shapely.from_wkt(table.column("utm_footprint").to_pylist())
    rings = [np.asarray(footprint.exterior.coords) / 1e3 for footprint in footprints]
    axis.add_collection(PolyCollection(rings, facecolors=colours_of(vectors), edgecolors="white", linewidths=1.0))
    axis.set_title(f"{len(vectors)} fragments, {vectors.shape[1]} values each", fontsize=10, color=INK)
    axis.set_xlabel("easting (km)")
    axis.set_aspect("equal")
    _frame(axis, extent)


def _frame(axis: Axes, extent: Extent) -> None:
    margin = 0.15
    axis.set_xlim(extent[0] - margin, extent[1] + margin)
    axis.set_ylim(extent[2] - margin, extent[3] + margin)
    axis.ticklabel_format(useOffset=False, style="plain")
    axis.locator_params(nbins=5)
    axis.tick_params(labelsize=8, colors=INK)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _explain(figure: Figure, panels: Sequence[Panel]) -> None:
    table = pq.read_table(panels[0].part, columns=["grid_cell", "utm_crs", "centre_lat", "centre_lon"])
    lat, lon = (float(np.mean(table.column(name).to_numpy())) for name in ("centre_lat", "centre_lon"))
    place = f"{_degrees(lat, 'NS')} {_degrees(lon, 'EW')}"
    where = f"Major TOM cell {table['grid_cell'][0]}, {place}, {table['utm_crs'][0]}"
    legend = "Fragment colours: the first three principal components of the embeddings; alike means alike to the model."
    notes = " ".join(dict.fromkeys(panel.note for panel in panels if panel.note))
    figure.suptitle(where, fontsize=11, color=INK)
    figure.supxlabel("\n".join(filter(None, (legend, notes))), fontsize=9, color=INK)


def _degrees(value: float, hemispheres: str) -> str:
    return f"{abs(value):.3f}\N{DEGREE SIGN} {hemispheres[value < 0]}"


def read_image(source: Source, shard: Path) -> tuple[FloatArray, Extent, float]:
    """Row group 0 as an image in 0..1, float32 [rows, cols, 3], its (west, east, south, north) and its pixel in km."""
    names = SOURCES[source].picture
    table = ShardReader().row(shard, 0, names)
    bands = []
    for name in names:
        blob = blob_of(table, name)
        info = tiff.parse(blob)
        pixels = np.empty((info.rows, info.cols), info.dtype)
        tiff.decode_into(blob, info, pixels)
        bands.append(_averaged(pixels))
    if SOURCES[source].radar:
        vv, vh = (10 * np.log10(np.maximum(band, 1e-5)) for band in bands)
        image = np.stack([stretched(band) for band in (vv, vh, vv - vh)], axis=-1)
    else:
        image = stretched(np.stack(bands, axis=-1))
    east, south = info.left + info.cols * info.pixel_width, info.top - info.rows * info.pixel_height
    return image, (info.left / 1e3, east / 1e3, south / 1e3, info.top / 1e3), info.pixel_width / 1e3


def _averaged(pixels: npt.NDArray[Any]) -> FloatArray:
    """Means of square blocks; of radar power this is multi-looking, which takes the speckle out."""
    block = max(1, min(pixels.shape) // SCREEN_PX + 1)
    rows, cols = (side // block * block for side in pixels.shape)
    blocks = pixels[:rows, :cols].astype(np.float32).reshape(rows // block, block, cols // block, block)
    return np.asarray(blocks.mean(axis=(1, 3)), np.float32)


def stretched(values: npt.NDArray[Any]) -> FloatArray:
    """Values between the 2nd and the 98th percentile brought to 0..1, float32, a little brightened."""
    low, high = np.percentile(values, STRETCH)
    return np.asarray(np.clip((values - low) / max(high - low, 1e-9), 0, 1) ** 0.8, np.float32)


def colours_of(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The first three principal components of float64 [n, D], each over its own range: [n, 3] in 0..1.

    Components that do not exist (fewer than four vectors, or all alike) are 0.5.
    """
    centred = vectors - vectors.mean(axis=0)
    left, scale, axes = np.linalg.svd(centred, full_matrices=False)
    colours = np.full((len(vectors), 3), 0.5)
    for i in range(min(3, len(scale))):
        if scale[i] <= 1e-9 * max(1.0, float(np.abs(vectors).max())):
            continue
        sign = np.sign(axes[i, np.abs(axes[i]).argmax()])  # the SVD leaves it open
        score = left[:, i] * sign
        colours[:, i] = (score - score.min()) / (score.max() - score.min())
    return 0.16 + 0.72 * colours  # neither black nor white nor pure
