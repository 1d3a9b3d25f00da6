"""Cells in UTM, which nearly all are: surely on Earth by plain numbers, without PROJ."""

from __future__ import annotations

from mtembed.types import Georeference

NORTH, SOUTH = range(32601, 32661), range(32701, 32761)  # EPSG codes of WGS 84 / UTM zones
EASTING = (0.0, 1_000_000.0)
NORTHING = {"north": (-500_000.0, 9_500_000.0), "south": (500_000.0, 10_500_000.0)}
"""Metres between which every place is on Earth: zones are used from 80 S to 84 N, up to 9,329,005 m, and overlap."""
PIXEL = (0.01, 10_000.0)


def is_utm(epsg: int | None) -> bool:
    """Whether a code is one of the 120 zones of WGS 84 / UTM."""
    return epsg in NORTH or epsg in SOUTH


def surely_on_earth(place: Georeference) -> bool:
    """Whether a cell is in UTM, where UTM is used, with pixels of a usual size; others must be looked at by PROJ."""
    if not is_utm(place.epsg):
        return False
    low, high = NORTHING["north" if place.epsg in NORTH else "south"]
    right, bottom = place.left + place.cols * place.pixel_width, place.top - place.rows * place.pixel_height
    inside = EASTING[0] <= place.left < right <= EASTING[1] and low <= bottom < place.top <= high
    return inside and all(PIXEL[0] <= side <= PIXEL[1] for side in (place.pixel_width, place.pixel_height))
