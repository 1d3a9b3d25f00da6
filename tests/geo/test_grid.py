"""The grid of Major TOM: names, numbers, centres."""

from __future__ import annotations

import math

import pytest

from mtembed.geo.grid import grid_centre, grid_columns, grid_numbers, parse_grid_cell


@pytest.mark.parametrize(
    ("name", "lat", "lon"),
    # centre_lat, centre_lon of published metadata lines (research notes of the format); 5 km margins apart
    [("110D_457L", -9.835420887576138, -41.61526669033936)],
)
def test_grid_centres_agree_with_published_metadata(name: str, lat: float, lon: float) -> None:
    assert grid_centre(name) == pytest.approx((lat, lon), abs=0.01)


def test_grid_cell_names() -> None:
    assert parse_grid_cell("454U_120R") == (454, 120)
    assert parse_grid_cell("7D_3L") == (-7, -3)
    with pytest.raises(ValueError, match="odd"):
        parse_grid_cell("odd")
    assert all(map(math.isnan, grid_centre("odd")))


@pytest.mark.parametrize(
    "name", ["32768U_1R", "1U_32768R", "9" * 400 + "U_1R", "9" * 5000 + "U_1R", "٣U_1R", "1U_1R\n"]
)
def test_names_beyond_the_columns_have_no_numbers_and_no_centre(name: str) -> None:
    with pytest.raises(ValueError):
        parse_grid_cell(name)
    assert grid_numbers(name) == (None, None)
    assert all(map(math.isnan, grid_centre(name)))


def test_rows_off_the_earth_have_no_centre() -> None:
    assert grid_numbers("1002U_0R") == (1002, 0) and math.isnan(grid_centre("1002U_0R")[0])
    assert -90 < grid_centre("1002D_0R")[0] < grid_centre("1001U_0R")[0] < 90


def test_cells_in_a_row_as_published() -> None:
    # research notes of the grid: the equator, the row of 451U_946L, the last row of Core
    assert [grid_columns(row) for row in (0, 451, 946)] == [4008, 3047, 352]
