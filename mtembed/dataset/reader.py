"""One way to read a dataset of embeddings, ours or a published one, row group by row group.

    dataset = open_dataset("embeddings-dinov2")            # a folder, a glob, files, an address of these
    for batch in dataset.batches(columns=("grid_cell", "geometry")):
        batch.vectors                                      # float32 [n, D]
        batch.table["grid_cell"]

Lists may be of fixed size or not, values of 16, 32 or 64 bits, columns in any order; columns that are not known here
are kept.  Memory holds about a batch, whatever the size of files and row groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.dataset import columns as forms
from mtembed.dataset.array import RawArray
from mtembed.dataset.files import (
    VECTORS,
    EmbeddingFile,
    Footer,
    Maker,
    common_maker,
    damaged,
    open_file,
    require_same,
    root_of,
    schema_of,
)
from mtembed.dataset.finding import Name, find_files, names_below, shared_folder, title_of
from mtembed.errors import OutputError, UsageError
from mtembed.parquet import UNREADABLE
from mtembed.storage.address import Address, Place
from mtembed.storage.readers import THREADS
from mtembed.types import FloatArray, Tick

BATCH_ROWS = 65_536
BATCH_BYTES = 64 << 20  # of float32 vectors: a batch has fewer rows where they would take more


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingBatch:
    """Rows ``first_row`` and after of file number ``file``: ``vectors`` float32 [n, D], or None if not asked for.

    ``table`` has the other columns that were asked for.  ``vectors`` may be Arrow's own memory: it is read-only.
    """

    file: int
    first_row: int
    rows: int
    vectors: FloatArray | None
    table: pa.Table


@dataclass(frozen=True, slots=True)
class EmbeddingDataset:
    """Files of embeddings that belong together.

    Attributes
    ----------
    name
        What a person calls it: the last part of what was opened.
    files
        In the order of their names; those without rows are among them.
    dim, dtype
        Values of a vector, and the type they are stored as (``float16``, ``float32``, ``float64``; the widest one).
    columns
        Names of the columns that every file has, without the vectors.
    model
        From the manifests; None where one is missing or there are none.
    root, manifest
        The output folder of the run that made all files, and its manifest; else None.
    maps
        Whether rows are maps of vectors; ``dim`` counts the values of a whole map then.
    """

    name: str
    files: tuple[EmbeddingFile, ...]
    dim: int
    dtype: str
    columns: tuple[str, ...]
    model: str | None
    root: Place | None
    manifest: Mapping[str, Any] | None
    maps: bool = False

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)

    def sources(self) -> list[dict[str, Any]]:
        """What identifies the input of a result, file by file."""
        return [file.source() for file in self.files]

    def require(self, columns: Sequence[str], what: str) -> None:
        """Raises UsageError where ``what`` needs a column that is not there."""
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise UsageError(
                f"{self.name} has no column {', '.join(missing)}, which {what} needs: "
                f"its columns are {', '.join((VECTORS, *self.columns))}"
            )

    def batches(
        self,
        columns: Sequence[str] = (),
        rows: int = BATCH_ROWS,
        files: Sequence[int] | None = None,
        *,
        vectors: bool = True,
    ) -> Iterator[EmbeddingBatch]:
        """Every row, file after file (``files``: numbers of the wanted ones), in batches of at most ``rows`` rows.

        Only the named ``columns`` are read, and the embeddings unless ``vectors`` is false.  Page checksums are
        checked.  Raises UsageError for a column that is not there, OutputError for a file that cannot be read.
        """
        self.require(columns, "reading it")
        for number in range(len(self.files)) if files is None else files:
            first = 0
            for read in self._read(number, columns, rows, vectors, None):
                yield self._batch(number, first, read, columns, vectors)
                first += read.num_rows

    def take(
        self, file: int, rows: npt.ArrayLike, columns: Sequence[str] = (), *, vectors: bool = True
    ) -> tuple[FloatArray | None, pa.Table]:
        """Rows of one file by their numbers, in the order asked for: vectors float32 [n, D] (or None) and a table.

        Reads the row groups that hold them, batch by batch.  Raises UsageError for a row or column that is not there.
        """
        self.require(columns, "reading it")
        wanted = np.asarray(rows, np.int64).reshape(-1)
        distinct, back = np.unique(wanted, return_inverse=True)
        nothing = self._batch(file, 0, self._nothing(file, columns, vectors), columns, vectors)
        pieces = [piece for _, piece in self.chosen(file, distinct, columns, vectors=vectors)] or [nothing]
        table = pa.concat_tables([piece.table for piece in pieces]).take(pa.array(back))
        if not vectors:
            return None, table
        return np.concatenate([piece.vectors for piece in pieces if piece.vectors is not None])[back], table

    def chosen(
        self, file: int, rows: npt.NDArray[np.int64], columns: Sequence[str] = (), *, vectors: bool = True
    ) -> Iterator[tuple[npt.NDArray[np.int64], EmbeddingBatch]]:
        """Rows of one file by their numbers, ascending and distinct: some of the numbers and what the file has there.

        Reads the row groups that hold them, and no more than a batch at a time.  Raises UsageError for a row that is
        not there.
        """
        source = self.files[file]
        if len(rows) and not 0 <= rows[0] <= rows[-1] < source.rows:
            raise UsageError(f"{source.name} has {source.rows} rows: row {rows[-1]} is not among them")
        ends = np.cumsum((0, *source.row_groups))
        group_of = np.searchsorted(ends, rows, side="right") - 1
        for group in np.unique(group_of):
            first = int(ends[group])
            for read in self._read(file, columns, BATCH_ROWS, vectors, [int(group)]):
                here = rows[slice(*np.searchsorted(rows, (first, first + read.num_rows)))]
                if len(here):
                    found = read.take(pa.array(here - first)) if len(here) < read.num_rows else read
                    yield here, self._batch(file, first, found, columns, vectors)
                first += read.num_rows

    def _nothing(self, file: int, columns: Sequence[str], vectors: bool) -> pa.RecordBatch:
        names = [*columns, *self._stored_columns(file, vectors)]
        schema, array = schema_of(self.files[file].path), self.files[file].array
        if array is not None:
            schema = schema.append(pa.field(VECTORS, array.column(0, 0).type))
        return pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in names]))

    def _read(
        self, number: int, columns: Sequence[str], rows: int, vectors: bool, groups: list[int] | None
    ) -> Iterator[pa.RecordBatch]:
        source = self.files[number]
        names = [*columns, *self._stored_columns(number, vectors)]
        at_once = max(1, min(rows, BATCH_BYTES // (4 * self.dim))) if vectors else rows
        try:
            with open_file(source.path) as file:
                if file.metadata.num_rows != source.rows:
                    raise OutputError(f"{source.path} changed while it was read: run the same command again")
                if source.array is None:
                    yield from file.iter_batches(at_once, row_groups=groups, columns=names)
                else:
                    yield from _with_array(source.array, file, at_once, names, groups)
        except UNREADABLE as error:
            raise OutputError(damaged(source.path, error)) from error

    def _batch(
        self, number: int, first: int, read: pa.RecordBatch, columns: Sequence[str], vectors: bool
    ) -> EmbeddingBatch:
        try:
            found = self._vectors(number, read) if vectors else None
            arrays = [forms.plain(name, read.column(name)) for name in columns]
        except UNREADABLE as error:
            raise OutputError(damaged(self.files[number].path, error)) from error
        table = pa.Table.from_arrays(arrays, names=list(columns))
        return EmbeddingBatch(number, first, read.num_rows, found, table)

    def whole(self, number: int, rows: int = BATCH_ROWS) -> Iterator[tuple[pa.RecordBatch, FloatArray]]:
        """Every column of a file as it is stored but the vectors, and these as float32 [n, D], batch by batch."""
        columns = [name for name in self._all_columns(number) if name != VECTORS and name not in self._extra(number)]
        for read in self._read(number, columns, rows, True, None):
            found = self._batch(number, 0, read, (), True).vectors
            assert found is not None
            yield read.select(columns), found

    def stored(self, number: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns of a file as they are stored, vectors too, batch by batch."""
        beside = [name for name in columns if name != VECTORS]
        for read in self._read(number, beside, BATCH_ROWS, VECTORS in columns, None):
            yield read.select(list(columns))

    def _all_columns(self, number: int) -> list[str]:
        return list(schema_of(self.files[number].path).names)

    def _extra(self, number: int) -> tuple[str, ...]:
        """Columns that belong to the stored vectors of a file."""
        form = self.files[number].form
        return () if form is None else form.columns

    def _stored_columns(self, number: int, vectors: bool) -> list[str]:
        return [VECTORS, *self._extra(number)] if vectors else []

    def _vectors(self, number: int, read: pa.RecordBatch) -> FloatArray:
        form = self.files[number].form
        if form is None:
            return forms.vectors(read.column(VECTORS), self.dim)
        column = forms.storage(read.column(VECTORS))
        values = column.flatten().to_numpy(zero_copy_only=False)
        if values.size != len(column) * form.width or column.null_count:
            raise ValueError(f"{values.size} stored values in {len(column)} vectors of {form.width}")
        values = values.reshape(len(column), form.width)
        scales = [read.column(name).to_numpy(zero_copy_only=False) for name in form.columns]
        return form.decode(values, *scales)


