"""Which rows may be hits at all: a box, an area, times, cells.  They are applied before anything is ranked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from mtembed.archive.selection import read_cell_list
from mtembed.dataset.finding import Name
from mtembed.dataset.places import centres
from mtembed.errors import UsageError
from mtembed.parquet import first_line
from mtembed.similarity.scoring import Doubles, Mask

DATE = re.compile(r"(\d{4})(?:-?(\d{2})(?:-?(\d{2})(?:[T ]?(\d{2})(?::?(\d{2})(?::?(\d{2}))?)?)?)?)?Z?")
DIGITS = 14  # of YYYYMMDDhhmmss
FIRST = "00000101000000"


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """``bbox`` is W, S, E, N in degrees (W > E: across the antimeridian), ``area`` a prepared shape in degrees from
    -180 on; a row's centre must lie in both.  ``after`` and ``before`` are YYYYMMDDhhmmss, the latter exclusive."""

    bbox: tuple[float, float, float, float] | None = None
    area: Any = None
    after: str | None = None
    before: str | None = None
    cells: frozenset[str] | None = None
    without_cells: frozenset[str] = frozenset()

    @property
    def places(self) -> bool:
        return self.bbox is not None or self.area is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are needed."""
        place = ("centre_lat", "centre_lon") if self.places else ()
        time = ("timestamp",) if self.after or self.before else ()
        cell = ("grid_cell",) if self.cells is not None or self.without_cells else ()
        return (*place, *time, *cell)

    def passing(self, table: pa.Table) -> Mask:
        """Which rows of a table with those columns pass, bool [n]."""
        kept = np.ones(table.num_rows, np.bool_)
        if self.places:
            kept &= self._inside(*centres(table))
        if self.after or self.before:
            kept &= _in_time(table["timestamp"], self.after or "", self.before or "9" * DIGITS)
        if self.cells is not None:
            kept &= _named(table["grid_cell"], self.cells)
        if self.without_cells:
            kept &= ~_named(table["grid_cell"], self.without_cells)
        return kept

    def _inside(self, lat: Doubles, lon: Doubles) -> Mask:
        kept = np.isfinite(lat) & np.isfinite(lon)
        if self.bbox is not None:
            west, south, east, north = self.bbox
            across = (west <= lon) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
            kept &= across & (south <= lat) & (lat <= north)
        if self.area is not None:
            some = np.flatnonzero(kept)
            found = np.zeros(len(some), np.bool_)
            for turn in (-360.0, 0.0, 360.0):
                found |= shapely.intersects_xy(self.area, lon[some] + turn, lat[some])
            kept[some] = found
        return kept


def filters(
    bbox: tuple[float, float, float, float] | None,
    polygon: Name | None,
    after: str | None,
    before: str | None,
    cells: Name | None,
) -> Filters:
    """As they are typed.  Raises UsageError."""
    if bbox is not None:
        west, south, east, north = bbox
        if not (-90 <= south <= north <= 90 and all(-180 <= side <= 180 for side in (west, east))):
            raise UsageError(
                f"--bbox {','.join(f'{side:g}' for side in bbox)} is no box: "
                "give W,S,E,N in degrees with S <= N (W > E means across the antimeridian)"
            )
    first = None if after is None else _date("after", after)
    last = None if before is None else _date("before", before)
    if first and last and first >= last:
        raise UsageError(f"--after {after} is not before --before {before}: no time lies between them")
    return Filters(
        bbox=bbox,
        area=None if polygon is None else read_area(Path(polygon)),
        after=first,
        before=last,
        cells=None if cells is None else read_cell_list(Path(cells)),
    )


def _date(option: str, text: str) -> str:
    match = DATE.fullmatch(text.strip())
    found = "" if match is None else "".join(part for part in match.groups() if part)
    whole = found + FIRST[len(found) :]
    if match is None or not ("01" <= whole[4:6] <= "12" and "01" <= whole[6:8] <= "31" and whole[8:10] <= "24"):
        raise UsageError(f"--{option} {text} is no date: write it as 2020, 2020-06, 2020-06-30 or 20200630T103000")
    return whole


def _in_time(column: pa.ChunkedArray, after: str, before: str) -> Mask:
    """``after`` <= time < ``before``; a row without a time is in none."""
    digits = pc.utf8_slice_codeunits(
        pc.replace_substring_regex(pc.fill_null(column.cast(pa.string()), ""), r"[^0-9]", ""), 0, DIGITS
    )
    whole = pc.utf8_rpad(digits, DIGITS, "0")
    kept = pc.and_(pc.greater_equal(whole, after), pc.less(whole, before))
    return np.asarray(pc.and_(kept, pc.greater_equal(pc.utf8_length(digits), 4)).to_numpy(), np.bool_)


def _named(column: pa.ChunkedArray, names: frozenset[str]) -> Mask:
    found = pc.is_in(column.cast(pa.string()), pa.array(sorted(names), pa.string()))
    return np.asarray(found.to_numpy(), np.bool_)


# -- areas ------------------------------------------------------------------------------------------------------------


def read_area(path: Path) -> Any:
    """The shapes of a file as one, prepared: GeoJSON, GeoPackage, shapefile or GeoParquet, in any CRS.

    Raises UsageError for a file that cannot be read and for one without areas.
    """
    import geopandas as gpd

    try:
        table = gpd.read_parquet(path) if path.suffix in (".parquet", ".geoparquet") else gpd.read_file(path)
        if table.crs is not None and not table.crs.equals("EPSG:4326"):
            table = table.to_crs("EPSG:4326")
        shapes = [shape for shape in table.geometry if shape is not None and shapely.get_dimensions(shape) == 2]
    except Exception as error:  # GDAL, pyogrio, pyproj and pyarrow each raise their own
        raise UsageError(
            f"--polygon {path} cannot be read ({first_line(error)}): give a GeoJSON, GeoPackage or GeoParquet file of "
            "polygons"
        ) from error
    if not shapes:
        raise UsageError(f"--polygon {path} holds no polygon: give a file of polygons")
    area = shapely.union_all(shapely.make_valid(np.array([_unwrapped(shape) for shape in shapes], np.object_)))
    shapely.prepare(area)
    return area


def _unwrapped(shape: Any) -> Any:
    """A polygon with a step of more than 180 degrees goes across the antimeridian: its longitudes go on there."""
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    return shapely.multipolygons(
        [shapely.Polygon(_ring(part.exterior), [*map(_ring, part.interiors)]) for part in parts]
    )


def _ring(ring: Any) -> npt.NDArray[np.float64]:
    points: npt.NDArray[np.float64] = shapely.get_coordinates(ring)
    steps = np.diff(points[:, 0])
    turns = np.where((abs(steps) > 180.0) & (abs(steps) < 360.0), -np.sign(steps), 0.0)
    if turns.sum() == 0:  # around a pole otherwise: it is taken as it is drawn
        points[1:, 0] += 360.0 * np.cumsum(turns)
    return points
