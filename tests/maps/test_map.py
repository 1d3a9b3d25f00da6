"""Views and pictures: regions across the antimeridian, poles, single cells, the world; several maps side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtembed.maps.map import Panel, draw, picture
from mtembed.maps.raster import COLUMNS, GRID_ROWS, MOST, STEP, CellColours
from mtembed.maps.view import Flat, Polar, degrees, graticule, lines, view_of


def block(south: float, north: float, west: float, east: float, share: float = 1.0) -> CellColours:
    """All cells of a box (or a share of them) in one colour; west > east goes across the antimeridian."""
    keys = []
    random = np.random.default_rng(0)
    for row in range(GRID_ROWS):
        if south <= (row + 0.5) * STEP - 90 <= north:
            cols = np.arange(COLUMNS[row])
            lon = ((cols + 0.5) * 360 / COLUMNS[row] + 180) % 360 - 180
            inside = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
            keys.append(row * (MOST + 1) + cols[inside & (random.random(len(cols)) < share)])
    whole = np.concatenate(keys)
    return CellColours(whole, np.full((len(whole), 3), (200, 30, 60), np.uint8))


PLACES: dict[str, tuple[tuple[float, ...], type]] = {
    "region": ((40, 44, 5, 10), Flat),
    "antimeridian": ((-20, -15, 176, -178), Flat),
    "north": ((72, 80, -180, 180), Polar),
    "south": ((-90, -75, -180, 180), Polar),
    "one cell": ((-39.01, -38.93, -70.95, -70.85), Flat),
    "one at the antimeridian": ((-17.0, -16.93, 179.9, 180), Flat),
    "high": ((76, 78, 10, 30), Flat),
    "at the pole": ((89.8, 90, -180, 180), Polar),
    "world": ((-60, 75, -180, 180, 0.001), Flat),
}


@pytest.mark.parametrize("place", PLACES)
def test_all_cells_are_in_view(place: str) -> None:
    box, kind = PLACES[place]
    made = block(*box)
    view = view_of(made.bounds)
    assert isinstance(view, kind)
    south, north, west, east = made.bounds.T
    middle = (west + east) / 2
    if isinstance(view, Flat):
        middle = (middle - view.middle + 180) % 360 - 180 + view.middle
    x, y = view.plane(middle, (south + north) / 2)
    left, right, bottom, top = view.box
    assert left <= x.min() and x.max() <= right and bottom <= y.min() and y.max() <= top
    if place not in ("world", "at the pole"):
        assert view.span < 60  # and not the whole world
    lon, lat = view.place(x, y)
    np.testing.assert_allclose((lon - middle + 180) % 360, 180, atol=1e-6)
    np.testing.assert_allclose(lat, (south + north) / 2, atol=1e-6)


@pytest.mark.parametrize("place", [name for name in PLACES if name != "world"])
def test_the_picture_shows_them(place: str) -> None:
    made = block(*PLACES[place][0])
    image = picture(made, view_of(made.bounds), 200)
    drawn = image[..., 3] == 255
    assert set(map(tuple, image[drawn][:, :3].tolist())) == {(200, 30, 60)}
    rows, cols = np.nonzero(drawn)
    assert abs(rows.mean() / image.shape[0] - 0.5) < 0.1 and abs(cols.mean() / image.shape[1] - 0.5) < 0.1
    assert drawn.mean() > (0.005 if place.startswith("one") else 0.2)  # a cell is seen, a region fills the picture
    if place in ("region", "antimeridian", "high"):  # in one piece
        assert drawn[rows.min() + 2 : rows.max() - 1, cols.min() + 4 : cols.max() - 3].all()


def test_outlines_are_in_their_places() -> None:
    """The coast near Genoa, and no line along the antimeridian or across the world."""
    view = view_of(block(43, 46, 7, 11).bounds)
    shore = np.concatenate(lines(view, "coast"))
    genoa = np.array(view.plane(np.float64(8.9), np.float64(44.4)))  # type: ignore[arg-type]
    assert np.hypot(*(shore - genoa).T).min() < 0.1
    assert lines(view, "border")
    world = Flat(0.0, 1.0, (-180.0, 180.0, -90.0, 90.0))
    assert max(np.abs(np.diff(line[:, 0])).max() for line in lines(world, "coast")) < 20
    fiji = lines(view_of(block(-19, -16, 177, -179).bounds), "coast")
    assert len(fiji) > 5 and max(np.abs(np.diff(line[:, 0])).max() for line in fiji) < 1


@pytest.mark.parametrize("place", PLACES)
def test_a_graticule_has_a_handful_of_lines(place: str) -> None:
    view = view_of(block(*PLACES[place][0]).bounds)
    lons, lats = graticule(view)
    assert 2 <= len(lats) <= 20 and 3 <= len(lons) <= 20


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [(190, "EW", "170°W"), (180, "EW", "180°"), (-180, "EW", "180°"), (0, "EW", "0°"), (-12.5, "NS", "12.5°S")],
)
def test_degrees_in_words(value: float, kind: str, text: str) -> None:
    assert degrees(value, kind) == text


def panel(made: CellColours, title: str = "rcf") -> Panel:
    return Panel(title, "some cells", (0.5, 0.2, 0.1), made)


@pytest.mark.parametrize("title", ["rcf", "a $ sign_{", "\x1b[2J\u202e\n日本", "x" * 300])
def test_any_name_can_be_drawn(tmp_path: Path, title: str) -> None:
    draw([panel(block(40, 41, 5, 6), title)], tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.format == "PNG" and (200, 30, 60) in {
            colour for _, colour in image.convert("RGB").getcolors(1 << 24)
        }


def test_two_drawings_are_equal(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw([panel(block(40, 41, 5, 6))], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_maps_side_by_side_are_larger_than_one(tmp_path: Path) -> None:
    sizes = []
    for count in (1, 2, 3):
        draw([panel(block(40, 41, 5, 6), f"model {i}") for i in range(count)], tmp_path / "map.png")
        with Image.open(tmp_path / "map.png") as image:
            sizes.append(image.size)
    assert sizes[1][0] > sizes[0][0] and sizes[2][0] == sizes[1][0] and sizes[2][1] == 2 * sizes[1][1]