def open_dataset(
    name: Name | Sequence[Name],
    maps: bool | None = False,
    tick: Tick = lambda what, done, total: None,
) -> EmbeddingDataset:
    """Find the files of a dataset and read their footers: a run's folder, a folder or glob of files, files.

    Several names are one dataset.  ``tick`` is told of footers that are far away.  Raises UsageError where nothing
    matches, a file has no embeddings, there are no rows, or dimensions or models differ, and for maps instead of
    vectors, where these are not asked for (``maps``; None: either will do, but not both); OutputError and StorageError
    for a file that cannot be read.
    """
    names = [name] if isinstance(name, str | Path) else list(name)
    found = (path for one in names for path in find_files(one))
    paths = list(dict.fromkeys(path.absolute() if isinstance(path, Path) else path for path in found))
    shared, title = shared_folder(paths), title_of(names)
    opened = _footers(paths, tick)
    filled = [one for one in opened if one.dim is not None and one.mark.rows]
    if not filled:
        raise UsageError(f"{title} has no rows: name a dataset with embeddings in it")
    require_same(filled, "dim", "{} has vectors of {} values and {} of {}")
    _require_kind(filled, filled[0].maps if maps is None else maps)
    makers = {root: Maker.at(root) for root in {root_of(path) for path in paths}}
    model, root, manifest = common_maker({path: makers[root_of(path)] for path in paths})
    return EmbeddingDataset(
        name=title,
        files=tuple(
            EmbeddingFile(
                path=one.path,
                name=name,
                row_groups=one.row_groups,
                dtype=one.dtype,
                mark=one.mark,
                form=one.form,
                array=one.array,
            )
            for one, name in zip(opened, names_below(shared, paths), strict=True)
        ),
        dim=int(filled[0].dim or 0),
        maps=filled[0].maps,
        dtype=np.result_type(*(one.dtype for one in filled)).name,
        columns=tuple(column for column in filled[0].columns if all(column in one.columns for one in filled)),
        model=model,
        root=root,
        manifest=manifest,
    )


