"""Where fragments are on the ground: projected boxes, their outlines in longitude and latitude, centres and bounds.

All fragments of all cells are computed together, one transformation per CRS.  A footprint is the straight-edged outline
of the four projected corners in WGS84, nothing densified.  An outline across the antimeridian is cut there into two
parts, one at a time, because such cells are rare.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from mtembed.errors import CellError
from mtembed.types import CellRecord, FloatArray

Doubles = npt.NDArray[np.float64]
Geometries = npt.NDArray[np.object_]

_ROUNDINGS = 1e4  # a side is at least so many steps of its coordinates' double
_LEAST_AREA = 1e-18  # m2 or square degrees: far below a pixel's


@dataclass(frozen=True, slots=True)
class Footprints:
    """The places of n fragments, in the order of the records and of their offsets.

    ``geometry`` and ``utm`` are shapely geometries [n]: outlines in WGS84, longitude first (Polygon, or MultiPolygon
    across the antimeridian; all rings counter-clockwise), and boxes in the CRS ``EPSG:<epsg>``, metres.  ``epsg`` is
    int64 [n].  ``longitude`` and ``latitude`` [n] are the outline's centroid in degrees, longitude within -180..180.
    ``bounds`` is float64 [n, 4] (xmin, ymin, xmax, ymax), the planar envelope of ``geometry``, exact: across the
    antimeridian it spans -180..180.  RFC 7946 would write xmin > xmax there, but readers filter by plain comparisons
    and by the row group's minima and maxima, and would then lose the row; so it is found, if for too many queries.
    ``pixels`` is int32 [n, 4]: first column, first row, last column, last row, the last ones exclusive.
    """

    geometry: Geometries
    utm: Geometries
    epsg: npt.NDArray[np.int64]
    longitude: FloatArray
    latitude: FloatArray
    bounds: Doubles
    pixels: npt.NDArray[np.int32]


def footprints(records: Sequence[CellRecord]) -> Footprints:
    """Compute the footprints of all fragments of ``records``.

    CellError (stage ``write``) names a CRS that is unknown, or the first cell that has no outline in longitude and
    latitude: a corner that is not on Earth, a fragment around a pole, one that is larger than a half of the Earth or
    so small that rounding takes its shape.
    """
    counts = [len(record.offsets) for record in records]
    pixels = _pixels(records)
    epsg = np.repeat(np.array([record.georeference.epsg for record in records], np.int64), counts)
    boxes = _projected_boxes(records, pixels, counts)
    rings = _rings(boxes, epsg)
    turns = _turns(rings)
    lost = ~_shaped(boxes) | ~_on_earth(rings, turns)
    if lost.any():
        raise _lost(records, counts, lost)
    geometry, centres = _outlines(rings, turns)
    crossed = ~shapely.is_valid(geometry)  # sides that cross each other, beside a pole
    if crossed.any():
        raise _lost(records, counts, crossed)
    return Footprints(
        geometry=geometry,
        utm=shapely.box(*boxes.T),
        epsg=epsg,
        longitude=centres[:, 0].astype(np.float32),
        latitude=centres[:, 1].astype(np.float32),
        bounds=shapely.bounds(geometry),
        pixels=pixels,
    )


def _lost(records: Sequence[CellRecord], counts: list[int], lost: npt.NDArray[np.bool_]) -> CellError:
    record = records[int(np.searchsorted(np.cumsum(counts), lost.argmax(), side="right"))]
    return CellError(f"{record.grid_cell[:40]} has no outline on Earth in EPSG:{record.georeference.epsg}", "write")


def _pixels(records: Sequence[CellRecord]) -> npt.NDArray[np.int32]:
    first = [record.offsets[:, ::-1] for record in records]
    pairs = [np.hstack([start, start + np.int32(record.size)]) for start, record in zip(first, records, strict=True)]
    return np.concatenate([np.empty((0, 4), np.int32), *pairs]).astype(np.int32, copy=False)


def _projected_boxes(records: Sequence[CellRecord], pixels: npt.NDArray[np.int32], counts: list[int]) -> Doubles:
    """Return (xmin, ymin, xmax, ymax) [n, 4] in metres, from the georeference as it is."""
    places = [record.georeference for record in records]
    table = np.array([(g.left, g.top, g.pixel_width, g.pixel_height) for g in places], np.float64).reshape(-1, 4)
    left, top, width, height = np.repeat(table, counts, axis=0).T
    column, row, column_end, row_end = pixels.T
    return np.column_stack(
        [left + column * width, top - row_end * height, left + column_end * width, top - row * height]
    )


@functools.cache
def transformer(epsg: int) -> pyproj.Transformer:
    """From ``EPSG:<epsg>`` to longitude and latitude in WGS84.  Raises CellError (stage ``write``) where there is none.

    The CRS must be projected, or of longitude and latitude: heights, geocentric and compound ones are refused.
    """
    try:
        crs = pyproj.CRS.from_epsg(epsg)
        if not (crs.is_projected or crs.is_geographic) or crs.is_compound or len(crs.axis_info) != 2:
            raise CellError(
                f"EPSG:{epsg} is a {crs.type_name}: cells need a projected CRS or a 2D geographic one", "write"
            )
        return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise CellError(
            f"EPSG:{epsg} is no CRS that PROJ can bring to longitude and latitude: {error}", "write"
        ) from error


def _shaped(boxes: Doubles) -> npt.NDArray[np.bool_]:
    """Which boxes [n, 4] have sides that rounding leaves alone, and an area."""
    sides = boxes[:, 2:] - boxes[:, :2]
    with np.errstate(all="ignore"):
        fine = sides > _ROUNDINGS * np.spacing(abs(boxes).max(axis=1, keepdims=True))
        return np.asarray(fine.all(axis=1) & (sides.prod(axis=1) > _LEAST_AREA) & np.isfinite(sides).all(axis=1))


def _on_earth(rings: Doubles, turns: Doubles) -> npt.NDArray[np.bool_]:
    """Which rings [n, 5, 2] with their turns [n, 4] lie on Earth, anticlockwise, around no pole."""
    with np.errstate(all="ignore"):
        longitude = rings[:, :, 0] + 360.0 * np.pad(np.cumsum(turns, axis=1), ((0, 0), (1, 0)))
        x, y = longitude - longitude[:, :1], rings[:, :, 1] - rings[:, :1, 1]
        area = (x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).sum(axis=1) / 2
        inside = (abs(rings) <= (180.0, 90.0)).all(axis=(1, 2))  # False where a corner has no longitude
        return np.asarray(inside & (turns.sum(axis=1) == 0) & (np.ptp(x, axis=1) < 180.0) & (area > _LEAST_AREA))


def _rings(boxes: Doubles, epsg: npt.NDArray[np.int64]) -> Doubles:
    """Return closed outlines [n, 5, 2] in degrees, in shapely.box's order: counter-clockwise from the lower right."""
    corners = boxes[:, [2, 1, 2, 3, 0, 3, 0, 1, 2, 1]].reshape(-1, 5, 2)
    rings = np.empty_like(corners)
    for code in np.unique(epsg).tolist():
        chosen = epsg == code
        x, y = corners[chosen].reshape(-1, 2).T
        rings[chosen] = np.column_stack(transformer(code).transform(x, y)).reshape(-1, 5, 2)
    return rings


