"""Small shards in the layout of Major TOM Core, made in milliseconds: ``make_shard`` and what describes its cells.

shard = make_shard(folder / "images" / "part_00001.parquet", cells=3)                      # three textured cells
shard = make_shard(path, [ShardCell(epsg=32601, rows=60, cols=90, content="coordinates")], "S2L2A")
shard = make_shard(path, 2, "S1RTC", tiff={"compress": "deflate", "predictor": 3}, damage={(1, "vv"): cut})
write_metadata(folder / "metadata.parquet", [shard])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from affine import Affine
from rasterio.io import MemoryFile

Source = Literal["S2L1C", "S2L2A", "S1RTC"]
Pixels = Callable[[str, int, int], npt.NDArray[Any]]  # band, rows, cols (native) -> [rows, cols]
Content = Literal["texture", "coordinates", "zero"] | Pixels
Damage = Callable[[bytes], bytes | None] | bytes | None

FACTORS = {
    **dict.fromkeys(("B02", "B03", "B04", "B08", "vv", "vh", "cloud_mask"), 1),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2),
    **dict.fromkeys(("B01", "B09", "B10"), 6),
}
BANDS: dict[str, tuple[str, ...]] = {
    "S2L1C": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
    "S2L2A": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "S1RTC": ("vv", "vh"),
}
S1_NODATA = -32768.0


@dataclass(frozen=True)
class ShardCell:
    """One cell: ``rows`` x ``cols`` finest pixels of ``pixel`` metres, its corner at ``left``, ``top`` in ``epsg``.

    For S2 choose sides that are multiples of 6.  ``content``: ``texture`` is seeded noise without zeros;
    ``coordinates`` puts each pixel's row into B04 and vv, its column into B03 and vh (both in finest pixels), and
    row * 256 + col, native and modulo 65536, into every other band; ``zero``; or a function.
    """

    grid_cell: str = "433D_629L"
    product_id: str = "S2A_MSIL1C_20200101T120000_N0500_R000_T00XXX_20200101T130000"
    timestamp: str = "20200101T120000"
    epsg: int = 32719
    left: float = 333_333.25
    top: float = 5_678_901.5
    pixel: float = 10.0
    rows: int = 96
    cols: int = 96
    content: Content = "texture"
    seed: int = 0


@dataclass(frozen=True)
class Shard:
    """A shard that was made: its file and what is in it."""

    path: Path
    source: Source
    cells: tuple[ShardCell, ...]


def default_cells(count: int, side: int = 96, **changes: Any) -> list[ShardCell]:
    """Neighbours with names, places and textures of their own."""
    return [
        ShardCell(
            grid_cell=f"{433 - i}D_{629 - i}L",
            product_id=f"S2A_MSIL1C_{_time(i)}_{('N0400', 'N0509')[i % 2]}_R{i:03d}_T00XXX_20200201T130000",
            timestamp=_time(i),
            left=333_333.25 + 10_007.5 * i,
            rows=side,
            cols=side,
            seed=i,
            **changes,
        )
        for i in range(count)
    ]


def _time(i: int) -> str:
    return f"202001{i % 28 + 1:02d}T120000"


def make_shard(
    path: Path,
    cells: int | Sequence[ShardCell] = 3,
    source: Source = "S2L1C",
    side: int = 96,
    *,
    bands: Sequence[str] | None = None,
    tiff: Mapping[str, Any] | None = None,
    parquet_compression: str = "snappy",
    time_column: str | None = "product_datetime",
    cloud_mask: bool = True,
    nodata: float | None = None,
    rows_per_group: int = 1,
    damage: Mapping[tuple[int, str], Damage] | None = None,
) -> Shard:
    """Write a shard; folders are made.

    ``cells``: how many default ones of ``side`` px, or which.  ``bands``: another choice or order of columns.
    ``tiff``: GDAL creation options (``compress``, ``predictor``, ``tiled``, ``blockxsize``, ...).  ``nodata``: the
    GeoTIFF tag (S1 has -32768 by itself).  ``damage``: (row, column) -> other bytes, None for a null, or a function of
    the good bytes.
    """
    made = tuple(default_cells(cells, side) if isinstance(cells, int) else cells)
    names = [*(BANDS[source] if bands is None else bands)]
    if cloud_mask and source != "S1RTC":
        names.append("cloud_mask")
    columns: dict[str, list[Any]] = {
        "product_id": [cell.product_id for cell in made],
        "grid_cell": [cell.grid_cell for cell in made],
    }
    if time_column:
        columns[time_column] = [cell.timestamp for cell in made]
    columns["thumbnail"] = [b"" for _ in made]
    for name in names:
        columns[name] = [geotiff(cell, name, source, tiff or {}, nodata) for cell in made]
    for (row, name), change in (damage or {}).items():
        columns[name][row] = change(columns[name][row]) if callable(change) else change
    binary = {"thumbnail", *names}
    fields = [(name, pa.binary() if name in binary else pa.string()) for name in columns]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns, schema=pa.schema(fields))
    pq.write_table(table, path, row_group_size=rows_per_group, compression=parquet_compression, use_dictionary=False)
    return Shard(path, source, made)


def write_metadata(path: Path, shards: Sequence[Shard], **changes: Sequence[Any]) -> Path:
    """Core's metadata.parquet: a line per row of every shard; ``changes`` replaces whole columns."""
    lines = [(shard, row, cell) for shard in shards for row, cell in enumerate(shard.cells)]
    columns: dict[str, Sequence[Any]] = {
        "grid_cell": [cell.grid_cell for _, _, cell in lines],
        "product_id": [cell.product_id for _, _, cell in lines],
        "timestamp": [cell.timestamp for _, _, cell in lines],
        "cloud_cover": [0.0 for _ in lines],
        "nodata": [0.0 for _ in lines],
        "centre_lat": [_centre(cell)[1] for _, _, cell in lines],
        "centre_lon": [_centre(cell)[0] for _, _, cell in lines],
        "crs": [f"EPSG:{cell.epsg}" for _, _, cell in lines],
        "parquet_url": [f"https://example.org/images/{shard.path.name}" for shard, _, _ in lines],
        "parquet_row": [row for _, row, _ in lines],
    }
    pq.write_table(pa.table({**columns, **changes}), path)
    return path


