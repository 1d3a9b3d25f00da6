"""What part of the earth a picture shows, and how: plate carree for the world and regions, a pole seen from above.

Planes have units of degrees at the middle of the picture.  Longitudes are continuous in a view: a region across the
antimeridian is not torn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mtembed.maps.raster import STEP, Degrees

OUTLINES = Path(__file__).with_name("outlines.npz")
WORLD = 180.0  # degrees of longitude: what spans more is shown as the world
POLAR = 55.0  # latitude beyond which, on one side, a wide region is seen from above the pole
WIDE = 100.0
LEAST = 12 * STEP  # a view is at least as high
MARGIN = 0.08
FLATTEST, NARROWEST = 2.0, 0.75  # width to height
STEPS = (45.0, 30.0, 15.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)


class View(Protocol):
    """``box`` is left, right, bottom, top in the plane."""

    @property
    def box(self) -> tuple[float, float, float, float]: ...
    @property
    def span(self) -> float: ...
    def plane(self, lon: Degrees, lat: Degrees) -> tuple[Degrees, Degrees]: ...
    def place(self, x: Degrees, y: Degrees) -> tuple[Degrees, Degrees]: ...


@dataclass(frozen=True, slots=True)
class Flat:
    """Plate carree, true to scale at ``squeeze`` = cos(latitude), around longitude ``middle``."""

    middle: float
    squeeze: float
    box: tuple[float, float, float, float]

    @property
    def span(self) -> float:
        return max((self.box[1] - self.box[0]) / self.squeeze, self.box[3] - self.box[2])

    def plane(self, lon: Degrees, lat: Degrees) -> tuple[Degrees, Degrees]:
        return (lon - self.middle) * self.squeeze, lat

    def place(self, x: Degrees, y: Degrees) -> tuple[Degrees, Degrees]:
        """NaN beyond the poles, and beyond half the world on either side."""
        lon = np.where(np.abs(x) <= 180.0 * self.squeeze + 1e-9, x / self.squeeze + self.middle, np.nan)
        return lon, np.where(np.abs(y) <= 90.0, y, np.nan)


@dataclass(frozen=True, slots=True)
class Polar:
    """Equal area around a pole (``sign`` 1: north); longitude 0 points down in the north, up in the south."""

    sign: int
    radius: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        return -self.radius, self.radius, -self.radius, self.radius

    @property
    def span(self) -> float:
        return 2 * self.radius

    def plane(self, lon: Degrees, lat: Degrees) -> tuple[Degrees, Degrees]:
        away = np.degrees(2 * np.sin(np.radians(90.0 - self.sign * lat) / 2))
        turn = np.radians(lon)
        return away * np.sin(turn), -self.sign * away * np.cos(turn)

    def place(self, x: Degrees, y: Degrees) -> tuple[Degrees, Degrees]:
        away = np.radians(np.hypot(x, y))
        with np.errstate(invalid="ignore"):
            lat = self.sign * (90.0 - np.degrees(2 * np.arcsin(away / 2)))
        return np.degrees(np.arctan2(x, -self.sign * y)), lat


def view_of(bounds: Degrees) -> View:
    """The view that shows cells of these [south, north, west, east], float64 [n, 4]."""
    south, north = float(bounds[:, 0].min()), float(bounds[:, 1].max())
    middle, width = _arc(bounds[:, 2], bounds[:, 3])
    if (south >= POLAR or north <= -POLAR) and width > WIDE:
        sign = 1 if south >= POLAR else -1
        edge = south if sign == 1 else -north
        away = float(np.degrees(2 * np.sin(np.radians(90.0 - edge) / 2)))
        return Polar(sign, away * (1 + MARGIN))
    if width > WORLD:
        low, high = _padded(south, north, 360.0 / (2 * FLATTEST))
        return Flat(0.0, 1.0, (-180.0, 180.0, low, high))
    squeeze = max(0.05, float(np.cos(np.radians((south + north) / 2))))
    half = min(180.0 * squeeze, max(width * squeeze * (0.5 + MARGIN), LEAST / 2))
    low, high = _padded(south, north, max(LEAST, 2 * half / FLATTEST))
    half = min(180.0 * squeeze, max(half, NARROWEST * (high - low) / 2))
    return Flat(middle, squeeze, (-half, half, low, high))


def _padded(south: float, north: float, least: float) -> tuple[float, float]:
    """With a margin, at least so high, and not beyond the poles."""
    height = max((north - south) * (1 + 2 * MARGIN), least)
    low, high = (south + north - height) / 2, (south + north + height) / 2
    if low < -90.0:
        low, high = -90.0, min(90.0, high + (-90.0 - low))
    if high > 90.0:
        low, high = max(-90.0, low - (high - 90.0)), 90.0
    return low, high


def _arc(west: Degrees, east: Degrees) -> tuple[float, float]:
    """Middle and width of the smallest stretch of longitudes that holds all; found by the widest gap in it."""
    order = np.argsort(west)
    starts, ends = west[order], np.maximum.accumulate(east[order])
    gaps = np.append(starts[1:], starts[0] + 360.0) - ends
    widest = int(gaps.argmax())
    width = min(360.0, 360.0 - float(gaps[widest]))
    first = float(starts[(widest + 1) % len(starts)])
    return first + width / 2, width


def lines(view: View, kind: str) -> list[npt.NDArray[np.float64]]:
    """Coasts (``coast``) or borders (``border``) in the plane of a view, as arrays [n, 2]."""
    scale = "110m" if view.span > 100.0 else "50m"
    left, right, bottom, top = view.box
    found = []
    turns = (-360.0, 0.0, 360.0) if isinstance(view, Flat) else (0.0,)
    for lon, lat in _outlines(scale, kind):
        if isinstance(view, Polar) and (view.sign * lat).max() < 0.0:
            continue
        for turn in turns:
            x, y = view.plane(lon + turn, lat)
            if x.max() >= left and x.min() <= right and y.max() >= bottom and y.min() <= top:
                found.append(np.stack([x, y], axis=1))
    return found


@cache
def _outlines(scale: str, kind: str) -> list[tuple[Degrees, Degrees]]:
    """Longitudes and latitudes of each line: Natural Earth, public domain (made by tests/make_outlines.py)."""
    with np.load(OUTLINES, allow_pickle=False) as file:
        lon, lat = np.cumsum(file[f"{scale}_{kind}_steps"], axis=1) * float(file[f"{scale}_unit"])
        ends = np.cumsum(file[f"{scale}_{kind}_lengths"])[:-1]
    return list(zip(np.split(lon, ends), np.split(lat, ends), strict=True))


def graticule(view: View) -> tuple[Degrees, Degrees]:
    """Longitudes and latitudes that have a line in a view; longitudes go on past 180."""
    if isinstance(view, Polar):
        rings = next(step for step in STEPS if view.radius / step >= 2.5)
        lats = view.sign * np.arange(90.0 - rings, 90.0 - view.radius * 1.5, -rings)
        return np.arange(-180.0, 180.0, 30.0), lats
    assert isinstance(view, Flat)
    left, right, bottom, top = view.box
    west, east = view.middle + left / view.squeeze, view.middle + right / view.squeeze
    return _multiples(west, east), _multiples(bottom, top)


def _multiples(low: float, high: float) -> Degrees:
    """Round values between two, a handful."""
    step = next(step for step in STEPS if (high - low) / step >= 4)
    return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step


def degrees(value: float, hemispheres: str) -> str:
    """'30 N', '179.5 W', '0'; of a longitude that went past 180 the usual one."""
    if hemispheres == "EW":
        value = (value + 180.0) % 360.0 - 180.0
    value = round(value, 6)
    letter = "" if value == 0 or (hemispheres == "EW" and abs(value) == 180.0) else hemispheres[int(value < 0)]
    return f"{abs(value):g}\N{DEGREE SIGN}{letter}"
