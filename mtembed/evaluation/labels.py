"""Label files of every kind, read into points, polygons, keys or rasters, in degrees where they are shapes."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.errors import UsageError
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.target import is_missing
from mtembed.parquet import first_line

if TYPE_CHECKING:
    from pandas import DataFrame

RASTERS = (".tif", ".tiff", ".vrt")
TABLES = (".parquet", ".geoparquet", ".csv", ".gpkg", ".geojson", ".json", ".shp", ".fgb")
LATITUDES = ("lat", "latitude", "centre_lat", "center_lat", "y")
LONGITUDES = ("lon", "lng", "longitude", "centre_lon", "center_lon", "x")
PRESENT = 0.1  # with several columns, or shares of classes: a class of at least this share is present


@dataclass(frozen=True, slots=True)
class Mixture:
    """What labels say about one row: values and their shares (summing to 1), the mean where they are numbers."""

    values: tuple[Any, ...]
    shares: tuple[float, ...] = (1.0,)
    mean: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """Labels in rows.  ``shapes``: shapely geometries in degrees, or None; ``keys``: by which column rows are matched.

    ``values``, ``split`` and ``group`` are lists of L items (the latter two None where no such column was named or is
    in the file).
    """

    name: str
    kind: Literal["points", "polygons", "keys"]
    values: list[Any]
    shapes: npt.NDArray[Any] | None
    key: str
    keys: list[Any] | None
    split: list[Any] | None
    group: list[Any] | None
    dropped: dict[str, int]


def find(name: str) -> list[Path]:
    """The files that ``--labels`` names.  Raises UsageError where there are none, or of two kinds."""
    path = Path(name)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in (*RASTERS, *TABLES))
    elif path.exists():
        found = [path]
    else:
        found = sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file())  # noqa: PTH207
    if not found:
        raise UsageError(f"no label file matches {name}: name a table, a vector file or a GeoTIFF")
    kinds = {p.suffix.lower() in RASTERS for p in found}
    if len(kinds) > 1 or (len(found) > 1 and kinds == {False}):
        raise UsageError(f"{name} is {len(found)} files: labels are one table, or GeoTIFFs only")
    return found


def is_raster(paths: Sequence[Path]) -> bool:
    return paths[0].suffix.lower() in RASTERS


def companions(path: Path) -> list[Path]:
    """The label file itself, and those beside it that hold its values or names."""
    beside = (
        [path.with_suffix(end) for end in (".dbf", ".shx", ".prj", ".cpg")] if path.suffix.lower() == ".shp" else []
    )
    beside += [path.with_name(f"{path.name}.aux.xml")] if path.suffix.lower() in RASTERS else []
    return [path, *(one for one in beside if one.is_file())]


def identity(path: Path) -> dict[str, Any]:
    """Name, size and sha256 of a label file."""
    with path.open("rb") as file:
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def read_table(path: Path, options: EvaluateOptions, known_keys: Sequence[str]) -> LabelTable:
    """A table of labels; ``known_keys`` are columns of the dataset that rows may be matched by.

    Raises UsageError for a file that cannot be read, an unknown column, or rows without any place.
    """
    frame = _read(path)
    missing = [name for name in options.columns if name not in frame.columns]
    if missing:
        names = ", ".join(str(name) for name in frame.columns[:30])
        raise UsageError(f"{path.name} has no column {', '.join(missing)}: its columns are {names}")
    values = values_of([frame[name].tolist() for name in options.columns], options.columns)
    kind, shapes, key = _place(frame, path, known_keys)
    dropped: dict[str, int] = {}
    keep = np.array([not is_missing(value) for value in values], bool)
    dropped["without a value"] = int((~keep).sum())
    if shapes is not None:
        placed = np.array([shape is not None and not shape.is_empty for shape in shapes], bool)
        dropped["without a place"] = int((keep & ~placed).sum())
        keep &= placed
    rows = np.flatnonzero(keep)
    return LabelTable(
        name=path.name,
        kind=kind,
        values=[values[i] for i in rows],
        shapes=None if shapes is None else shapes[rows],
        key=key,
        keys=[frame[key].iloc[i] for i in rows] if key else None,
        split=_column(frame, options.split_column, rows),
        group=_column(frame, options.group_column, rows),
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def values_of(columns: Sequence[list[Any]], names: Sequence[str]) -> list[Any]:
    """Labels of rows: the one column's values, or the names of those columns that hold at least ``PRESENT``."""
    if len(columns) == 1:
        return columns[0]
    return [
        None if any(map(is_missing, row)) else [name for name, value in zip(names, row, strict=True) if _holds(value)]
        for row in zip(*columns, strict=True)
    ]


def _holds(value: Any) -> bool:
    try:
        return float(value) >= PRESENT
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"several label columns hold 0, 1 or shares, and one holds {str(value)[:40]!r}: name one column of classes"
        ) from error


