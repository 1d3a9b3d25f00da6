"""Row groups of shards: the one row of each, its texts and its blobs."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive.shards import open_shard
from mtembed.archive.tiff_tags import Bytes
from mtembed.errors import CellError, ShardError
from mtembed.parquet import UNREADABLE, as_bytes, as_text, first_line, holds_bytes
from mtembed.storage.address import Address, Place
from mtembed.types import Fingerprint

OPEN_SHARDS = 4
ROW_BYTES = 1 << 28  # of a row, as its footer tells them: more is not read where nobody names another bound
LONGEST_TEXT = 1024  # bytes of a name: they travel between processes with every cell


class ShardReader:
    """Row groups of shards; keeps the last few files open with their footers parsed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Place, pq.ParquetFile] = OrderedDict()

    def row(
        self,
        path: Place,
        row_group: int,
        columns: Sequence[str],
        listed: Fingerprint | None = None,
        most: int = ROW_BYTES,
    ) -> pa.Table:
        """The one row of a row group, of those ``columns`` that the shard has.  Raises CellError (stage ``read``).

        ``listed`` is the shard as it was when its cells were listed: another one is refused.  ``most`` bounds the bytes
        of the columns, uncompressed.
        """
        try:
            self._require_same(path, listed)
            file = self._file(path)
            present = [name for name in columns if name in file.schema_arrow.names]
            _require_small(file, row_group, present, most)
            table = file.read_row_group(row_group, columns=present, use_threads=False)
        except (ShardError, IndexError, *UNREADABLE) as error:
            raise CellError(
                f"row group {row_group} of {path.name} cannot be read: {first_line(error)}", "read"
            ) from error
        if table.num_rows != 1:
            raise CellError(f"row group {row_group} of {path.name} has {table.num_rows} rows", "read")
        return table

    def read_ahead(self, path: Place, row_group: int, columns: Sequence[str]) -> None:
        """Begin to read what ``row`` will be asked for, where it comes from far away."""
        if isinstance(path, Address):
            with suppress(ShardError, IndexError, *UNREADABLE):  # then `row` says why
                file = self._file(path)
                _require_small(file, row_group, columns, ROW_BYTES)
                file.read_ahead(row_group, columns)

    def _require_same(self, path: Place, listed: Fingerprint | None) -> None:
        """One look at the folder's entry: a file that is kept open would go on giving the pixels of the old shard.

        A file behind an address looks at every answer by itself.
        """
        if listed is None:
            return
        if isinstance(path, Address):
            head = self._file(path).head
            now = (head.size, head.stamp)
        else:
            state = os.stat(path)  # noqa: PTH116  for every cell: a third of the time of Path.stat
            now = (state.st_size, state.st_mtime_ns)
        if now != (listed.size, listed.mtime_ns):
            if path in self._open:
                self._open.pop(path).close()
            raise ShardError("the shard was replaced while the run lasted; start again with --retry-failed")

    def _file(self, path: Place) -> pq.ParquetFile:
        if path not in self._open:
            self._open[path] = open_shard(path)
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def _require_small(file: pq.ParquetFile, row_group: int, columns: Sequence[str], most: int) -> None:
    group, wanted, size = file.metadata.row_group(row_group), set(columns), 0
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema.partition(".")[0] in wanted:
            size += max(0, chunk.total_uncompressed_size)
    if size > most:
        raise ShardError(f"it holds {size >> 20} MiB, more than the {most >> 20} MiB that a cell may have")


def cell_blobs(path: Place, row_group: int, bands: Sequence[str]) -> list[Bytes]:
    """The blobs of a cell's bands, uint8 [bytes] each.  Raises CellError."""
    table = ShardReader().row(path, row_group, bands)
    return [blob_of(table, band) for band in bands]


def text_of(table: pa.Table, name: str) -> str:
    """A text column's value in the first row; null and a column that is missing are empty.

    Raises CellError (stage ``read``) for what is longer than ``LONGEST_TEXT`` or not UTF-8.
    """
    if name not in table.column_names:
        return ""
    if table.column_names.count(name) > 1:
        raise CellError(f"there are two columns {name}", "read")
    column = table.column(name)
    try:
        value = as_bytes(column.chunk(0)).to_pylist()[0] if holds_bytes(column.type) else column[0].as_py()
        text = value.decode() if isinstance(value, bytes) else as_text(value)
    except (UnicodeDecodeError, pa.ArrowException) as error:
        raise CellError(f"{name} is not UTF-8 text", "read") from error
    if len(text.encode()) > LONGEST_TEXT:
        raise CellError(f"{name} has more than {LONGEST_TEXT} bytes", "read")
    return text


def blob_of(table: pa.Table, band: str) -> Bytes:
    """A band's bytes in the first row, where Arrow has them if it has them in one piece.

    Raises CellError (stage ``read``) where there are none.
    """
    if table.column_names.count(band) != 1:
        raise CellError(f"band {band} has {table.column_names.count(band) or 'no'} columns", "read")
    chunk = table.column(band).chunk(0) if table.num_rows else None
    if chunk is None or chunk.null_count:
        raise CellError(f"band {band} is null", "read")
    if not holds_bytes(chunk.type):
        raise CellError(wrong_type("band", band, chunk.type), "read")
    chunk = as_bytes(chunk)
    if chunk.null_count:
        raise CellError(f"band {band} is null", "read")
    width = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    _, offsets, data = chunk.buffers()
    first, last = np.frombuffer(offsets, width, 2, chunk.offset * np.dtype(width).itemsize)
    if last == first or data is None:
        return np.empty(0, np.uint8)
    return np.frombuffer(data, np.uint8, int(last - first), int(first))


def wrong_type(what: str, name: str, kind: pa.DataType) -> str:
    """The sentence for a column that holds neither bytes nor text."""
    wanted = "its bytes as binary" if what == "band" else "it as text"
    return f"{what} {name} is {str(kind)[:60]}: write {wanted}"
