"""Pictures of the page: every point is on the map that its place is on."""

from __future__ import annotations

import re

import numpy as np

from mtembed.evaluation import svg


def drawn(lat: list[float], lon: list[float]) -> tuple[int, list[tuple[float, float]]]:
    """Number of maps, and where points lie."""
    text = svg.scatter(np.array(lat), np.array(lon), ["right"] * len(lat), ["<&>"] * len(lat), "title")
    points = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([-.\d]+)" cy="([-.\d]+)"', text)]
    assert len(points) == len(lat) and text.count("<title>&lt;&amp;&gt;</title>") == len(lat)
    frames = [
        tuple(map(float, found)) for found in re.findall(r'<rect x="(.*?)" y="0" width="(.*?)" height="(.*?)"', text)
    ]
    assert all(any(x <= px <= x + w and 0 <= py <= h for x, w, h in frames) for px, py in points)
    return len(frames), points


def test_a_few_places_far_apart_have_a_map_each() -> None:
    maps, points = drawn([-38.8, -38.9, 57.0, 57.1, 57.1], [-72.5, -72.4, 9.8, 9.8, 9.9])
    assert maps == 2 and min(abs(a - b) for a, _ in points[:2] for b, _ in points[2:]) > 100


def test_neighbours_and_many_places_have_one_map() -> None:
    assert drawn([45.0, 45.1, 46.5], [7.0, 7.1, 8.0])[0] == 1
    assert drawn([0.0, 20, 40, 60, -20, -40], [0.0, 50, 100, 150, -50, -100])[0] == 1
    assert drawn([10.0], [20.0])[0] == 1
    assert drawn([0.0, 8, 6], [0.0, 3, 8])[0] == 1  # one map is filled well enough
