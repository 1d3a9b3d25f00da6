"""Where rows are: centres in degrees, distances, footprints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from mtembed.geo.grid import EARTH_RADIUS_KM
from mtembed.similarity.scoring import Doubles

CENTRES = ("centre_lat", "centre_lon")
Shapes = npt.NDArray[np.object_]


def centre_sources(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that tell the centre of a row; none where nothing does."""
    if all(name in columns for name in CENTRES):
        return CENTRES
    return ("geometry",) if "geometry" in columns else ()


def centres(table: pa.Table) -> tuple[Doubles, Doubles]:
    """Latitude and longitude in degrees [n], NaN where none is known, from the columns of ``centre_sources``."""
    if CENTRES[0] in table.column_names:
        lat, lon = (np.asarray(table[name].cast(pa.float64()).to_numpy(), np.float64) for name in CENTRES)
        return lat, lon
    if "geometry" not in table.column_names:
        return np.full(table.num_rows, np.nan), np.full(table.num_rows, np.nan)
    return shape_centres(shapely.from_wkb(table["geometry"].to_numpy()))


def shape_centres(shapes: Shapes) -> tuple[Doubles, Doubles]:
    """Of shapes in degrees; one that is cut at the antimeridian has its centre there."""
    whole = joined(shapes)
    middle = shapely.centroid(whole)
    lon = (np.asarray(shapely.get_x(middle)) + 180.0) % 360.0 - 180.0
    return np.asarray(shapely.get_y(middle)), np.asarray(lon)


def joined(shapes: Shapes) -> Shapes:
    """Shapes that reach from one side of the map to the other are cut at 180 degrees: their western parts go east."""
    bounds = shapely.bounds(shapes)
    whole = shapes.copy()
    with np.errstate(invalid="ignore"):
        wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180.0)
    for i in wide.tolist():
        whole[i] = shapely.transform(shapes[i], _eastwards)
    return whole


def _eastwards(points: Doubles) -> Doubles:
    return np.column_stack([np.where(points[:, 0] < 0, points[:, 0] + 360.0, points[:, 0]), points[:, 1]])


def kilometres(lat: Doubles, lon: Doubles, place: tuple[float, float]) -> Doubles:
    """Great-circle distances [n] from a place (latitude, longitude in degrees)."""
    a, b = np.radians(lat), np.radians(place[0])
    squared = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lon - place[1]) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(squared, 0, 1))))


def covers(shapes: Shapes, place: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Which shapes [n] in degrees hold a place (latitude, longitude)."""
    lat, lon = place
    whole = joined(shapes)
    return np.asarray(shapely.intersects_xy(whole, lon, lat) | shapely.intersects_xy(whole, lon + 360.0, lat))
