"""Maps of vectors, as a run with ``--dense`` writes them: row by row, with their place on the ground."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mtembed.dataset.columns import SHAPE_KEY
from mtembed.dataset.files import VECTORS, open_file
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.dataset.rows import TRANSFORM
from mtembed.types import FloatArray

TAGS = ("unique_id", "product_id", "grid_cell", "timestamp")


@dataclass(frozen=True, slots=True, eq=False)
class DenseMap:
    """One row: ``values`` float32 [rows, cols, D]; ``transform`` takes (col, row) to ``crs`` (six doubles, as
    rasterio's Affine); ``tags`` say what it is of; ``name`` is one for its file, without a suffix."""

    name: str
    tags: dict[str, str]
    crs: str
    transform: tuple[float, ...]
    values: FloatArray


def map_names(opened: EmbeddingDataset) -> list[str]:
    """PART-ROW-CELL of every map, rows counted from 0."""
    names = []
    for file in opened.files:
        with open_file(file.path) as parquet:
            cells = parquet.read(columns=["grid_cell"])["grid_cell"].to_pylist()
        stem = re.sub(r"[^\w.-]", "_", file.name.removesuffix(".parquet"))
        names += [f"{stem}-{row:06}-{re.sub(r'[^A-Za-z0-9_-]', '_', cell)[:40]}" for row, cell in enumerate(cells)]
    return names


def maps(opened: EmbeddingDataset) -> Iterator[DenseMap]:
    """Every map of a dataset that was opened as one of maps, one row group in memory at a time."""
    names = iter(map_names(opened))
    for file in opened.files:
        with open_file(file.path) as parquet:
            shape = shape_of(parquet.schema_arrow)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, columns=[*TAGS, "utm_crs", TRANSFORM, VECTORS])
                for row in range(table.num_rows):
                    yield _map(table.slice(row, 1).combine_chunks(), shape, next(names))


def shape_of(schema: pa.Schema) -> tuple[int, int, int] | None:
    """Rows, columns and values of a vector; None where a file holds vectors and not maps."""
    text = (schema.field(VECTORS).metadata or {}).get(SHAPE_KEY.encode())
    return None if text is None else tuple(json.loads(text))


def _map(row: pa.Table, shape: tuple[int, int, int] | None, name: str) -> DenseMap:
    values = row[VECTORS].combine_chunks().flatten().to_numpy().astype(np.float32).reshape(shape or (-1,))
    transform = tuple(row[TRANSFORM].combine_chunks().flatten().to_pylist())
    tags = {tag: str(row[tag][0].as_py()) for tag in TAGS}
    return DenseMap(name, tags, row["utm_crs"][0].as_py(), transform, values)
