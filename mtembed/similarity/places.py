"""How far rows are from a place, and which of them hold it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from mtembed.dataset.places import CENTRE, joined
from mtembed.geo.grid import EARTH_RADIUS_KM
from mtembed.similarity.scoring import Doubles

Shapes = npt.NDArray[np.object_]


def centre_sources(columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that tell the centre of a row; none where nothing does."""
    if all(name in columns for name in CENTRE):
        return CENTRE
    return ("geometry",) if "geometry" in columns else ()


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
