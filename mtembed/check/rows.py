"""The rows of one row group, checked against each other and against how they were made.  All columns at once.

Nothing here is shared with the code that makes the rows, but for the recipe of ``unique_id`` and the fragment grid: a
footprint is projected again, corner by corner, and compared.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely

from mtembed.check.expected import Expected
from mtembed.check.findings import RowFindings
from mtembed.dataset.unique_id import unique_ids
from mtembed.geo.fragments import FragmentGrid
from mtembed.geo.grid import grid_numbers
from mtembed.types import MapShape

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

DEGREES = 1e-9  # how far a footprint's corner may be from its projection
METRES = 1e-6  # how far a footprint may be from its cell's pixel grid
SHARED = ("timestamp", "product_id", "grid_cell", "utm_crs")  # equal in all rows of a cell
OPTIONAL = ("grid_row_u", "grid_col_r", "nodata", "saturated", "cloud", "baseline", "parquet_url")
SHARES = ("nodata", "saturated", "cloud")
EARTH = (-180.0, -90.0, 180.0, 90.0)
TIMESTAMP = re.compile(r"(\d{8}T\d{6})?")  # empty where nothing says when a product was sensed
POLYGON, MULTIPOLYGON = 3, 6  # shapely's type ids


@dataclass(frozen=True, slots=True)
class Extent:
    """What a row group adds to the file's ``geo`` metadata: (xmin, ymin, xmax, ymax) in degrees, geometry types."""

    bounds: tuple[float, float, float, float]
    kinds: frozenset[str]


