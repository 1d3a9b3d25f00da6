"""The grid as pixels: every cell has one, in its place; GeoTIFFs that GDAL and the reader agree about."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.geo.grid import grid_centre
from mtembed.maps.raster import (
    COLUMNS,
    GRID_ROWS,
    HALF,
    MOST,
    PIXEL,
    CellColours,
    grid_image,
    read_geotiff,
    write_geotiff,
)


def cells(*named: tuple[int, int]) -> CellColours:
    """Signed rows and columns, coloured 1, 2, 3, ..."""
    rows, cols = np.array(named, np.int64).reshape(-1, 2).T
    colours = np.repeat(np.arange(1, len(rows) + 1, dtype=np.uint8)[:, None], 3, axis=1)
    return CellColours.of(rows, cols, colours)[0]


def test_the_grid_is_that_of_major_tom() -> None:
    assert (GRID_ROWS, int(COLUMNS.sum())) == (2004, 5_113_745)
    assert [int(COLUMNS[row + HALF]) for row in (0, 451, 946, -1002, 1001)] == [4008, 3047, 352, 1, 7]


def test_published_points(shared: Path) -> None:
    with (shared / "research/data/grid_golden.csv").open() as file:
        for line in csv.DictReader(file):
            one = cells((int(line["row"]), int(line["col"])))
            south, north, west, east = one.bounds[0]
            assert south == pytest.approx(float(line["south"]), abs=1e-9)
            assert north == pytest.approx(float(line["north"]), abs=1e-9)
            assert (west - float(line["west"]) + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)
            assert (east - float(line["east"]) + 180) % 360 - 180 == pytest.approx(0, abs=1e-9)
            place = np.array([float(line["centroid_lat"])]), np.array([float(line["centroid_lon"])])
            assert one.at(*place)[0].tolist() == [1, 1, 1, 255], line["name"]


@pytest.mark.parametrize("row", [-1002, -946, -500, 0, 451, 502, 794, 946, 1001])
def test_every_cell_of_a_row_has_a_pixel_and_every_pixel_a_cell(row: int) -> None:
    width = int(COLUMNS[row + HALF])
    whole = cells(*((row, col - width // 2) for col in range(width)))
    image, west, _ = grid_image(whole)
    assert image.shape == (1, MOST, 4) and west == -180.0 and (image[..., 3] == 255).all()
    found = whole.at(np.full(MOST, whole.bounds[0, 0] + 0.01), (np.arange(MOST) + 0.5) * PIXEL - 180.0)
    np.testing.assert_array_equal(found, image[0])
    assert len(np.unique((np.arange(MOST) + 0.5) * width // MOST)) == width


@settings(max_examples=40, deadline=None)
@given(st.integers(-1002, 990), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4007)), min_size=1, max_size=12))
def test_a_geotiff_holds_the_cells(
    tmp_path_factory: pytest.TempPathFactory, first: int, named: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("map") / "map.tif"
    made = cells(*((first + row, col % int(COLUMNS[first + row + HALF])) for row, col in named))
    write_geotiff(path, made, {})
    again = read_geotiff(path)
    np.testing.assert_array_equal(again.keys, made.keys)
    np.testing.assert_array_equal(again.colours, made.colours)


@pytest.mark.parametrize("names", [["433D_629L"], ["433D_629L", "282D_485L", "637U_59R"], ["200D_1980R", "200D_1980L"]])
def test_gis_sees_each_cell_where_it_is(tmp_path: Path, names: list[str]) -> None:
    from mtembed.geo.grid import parse_grid_cell

    made = cells(*map(parse_grid_cell, names))
    write_geotiff(tmp_path / "map.tif", made, {"explained_variance_ratio": [0.5]})
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.count, file.dtypes[0], file.crs.to_epsg()) == (4, "uint8", 4326)
        assert [band.name for band in file.colorinterp] == ["red", "green", "blue", "alpha"]
        assert file.tags()["explained_variance_ratio"] == "[0.5]"
        assert -180 <= file.bounds.left < file.bounds.right <= 180 + 1e-9
        for name, colour in zip(names, (1, 2, 3), strict=False):
            lat, lon = grid_centre(name)
            (value,) = file.sample([(lon, lat)])
            assert value.tolist() == [colour, colour, colour, 255]
        alpha = file.read(4)
        assert 0 < (alpha == 255).sum() <= 3 * len(names)
        assert len(names) == 1 or (alpha == 0).any()


def test_names_outside_the_grid_are_counted() -> None:
    rows, cols = np.array([0, 1002, 5, -1003, 3]), np.array([0, 0, 9999, 0, 1])
    found, outside = CellColours.of(rows, cols, np.zeros((5, 3), np.uint8))
    assert len(found) == 2 and outside == 3


def test_the_two_names_of_a_cell_at_the_antimeridian_are_one() -> None:
    assert len(cells((794, 642), (794, -642))) == 1


def test_no_place_outside_the_world() -> None:
    one = cells((0, 0))
    assert one.at(np.array([np.nan, 91.0, 0.05]), np.array([0.01, 0.01, np.nan])).sum() == 0
