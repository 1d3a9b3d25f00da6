"""Real pixels as a shard: chips of the shared data, which have all bands on one grid of 10 m."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from affine import Affine
from rasterio.io import MemoryFile

from tests.tools.shards import BANDS

CHIPS = {"282D_485L_3_3": 0, "433D_629L_3_1": 2, "637U_59R_1_3": 4}
"""Chips that are there, and their numbers among the five of the goldens."""
TILES = 49  # of 32 px in a chip, row by row


def chip(shared: Path, folder: str, name: str) -> npt.NDArray[Any]:
    """[bands, 224, 224] as the file has it; of S1RTC decibels."""
    with rasterio.open(shared / "data" / "chips" / "terramind" / folder / f"{name}.tif") as file:
        return np.asarray(file.read())


def by_band(shared: Path, source: str, name: str) -> dict[str, npt.NDArray[Any]]:
    """A chip's bands as Core has them: digital numbers, and the power of radar."""
    pixels = chip(shared, source, name)
    if source == "S1RTC":
        pixels = 10 ** (pixels.astype(np.float64) / 10)
    kind = np.float32 if source == "S1RTC" else np.uint16
    return {band: plane.astype(kind) for band, plane in zip(BANDS[source], pixels, strict=True)}


def chip_shard(path: Path, cells: Mapping[str, Mapping[str, npt.NDArray[Any]]]) -> Path:
    """Write a shard of cells by name, each with its bands."""
    columns: dict[str, list[Any]] = {"product_id": [], "grid_cell": [], "timestamp": []}
    for name, bands in cells.items():
        columns["product_id"].append("S2A_MSIL2A_20200101T120000_N0213_R000_T00XXX_20200101T130000")
        columns["grid_cell"].append("_".join(name.split("_")[:2]))
        columns["timestamp"].append("20200101T120000")
        for band, pixels in bands.items():
            columns.setdefault(band, []).append(_geotiff(pixels))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=1)
    return path


def _geotiff(pixels: npt.NDArray[Any]) -> bytes:
    rows, cols = pixels.shape
    place = Affine(10.0, 0.0, 333_330.0, 0.0, -10.0, 5_678_900.0)
    profile = {"height": rows, "width": cols, "count": 1, "dtype": pixels.dtype.name, "crs": "EPSG:32719"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", transform=place, **profile) as file:
            file.write(pixels, 1)
        return bytes(memory.read())