@dataclass(frozen=True, slots=True)
class Group:
    """One row group: its table, for each row the input's row group (None: not known), where to report."""

    table: pa.Table
    cell: Numbers | None
    expected: Expected
    found: RowFindings

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column as numpy; fixed-size lists as [n, k]."""
        values = self.table[name].combine_chunks()
        if pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            return np.asarray(values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width))
        return np.asarray(values.to_numpy(zero_copy_only=False))

    @property
    def starts(self) -> Numbers:
        """First row of every cell."""
        return np.flatnonzero(np.r_[True, ~self.same_cell]) if self.cell is not None else np.arange(1)

    @property
    def same_cell(self) -> Mask:
        """bool [n - 1]: the row is of the same cell as the row before it."""
        if self.cell is None:
            return np.zeros(self.table.num_rows - 1, bool)
        return np.asarray(self.cell[1:] == self.cell[:-1])


@np.errstate(invalid="ignore", over="ignore")  # values may be anything; what is not a number is named
def check_rows(group: Group, known: Mapping[int, tuple[str, str]]) -> Extent | None:
    """Check one row group of the right schema and with at least one row; None where its geometry cannot be read.

    ``known`` holds (grid_cell, product_id) per row group of the input, from the timings.
    """
    if _has_nulls(group):
        return None
    vectors = group.column("embedding")
    group.found.rows("not finite", ~np.isfinite(vectors).all(axis=1), "the embedding has a value that is not finite")
    _check_names(group, known)
    _check_times(group)
    _check_grid_numbers(group)
    if group.expected.extras:
        _check_extras(group)
    geometry = shapely.from_wkb(group.table["geometry"].to_numpy(), on_invalid="ignore")
    unreadable = shapely.is_missing(geometry) | shapely.is_empty(geometry)
    group.found.rows("geometry", unreadable, "geometry is not readable WKB")
    if unreadable.any():
        return None
    _check_ids(group, geometry, vectors)
    if _check_pixels(group):
        _check_places(group, geometry)
    bounds = shapely.bounds(geometry)
    _check_bbox(group, bounds)
    group.found.rows("outside", _off_earth(bounds), "geometry lies outside longitude -180..180 and latitude -90..90")
    kinds = {POLYGON: "Polygon", MULTIPOLYGON: "MultiPolygon"}
    types = {kinds.get(kind, "another type") for kind in np.unique(shapely.get_type_id(geometry)).tolist()}
    return Extent((*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()), frozenset(types))


def _has_nulls(group: Group) -> bool:
    """Nulls stand only where something is not known."""
    damaged = False
    for name in group.table.column_names:
        values = group.table[name].combine_chunks()
        if name in OPTIONAL:
            continue
        inner = [values.values] if pa.types.is_fixed_size_list(values.type) else []
        inner = values.flatten() if pa.types.is_struct(values.type) else inner
        if values.null_count or any(child.null_count for child in inner):
            group.found.add("null", f"{name} has nulls")
            damaged = True
    return damaged


def _check_ids(group: Group, geometry: npt.NDArray[Any], vectors: npt.NDArray[Any]) -> None:
    table = group.table
    outlines = shapely.to_wkt(geometry, rounding_precision=-1)
    expected = unique_ids(outlines, table["timestamp"].to_pylist(), table["product_id"].to_pylist(), vectors)
    differing = group.column("unique_id") != np.array(expected, object)
    group.found.rows("unique_id", differing, "unique_id is not the hash of this row's geometry, time, product, vector")


def _check_names(group: Group, known: Mapping[int, tuple[str, str]]) -> None:
    """Rows of one cell name one cell, and the one that the timings name."""
    for name in SHARED:
        codes = group.table[name].combine_chunks().dictionary_encode().indices.to_numpy()
        changed = np.r_[False, group.same_cell & (codes[1:] != codes[:-1])]
        group.found.rows("cell", changed, f"{name} differs from the row before, of the same cell")
    if group.cell is None:
        return
    names = np.column_stack([group.column("grid_cell"), group.column("product_id")])
    bad = np.zeros(len(names), bool)
    for row in group.starts.tolist():
        bad[row] = tuple(names[row]) != known.get(int(group.cell[row]), tuple(names[row]))
    group.found.rows("cell", bad, "grid_cell or product_id is not the one in the timings")


def _check_times(group: Group) -> None:
    times = group.table["timestamp"].combine_chunks().dictionary_encode()
    odd = np.array([TIMESTAMP.fullmatch(time) is None for time in times.dictionary.to_pylist()], bool)
    group.found.rows("timestamp", odd[times.indices.to_numpy()], "timestamp has not the form YYYYMMDDTHHMMSS")


def _check_grid_numbers(group: Group) -> None:
    names = group.table["grid_cell"].combine_chunks().dictionary_encode()
    numbers = [grid_numbers(name) for name in names.dictionary.to_pylist()]
    for column, part in (("grid_row_u", 0), ("grid_col_r", 1)):
        expected = pa.array([number[part] for number in numbers], pa.int64()).take(names.indices)
        stored = group.table[column].combine_chunks().cast(pa.int64())
        same = pc.or_kleene(pc.equal(stored, expected), pc.and_(pc.is_null(stored), pc.is_null(expected)))
        differing = ~pc.fill_null(same, False).to_numpy(zero_copy_only=False)
        group.found.rows("grid cell", differing, f"{column} does not agree with grid_cell")


def _check_extras(group: Group) -> None:
    for name in SHARES:
        share = group.column(name)
        known = group.table[name].combine_chunks().is_valid().to_numpy(zero_copy_only=False)
        limit = np.float32(group.expected.max_nodata) if name == "nodata" else 1
        group.found.rows("extras", known & ~((share >= 0) & (share <= limit)), f"{name} is not a share up to {limit:g}")
    if group.cell is not None:
        group.found.rows("extras", group.column("parquet_row") != group.cell, "parquet_row is not the cell's row group")


def _check_bbox(group: Group, bounds: Doubles) -> None:
    fields = group.table["bbox"].combine_chunks()
    stored = np.column_stack([fields.field(i).to_numpy() for i in range(4)])
    group.found.rows("bbox", _away(stored, bounds, DEGREES), "bbox is not the box around geometry")


def _off_earth(bounds: Doubles) -> Mask:
    west_south, east_north = np.array(EARTH[:2]) - DEGREES, np.array(EARTH[2:]) + DEGREES
    return np.asarray(~((bounds[:, :2] >= west_south) & (bounds[:, 2:] <= east_north)).all(axis=1))


# -- where fragments are ------------------------------------------------------------------------------------------


def _check_pixels(group: Group) -> bool:
    """Squares of the right size, row by row, and all those of the grid; False where the sizes are wrong."""
    pixels = group.column("pixel_bbox").astype(np.int64)
    size = group.expected.covered
    wrong = (pixels[:, 2:] - pixels[:, :2] != size).any(axis=1) | (pixels[:, :2] < 0).any(axis=1)
    group.found.rows("pixel_bbox", wrong, f"pixel_bbox is not a square of {size} px inside the cell")
    place = pixels[:, 1] * 2**32 + pixels[:, 0]
    unordered = np.r_[False, group.same_cell & (place[1:] <= place[:-1])]
    group.found.rows("pixel_bbox", unordered, "fragments of a cell are not row by row, each once")
    if group.cell is not None and group.expected.max_nodata >= 1 and not wrong.any() and not unordered.any():
        _check_complete(group, pixels)
    return not wrong.any()


def _check_complete(group: Group, pixels: Numbers) -> None:
    """With border shift the fragments reach the border, which tells the cell's size and so all of its fragments."""
    bad = np.zeros(len(pixels), bool)
    for start, stop in _pairs(group.starts, len(pixels)):
        offsets = pixels[start:stop, 1::-1] - group.expected.origin
        if group.expected.border_shift:
            rows, cols = offsets.max(axis=0) + group.expected.fragment_size
            wanted = _fragments(int(rows), int(cols), group.expected)
            bad[start] = not np.array_equal(offsets, wanted)
        else:
            bad[start] = len(offsets) != np.prod([len(np.unique(axis)) for axis in offsets.T])
    group.found.rows("pixel_bbox", bad, "the cell that begins here lacks fragments, or has others than its grid")


