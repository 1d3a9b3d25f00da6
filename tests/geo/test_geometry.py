"""The pixel found in a fragment is the pixel its footprint names: cells whose pixels hold their own place.

The way is the product's own, from Parquet over the slot and the kernel to the table of rows; the truth is rasterio's
reading of the GeoTIFF and pyproj.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from pyproj import Transformer

from mtembed.archive.cell import DecodeJob, decode_cell
from mtembed.archive.reader import ShardReader
from mtembed.dataset.rows import build_table
from mtembed.engine.device import CellView
from mtembed.kernels.select import backend
from mtembed.ring import Ring, RingShape
from mtembed.types import Cell, CellTiming, Normalisation, Source
from tests.tools.shards import ShardCell, make_shard


@dataclass(frozen=True)
class Case:
    """A cell at an odd place, and how it is cut."""

    name: str
    cell: ShardCell
    size: int
    source: Source = "S2L2A"
    overlap: float = 0.1


def place(lon: float, lat: float, epsg: int, **size: Any) -> ShardCell:
    left, top = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    return ShardCell(epsg=epsg, left=left - 0.37, top=top + 0.91, content="coordinates", **size)


CORE = {"rows": 1068, "cols": 1068}
CASES = [
    Case("northern hemisphere, 224 px", place(12.3, 46.7, 32633, **CORE), 224),
    Case("southern hemisphere, 384 px", place(-72.5, -38.8, 32718, **CORE), 384),
    Case("zone border, west", place(5.9999, 52.0, 32631, **CORE), 224),
    Case("zone border, east", place(6.0001, 52.0, 32632, **CORE), 224),
    Case("83 degrees north", place(-38.0, 83.0, 32624, **CORE), 224),
    Case("83 degrees south", place(-178.4, -83.0, 32701, **CORE), 224),
    Case("antimeridian, zone 60", place(179.95, 66.0, 32660, **CORE), 224),
    Case("antimeridian, zone 1", place(-180.0, -16.0, 32701, **CORE), 224),
    Case("1068 x 1069, radar", place(30.0, 10.0, 32636, rows=1068, cols=1069), 224, "S1RTC"),
    Case("854 px of 12.5 m, radar", place(30.0, -10.0, 32736, rows=854, cols=854, pixel=12.5), 224, "S1RTC"),
    Case("1424 px of 7.5 m, radar", place(30.0, -10.0, 32736, rows=1424, cols=1424, pixel=7.5), 384, "S1RTC"),
    Case("1056 px", place(100.0, 20.0, 32647, rows=1056, cols=1056), 224, "S2L1C"),
    Case("wide", place(100.0, 20.0, 32647, rows=240, cols=540), 64, overlap=0.3),
    Case("one fragment", place(100.0, 20.0, 32647, rows=96, cols=96), 96),
    Case("odd size", place(100.0, 20.0, 32647, rows=300, cols=306), 50),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_pixels_lie_where_their_footprint_is(case: Case, tmp_path: Path) -> None:
    row_band, col_band = ("vv", "vh") if case.source == "S1RTC" else ("B04", "B03")
    shard = make_shard(tmp_path / "part_1.parquet", [case.cell], case.source)
    fragments, table = through_the_pipeline(case, shard.path, (row_band, col_band))
    rows, cols = fragments[:, 0].astype(int), fragments[:, 1].astype(int)
    boxes = table.column("pixel_bbox").to_pylist()
    assert len(boxes) == len(fragments)
    assert [
        [int(c[0, 0]), int(r[0, 0]), int(c[-1, -1]) + 1, int(r[-1, -1]) + 1] for r, c in zip(rows, cols, strict=True)
    ] == boxes
    covered = np.zeros((case.cell.rows, case.cell.cols), bool)
    covered[rows, cols] = True
    assert covered.all()
    for index, box in enumerate(shapely.from_wkt(table.column("utm_footprint").to_pylist())):
        corners = true_corners(case.cell, rows[index], cols[index])
        assert np.abs(np.array(box.bounds) - corners).max() < 1e-6
    assert_on_earth(case, table, rows, cols)


def true_corners(cell: ShardCell, rows: npt.NDArray[Any], cols: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """xmin, ymin, xmax, ymax in metres of the pixels with these places, from the cell's definition alone."""
    west, north = cell.left + cols.min() * cell.pixel, cell.top - rows.min() * cell.pixel
    return np.array([west, cell.top - (rows.max() + 1) * cell.pixel, cell.left + (cols.max() + 1) * cell.pixel, north])


