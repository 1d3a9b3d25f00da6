"""Rows by their numbers: of a dataset, or of an index that was made from one.

Both number their rows from 0 in the order of the files' names; an index has no number for rows without a direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtembed.dataset import columns as forms
from mtembed.dataset.files import damaged
from mtembed.dataset.places import CENTRE, centres
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import OutputError, UsageError
from mtembed.parquet import UNREADABLE
from mtembed.similarity.places import centre_sources
from mtembed.similarity.scoring import Integers
from mtembed.types import FloatArray

BOX = pa.list_(pa.int32(), 4)
SCHEMA = pa.schema(
    [
        ("unique_id", pa.string()),
        ("grid_cell", pa.string()),
        ("product_id", pa.string()),
        ("timestamp", pa.string()),
        ("centre_lat", pa.float64()),
        ("centre_lon", pa.float64()),
        ("pixel_bbox", BOX),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)
"""Columns of ``rows.parquet``: null where the dataset does not say.  ``row`` counts in ``file`` from 0."""
KNOWN = tuple(name for name in SCHEMA.names if name not in ("file", "row"))
GROUP_ROWS = 65_536


class Rows(Protocol):
    """``columns`` are those of ``KNOWN`` that hold something."""

    @property
    def name(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def columns(self) -> tuple[str, ...]: ...

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """The number of a batch's first row, and the named columns (of ``SCHEMA``) of all of its rows."""

    def take(self, ids: Integers, columns: Sequence[str]) -> pa.Table:
        """Columns of some rows, in the order of ``ids``."""


def require(rows: Rows, columns: Sequence[str], option: str, instead: str) -> None:
    """Raises UsageError where an option needs a column that is not there; ``instead`` is what to do."""
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        what = "geometry" if missing[0] in CENTRE else f"column {missing[0]}"
        raise UsageError(f"{rows.name} has no {what}, which {option} needs: {instead}")


class DatasetRows:
    """The rows of a dataset; ``order`` are its files in the order of their names."""

    def __init__(self, dataset: EmbeddingDataset) -> None:
        self.dataset = dataset
        files = dataset.files
        self.order = sorted(range(len(files)), key=lambda i: (files[i].name, files[i].mark.footer_sha256))
        self.starts = np.cumsum([0, *(files[number].rows for number in self.order)])
        self._places = centre_sources(dataset.columns)
        known = [name for name in KNOWN if name in dataset.columns or (name in CENTRE and self._places)]
        self.columns = tuple(known)

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def count(self) -> int:
        return self.dataset.rows

    @property
    def names(self) -> list[str]:
        """Names of the files, in their order."""
        return [self.dataset.files[number].name for number in self.order]

    def stored(self, columns: Sequence[str]) -> list[str]:
        """The dataset's own columns from which those can be made."""
        plain = [name for name in columns if name in self.dataset.columns and name not in CENTRE]
        places = self._places if any(name in CENTRE for name in columns) else ()
        return list(dict.fromkeys([*plain, *places]))

    def table(self, read: pa.Table, columns: Sequence[str], file: int, rows: Integers) -> pa.Table:
        """What was read of some rows of a file, as ``columns`` of ``SCHEMA``."""
        lat, lon = centres(read) if any(name in CENTRE for name in columns) else (None, None)
        given: dict[str, Any] = {
            "centre_lat": lat, "centre_lon": lon, "row": rows, "file": [self.dataset.files[file].name] * len(rows)
        }  # fmt: skip
        made = []
        for name in columns:
            kind = SCHEMA.field(name).type
            if name in given:
                made.append(pa.array(given[name], kind, from_pandas=name in CENTRE))
            elif name not in read.column_names:
                made.append(pa.nulls(len(rows), kind))
            else:
                made.append(_boxes(read[name]) if kind == BOX else read[name].cast(kind))
        return pa.table(dict(zip(columns, made, strict=True)))

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        for start, number in zip(self.starts.tolist(), self.order, strict=False):
            for batch in self.dataset.batches(self.stored(columns), files=[number], vectors=False):
                rows = np.arange(batch.first_row, batch.first_row + batch.rows)
                yield start + batch.first_row, self.table(batch.table, columns, number, rows)

    def take(self, ids: Integers, columns: Sequence[str]) -> pa.Table:
        return self._taken(ids, lambda file, rows: self._columns(file, rows, columns), columns)

    def _columns(self, file: int, rows: Integers, columns: Sequence[str]) -> pa.Table:
        _, read = self.dataset.take(file, rows, self.stored(columns), vectors=False)
        return self.table(read, columns, file, rows)

    def raw(self, ids: Integers, columns: Sequence[str]) -> pa.Table:
        """The dataset's own columns of some rows."""
        return self._taken(ids, lambda file, rows: self.dataset.take(file, rows, columns, vectors=False)[1], columns)

    def vectors(self, ids: Integers) -> FloatArray:
        """Vectors of some rows, float32 [n, D], in the order of ``ids``."""
        found = np.empty((len(ids), self.dataset.dim), np.float32)
        for file, rows, where in self._by_file(ids):
            found[where] = self.dataset.take(file, rows)[0]
        return found

    def _taken(self, ids: Integers, read: Any, columns: Sequence[str]) -> pa.Table:
        if not len(ids):
            return SCHEMA.empty_table().select([name for name in columns if name in SCHEMA.names])
        found = [(read(file, rows), where) for file, rows, where in self._by_file(ids)]
        back = np.argsort(np.concatenate([where for _, where in found]), kind="stable")
        return pa.concat_tables([table for table, _ in found]).take(pa.array(back))

    def _by_file(self, ids: Integers) -> Iterator[tuple[int, Integers, Integers]]:
        """File number, rows in it, and their positions in ``ids``."""
        place = np.searchsorted(self.starts, ids, side="right") - 1
        for one in np.unique(place):
            where = np.flatnonzero(place == one)
            yield self.order[one], ids[where] - self.starts[one], where


