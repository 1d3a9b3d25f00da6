"""Footprints against an independent computation, one fragment and one transformer at a time."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.errors import CellError
from mtembed.geo.footprint import Footprints, footprints
from mtembed.types import CellRecord, Georeference

OFFSETS = [(row, col) for row in (0, 211, 844) for col in (0, 422, 633)]

# EPSG, longitude, latitude of the cell's upper-left corner
PLACES = [
    (32631, 3.1, 45.2),
    (32631, 5.99, 0.04),  # reaches over the zone's border and the equator
    (32632, 6.0, 60.0),
    (32724, -41.6, -9.8),
    (32733, 12.0, -33.0),
    (32633, 15.0, 83.0),
    (32601, -176.9, 83.9),
    (32760, 177.0, -83.0),
    (32735, 27.0, -79.9),
    (32633, 30.0, 87.0),  # far outside of the zone and its latitudes
]
ACROSS = [(32601, 60.0), (32660, 60.0), (32701, -17.0), (32760, -17.0), (32701, -82.0), (32760, -82.0), (32660, 83.0)]


def _record(
    epsg: int, left: float, top: float, pixel: float = 10.0, rows: int = 1068, cols: int = 1068, size: int = 224
) -> CellRecord:
    place = Georeference(epsg, left, top, pixel, pixel, rows, cols)
    offsets = [(min(row, rows - size), min(col, cols - size)) for row, col in OFFSETS]
    return CellRecord(0, "product", "1U_1R", "20230824T131249", place, size, np.array(offsets, np.int32))


def _at(epsg: int, longitude: float, latitude: float, **options: float) -> CellRecord:
    left, top = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude, latitude)
    return _record(epsg, left + 0.123, top - 0.456, **options)  # type: ignore[arg-type]


def _boxes(record: CellRecord) -> list[tuple[float, float, float, float]]:
    g, size = record.georeference, record.size
    return [
        (
            g.left + col * g.pixel_width,
            g.top - (row + size) * g.pixel_height,
            g.left + (col + size) * g.pixel_width,
            g.top - row * g.pixel_height,
        )
        for row, col in record.offsets.tolist()
    ]


def _outlines(record: CellRecord, continuous: bool = False) -> list[shapely.Polygon]:
    """The straightforward way: a box, its corners, a transformer for each; longitudes 0..360 if ``continuous``."""
    outlines = []
    for box in _boxes(record):
        transformer = pyproj.Transformer.from_crs(record.georeference.epsg, 4326, always_xy=True)
        corners = [transformer.transform(x, y) for x, y in shapely.box(*box).exterior.coords]
        outlines.append(shapely.Polygon([(x % 360 if continuous else x, y) for x, y in corners]))
    return outlines


def _rings(places: Footprints) -> list[shapely.LinearRing]:
    return [polygon.exterior for polygon in shapely.get_parts(places.geometry)]


SIZES = [
    {},
    {"pixel": 12.5, "rows": 854, "cols": 854},
    {"pixel": 7.5, "rows": 1424, "cols": 1424, "size": 384},
    {"rows": 1068, "cols": 1069},
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", PLACES)
def test_footprints_equal_an_independent_computation(place: tuple[int, float, float], size: dict[str, float]) -> None:
    record = _at(*place, **size)
    places, expected = footprints([record]), _outlines(record)
    assert places.geometry.tolist() == [shapely.Polygon(outline) for outline in places.geometry]  # no multi-parts
    got = shapely.get_coordinates(places.geometry)
    np.testing.assert_allclose(got, shapely.get_coordinates(expected), rtol=0, atol=1e-9)
    centres = shapely.get_coordinates(shapely.centroid(expected)).astype(np.float32)
    np.testing.assert_array_equal(np.column_stack([places.longitude, places.latitude]), centres)
    np.testing.assert_array_equal(places.bounds, shapely.bounds(places.geometry))
    assert all(len(ring.coords) == 5 and shapely.is_ccw(ring) for ring in _rings(places))
    assert shapely.to_wkt(places.utm, rounding_precision=-1).tolist() == [f"{shapely.box(*b)}" for b in _boxes(record)]


def test_pixels_are_columns_then_rows_with_exclusive_ends() -> None:
    record = _record(32631, 300000.0, 5000000.0)
    record.offsets = np.array([[0, 0], [0, 211], [844, 0]], np.int32)
    pixels = footprints([record]).pixels
    assert pixels.dtype == np.int32
    assert pixels.tolist() == [[0, 0, 224, 224], [211, 0, 435, 224], [0, 844, 224, 1068]]


def test_a_fragment_to_the_right_lies_east_and_one_below_lies_south() -> None:
    record = _record(32631, 500000.0, 5000000.0)
    record.offsets = np.array([[0, 0], [0, 211], [211, 0]], np.int32)
    places = footprints([record])
    assert shapely.bounds(places.utm[1]).tolist() == [502110.0, 4997760.0, 504350.0, 5000000.0]
    assert shapely.bounds(places.utm[2]).tolist() == [500000.0, 4995650.0, 502240.0, 4997890.0]
    assert places.longitude[1] > places.longitude[0] and places.latitude[2] < places.latitude[0]


def test_pixels_need_not_be_square() -> None:
    record = _record(32631, 500000.0, 5000000.0)
    record.georeference = Georeference(32631, 500000.0, 5000000.0, 10.0, 20.0, 534, 1068)
    record.offsets = np.array([[3, 5]], np.int32)
    assert shapely.bounds(footprints([record]).utm[0]).tolist() == [500050.0, 4995460.0, 502290.0, 4999940.0]


def test_cells_computed_together_are_as_alone() -> None:
    records = [_at(*place) for place in PLACES] + [_at(epsg, 179.95, latitude) for epsg, latitude in ACROSS]
    records.insert(3, _at(32631, 1.0, 1.0))
    records[5].offsets = records[5].offsets[:2]
    together, alone = footprints(records), [footprints([record]) for record in records]
    for name in ("geometry", "utm", "epsg", "longitude", "latitude", "bounds", "pixels"):
        np.testing.assert_array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in alone]))


def test_no_cells() -> None:
    places = footprints([])
    assert len(places.geometry) == 0 and places.bounds.shape == (0, 4) and places.pixels.shape == (0, 4)


@pytest.mark.parametrize(("epsg", "latitude"), ACROSS)
def test_across_the_antimeridian(epsg: int, latitude: float) -> None:
    width = np.degrees(10_680 / (6_378_137 * np.cos(np.radians(latitude))))
    record = _at(epsg, 180 - width / 2, latitude)
    places, whole = footprints([record]), _outlines(record, continuous=True)
    crosses = [outline.bounds[0] < 180 < outline.bounds[2] for outline in whole]
    assert any(crosses) and not all(crosses)
    assert [g.geom_type == "MultiPolygon" for g in places.geometry] == crosses
    assert shapely.is_valid(places.geometry).all()
    assert all(shapely.is_ccw(ring) for ring in _rings(places))
    np.testing.assert_array_equal(places.bounds, shapely.bounds(places.geometry))
    for geometry, outline, bounds in zip(places.geometry, whole, places.bounds, strict=True):
        restored = shapely.union_all([_to_0_360(part) for part in shapely.get_parts(geometry)], grid_size=1e-12)
        assert shapely.hausdorff_distance(restored, outline) < 1e-9
        assert abs(restored.area - outline.area) < 1e-9
        assert (bounds[0] == -180 and bounds[2] == 180) == (geometry.geom_type == "MultiPolygon")
    centres = shapely.get_coordinates(shapely.centroid(whole))
    np.testing.assert_allclose(places.latitude, centres[:, 1], rtol=1e-7)
    np.testing.assert_allclose(places.longitude % 360, centres[:, 0], rtol=1e-7)
    assert (abs(places.longitude) <= 180).all() and (abs(places.longitude) > 178).all()


def _to_0_360(polygon: shapely.Polygon) -> shapely.Polygon:
    moved: shapely.Polygon = shapely.transform(polygon, lambda xy: xy + np.array([360.0 * (xy[:, 0].min() < 0), 0.0]))
    return moved


def test_an_edge_on_the_antimeridian_is_no_crossing() -> None:
    """EPSG:3832 is a Mercator with the antimeridian at a plain coordinate; fragments end or begin there."""
    border = 6378137.0 * np.radians(30.0)
    record = _record(3832, border - 2240.0, 0.0)
    record.offsets = np.array([[0, 0], [0, 224], [0, 100]], np.int32)
    places = footprints([record])
    areas = shapely.area(places.geometry)
    assert abs(areas - areas[2]).max() < 1e-9
    assert [part.geom_type for part in places.geometry] == ["Polygon", "Polygon", "MultiPolygon"]
    assert places.bounds[0, 2] - places.bounds[0, 0] < 0.1 and places.bounds[1, 2] - places.bounds[1, 0] < 0.1
    assert places.longitude[0] > 179 and places.longitude[1] < -179


@settings(max_examples=80, deadline=None)
@given(
    zone=st.integers(1, 60),
    latitude=st.floats(-84, 84),
    east=st.floats(-3.5, 3.5),
    pixel=st.sampled_from([7.5, 10.0, 12.5]),
    corner=st.tuples(st.integers(0, 1200), st.integers(0, 1200)),
    size=st.integers(1, 512),
)
def test_footprints_project_back_to_the_pixels(
    zone: int, latitude: float, east: float, pixel: float, corner: tuple[int, int], size: int
) -> None:
    epsg = (32700 if latitude < 0 else 32600) + zone
    record = _at(epsg, (zone * 6 - 183) + east, latitude, pixel=pixel, rows=2000, cols=2000, size=size)
    record.offsets = np.array([corner], np.int32)
    geometry = footprints([record]).geometry[0]
    back = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    xs, ys = back.transform(*shapely.get_coordinates(geometry).T)
    expected = np.array(_boxes(record)[0])
    if geometry.geom_type == "Polygon":
        corners = shapely.get_coordinates(shapely.box(*expected))
        np.testing.assert_allclose(np.column_stack([xs, ys]), corners, rtol=0, atol=1e-6)
    else:
        for x, y in shapely.get_coordinates(shapely.box(*expected))[:4]:
            assert np.hypot(xs - x, ys - y).min() < 1e-6


@pytest.mark.parametrize(
    ("epsg", "left", "top"),
    [(32631, 1e30, 0.0), (32631, float("nan"), 0.0), (99999, 3e5, 5e6), (32661, 1999000.0, 2001000.0)],
)
def test_a_cell_that_cannot_be_placed_is_named(epsg: int, left: float, top: float) -> None:
    """Far away, not a number, an unknown CRS, around the pole."""
    lost = _record(epsg, left, top)
    lost.grid_cell = "7D_8L"
    with pytest.raises(CellError, match=r"7D_8L|99999") as caught:
        footprints([_at(32631, 3.0, 45.0), lost])
    assert caught.value.stage == "write"