def _pairs(starts: Numbers, end: int) -> Iterator[tuple[int, int]]:
    return itertools.pairwise([*starts.tolist(), end])


@functools.lru_cache(maxsize=256)
def _fragments(rows: int, cols: int, expected: Expected) -> Numbers:
    grid = FragmentGrid.of(rows, cols, expected.fragment_size, expected.overlap, expected.border_shift)
    return grid.offsets().astype(np.int64)


def _check_places(group: Group, geometry: npt.NDArray[Any]) -> None:
    utm = shapely.from_wkt(group.table["utm_footprint"].to_numpy(), on_invalid="ignore")
    shape = (shapely.get_type_id(utm) == POLYGON) & (shapely.get_num_coordinates(utm) == 5)
    boxes = shapely.bounds(utm)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    box = shape & (abs(shapely.area(utm) - area) <= 1e-9 * area) & (area > 0)
    group.found.rows("utm_footprint", ~box, "utm_footprint is not the WKT of a box")
    if not box.all():
        return
    group.found.rows(
        "utm_footprint", _off_grid(group, boxes), "utm_footprint is not at pixel_bbox on the grid of its cell"
    )
    if group.expected.shape:
        _check_transforms(group, boxes, group.expected.shape)
    rings = _project(group, shapely.get_coordinates(utm).reshape(-1, 5, 2))
    if rings is not None:
        _check_geometry(group, geometry, rings)


def _check_transforms(group: Group, boxes: Doubles, shape: MapShape) -> None:
    """A map's first and last corner are those of its footprint, and nothing is turned."""
    a, b, left, d, e, top = group.column("dense_transform").T
    corners = np.column_stack([left, top + e * shape.rows, left + a * shape.cols, top])
    turned = (b != 0) | (d != 0)
    group.found.rows(
        "dense_transform", turned | _away(corners, boxes, METRES), "dense_transform is not at utm_footprint"
    )


def _off_grid(group: Group, boxes: Doubles) -> Mask:
    """Which boxes [n, 4] are not where one affine grid per cell puts their pixels."""
    if group.cell is None:
        return np.zeros(len(boxes), bool)
    starts, pixels = group.starts, group.column("pixel_bbox").astype(np.float64)
    counts = np.diff(np.r_[starts, len(boxes)])
    col, row = (np.minimum.reduceat(pixels[:, i], starts) for i in (0, 1))
    col_end, row_end = (np.maximum.reduceat(pixels[:, i], starts) for i in (2, 3))
    west, south = (np.minimum.reduceat(boxes[:, i], starts) for i in (0, 1))
    east, north = (np.maximum.reduceat(boxes[:, i], starts) for i in (2, 3))
    width, height = (east - west) / (col_end - col), (north - south) / (row_end - row)
    left, top, width, height = (
        np.repeat(values, counts) for values in (west - col * width, north + row * height, width, height)
    )
    x, y = left[:, None] + pixels[:, ::2] * width[:, None], top[:, None] - pixels[:, 1::2] * height[:, None]
    return _away(boxes, np.column_stack([x[:, 0], y[:, 1], x[:, 1], y[:, 0]]), METRES)