class IndexRows:
    """``rows.parquet`` of an index."""

    def __init__(self, path: Path, name: str, columns: Sequence[str]) -> None:
        self.name, self._path = name, path
        try:
            with pq.ParquetFile(path) as file:
                if file.schema_arrow.names != SCHEMA.names:
                    raise OutputError(f"{path} is not the table of an index: make the index again with --fresh")
                self.count: int = file.metadata.num_rows
                self._groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        except UNREADABLE as error:
            raise OutputError(damaged(path, error)) from error
        self.columns = tuple(columns)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        first = 0
        for group in range(len(self._groups)):
            table = self._read(group, columns)
            yield first, table
            first += table.num_rows

    def take(self, ids: Integers, columns: Sequence[str]) -> pa.Table:
        if not len(ids):
            return SCHEMA.empty_table().select(list(columns))
        starts = np.cumsum([0, *self._groups])
        place, pieces, wheres = np.searchsorted(starts, ids, side="right") - 1, [], []
        for group in np.unique(place).tolist():
            where = np.flatnonzero(place == group)
            pieces.append(self._read(group, columns).take(pa.array(ids[where] - starts[group])))
            wheres.append(where)
        return pa.concat_tables(pieces).take(pa.array(np.argsort(np.concatenate(wheres), kind="stable")))

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        try:
            with pq.ParquetFile(self._path, page_checksum_verification=True) as file:
                return file.read_row_group(group, columns=list(columns)).select(list(columns))
        except UNREADABLE as error:
            raise OutputError(damaged(self._path, error)) from error


def _boxes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Boxes as four int32 each; null where there are other than four numbers."""
    column = pa.chunked_array([forms.storage(chunk) for chunk in column.chunks], type=None) if column.chunks else column
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        return pa.nulls(len(column), BOX)
    good = np.asarray(pc.equal(pc.fill_null(pc.list_value_length(whole), 0), 4).to_numpy(zero_copy_only=False))
    values = pc.list_flatten(whole.filter(pa.array(good))).cast(pa.int32(), safe=False)
    boxes = pa.FixedSizeListArray.from_arrays(values, 4)
    places = np.where(good, np.cumsum(good) - 1, -1)
    return boxes.take(pa.array(places, pa.int64(), mask=~good)).cast(BOX)
