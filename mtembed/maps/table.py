"""``components.parquet`` and what it is made from: scores of each file, kept apart until their colours are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.dataset.rows import geo_metadata
from mtembed.maps.basis import CHANNELS, Basis, Colouring
from mtembed.maps.central import cell_keys
from mtembed.maps.moments import finite
from mtembed.maps.raster import Integers
from mtembed.types import FloatArray

GROUP_ROWS = 65_536
BATCH_BYTES = 4 << 20  # of vectors: what was just unpacked is still in the cache when it is multiplied
EDGES = ("xmin", "ymin", "xmax", "ymax")
CHANNEL_NAMES = ("red", "green", "blue")


def score_names(count: int) -> list[str]:
    return [f"pc{i + 1}" for i in range(count)]


def project(
    dataset: EmbeddingDataset,
    number: int,
    basis: Basis,
    wanted: Integers | None,
    path: Path,
    tick: Callable[[int], None],
    stopped: Event,
) -> None:
    """Write the scores of the finite rows of a file to ``path``: those ``wanted`` (ascending), or all (None).

    Columns: row (in the file), unique_id, grid_cell, geometry, pc1..pck.  The file appears complete, or not at all
    where ``stopped`` is set on the way.
    """
    kept = ("unique_id", "grid_cell", "geometry")
    present = [name for name in kept if name in dataset.columns]
    names = score_names(len(basis.components))
    fields = [("row", pa.int64()), ("unique_id", pa.string()), ("grid_cell", pa.string()), ("geometry", pa.binary())]
    schema = pa.schema([*fields, *((name, pa.float32()) for name in names)])
    scratch = path.with_suffix(".tmp")
    with pq.ParquetWriter(scratch, schema, compression="zstd", compression_level=1) as writer:
        for batch in dataset.batches(present, batch_rows(dataset.dim), [number]):
            if stopped.is_set():
                return
            assert batch.vectors is not None
            inside = selected(wanted, batch.first_row, batch.rows)
            vectors = batch.vectors if len(inside) == batch.rows else batch.vectors[inside]
            good = finite(vectors)
            if not good.all():
                inside, vectors = inside[good], vectors[good]
            scores = basis.scores(vectors)
            others = batch.table.take(pa.array(inside))
            columns = [pa.array(inside + batch.first_row)]
            columns += [others[name] if name in present else pa.nulls(len(inside), pa.string()) for name in kept]
            columns += [pa.array(np.ascontiguousarray(scores[:, i])) for i in range(len(names))]
            if len(inside):
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            tick(batch.rows)
    scratch.replace(path)


def batch_rows(dim: int) -> int:
    """Rows read at a time, where several files are read at once."""
    return max(1, BATCH_BYTES // (4 * dim))


def selected(wanted: Integers | None, first: int, rows: int) -> Integers:
    """Numbers within a batch of those of its rows that are wanted."""
    if wanted is None:
        return np.arange(rows)
    low, high = np.searchsorted(wanted, (first, first + rows))
    return wanted[low:high] - first


def parts(paths: Sequence[Path]) -> Iterator[tuple[int, pa.Table, FloatArray]]:
    """File number, rows and their scores [n, k] of what ``project`` wrote, in order, some thousand at a time."""
    for number, path in enumerate(paths):
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name.startswith("pc")]
            for batch in file.iter_batches(GROUP_ROWS):
                table = pa.Table.from_batches([batch])
                yield number, table, np.stack([table[name].to_numpy() for name in names], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What came of writing the table: rows, sums of the channels, values outside the scale, the cells for the map."""

    rows: int
    sums: tuple[int, ...]
    clipped: int
    keys: Integers
    colours: npt.NDArray[np.uint8]


def write(paths: Sequence[Path], colouring: Colouring, central: Sequence[Integers], path: Path) -> Written:
    """Write ``components.parquet`` from scores; rows named in ``central`` give their cells the colour on the map."""
    rows, clipped, sums = 0, 0, np.zeros(CHANNELS, np.int64)
    keys, chosen = [np.empty(0, np.int64)], [np.empty((0, CHANNELS), np.uint8)]
    with _Writer(path) as writer:
        for number, table, scores in parts(paths):
            colours = colouring.colours(scores)
            of_cell = np.isin(table["row"].to_numpy(), central[number], assume_unique=True)
            keys.append(cell_keys(table["grid_cell"].filter(pa.array(of_cell))))
            chosen.append(colours[of_cell])
            rows, clipped = rows + len(scores), clipped + colouring.clipped(scores)
            sums += colours.sum(axis=0, dtype=np.int64)
            for i, name in enumerate(CHANNEL_NAMES):
                table = table.append_column(name, pa.array(np.ascontiguousarray(colours[:, i])))
            writer.add(table.drop_columns(["row"]))
    return Written(rows, tuple(int(value) for value in sums), clipped, np.concatenate(keys), np.concatenate(chosen))


class _Writer:
    """GeoParquet 1.1 with a covering box, in row groups of some ten thousand rows however they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        self._types: set[str] = set()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._waiting:
            self._flush()
        if self._writer is not None:
            known = tuple(self._bounds.tolist()) if np.isfinite(self._bounds).all() else None
            geo = json.loads(geo_metadata(known, tuple(self._types)))
            del geo["columns"]["geometry"]["orientation"]  # rings are as they were given
            self._writer.add_key_value_metadata({"geo": json.dumps(geo)})
            self._writer.close()

    def add(self, table: pa.Table) -> None:
        shapes = shapely.from_wkb(table["geometry"].to_numpy())
        bounds = shapely.bounds(shapes)
        if np.isfinite(bounds).any():
            self._bounds[:2] = np.fmin(self._bounds[:2], np.nanmin(bounds[:, :2], axis=0))
            self._bounds[2:] = np.fmax(self._bounds[2:], np.nanmax(bounds[:, 2:], axis=0))
        self._types |= _types(shapes)
        edges = [pa.array(np.ascontiguousarray(edge)) for edge in bounds.T]
        self._waiting.append(table.append_column("bbox", pa.StructArray.from_arrays(edges, names=list(EDGES))))
        if sum(waiting.num_rows for waiting in self._waiting) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path, table.schema, compression="zstd", write_page_checksum=True, use_dictionary=["grid_cell"]
            )
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting = []


def _types(shapes: npt.NDArray[np.object_]) -> set[str]:
    """Names of the kinds of shapes, as GeoParquet has them."""
    return {shape.geom_type for shape in shapes[np.unique(shapely.get_type_id(shapes), return_index=True)[1]] if shape}
