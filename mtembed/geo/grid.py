"""The Major TOM grid: names of cells, their numbers, their centres."""

from __future__ import annotations

import math
import re

EARTH_RADIUS_KM = 6378.137  # Major TOM grid, `grid.py` of the reference
GRID_KM = 10.0


def parse_grid_cell(name: str) -> tuple[int, int]:
    """'454U_120R' -> (454, 120); down and left are negative.  Raises ValueError for another form."""
    match = re.fullmatch(r"(\d+)([UD])_(\d+)([LR])", name)
    if not match:
        raise ValueError(f"{name!r} is not a Major TOM grid cell such as 454U_120R")
    row, vertical, col, horizontal = match.groups()
    return int(row) * (1 if vertical == "U" else -1), int(col) * (1 if horizontal == "R" else -1)


def grid_centre(name: str) -> tuple[float, float]:
    """Latitude and longitude of a grid cell's middle in degrees (its point is the south-west corner); NaN if odd."""
    try:
        row, col = parse_grid_cell(name)
    except ValueError:
        return math.nan, math.nan
    step = 180.0 / math.ceil(math.pi * EARTH_RADIUS_KM / GRID_KM)
    columns = math.ceil(2 * math.pi * EARTH_RADIUS_KM * math.cos(math.radians(row * step)) / GRID_KM)
    lon = (col + 0.5) * 360.0 / max(1, columns)
    return (row + 0.5) * step, (lon + 180.0) % 360.0 - 180.0