def _column(frame: DataFrame, name: str | None, rows: npt.NDArray[Any]) -> list[Any] | None:
    return None if name is None or name not in frame.columns else [frame[name].iloc[i] for i in rows]


def _read(path: Path) -> DataFrame:
    """Any table as a data frame, shapes as shapely objects in a column ``geometry``, in degrees."""
    import pandas as pd

    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise UsageError(f"{path.name} is no kind of label file that is known: use {', '.join((*TABLES, '.tif'))}")
    try:
        if suffix == ".csv":
            return pd.read_csv(path)
        if suffix in (".parquet", ".geoparquet"):
            return _read_parquet(path)
        return _read_vector(path)
    except UsageError:
        raise
    except Exception as error:  # pandas, pyogrio, GDAL and pyarrow each have their own
        raise UsageError(
            f"{path.name} cannot be read as labels ({first_line(error).rstrip('.')}): "
            "save it again as CSV, GeoPackage, GeoJSON or Parquet"
        ) from error


def _read_parquet(path: Path) -> DataFrame:
    import geopandas as gpd
    import pandas as pd
    import pyarrow.parquet as pq

    arrow = pq.read_schema(path)
    columns = [name for name in arrow.names if name != "embedding"]
    if b"geo" in (arrow.metadata or {}):
        return _in_degrees(gpd.read_parquet(path, columns=columns))
    return pd.read_parquet(path, columns=columns)


def _read_vector(path: Path) -> DataFrame:
    import geopandas as gpd

    return _in_degrees(gpd.read_file(path))


def _in_degrees(frame: Any) -> DataFrame:
    if frame.crs is not None and not frame.crs.equals("EPSG:4326"):
        frame = frame.to_crs("EPSG:4326")
    if frame.geometry.name != "geometry":
        frame = frame.rename_geometry("geometry")
    found: DataFrame = frame
    return found


def _place(
    frame: DataFrame, path: Path, known_keys: Sequence[str]
) -> tuple[Literal["points", "polygons", "keys"], npt.NDArray[Any] | None, str]:
    """Kind, shapes and key column: by unique_id first, then by shape, then by grid cell."""
    if "unique_id" in frame.columns and "unique_id" in known_keys:
        return "keys", None, "unique_id"
    shapes = _shapes(frame, path)
    if shapes is not None:
        return _kind(shapes, path), shapes, ""
    if "grid_cell" in frame.columns and "grid_cell" in known_keys:
        return "keys", None, "grid_cell"
    raise UsageError(
        f"{path.name} does not say where its labels are: give it geometries, columns lat and lon, a WKT column "
        "geometry, or a unique_id or grid_cell of the dataset"
    )


def _shapes(frame: DataFrame, path: Path) -> npt.NDArray[Any] | None:
    import shapely

    if "geometry" in frame.columns:
        column = frame["geometry"].to_numpy(dtype=object)
        if all(shape is None or isinstance(shape, shapely.Geometry) for shape in column):
            return np.asarray(column, object)
        try:
            kind = shapely.from_wkb if all(isinstance(x, bytes) for x in column) else shapely.from_wkt
            return np.asarray(kind(column), object)
        except (TypeError, shapely.errors.ShapelyError) as error:
            raise UsageError(f"the column geometry of {path.name} is neither WKT nor WKB: write it as WKT") from error
    lower = {str(name).lower(): name for name in frame.columns}
    lat = next((lower[name] for name in LATITUDES if name in lower), None)
    lon = next((lower[name] for name in LONGITUDES if name in lower), None)
    return None if lat is None or lon is None else _points(frame, lat, lon, path)


def _points(frame: DataFrame, lat: Any, lon: Any, path: Path) -> npt.NDArray[Any]:
    import pandas as pd
    import shapely

    try:
        places = [pd.to_numeric(frame[name]).to_numpy(np.float64) for name in (lon, lat)]
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{path.name} has text where {lat} and {lon} need degrees ({first_line(error).rstrip('.')}): "
            "write them as numbers"
        ) from error
    good = np.isfinite(places[0]) & (np.abs(places[0]) <= 180) & np.isfinite(places[1]) & (np.abs(places[1]) <= 90)
    if len(good) and not good.any():
        raise UsageError(f"no row of {path.name} has {lat} within 90 and {lon} within 180 degrees: give WGS84 degrees")
    shapes = np.full(len(frame), None, object)
    shapes[good] = shapely.points(places[0][good], places[1][good])
    return shapes


def _kind(shapes: npt.NDArray[Any], path: Path) -> Literal["points", "polygons"]:
    import shapely

    types = set(shapely.get_type_id(shapes[[shape is not None for shape in shapes]]).tolist())
    if types <= {0}:
        return "points"
    if types <= {3, 6}:
        return "polygons"
    raise UsageError(f"{path.name} mixes shapes, or has lines: labels are points or polygons")
