"""Make mtembed/maps/outlines.npz: coastlines and borders of Natural Earth, from the npm package world-atlas.

    npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz
    python tests/make_outlines.py package

The package holds Natural Earth 4.1.0 (public domain) as TopoJSON: lines that countries share are stored once.  A line
of one country is a coast, one of two is a border.  Lines along the antimeridian and the south pole are cuts of the
plane and no coasts; they are left out.  Names of arrays: SCALE_KIND_steps are differences of whole numbers [n, 2]
(longitude, latitude) from point to point, SCALE_KIND_lengths the numbers of points of the lines, SCALE_unit degrees.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

TARGET = Path(__file__).resolve().parents[1] / "mtembed" / "maps" / "outlines.npz"
SCALES = ("110m", "50m")
EDGE = 1e-3  # degrees


def arcs_of(geometry: Any) -> Iterator[int]:
    """Numbers of the lines that a shape is made of."""
    if isinstance(geometry, int):
        yield geometry if geometry >= 0 else ~geometry
    elif isinstance(geometry, list):
        for inner in geometry:
            yield from arcs_of(inner)


def pieces(points: np.ndarray) -> Iterator[np.ndarray]:
    """A line without the steps that run along the edges of the plane, or from one edge to the other."""
    lon, lat = points.T
    edge = (np.abs(lon) > 180 - EDGE) | (lat < -90 + EDGE)
    cut = (edge[1:] & edge[:-1]) | (np.abs(np.diff(lon)) > 180)
    for piece in np.split(points, np.flatnonzero(cut) + 1):
        if len(piece) > 1:
            yield piece


def outlines(path: Path, unit: float) -> dict[str, list[np.ndarray]]:
    content = json.loads(path.read_text())
    scale, offset = (np.array(content["transform"][name]) for name in ("scale", "translate"))
    uses = Counter(
        arc
        for country in content["objects"]["countries"]["geometries"]
        for arc in set(arcs_of(country.get("arcs", [])))
    )
    found: dict[str, list[np.ndarray]] = {"coast": [], "border": []}
    for number, arc in enumerate(content["arcs"]):
        points = np.cumsum(np.array(arc), axis=0) * scale + offset
        if uses[number]:
            for piece in pieces(points):
                whole = np.round(piece / unit).astype(np.int32)
                found["coast" if uses[number] == 1 else "border"].append(whole)
    return found


def main() -> None:
    arrays: dict[str, Any] = {}
    for scale, unit in zip(SCALES, (0.01, 0.002), strict=True):
        arrays[f"{scale}_unit"] = unit
        for kind, lines in outlines(Path(sys.argv[1]) / f"countries-{scale}.json", unit).items():
            points = np.concatenate(lines)
            steps = np.diff(points, axis=0, prepend=np.zeros((1, 2), np.int32))
            arrays[f"{scale}_{kind}_steps"] = np.ascontiguousarray(steps.T)
            arrays[f"{scale}_{kind}_lengths"] = np.array([len(line) for line in lines], np.int32)
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
