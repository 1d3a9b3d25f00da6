"""Labels from rasters: the pixels under a footprint, read in the raster's own CRS."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.errors import RasterioError
from rasterio.windows import Window

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.evaluation.class_names import class_names
from mtembed.evaluation.join import Ints, Joined, footprints, place_columns, streamed
from mtembed.evaluation.labels import Mixture
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.target import MOST_CLASSES
from mtembed.parquet import first_line
from mtembed.types import Tick

MOST_PIXELS = 256  # a side of a footprint; larger ones are read at every 2nd, 3rd, ... pixel
EDGE_DEGREES = 0.05  # added to a raster's bounds in degrees: edges bend when they are projected


@dataclass(frozen=True, slots=True, eq=False)
class LabelRaster:
    """An open raster: ``bounds`` shapely box in degrees, with a margin; ``nodata`` from the file or the options;
    ``names`` of its values, where it has any."""

    name: str
    file: Any
    bounds: Any
    nodata: float | None
    to_raster: Transformer
    names: Mapping[int, str]

    @classmethod
    def opened(cls, path: Path, nodata: float | None) -> LabelRaster:
        """Raises UsageError for a file that GDAL cannot read, or one without a CRS."""
        try:
            file = rasterio.open(path)
        except RasterioError as error:
            raise UsageError(
                f"{path.name} is not a raster that can be read ({first_line(error).rstrip('.')})"
            ) from error
        if file.crs is None:
            file.close()
            raise UsageError(f"{path.name} has no CRS, so its pixels have no place: assign one with gdal_edit -a_srs")
        crs = CRS.from_user_input(file.crs.to_wkt())
        west, south, east, north = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform_bounds(*file.bounds)
        east += 360 if east < west else 0
        box = shapely.box(west - EDGE_DEGREES, south - EDGE_DEGREES, east + EDGE_DEGREES, north + EDGE_DEGREES)
        to_raster = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        return cls(
            name=path.name,
            file=file,
            bounds=box,
            nodata=file.nodata if file.nodata is not None else nodata,
            to_raster=to_raster,
            names=class_names(path),
        )

    def under(self, shape: Any) -> tuple[npt.NDArray[Any], float]:
        """Valid values under a footprint in degrees, and the share of its pixels that they are.

        Raises UsageError where the file is damaged.
        """
        own = shapely.transform(shape, lambda xy: np.stack(self.to_raster.transform(xy[:, 0], xy[:, 1]), axis=1))
        if not np.isfinite(shapely.bounds(own)).all():
            return np.empty(0), 0.0
        rows, cols = self._pixels(own)
        if not len(rows):  # smaller than a pixel, between the pixels' middles: the pixel that holds the centre
            x, y = shapely.centroid(own).coords[0]
            col, row = ~self.file.transform @ (x, y)
            rows, cols = np.array([int(np.floor(row))]), np.array([int(np.floor(col))])
        inside = (rows >= 0) & (rows < self.file.height) & (cols >= 0) & (cols < self.file.width)
        values = self._read(rows[inside], cols[inside]) if inside.any() else np.empty(0)
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        if self.nodata is not None and not np.isnan(self.nodata):
            valid &= values != self.nodata
        return values[valid], float(valid.sum() / len(rows))

    def _pixels(self, own: Any) -> tuple[Ints, Ints]:
        """Rows and columns of the pixels whose middle lies in a shape, also beyond the raster's edges."""
        west, south, east, north = shapely.bounds(own)
        corners = [~self.file.transform @ xy for xy in ((west, north), (east, south), (west, south), (east, north))]
        col, row = np.array(corners).T
        step = int(max(1, np.ceil(max(np.ptp(col), np.ptp(row)) / MOST_PIXELS)))
        rows = np.arange(int(np.floor(row.min())), int(np.ceil(row.max())), step)
        cols = np.arange(int(np.floor(col.min())), int(np.ceil(col.max())), step)
        grid_rows, grid_cols = (part.ravel() for part in np.meshgrid(rows, cols, indexing="ij"))
        transform = self.file.transform
        x = transform.a * (grid_cols + 0.5) + transform.b * (grid_rows + 0.5) + transform.c
        y = transform.d * (grid_cols + 0.5) + transform.e * (grid_rows + 0.5) + transform.f
        held = shapely.contains_xy(own, x, y)
        return grid_rows[held], grid_cols[held]

    def _read(self, rows: Ints, cols: Ints) -> npt.NDArray[Any]:
        top, left = int(rows.min()), int(cols.min())
        window = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
        try:
            pixels = self.file.read(1, window=window)
        except RasterioError as error:
            cause = error.__cause__ or error  # rasterio's own says to look there
            raise UsageError(f"{self.name} cannot be read ({first_line(cause).rstrip('.')}): copy it again") from error
        return np.asarray(pixels[rows - top, cols - left])