def assert_on_earth(case: Case, table: Any, rows: npt.NDArray[Any], cols: npt.NDArray[Any]) -> None:
    """Each corner of the WGS84 footprint, back in UTM, is the corner of a pixel of the fragment."""
    to_utm = Transformer.from_crs(4326, case.cell.epsg, always_xy=True)
    for index, geometry in enumerate(shapely.from_wkb(table.column("geometry").to_pylist())):
        assert geometry.is_valid
        west, south, east, north = true_corners(case.cell, rows[index], cols[index])
        points = shapely.get_coordinates(geometry)
        x, y = to_utm.transform(*points.T)
        corners = {(a, b) for a in (west, east) for b in (south, north)}
        found = {c for c in corners if np.hypot(x - c[0], y - c[1]).min() < 1e-6}
        assert found == corners
        if geometry.geom_type == "Polygon":
            assert shapely.is_ccw(geometry.exterior) and len(points) == 5
        centre = to_utm.transform(table.column("centre_lon")[index].as_py(), table.column("centre_lat")[index].as_py())
        assert np.hypot(centre[0] - (west + east) / 2, centre[1] - (south + north) / 2) < 5.0  # centroids are float32


def through_the_pipeline(case: Case, path: Path, bands: tuple[str, str]) -> tuple[npt.NDArray[np.float64], Any]:
    """Raw pixel values of every fragment, [n, 2, size, size], and the rows that would be written for them."""
    ring = Ring.create(RingShape(1, 4096, 64 << 20))
    job = DecodeJob(case.source, bands, case.size, case.overlap, True, False, 1.0, False)
    slot = ring.slot(0)
    timing = CellTiming(path.name, 0)
    decoded = decode_cell(ShardReader(), job, path, Cell(0, 0), slot, timing)
    assert decoded is not None
    view = CellView(slot, decoded)
    count = len(view.fragments)
    if case.source == "S1RTC":  # the decibel rule loses the values: cut the raw planes by the same tables
        found = np.stack([_cut(view, fragment, case.size) for fragment in view.fragments])
    else:
        out = np.empty((count, 2, case.size, case.size), np.float32)
        fragment = backend()
        fragment(view.raw, view.planes, view.fragments, view.subtract, view.nodata, Normalisation("reflectance"), out)
        found = np.rint(out.astype(np.float64) * 10000)
    table = build_table([decoded.record], np.ones((count, 4), np.float32), "float32", False)
    del view, slot
    ring.close()
    return found, table


def _cut(view: CellView, fragment: npt.NDArray[Any], size: int) -> npt.NDArray[np.float64]:
    _, row, col = fragment
    planes = []
    for first, stride, row_factor, col_factor in view.planes[0]:
        r, c = (np.arange(size) + row) // row_factor, (np.arange(size) + col) // col_factor
        planes.append(view.raw[first + r[:, None] * stride + c[None, :]])
    return np.stack(planes).astype(np.float64)


@pytest.mark.parametrize(("band", "factor"), [("B05", 2), ("B8A", 2), ("B01", 6), ("B09", 6)])
def test_coarse_bands_stay_on_the_finest_grid(band: str, factor: int, tmp_path: Path) -> None:
    """A 20 m or 60 m pixel shows in exactly the fragment pixels it covers."""

    def content(name: str, rows: int, cols: int) -> npt.NDArray[np.uint16]:
        own = np.arange(rows * cols, dtype=np.uint16).reshape(rows, cols) % 10_000
        return own if name == band else np.mgrid[:rows, :cols][0].astype(np.uint16)

    cell = ShardCell(rows=240, cols=240, content=content)
    case = Case("", cell, 64)
    path = make_shard(tmp_path / "part_1.parquet", [cell], "S2L2A").path
    fragments, table = through_the_pipeline(case, path, ("B04", band))
    side = 240 // factor
    for (left, top, _, _), values in zip(table.column("pixel_bbox").to_pylist(), fragments[:, 1], strict=True):
        rows, cols = (np.arange(64) + top) // factor, (np.arange(64) + left) // factor
        assert (values == (rows[:, None] * side + cols[None, :]) % 10_000).all()