def geotiff(
    cell: ShardCell, band: str, source: Source, options: Mapping[str, Any] | None = None, nodata: float | None = None
) -> bytes:
    """One band's GeoTIFF, written by GDAL."""
    factor = FACTORS[band]
    pixels = plane(cell, band, source)
    rows, cols = pixels.shape
    tag = nodata if nodata is not None else S1_NODATA if source == "S1RTC" else None
    size = cell.pixel * factor
    profile = {
        "driver": "GTiff", "height": rows, "width": cols, "count": 1, "dtype": pixels.dtype.name, "nodata": tag,
        "crs": f"EPSG:{cell.epsg}", "transform": Affine(size, 0.0, cell.left, 0.0, -size, cell.top), **(options or {}),
    }  # fmt: skip
    with rasterio.Env(), MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(pixels, 1)
        return bytes(memory.read())


def plane(cell: ShardCell, band: str, source: Source) -> npt.NDArray[Any]:
    """The pixels of a band at its own resolution."""
    factor = FACTORS[band]
    rows, cols = cell.rows // factor, cell.cols // factor
    dtype = np.uint8 if band == "cloud_mask" else np.float32 if source == "S1RTC" else np.uint16
    if band == "cloud_mask" or cell.content == "zero":
        return np.zeros((rows, cols), dtype)
    if cell.content == "coordinates":
        return _coordinates(band, rows, cols, factor).astype(dtype)
    if cell.content == "texture":
        noise = np.random.default_rng([cell.seed, *band.encode()]).random((rows, cols))
        return (noise * 0.3 + 0.001 if source == "S1RTC" else noise * 4000 + 100).astype(dtype)
    return np.ascontiguousarray(cell.content(band, rows, cols), dtype)


def _coordinates(band: str, rows: int, cols: int, factor: int) -> npt.NDArray[np.int64]:
    row, col = np.mgrid[:rows, :cols]
    if band in ("B04", "vv"):
        return np.asarray(row * factor)
    if band in ("B03", "vh"):
        return np.asarray(col * factor)
    return np.asarray((row * 256 + col) % 65536)


def cut(blob: bytes) -> bytes:
    """Damage: only the first third of the bytes is left."""
    return blob[: len(blob) // 3]


def place(cell: ShardCell, **changes: Any) -> ShardCell:
    """The same cell with other fields."""
    return dataclasses.replace(cell, **changes)


def _centre(cell: ShardCell) -> tuple[float, float]:
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(f"EPSG:{cell.epsg}", "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(cell.left + cell.cols * cell.pixel / 2, cell.top - cell.rows * cell.pixel / 2)
    return float(lon), float(lat)


def bare_shard(path: Path, cells: list[str], row_group_size: int = 1) -> Path:
    """A shard without pixels: one byte per band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(cells)
    table = pa.table(
        {"product_id": [f"P{i}" for i in range(count)], "grid_cell": cells, "vv": [b"x"] * count, "vh": [b"x"] * count}
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def bare_metadata(path: Path, lines: list[tuple[str, int, str, str, float, float]]) -> Path:
    """Lines of (parquet_url, parquet_row, product_id, grid_cell, centre_lat, centre_lon)."""
    names = ("parquet_url", "parquet_row", "product_id", "grid_cell", "centre_lat", "centre_lon")
    columns = dict(zip(names, map(list, zip(*lines, strict=True)), strict=True))
    columns["timestamp"] = ["20200101T000000"] * len(lines)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def retyped(path: Path, types: Mapping[str, pa.DataType | Callable[[pa.Array], pa.Array]]) -> Path:
    """The same file with columns of other Arrow types, still one row per row group."""
    table = pq.read_table(path)
    for name, kind in types.items():
        old = table.column(name).combine_chunks()
        new = kind(old) if callable(kind) else old.cast(kind)
        table = table.set_column(table.column_names.index(name), name, new)
    pq.write_table(table, path, row_group_size=1, use_dictionary=False)
    return path


def row_groups(path: Path, counts: Sequence[int]) -> Path:
    """The same rows in row groups of these sizes, some of them perhaps empty."""
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        for count, begin in zip(counts, np.cumsum([0, *counts[:-1]]).tolist(), strict=True):
            writer.write_table(table.slice(begin, count))
    return path


def with_column_twice(path: Path, name: str) -> Path:
    """The same file with one column once more, as a join leaves it."""
    table = pq.read_table(path)
    twice = pa.table([*table.columns, table[name]], names=[*table.column_names, name])
    pq.write_table(twice, path, row_group_size=1)
    return path
