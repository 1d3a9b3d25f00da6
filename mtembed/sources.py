"""The datasets of Major TOM Core that can be embedded, as data.  Nobody else compares names of sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from mtembed.types import Source

SENTINEL2_L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
SENTINEL2_L2A = tuple(band for band in SENTINEL2_L1C if band != "B10")
SENTINEL1 = ("vv", "vh")
RED_GREEN_BLUE = ("B04", "B03", "B02")
CORE_SIDE = 1068  # px of the finest band of a cell of Core
CLOUD_MASK = "cloud_mask"  # Major TOM's own, beside the bands of Sentinel-2


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One dataset of Core.

    ``bands`` are its band columns in the order of the ssl4eo networks, ``dtype`` the type of their pixels, ``marks``
    the columns of which one says that a shard is of this source.  ``picture`` are the bands people look at; ``radar``:
    as decibels, with their difference as third colour.  ``has_offset``: processing baselines from 04.00 on add a
    radiometric offset.  ``cells_in_core`` counts the cells of Core (its metadata.parquet; also the grid cells of
    Table 1 of arXiv 2412.05600).
    """

    name: Source
    title: str
    description: str
    mission: str
    bands: tuple[str, ...]
    marks: tuple[str, ...]
    dtype: Literal["uint16", "float32"]
    picture: tuple[str, ...]
    radar: bool
    has_offset: bool
    cells_in_core: int

    @property
    def itemsize(self) -> int:
        """Bytes of a pixel."""
        return np.dtype(self.dtype).itemsize


_ALL = (
    SourceSpec(
        name="S2L1C",
        title="Sentinel-2 L1C",
        description="Sentinel-2 Level-1C (top of atmosphere)",
        mission="sentinel-2",
        bands=SENTINEL2_L1C,
        marks=("B10",),
        dtype="uint16",
        picture=RED_GREEN_BLUE,
        radar=False,
        has_offset=True,
        cells_in_core=2_245_886,
    ),
    SourceSpec(
        name="S2L2A",
        title="Sentinel-2 L2A",
        description="Sentinel-2 Level-2A (surface)",
        mission="sentinel-2",
        bands=SENTINEL2_L2A,
        marks=SENTINEL2_L2A,
        dtype="uint16",
        picture=RED_GREEN_BLUE,
        radar=False,
        has_offset=True,
        cells_in_core=2_245_886,
    ),
    SourceSpec(
        name="S1RTC",
        title="Sentinel-1 RTC",
        description="Sentinel-1 RTC (gamma nought, vv and vh)",
        mission="sentinel-1",
        bands=SENTINEL1,
        marks=SENTINEL1,
        dtype="float32",
        picture=SENTINEL1,
        radar=True,
        has_offset=False,
        cells_in_core=1_469_955,
    ),
)

SOURCES: Mapping[str, SourceSpec] = MappingProxyType({spec.name: spec for spec in _ALL})
BAND_COLUMNS = tuple(dict.fromkeys(band for spec in _ALL for band in spec.bands))
"""Every band column that a shard of Core may have."""


def source_of(columns: Sequence[str]) -> Source | None:
    """Which source a shard belongs to, from its columns; None if it has no band of any."""
    present = set(columns)
    return next((spec.name for spec in _ALL if present & set(spec.marks)), None)
