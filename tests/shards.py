"""Tiny shards in Core's layout, made on the spot: pixels of any content, any CRS, any size, any damage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from affine import Affine
from rasterio.io import MemoryFile

L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
BANDS = {"S2L2A": L2A, "S2L1C": (*L2A[:10], "B10", *L2A[10:]), "S1RTC": ("vv", "vh")}
FACTOR = {**dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2), **dict.fromkeys(("B01", "B09", "B10"), 6)}
Content = Callable[[str, int, int, int], npt.NDArray[Any]]  # band, rows, cols, factor -> pixels


def texture(seed: int) -> Content:
    """Noise that is never nodata."""

    def pixels(band: str, rows: int, cols: int, factor: int) -> npt.NDArray[Any]:
        noise = np.random.default_rng([seed, *band.encode()]).random((rows, cols))
        return (0.001 + 0.3 * noise).astype(np.float32) if band in BANDS["S1RTC"] else (1 + 5000 * noise).astype(np.uint16)

    return pixels


def coordinates(band: str, rows: int, cols: int, factor: int) -> npt.NDArray[Any]:
    """Each pixel holds its own place: even bands (B02, B04, ..., vv) their row, the others their column."""
    row, col = np.mgrid[:rows, :cols] * factor
    place = row if band in ("B02", "B04", "B06", "B08", "B12", "vv") else col
    return place.astype(np.float32 if band in BANDS["S1RTC"] else np.uint16)


@dataclass
class CellSpec:
    """One cell to make; ``profile`` goes to GDAL, ``edit`` may change the blobs (None makes a band null)."""

    content: Content = field(default_factory=lambda: texture(0))
    rows: int = 96
    cols: int = 96
    epsg: int = 32633
    left: float = 500_000.25
    top: float = 5_200_000.75
    pixel: float = 10.0
    grid_cell: str = "467U_112R"
    product_id: str = "S2A_MSIL2A_20200101T000000_N0509_R000_T33XXX_20200101T000000"
    profile: Mapping[str, Any] = field(default_factory=dict)
    edit: Callable[[dict[str, bytes | None]], None] = lambda blobs: None


def geotiff(pixels: npt.NDArray[Any], cell: CellSpec, factor: int) -> bytes:
    """One band as GDAL writes it."""
    rows, cols = pixels.shape
    side = cell.pixel * factor
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", count=1, height=rows, width=cols, dtype=pixels.dtype, crs=f"EPSG:{cell.epsg}",
            transform=Affine(side, 0.0, cell.left, 0.0, -side, cell.top), **cell.profile,
        ) as file:  # fmt: skip
            file.write(pixels, 1)
        return bytes(memory.read())


def blobs(cell: CellSpec, source: str) -> dict[str, bytes | None]:
    made: dict[str, bytes | None] = {}
    for band in BANDS[source]:
        factor = FACTOR.get(band, 1)
        pixels = cell.content(band, cell.rows // factor, cell.cols // factor, factor)
        made[band] = geotiff(pixels, cell, factor)
    cell.edit(made)
    return made


def make_shard(path: Path, cells: Sequence[CellSpec], source: str = "S2L2A", metadata: bool = False) -> Path:
    """A shard, one row per row group; with ``metadata`` also ``metadata.parquet`` beside its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [blobs(cell, source) for cell in cells]
    columns: dict[str, Any] = {
        "product_id": [cell.product_id for cell in cells],
        "grid_cell": [cell.grid_cell for cell in cells],
        "product_datetime": ["2020-01-01T00:00:00"] * len(cells),
    }
    for band in BANDS[source]:
        columns[band] = pa.array([row[band] for row in rows], pa.binary())
    pq.write_table(pa.table(columns), path, row_group_size=1, compression="snappy")
    if metadata:
        lines = {
            "grid_cell": columns["grid_cell"], "product_id": columns["product_id"],
            "timestamp": ["20200101T000000"] * len(cells), "crs": [f"EPSG:{cell.epsg}" for cell in cells],
            "parquet_url": [f"https://example.invalid/images/{path.name}"] * len(cells),
            "parquet_row": list(range(len(cells))),
        }  # fmt: skip
        pq.write_table(pa.table(lines), path.parent.parent / "metadata.parquet")
    return path


def many(count: int, seed: int = 0, **common: Any) -> list[CellSpec]:
    """Different cells under neighbouring names."""
    return [CellSpec(texture(seed + i), grid_cell=f"{400 + i}U_{i}R", **common) for i in range(count)]
