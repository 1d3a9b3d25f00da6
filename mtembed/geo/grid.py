"""The Major TOM grid: names of cells, their numbers, their centres.

Rows and columns are numbered from the equator and the zero meridian; a cell's point is its south-west corner.  The
formulas are those of ``grid.py`` of the reference, which the published names follow.
"""

from __future__ import annotations

import math
import re

EARTH_RADIUS_KM = 6378.137
GRID_KM = 10.0
GRID_ROWS = math.ceil(math.pi * EARTH_RADIUS_KM / GRID_KM)  # 2004, from 1002D to 1001U
ROW_STEP = 180.0 / GRID_ROWS  # degrees of latitude
NUMBERS = range(-(2**15), 2**15)  # what the columns grid_row_u and grid_col_r can hold

_NAME = re.compile(r"([0-9]+)([UD])_([0-9]+)([LR])")


def parse_grid_cell(name: str) -> tuple[int, int]:
    """'454U_120R' -> (454, 120); down and left are negative.

    Raises ValueError for another form and for numbers that do not fit int16.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise ValueError(f"{name[:40]!r} is not a Major TOM grid cell such as 454U_120R")
    row, vertical, col, horizontal = match.groups()
    numbers = int(row) * (1 if vertical == "U" else -1), int(col) * (1 if horizontal == "R" else -1)
    if not all(number in NUMBERS for number in numbers):
        raise ValueError(f"{name[:40]!r} has numbers that do not fit 16 bits")
    return numbers


def is_grid_cell(name: str) -> bool:
    """Whether a name has the form of the grid, whatever its numbers."""
    return _NAME.fullmatch(name) is not None


def grid_numbers(name: str) -> tuple[int | None, int | None]:
    """The columns ``grid_row_u`` and ``grid_col_r`` of a cell: its numbers, or null for a name of another kind."""
    try:
        return parse_grid_cell(name)
    except ValueError:
        return None, None


def grid_columns(row: int) -> int:
    """How many cells lie in a row of the grid."""
    around = 2 * math.pi * EARTH_RADIUS_KM * math.cos(math.radians(row * ROW_STEP))
    return max(1, math.ceil(around / GRID_KM))


def grid_centre(name: str) -> tuple[float, float]:
    """Latitude and longitude of a grid cell's middle in degrees; NaN for a name of another kind or a row off Earth."""
    row, col = grid_numbers(name)
    if row is None or col is None or not -GRID_ROWS <= 2 * row < GRID_ROWS:
        return math.nan, math.nan
    lon = (col + 0.5) * 360.0 / grid_columns(row)
    return (row + 0.5) * ROW_STEP, (lon + 180.0) % 360.0 - 180.0
