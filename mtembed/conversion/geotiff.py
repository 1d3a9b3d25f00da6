"""Maps of vectors as GeoTIFFs: a file for each row of a dataset made with ``--dense``, a band for each value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import __version__
from mtembed.conversion.convert import made_with
from mtembed.dataset.columns import SHAPE_KEY
from mtembed.dataset.files import RECORDS, VECTORS, Name
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.dataset.rows import TRANSFORM
from mtembed.types import Tick

GEOTIFF = "geotiff"
TAGS = ("unique_id", "product_id", "grid_cell", "timestamp")  # of a row, kept in its file
BLOCK = 64  # px of a tile's side


@dataclass(frozen=True, slots=True)
class GeotiffResult:
    """The files of a dataset's maps: their folder and number; bytes of the dataset and of the files."""

    output: Path
    files: int
    bytes_before: int
    bytes_after: int
    nothing_to_do: bool


def geotiffs(
    dataset: Name,
    output: Name,
    *,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> GeotiffResult:
    """Write every map of a dataset as a GeoTIFF of float32 in the CRS of its cell, the values of a vector as bands.

    Names are PART-ROW-CELL.tif, rows counted from 0.  Started again it goes on where it was stopped.  Raises UsageError
    where the dataset holds no maps, OutputError and SettingsError as ``convert`` does.
    """
    opened = open_dataset(dataset, maps=True)
    names = _names(opened)
    folder = ResultFolder(Path(output), RECORDS[0], names, {"to": GEOTIFF}, opened.sources())
    with folder.held(fresh) as held:
        nothing_to_do = held.finished
        if not nothing_to_do:
            for number, (name, row, shape) in enumerate(zip(names, _rows(opened), _shapes(opened), strict=True)):
                if not (held.root / name).exists():
                    _write(held.work / name, row, shape)
                    held.publish(held.work / name)
                tick("writing", number + 1, len(names))
            after = sum((held.root / name).stat().st_size for name in names)
            before = sum(file.mark.size for file in opened.files)
            facts = {"files": len(names), "bytes_before": before, "bytes_after": after}
            held.record({"to": GEOTIFF, **facts, "made_with": made_with(opened), "mtembed": __version__})
        content = held.content()
    numbers = {name: int(content[name]) for name in ("files", "bytes_before", "bytes_after")}
    return GeotiffResult(output=Path(output), nothing_to_do=nothing_to_do, **numbers)


def _names(opened: EmbeddingDataset) -> list[str]:
    names = []
    for file in opened.files:
        cells = pq.read_table(file.path, columns=["grid_cell"])["grid_cell"].to_pylist()
        stem = re.sub(r"[^\w.-]", "_", file.name.removesuffix(".parquet"))
        names += [f"{stem}-{row:06}-{re.sub(r'[^A-Za-z0-9_-]', '_', cell)[:40]}.tif" for row, cell in enumerate(cells)]
    return names


def _rows(opened: EmbeddingDataset) -> Iterator[dict[str, Any]]:
    """Every row as numpy and plain values, one row group in memory at a time."""
    names = (*TAGS, "utm_crs", TRANSFORM, VECTORS)
    for file in opened.files:
        with pq.ParquetFile(file.path) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=list(names))
                for row in range(table.num_rows):
                    yield {name: _value(table[name], row) for name in names}


def _value(column: pa.ChunkedArray, row: int) -> Any:
    one = column.slice(row, 1).combine_chunks()
    return one.flatten().to_numpy() if pa.types.is_fixed_size_list(one.type) else one[0].as_py()


def _shapes(opened: EmbeddingDataset) -> Iterator[tuple[int, int, int]]:
    """Rows, columns and values of a vector, for every row."""
    for file in opened.files:
        rows, cols, dim = json.loads((pq.read_schema(file.path).field(VECTORS).metadata or {})[SHAPE_KEY.encode()])
        yield from ((rows, cols, dim) for _ in range(file.rows))


def _write(path: Path, row: dict[str, Any], shape: tuple[int, int, int]) -> None:
    import rasterio

    rows, cols, dim = shape
    values = row[VECTORS].astype(np.float32).reshape(rows, cols, dim).transpose(2, 0, 1)
    tiled = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK} if min(rows, cols) > BLOCK else {}
    profile = {"width": cols, "height": rows, "count": dim, "dtype": "float32", "crs": row["utm_crs"], **tiled}
    place = rasterio.Affine(*row[TRANSFORM])
    with rasterio.open(
        path, "w", driver="GTiff", transform=place, compress="deflate", predictor=3, interleave="pixel", **profile
    ) as file:
        file.write(values)
        file.update_tags(**{name: row[name] for name in TAGS})
