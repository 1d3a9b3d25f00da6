"""Cells of the Major TOM grid as pixels: which cell a place lies in, and a GeoTIFF with one colour for each cell.

Rows of the grid are 180 / 2004 degrees high; a row has as many cells as are about 10 km wide, counted from longitude 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.geo.grid import EARTH_RADIUS_KM, GRID_KM

Integers = npt.NDArray[np.int64]
Degrees = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

GRID_ROWS = math.ceil(math.pi * EARTH_RADIUS_KM / GRID_KM)
HALF = GRID_ROWS // 2
STEP = 180.0 / GRID_ROWS  # degrees of latitude
COLUMNS = np.maximum(
    1,
    np.ceil(
        2 * math.pi * EARTH_RADIUS_KM * np.cos(np.radians((np.arange(GRID_ROWS) - HALF) * 180.0 / GRID_ROWS)) / GRID_KM
    ).astype(np.int64),
)  # cells in each row, from the south pole
MOST = int(COLUMNS.max())
PIXEL = 360.0 / MOST  # degrees of longitude: no cell is narrower


@dataclass(frozen=True, slots=True, eq=False)
class CellColours:
    """Cells of the grid, each once: ``keys`` ascending, ``colours`` uint8 [n, 3]."""

    keys: Integers
    colours: Image

    @classmethod
    def of(cls, rows: Integers, cols: Integers, colours: Image) -> tuple[CellColours, int]:
        """From signed rows and columns; the first of a cell counts.  Also: how many lie outside the grid."""
        inside = (rows >= -HALF) & (rows < GRID_ROWS - HALF)
        width = COLUMNS[np.where(inside, rows, 0) + HALF]
        inside &= np.abs(cols) <= width  # a name beyond the last column is a mistake, not a place
        keys, first = np.unique(_keys(rows[inside] + HALF, cols[inside]), return_index=True)
        return cls(keys, colours[inside][first]), int((~inside).sum())

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def rows(self) -> Integers:
        """Counted from the south pole."""
        return self.keys // (MOST + 1)

    @property
    def bounds(self) -> Degrees:
        """[south, north, west, east] of each cell [n, 4]; east may pass 180."""
        rows = self.rows
        cols = self.keys % (MOST + 1)
        width = 360.0 / COLUMNS[rows]
        west = (cols * width + 180.0) % 360.0 - 180.0
        south = rows * STEP - 90.0
        return np.stack([south, south + STEP, west, west + width], axis=1)

    def at(self, lat: Degrees, lon: Degrees) -> Image:
        """RGBA uint8 [..., 4] of places in degrees; transparent where there is no cell, or no finite place."""
        shape = np.broadcast_shapes(lat.shape, lon.shape)
        image = np.zeros((*shape, 4), np.uint8)
        lat, lon = np.broadcast_to(lat, shape), np.broadcast_to(lon, shape)
        known = np.isfinite(lat) & np.isfinite(lon) & (np.abs(lat) <= 90.0)
        if not len(self.keys) or not known.any():
            return image
        rows = np.clip(np.floor((lat[known] + 90.0) / STEP).astype(np.int64), 0, GRID_ROWS - 1)
        cols = np.floor((lon[known] % 360.0) * COLUMNS[rows] / 360.0).astype(np.int64)
        keys = _keys(rows, cols)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        hit = self.keys[place] == keys
        found = np.zeros((len(keys), 4), np.uint8)
        found[hit, :3], found[hit, 3] = self.colours[place[hit]], 255
        image[known] = found
        return image


def _keys(rows: Integers, cols: Integers) -> Integers:
    return rows * (MOST + 1) + cols % COLUMNS[rows]


def window(cells: CellColours) -> tuple[int, int, int, int]:
    """First and last row (from the south pole), first and last column of pixels (from 180 W) that hold the cells.

    Where cells lie on both sides of the antimeridian the columns are all of the world's.
    """
    bounds = cells.bounds
    rows = cells.rows
    if (bounds[:, 3] > 180.0 + 1e-9).any() or bounds[:, 3].max() - bounds[:, 2].min() > 180.0:
        return int(rows.min()), int(rows.max()), 0, MOST - 1
    first = math.floor((bounds[:, 2].min() + 180.0) / PIXEL + 1e-6)
    last = math.ceil((bounds[:, 3].max() + 180.0) / PIXEL - 1e-6) - 1
    return int(rows.min()), int(rows.max()), max(0, first), min(MOST - 1, last)


def grid_image(cells: CellColours) -> tuple[Image, float, float]:
    """RGBA uint8 [rows, cols, 4], north up, with the longitude and the latitude of its north-west corner.

    A pixel is ``PIXEL`` wide and ``STEP`` high: a row of the grid is a row of pixels, and every cell has a pixel.
    """
    south, north, first, last = window(cells)
    lat = (np.arange(north, south - 1, -1) + 0.5) * STEP - 90.0
    lon = (np.arange(first, last + 1) + 0.5) * PIXEL - 180.0
    image = cells.at(np.asarray(lat[:, None], np.float64), np.asarray(lon[None, :], np.float64))
    return image, first * PIXEL - 180.0, (north + 1) * STEP - 90.0


def write_geotiff(path: Path, cells: CellColours, tags: Mapping[str, Any]) -> None:
    """RGBA in EPSG:4326.  Raises OSError."""
    import rasterio
    from affine import Affine

    image, west, north = grid_image(cells)
    profile = {
        "driver": "GTiff", "height": image.shape[0], "width": image.shape[1], "count": 4, "dtype": "uint8",
        "crs": "EPSG:4326", "transform": Affine(PIXEL, 0.0, west, 0.0, -STEP, north),
        "photometric": "RGB", "alpha": "yes", "compress": "deflate", "predictor": 2, "interleave": "pixel",
        "tiled": True, "blockxsize": 256, "blockysize": 256,
    }  # fmt: skip
    try:
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.moveaxis(image, -1, 0))
            file.update_tags(**{name: str(value) for name, value in tags.items()})
    except rasterio.errors.RasterioError as error:
        raise OSError(str(error)) from error


def read_geotiff(path: Path) -> CellColours:
    """The cells of a map that ``write_geotiff`` wrote.  Raises OSError."""
    import rasterio

    try:
        with rasterio.open(path) as file:
            image, corner = np.moveaxis(file.read(), 0, -1), file.transform
    except rasterio.errors.RasterioError as error:
        raise OSError(str(error)) from error
    down, across = np.nonzero(image[..., 3])
    lat = corner.f + (down + 0.5) * corner.e
    lon = corner.c + (across + 0.5) * corner.a
    rows = np.floor((lat + 90.0) / STEP).astype(np.int64)
    cols = np.floor((lon % 360.0) * COLUMNS[rows] / 360.0).astype(np.int64)
    keys, first = np.unique(_keys(rows, cols), return_index=True)
    return CellColours(keys, image[down[first], across[first], :3])
