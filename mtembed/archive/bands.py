"""Bands -> slot: what a band must be, and how its pixels come into shared memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mtembed.archive import tiff
from mtembed.archive.tiff_tags import Bytes
from mtembed.errors import CellError, DecodeError
from mtembed.ring import Slot
from mtembed.sources import SOURCES
from mtembed.types import Georeference, Plane, Source

CORNER_TOLERANCE_M = 1e-6


class BandPixels(Protocol):
    """A band of a cell that can be brought into a slot: where it lies on the ground, and its pixels on demand.

    ``left``/``top`` is the outer corner of the upper-left pixel in the CRS ``EPSG:<epsg>``, rows go south.
    """

    @property
    def name(self) -> str: ...

    @property
    def place(self) -> Georeference: ...

    @property
    def dtype(self) -> str: ...

    @property
    def nodata(self) -> float | None:
        """The value that stands for no data, beside those that always do."""

    def write(self, pixels: npt.NDArray[Any]) -> int:
        """Fill ``pixels`` [rows, cols] of ``dtype``; returns 0, or how many bytes of a still encoded blob it put
        there instead.  Raises DecodeError."""


@dataclass(frozen=True, slots=True)
class BandBlob:
    """A band as its GeoTIFF; ``encoded``: the blob goes into the slot as it is, for a GPU to decode."""

    name: str
    blob: Bytes
    info: tiff.TiffInfo
    encoded: bool = False

    @classmethod
    def parse(cls, name: str, blob: Bytes, on_gpu: frozenset[str] = frozenset()) -> BandBlob:
        """Read the blob's first directory; ``on_gpu`` are the encodings left to the GPU.  Raises DecodeError."""
        try:
            info = tiff.parse(blob)
        except DecodeError as error:
            raise DecodeError(f"band {name}: {error}") from error
        if info.epsg is None:
            raise CellError(f"band {name} has no EPSG code for its CRS")
        return cls(name, blob, info, info.encoding in on_gpu and _fit_for_gpu(blob, info))

    @property
    def place(self) -> Georeference:
        info = self.info
        return Georeference(
            epsg=info.epsg or 0,
            left=info.left,
            top=info.top,
            pixel_width=info.pixel_width,
            pixel_height=info.pixel_height,
            rows=info.rows,
            cols=info.cols,
        )

    @property
    def dtype(self) -> str:
        return self.info.dtype

    @property
    def nodata(self) -> float | None:
        return self.info.nodata

    def write(self, pixels: npt.NDArray[Any]) -> int:
        if self.encoded:
            pixels.reshape(-1).view(np.uint8)[: self.blob.size] = self.blob
            return self.blob.size
        try:
            tiff.decode_into(self.blob, self.info, pixels)
        except DecodeError as error:
            raise DecodeError(f"band {self.name}: {error}") from error
        return 0


def _fit_for_gpu(blob: Bytes, info: tiff.TiffInfo) -> bool:
    """Whether the blob is nothing odd, and no larger than its pixels."""
    room = info.rows * info.cols * np.dtype(info.dtype).itemsize
    return info.plain and info.byteorder == "<" and bool(info.counts.all()) and blob.size <= room


def check_bands(bands: Sequence[BandPixels], source: Source, warnings: list[str]) -> Georeference:
    """The finest band's place, in which the pixels of all others are nested.  Raises CellError where they are not.

    All bands hold the source's type, share their CRS and corner, and have sides that divide the finest one's.
    """
    dtype = SOURCES[source].dtype
    for band in bands:
        if band.dtype != dtype:
            raise CellError(f"band {band.name} holds {band.dtype}, {source} should hold {dtype}")
    rows, cols = max((band.place.rows, band.place.cols) for band in bands)
    for band in bands:
        if rows % band.place.rows or cols % band.place.cols:
            raise CellError(
                f"band {band.name} is {band.place.rows} x {band.place.cols} px, which does not divide {rows} x {cols}"
            )
    best = max(bands, key=lambda band: band.place.rows * band.place.cols)
    for band in bands:
        _check_place(band, best, warnings)
    return best.place


def _check_place(band: BandPixels, best: BandPixels, warnings: list[str]) -> None:
    here, there = band.place, best.place
    if here.epsg != there.epsg:
        raise CellError(f"bands {best.name} and {band.name} have different CRS: EPSG:{there.epsg} and EPSG:{here.epsg}")
    shift = max(abs(here.left - there.left), abs(here.top - there.top))
    if not shift <= CORNER_TOLERANCE_M:
        raise CellError(f"bands {best.name} and {band.name} have corners {shift:.6g} m apart")
    if abs(here.pixel_width * here.cols - there.pixel_width * there.cols) > CORNER_TOLERANCE_M:
        warnings.append(f"band {band.name} claims another extent than {best.name}")


def common_nodata(bands: Sequence[BandPixels]) -> tuple[float | None, bool]:
    """The nodata value of all bands, and whether there is one: bands may have tags of their own."""
    tags = [None if band.nodata is None or math.isnan(band.nodata) else band.nodata for band in bands]
    same = all(tag == tags[0] for tag in tags)
    return (tags[0] if same else None), same


def fill_slot(
    bands: Sequence[BandPixels], slot: Slot, own_nodata: bool = False
) -> tuple[tuple[Plane, ...], list[npt.NDArray[Any]]]:
    """Bring the bands into the slot, one plane each; returns the planes and their pixels [rows, cols].

    ``own_nodata`` makes NaN, which is nodata in any band, of a float band's own nodata value: a slot has one value for
    all of them.  Raises CellError where a band does not fit or cannot be decoded.
    """
    planes, arrays = [], []
    for band in bands:
        plane, pixels = slot.place(band.place.rows, band.place.cols, band.dtype)
        encoded = band.write(pixels)
        if own_nodata and band.nodata is not None and pixels.dtype.kind == "f":
            with np.errstate(over="ignore"):
                pixels[pixels == pixels.dtype.type(band.nodata)] = np.nan
        planes.append(replace(plane, encoded=encoded) if encoded else plane)
        arrays.append(pixels)
    return tuple(planes), arrays
