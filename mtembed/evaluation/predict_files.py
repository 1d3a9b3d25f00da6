"""Predictions as files that people open: GeoParquet, GeoTIFF, PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from mtembed.dataset.rows import geo_metadata
from mtembed.evaluation.burn import BLOCK, Canvas
from mtembed.evaluation.trained import TrainedProbe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOX = ("xmin", "ymin", "xmax", "ymax")
LARGEST_MAP = 1600  # pixels along the longer side of a map, shared by the maps of a row
MOST_MAPS = 5  # places far apart that are drawn
SPARSE = 0.005  # share of a map that is filled: below it filled pixels are dots
MOST_DOTS = 20_000
FILLED = 0.05  # share of the whole box that places fill: below it each has its own map
MOST_CLASSES = 20  # in a legend
INK = "#30343b"


Box = tuple[int, int, int, int]  # top, left, bottom, right, in pixels


@dataclass(frozen=True, slots=True)
class Drawing:
    """Words of a raster and a picture."""

    title: str
    layers: tuple[str, ...]
    classes: tuple[str, ...]
    caption: str


class TableWriter:
    """GeoParquet, batch by batch."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._types: set[str] = set()

    def __enter__(self) -> TableWriter:
        return self

    def write(self, columns: Mapping[str, pa.Array], shapes: npt.NDArray[Any]) -> None:
        """``columns`` and footprints of n rows."""
        boxes = shapely.bounds(shapes)
        table = pa.table({
            **columns,
            "geometry": pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary()),
            "bbox": pa.StructArray.from_arrays([pa.array(edge) for edge in np.ascontiguousarray(boxes.T)], list(BOX)),
        })  # fmt: skip
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd", write_page_checksum=True)
        self._writer.write_table(table)
        if len(boxes):
            self._bounds[:2] = np.fmin(self._bounds[:2], np.nanmin(boxes[:, :2], axis=0))
            self._bounds[2:] = np.fmax(self._bounds[2:], np.nanmax(boxes[:, 2:], axis=0))
        names = {0: "Point", 3: "Polygon", 6: "MultiPolygon"}
        self._types |= {names[kind] for kind in np.unique(shapely.get_type_id(shapes)).tolist() if kind in names}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        west, south, east, north = self._bounds.tolist()
        geo = geo_metadata((west, south, east, north), sorted(self._types))
        self._writer.add_key_value_metadata({"geo": geo})
        self._writer.close()


def write_geotiff(path: Path, canvas: Canvas, drawing: Drawing, task: str) -> None:
    """EPSG:4326, float32, NaN where there is nothing; classes are numbered from 0, and named in the tags."""
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    transform = Affine(canvas.pixel, 0, canvas.west, 0, -canvas.pixel, canvas.north)
    with rasterio.open(
        path, "w", driver="GTiff", height=canvas.rows, width=canvas.cols, count=canvas.layers, dtype="float32",
        crs="EPSG:4326", transform=transform, nodata=float("nan"), compress="deflate", predictor=3, tiled=True,
        blockxsize=BLOCK, blockysize=BLOCK, sparse_ok=True, interleave="pixel", BIGTIFF="IF_SAFER",
    ) as file:  # fmt: skip
        for row, col, values in canvas.blocks():
            file.write(values, window=Window(col, row, values.shape[2], values.shape[1]))
        for number, name in enumerate(drawing.layers, 1):
            file.set_band_description(number, name)
        file.update_tags(label=drawing.title, probe=drawing.caption)
        if task == "classification":
            file.update_tags(1, **{f"class_{number}": name for number, name in enumerate(drawing.classes)})