def _away(values: Doubles, wanted: Doubles, tolerance: float) -> Mask:
    """Rows that differ by more than ``tolerance`` anywhere, or are not numbers."""
    near = abs(values - wanted) <= tolerance
    return np.asarray(~near.all(axis=tuple(range(1, near.ndim))))


def _project(group: Group, corners: Doubles) -> Doubles | None:
    """Corners [n, 5, 2] in ``utm_crs`` -> longitude and latitude; None where a CRS is not known."""
    names = group.column("utm_crs")
    rings = np.empty_like(corners)
    for name in np.unique(names).tolist():
        transformer = _to_wgs84(name)
        if transformer is None:
            group.found.rows("utm_crs", names == name, f"utm_crs {name!r} is not a known code such as EPSG:32633")
            return None
        chosen = names == name
        x, y = corners[chosen].reshape(-1, 2).T
        rings[chosen] = np.column_stack(transformer.transform(x, y)).reshape(-1, 5, 2)
    return rings


@functools.cache
def _to_wgs84(name: str) -> pyproj.Transformer | None:
    if not re.fullmatch(r"EPSG:\d+", name):
        return None
    try:
        return pyproj.Transformer.from_crs(name, "EPSG:4326", always_xy=True)
    except pyproj.exceptions.ProjError:
        return None


def _check_geometry(group: Group, geometry: npt.NDArray[Any], rings: Doubles) -> None:
    """Outlines equal the projected corners, anticlockwise; centres equal their centroids."""
    crossing = np.ptp(rings[:, :, 0], axis=1) > 180
    plain = (shapely.get_type_id(geometry) == POLYGON) & (shapely.get_num_coordinates(geometry) == 5) & ~crossing
    away = ~plain
    away[plain] = _away(shapely.get_coordinates(geometry[plain]).reshape(-1, 5, 2), rings[plain], DEGREES)
    centres = shapely.get_coordinates(shapely.centroid(shapely.polygons(np.nan_to_num(rings, posinf=0))))
    for row in np.flatnonzero(crossing).tolist():
        whole = shapely.polygons(np.column_stack([rings[row, :, 0] % 360, rings[row, :, 1]]))
        away[row] = not shapely.hausdorff_distance(whole, _unwrapped(geometry[row])) <= DEGREES
        x, y = shapely.get_coordinates(shapely.centroid(whole))[0]
        centres[row] = (x + 180) % 360 - 180, y
    group.found.rows("geometry", away, "geometry is not utm_footprint in longitude and latitude")
    group.found.rows("geometry", _clockwise(geometry), "geometry has a ring that is not counter-clockwise")
    stored = np.column_stack([group.column("centre_lon"), group.column("centre_lat")])
    step = np.spacing(abs(centres).astype(np.float32)).astype(np.float64)
    apart = abs((stored - centres + 180) % 360 - 180)  # 180 and -180 are one meridian
    group.found.rows("centre", ~away & ~(apart <= step).all(axis=1), "centre_lat/centre_lon is not geometry's centroid")


def _unwrapped(geometry: Any) -> Any:
    """The parts on both sides of the antimeridian put together, longitudes from 0 to 360."""
    return shapely.union_all(shapely.transform(shapely.get_parts(geometry), _eastwards))


def _eastwards(points: Doubles) -> Doubles:
    return np.column_stack([np.where(points[:, 0] < 0, points[:, 0] + 360, points[:, 0]), points[:, 1]])


def _clockwise(geometry: npt.NDArray[Any]) -> Mask:
    parts, owner = shapely.get_parts(geometry, return_index=True)
    wrong = ~shapely.is_ccw(shapely.get_exterior_ring(parts)) | (shapely.get_num_interior_rings(parts) > 0)
    bad = np.zeros(len(geometry), bool)
    bad[owner[wrong]] = True
    return bad