def _footers(paths: Sequence[Place], tick: Tick) -> list[Footer]:
    """In order; those behind addresses are asked for side by side."""
    if not any(isinstance(path, Address) for path in paths):
        return [Footer.of(path) for path in paths]
    found: list[Footer] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for footer in pool.map(Footer.of, paths):
            found.append(footer)
            tick("opening files", len(found), len(paths))
    return found


def _require_kind(opened: Sequence[Footer], maps: bool) -> None:
    """Raises UsageError for maps among vectors, and the other way round."""
    for one in opened:
        if one.maps and not maps:
            raise UsageError(
                f"{one.path.name} holds maps and not vectors (it was made with --dense): make vectors without --dense, "
                "or files for a GIS with mtembed convert --to geotiff"
            )
        if maps and not one.maps:
            raise UsageError(f"{one.path.name} holds no maps: make them with --dense")


def _with_array(
    array: RawArray, file: pq.ParquetFile, rows: int, names: Sequence[str], groups: list[int] | None
) -> Iterator[pa.RecordBatch]:
    """Batches of an array's metadata with its vectors, where these are among the ``names``."""
    beside = [name for name in names if name != VECTORS]
    ends = [0, *(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))]
    for group in range(file.metadata.num_row_groups) if groups is None else groups:
        first = sum(ends[: group + 1])
        for read in file.iter_batches(rows, row_groups=[group], columns=beside or file.schema_arrow.names[:1]):
            arrays = [
                *(read.column(name) for name in beside),
                *([array.column(first, read.num_rows)] if VECTORS in names else []),
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=[*beside, *([VECTORS] if VECTORS in names else [])])
            first += read.num_rows