@contextlib.contextmanager
def opened(paths: Sequence[Path], nodata: float | None) -> Iterator[list[LabelRaster]]:
    """All rasters, closed at the end."""
    rasters: list[LabelRaster] = []
    try:
        for path in paths:
            rasters.append(LabelRaster.opened(path, nodata))
        yield rasters
    finally:
        for raster in rasters:
            raster.file.close()


def by_raster(
    dataset: EmbeddingDataset,
    paths: Sequence[Path],
    options: EvaluateOptions,
    chosen: Callable[[int, Ints], Ints],
    tick: Tick,
) -> Joined:
    """Rows of which valid pixels cover at least ``--coverage``: the values by their shares, and their mean.

    Of several rasters the one that covers a row best.  ``chosen(file, rows)`` thins candidates.
    """
    found = Joined()
    with opened(paths, options.nodata) as rasters:
        tree = shapely.STRtree([raster.bounds for raster in rasters])
        for batch in streamed(dataset, place_columns(dataset), "joining labels", tick):
            own = footprints(batch.table)
            rows, hit = tree.query(own, predicate="intersects")
            candidates = np.unique(rows)
            kept = chosen(batch.file, candidates + batch.first_row) - batch.first_row
            found.drop("without a label", batch.rows - len(candidates))
            found.drop("left out by --max-labels", len(candidates) - len(kept))
            for i in kept.tolist():
                _row(found, batch.file, batch.first_row + i, own[i], [rasters[j] for j in hit[rows == i]], options)
        found.labels = len(found)
        if options.task != "regression":
            _name(found, rasters)
        found.notes += _nodata_notes(rasters)
    return found


def _name(found: Joined, rasters: Sequence[LabelRaster]) -> None:
    """Names in place of values, where a raster has them; a value without one stays a number."""
    names: dict[int, str] = {}
    for raster in rasters:
        for value, name in raster.names.items():
            if names.setdefault(value, name) != name:
                raise UsageError(
                    f"{raster.name} names the value {value} {name!r} and another raster {names[value]!r}: "
                    "evaluate them apart, or move their .aux.xml away"
                )
    if names:
        found.what = [_named(mixture, names) for mixture in found.what]


def _named(mixture: Mixture, names: Mapping[int, str]) -> Mixture:
    """Several values of one name are one."""
    shares: dict[Any, float] = {}
    for value, share in zip(mixture.values, mixture.shares, strict=True):
        name = names.get(value, value) if isinstance(value, int) else value
        shares[name] = shares.get(name, 0.0) + share
    return Mixture(tuple(shares), tuple(shares.values()), mixture.mean)


def _row(
    found: Joined, file: int, row: int, shape: Any, rasters: Sequence[LabelRaster], options: EvaluateOptions
) -> None:
    values, covered = max((raster.under(shape) for raster in rasters), key=lambda seen: seen[1])
    if covered == 0:
        found.drop("without a label", 1)
    elif covered < options.coverage:
        found.drop("covered too little", 1)
    else:
        found.add(file, row, mixture(values))


def mixture(values: npt.NDArray[Any]) -> Mixture:
    """Values by their shares, the largest first; only the mean where they are measurements."""
    mean = float(values.mean(dtype=np.float64))
    if values.dtype.kind == "f":
        return Mixture((mean,), (1.0,), mean)
    names, counts = np.unique(values, return_counts=True)
    if len(names) > MOST_CLASSES:
        return Mixture((mean,), (1.0,), mean)
    order = np.argsort(-counts, kind="stable")
    return Mixture(tuple(names[order].tolist()), tuple((counts[order] / len(values)).tolist()), mean)


def _nodata_notes(rasters: Sequence[LabelRaster]) -> list[str]:
    unknown = [raster.name for raster in rasters if raster.nodata is None and raster.file.dtypes[0][0] != "f"]
    if not unknown:
        return []
    which = unknown[0] if len(unknown) == 1 else f"{unknown[0]} and {len(unknown) - 1} more"
    return [f"no nodata value is named by {which}, so every pixel is taken as a label; name it with --nodata"]
