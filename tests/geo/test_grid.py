"""The grid of Major TOM: names, numbers, centres."""

from __future__ import annotations

import math

import pytest

from mtembed.geo.grid import grid_centre, parse_grid_cell


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
