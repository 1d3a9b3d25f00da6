"""Which rows may be hits: a box, a polygon, dates, cells.  They are chosen before anything is ranked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from mtembed.archive.selection import read_cell_list
from mtembed.dataset.files import Name
from mtembed.dataset.places import CENTRE, centres
from mtembed.errors import UsageError

DIGITS = "0123456789"
Bbox = tuple[float, float, float, float]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Filters:
    """What a row must be: its centre in ``bbox`` (W, S, E, N) and in ``polygon`` (degrees), its time stamp from
    ``after`` up to ``before`` (digits of YYYYMMDDTHHMMSS), its cell among ``cells`` and not among ``without``."""

    bbox: Bbox | None = None
    polygon: Any = None
    after: str = ""
    before: str = ""
    cells: frozenset[str] | None = None
    without: frozenset[str] = frozenset()

    @property
    def columns(self) -> list[str]:
        """Columns of ``rows.SCHEMA`` that are needed to tell."""
        return [
            *(CENTRE if self.bbox is not None or self.polygon is not None else ()),
            *(["timestamp"] if self.after or self.before else []),
            *(["grid_cell"] if self.cells is not None or self.without else []),
        ]

    def mask(self, table: pa.Table) -> Mask | None:
        """Which rows of a table with those columns may be hits; None for all."""
        found: list[Mask] = []
        if self.bbox is not None or self.polygon is not None:
            found += self._inside(*centres(table))
        if self.after or self.before:
            found.append(self._in_time(table["timestamp"]))
        if self.cells is not None:
            found.append(_among(table["grid_cell"], self.cells))
        if self.without:
            found.append(~_among(table["grid_cell"], self.without))
        return np.logical_and.reduce(found) if found else None

    def _inside(self, lat: npt.NDArray[np.float64], lon: npt.NDArray[np.float64]) -> list[Mask]:
        found: list[Mask] = []
        if self.bbox is not None:
            west, south, east, north = self.bbox
            across = west > east
            sideways = (lon >= west) | (lon <= east) if across else (lon >= west) & (lon <= east)
            found.append(sideways & (lat >= south) & (lat <= north))
        if self.polygon is not None:
            found.append(np.asarray(shapely.intersects_xy(self.polygon, lon, lat)))
        return found

    def _in_time(self, column: pa.ChunkedArray) -> Mask:
        digits = pc.replace_substring_regex(pc.fill_null(column, ""), r"[^0-9]", "")
        known = pc.not_equal(digits, "")
        for bound, compare in ((self.after, pc.greater_equal), (self.before, pc.less_equal)):
            if bound:
                known = pc.and_(known, compare(pc.utf8_slice_codeunits(digits, 0, len(bound)), bound))
        return np.asarray(known.to_numpy(zero_copy_only=False) if isinstance(known, pa.Array) else known.to_numpy())


def filters(
    bbox: Bbox | None = None,
    polygon: Name | None = None,
    after: str | None = None,
    before: str | None = None,
    cells: Name | None = None,
) -> Filters:
    """Filters from what a user gives.  Raises UsageError for what cannot be read."""
    if bbox is not None and not (-180 <= bbox[0] <= 180 and -180 <= bbox[2] <= 180 and -90 <= bbox[1] <= bbox[3] <= 90):
        raise UsageError("--bbox is not possible: give W,S,E,N in degrees with S <= N (W > E crosses the antimeridian)")
    return Filters(
        bbox=bbox,
        polygon=None if polygon is None else _polygon(Path(polygon)),
        after=_date("after", after),
        before=_date("before", before),
        cells=None if cells is None else read_cell_list(Path(cells)),
    )


def _date(name: str, text: str | None) -> str:
    """The digits of a date, of which fewer may be given: a year, a month, a day, a second."""
    digits = "".join(letter for letter in text or "" if letter in DIGITS)
    if text is not None and len(digits) not in (4, 6, 8, 10, 12, 14):
        raise UsageError(f"--{name} {text} is no date: give one such as 2021-06-30, 2021-06 or 20210630T101500")
    return digits


def _polygon(path: Path) -> Any:
    import geopandas

    try:
        frame = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
        if frame.crs is not None:
            frame = frame.to_crs(4326)
        shape = frame.geometry.union_all()
    except Exception as error:  # pyogrio, pyarrow and geopandas have no error in common
        raise UsageError(
            f"--polygon {path} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
            "give a GeoJSON, GeoPackage or GeoParquet file of polygons"
        ) from error
    if shape.is_empty or shapely.get_dimensions(shape) != 2:
        raise UsageError(f"--polygon {path} holds no polygon: give a file of polygons")
    shapely.prepare(shape)
    return shape


def _among(column: pa.ChunkedArray, names: frozenset[str]) -> Mask:
    found = pc.fill_null(pc.is_in(column, value_set=pa.array(sorted(names), pa.string())), False)
    return np.asarray(found.to_numpy())