def write_picture(path: Path, canvas: Canvas, drawing: Drawing, probe: TrainedProbe) -> None:
    """The prediction, and below it the probability or the ends of the interval; places far apart are apart."""
    from matplotlib.figure import Figure

    boxes = _maps(canvas)
    shown = boxes[:MOST_MAPS]
    maps = [canvas.window(box, LARGEST_MAP // len(shown)) for box in shown]
    panels = _panels(maps, drawing, probe)
    figure = Figure(figsize=(1.6 + (7.5 if len(shown) == 1 else 3.0 * len(shown)), 1.0 + len(panels) * (
        6.0 if len(shown) == 1 else 3.2)), layout="constrained", facecolor="white")  # fmt: skip
    grid = figure.subplots(len(panels), max(1, len(shown)), squeeze=False)
    for axes, panel in zip(grid, panels, strict=True):
        for axis, box, values in zip(axes, shown, maps, strict=True):
            drawn = _draw(axis, canvas, box, values[panel.layer], panel)
        axes[0].set_title(panel.title, fontsize=11, color=INK, loc="left")
        if panel.classes:
            _legend(axes[-1], panel, maps)
        else:
            figure.colorbar(drawn, ax=list(axes), shrink=0.85, pad=0.02)
    more = len(boxes) - len(shown)
    text = f"Probe on held-out rows: {drawing.caption}" + (f". {more} smaller places are not shown" if more else "")
    figure.supxlabel(text, fontsize=9, color=INK)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _maps(canvas: Canvas) -> list[Box]:
    """One map of everything, or one a place where the places are small and far apart."""
    places = canvas.places()
    if len(places) <= 1:
        return places or [(0, 0, canvas.rows, canvas.cols)]
    filled = sum((bottom - top) * (right - left) for top, left, bottom, right in places)
    return places if filled < FILLED * canvas.rows * canvas.cols else [(0, 0, canvas.rows, canvas.cols)]


@dataclass(frozen=True, slots=True)
class Panel:
    """A row of maps: which layer, and how it is coloured; ``classes`` where the values are numbers of classes."""

    title: str
    layer: int
    low: float
    high: float
    colours: Any
    classes: tuple[str, ...] = ()


def _panels(maps: Sequence[npt.NDArray[np.float32]], drawing: Drawing, probe: TrainedProbe) -> list[Panel]:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if probe.task == "classification":
        count = max(len(drawing.classes), 2)
        listed = colormaps["tab10" if count <= 10 else "tab20"]
        colours = ListedColormap([listed(k % listed.N) for k in range(count)])
        return [
            Panel(drawing.title, 0, -0.5, count - 0.5, colours, drawing.classes),
            Panel("probability of that class", 1, 0.0, 1.0, "viridis"),
        ]
    if probe.task == "multilabel":
        mean = [float(np.nanmean([np.nanmean(one[k]) for one in maps])) for k in range(len(drawing.classes))]
        order = np.argsort(-np.nan_to_num(mean), kind="stable")[:3]
        return [Panel(f"probability of {drawing.classes[k]}", k, 0.0, 1.0, "viridis") for k in sorted(order.tolist())]
    low = float(np.nanmin([np.nanmin(one[1]) for one in maps]))
    high = float(np.nanmax([np.nanmax(one[2]) for one in maps]))
    titles = (drawing.title, "low end of the 90 % interval", "high end of the 90 % interval")
    return [Panel(title, layer, low, high, "viridis") for layer, title in enumerate(titles)]


def _draw(axis: Axes, canvas: Canvas, box: Box, values: npt.NDArray[np.float32], panel: Panel) -> Any:
    """Returns what a colour bar is made of; pixels that would not be seen are drawn as dots."""
    top, left, bottom, right = box
    west, east = canvas.west + left * canvas.pixel, canvas.west + right * canvas.pixel
    north, south = canvas.north - top * canvas.pixel, canvas.north - bottom * canvas.pixel
    aspect = 1 / max(0.1, float(np.cos(np.radians((north + south) / 2))))
    colours = {"cmap": panel.colours, "vmin": panel.low, "vmax": panel.high}
    if np.isfinite(values).mean() < SPARSE:
        lon, lat, layers = canvas.filled(MOST_DOTS)
        drawn: Any = axis.scatter(lon, lat, 14, layers[panel.layer], linewidths=0, **colours)
        axis.set(xlim=(west, east), ylim=(south, north), aspect=aspect)
    else:
        extent = (west, east, south, north)
        drawn = axis.imshow(values, extent=extent, interpolation="nearest", aspect=aspect, **colours)
    axis.tick_params(labelsize=7, colors=INK)
    axis.locator_params(nbins=3)
    axis.ticklabel_format(useOffset=False, style="plain")
    for spine in axis.spines.values():
        spine.set_color("#d5d8dc")
    return drawn


def _legend(axis: Axes, panel: Panel, maps: Sequence[npt.NDArray[np.float32]]) -> None:
    from matplotlib.patches import Patch

    values = np.concatenate([one[panel.layer].ravel() for one in maps])
    there = np.unique(values[np.isfinite(values)]).astype(int).tolist()[:MOST_CLASSES]
    handles = [Patch(color=panel.colours(k), label=panel.classes[k]) for k in there]
    axis.legend(handles=handles, fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