def _turns(rings: Doubles) -> Doubles:
    """Return the turns of 360 degrees [n, 4] to add along each edge of [n, 5, 2]; their sum is not 0 around a pole."""
    with np.errstate(invalid="ignore"):
        return -np.round(np.diff(rings[:, :, 0], axis=1) / 360.0)


def _outlines(rings: Doubles, turns: Doubles) -> tuple[Geometries, Doubles]:
    """Return geometries [n] and centroids [n, 2] of closed rings [n, 5, 2]."""
    plain = ~turns.any(axis=1)
    geometry = np.empty(len(rings), np.object_)
    geometry[plain] = shapely.polygons(rings[plain])
    centres = np.empty((len(rings), 2))
    centres[plain] = shapely.get_coordinates(shapely.centroid(geometry[plain]))
    for i in np.flatnonzero(~plain).tolist():
        ring = rings[i].copy()
        ring[1:, 0] += 360.0 * np.cumsum(turns[i])
        ring[:, 0] -= 360.0 * np.floor((ring[:, 0].min() + 180.0) / 360.0)
        geometry[i] = _cut(ring)
        longitude, latitude = shapely.get_coordinates(shapely.centroid(shapely.polygons(ring)))[0]
        centres[i] = (longitude + 180.0) % 360.0 - 180.0, latitude
    return geometry, centres


def _cut(ring: Doubles) -> shapely.Polygon | shapely.MultiPolygon:
    """Cut a closed ring with continuous longitudes from -180 on at 180 degrees; what lies beyond comes back by 360."""
    west, east = _clipped(ring, -1.0), _clipped(ring, 1.0)
    east[:, 0] -= 360.0
    parts = [shapely.Polygon(part) for part in (west, east) if len(part) > 3]  # else it only touches
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _clipped(ring: Doubles, side: float) -> Doubles:
    """Keep what lies west (-1) or east (+1) of 180 degrees; edges are cut where their straight lines cross it."""
    kept: list[tuple[float, float]] = []
    for (x0, y0), (x1, y1) in zip(ring[:-1].tolist(), ring[1:].tolist(), strict=True):
        if (x0 - 180.0) * side >= 0:
            kept.append((x0, y0))
        if (x0 - 180.0) * (x1 - 180.0) < 0:
            kept.append((180.0, y0 + (y1 - y0) * (180.0 - x0) / (x1 - x0)))
    return np.array(kept + kept[:1], np.float64).reshape(-1, 2)
