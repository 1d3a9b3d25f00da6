"""Row groups of shards: the one row of each, its texts and its blobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive.shards import open_shard
from mtembed.archive.tiff_tags import Bytes
from mtembed.errors import CellError, ShardError
from mtembed.parquet import UNREADABLE, first_line

OPEN_SHARDS = 4


class ShardReader:
    """Row groups of shards; keeps the last few files open with their footers parsed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, pq.ParquetFile] = OrderedDict()

    def row(self, path: Path, row_group: int, columns: Sequence[str]) -> pa.Table:
        """The one row of a row group.  Raises CellError (stage ``read``)."""
        try:
            return self._file(path).read_row_group(row_group, columns=list(columns), use_threads=False)
        except (ShardError, *UNREADABLE) as error:
            self._open.pop(path, None)
            raise CellError(
                f"row group {row_group} of {path.name} cannot be read: {first_line(error)}", "read"
            ) from error

    def columns(self, path: Path) -> list[str]:
        """Names of a shard's columns.  Raises CellError (stage ``read``)."""
        try:
            return list(self._file(path).schema_arrow.names)
        except (ShardError, *UNREADABLE) as error:
            raise CellError(first_line(error), "read") from error

    def _file(self, path: Path) -> pq.ParquetFile:
        if path not in self._open:
            self._open[path] = open_shard(path)
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def cell_blobs(path: Path, row_group: int, bands: Sequence[str]) -> list[Bytes]:
    """The blobs of a cell's bands, uint8 [bytes] each.  Raises CellError."""
    table = ShardReader().row(path, row_group, bands)
    return [blob_of(table, band) for band in bands]


def text_of(table: pa.Table, name: str) -> str:
    """A text column's value in the first row; null is empty."""
    return str(table.column(name)[0].as_py() or "")


def blob_of(table: pa.Table, band: str) -> Bytes:
    """A band's bytes in the first row where Arrow has them, without a copy.  Raises CellError (stage ``read``)."""
    if band not in table.column_names:
        raise CellError(f"band {band} has no column", "read")
    chunk = table.column(band).chunk(0)
    if chunk.null_count or not len(chunk):
        raise CellError(f"band {band} is null", "read")
    width = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    _, offsets, data = chunk.buffers()
    first, last = np.frombuffer(offsets, width, 2, chunk.offset * np.dtype(width).itemsize)
    return np.frombuffer(data, np.uint8, int(last - first), int(first))
