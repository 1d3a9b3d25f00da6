"""Vectors in the ring -> journal -> GeoParquet: the writer process.

Cells are appended to the journal of their part as they come.  When a part is complete its files are written in
row-group order beside their final place, synced and renamed: embeddings first, timings second, the journal removed
last.  Killed anywhere in between, the same steps are done again with the same result.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.dataset.atomic import sha256_of
from mtembed.dataset.folder import Dataset
from mtembed.dataset.journal import Entry, Journal
from mtembed.dataset.rows import PartWriter, build_table, row_groups, schema
from mtembed.errors import CellError, OutputError, SettingsError
from mtembed.geo.footprint import footprints
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import CellRecord, CellTiming, PartInfo, ShardFacts

PART_KEY = b"mtembed"
SHARD_KEY = b"mtembed.shard"
PIECE_CELLS = 20  # of a row group, made into rows at a time


@dataclass(frozen=True, slots=True)
class WriteJob:
    """What a writer needs to know once; ``settings_id`` is a digest of the settings that decide the bytes."""

    root: Path
    index: int
    count: int
    dim: int
    dtype: Literal["float32", "float16"]
    extras: bool
    settings_id: str


class OpenPart:
    """A part on its way: its journal, and the part made earlier where failed cells are being retried."""

    def __init__(self, job: WriteJob, info: PartInfo, retry: bool) -> None:
        self.job = job
        self.info = info
        self.dataset = Dataset(job.root, job.index, job.count)
        self.earlier = EarlierPart.find(self.dataset, info.stem)
        mark = info.fingerprint
        identity = {
            "shard": info.name, "settings": job.settings_id, "bytes": mark.size, "rows": mark.rows,
            "footer_sha256": mark.footer_sha256,
        }  # fmt: skip
        try:
            self.journal = Journal(self.dataset.journal(info.stem), identity)
        except ValueError as error:
            raise SettingsError(
                f"the unfinished part {info.stem} was made from something else: {error}; "
                "use another --output, or start over with --fresh"
            ) from error
        self.retry = retry

    def done(self) -> set[int | None]:
        """Row groups that need no more work."""
        earlier = {} if self.earlier is None else self.earlier.timings
        kept = {row for row, timing in earlier.items() if not (self.retry and timing.status == "failed")}
        return kept | set(self.journal.entries)

    def all_timings(self) -> list[CellTiming]:
        """One per row group, the journal's before an earlier one's, in row-group order."""
        timings = dict(self.earlier.timings) if self.earlier else {}
        if self.journal.entries and None not in self.journal.entries:
            timings.pop(None, None)  # the shard could not be opened then and could be now
        timings |= {row: entry.timing for row, entry in self.journal.entries.items()}
        return [timings[row] for row in sorted(timings, key=lambda row: -1 if row is None else row)]

    def append(self, record: CellRecord | None, timing: CellTiming, vectors: npt.NDArray[np.float32] | None) -> None:
        """Safe once this returns; a cell sent again after a writer's death is not written twice.  Raises OSError."""
        if timing.row_group in self.journal.entries:
            return
        started = perf_counter()
        stored = None
        if record is not None and vectors is not None:
            try:
                stored = as_stored(vectors, self.job.dtype)
                footprints([record])
            except CellError as error:
                timing.status, timing.stage, timing.error, timing.fragments = "failed", error.stage, str(error), 0
                record = stored = None
        timing.write = (perf_counter() - started) * 1e3
        timing.total = (monotonic() - timing.started) * 1e3
        self.journal.append(timing, record, stored)
        timing.write = (perf_counter() - started) * 1e3

    def finish(self) -> ShardFacts:
        """Write the part and its timings, rename both, remove the journal.  Returns the shard's facts."""
        started = perf_counter()
        final, scratch = self.dataset.part(self.info.stem), self.dataset.unfinished()
        rows = self._write_embeddings(scratch)
        timings = self.all_timings()
        share = (perf_counter() - started) * 1e3 / max(1, len(self.journal.entries))
        for row in self.journal.entries:
            self.journal.entries[row].timing.write += share
        facts = self._facts(timings, rows, scratch)
        timings_final = self.dataset.timings(self.info.stem)
        timings_scratch = self.dataset.unfinished()
        pq.write_table(timing_table(timings, facts), timings_scratch, compression="zstd", write_page_checksum=True)
        facts = dataclasses.replace(facts, timings_sha256=sha256_of(timings_scratch))
        for source, target in ((scratch, final), (timings_scratch, timings_final)):
            _sync(source)
            source.replace(target)
            _sync(target.parent)
        self.journal.remove()
        return facts

    def _write_embeddings(self, path: Path) -> int:
        job = self.job
        cells = list(self._cells())
        groups = row_groups([cell.count for cell in cells], job.dim, np.dtype(job.dtype).itemsize)
        writer = PartWriter(path, schema(job.dim, job.dtype, job.extras))
        for first, last in groups:
            writer.write(self._table(cells[first:last]))
            pa.default_memory_pool().release_unused()  # before the next group asks for as much again
        listed = [[cell.row_group, cell.count] for cell in cells]
        mark = self.info.fingerprint
        source = {"shard": self.info.name, "rows": mark.rows, "footer_sha256": mark.footer_sha256}
        writer.close({PART_KEY.decode(): json.dumps({"source": source, "cells": listed})})
        return sum(cell.count for cell in cells)

    def _cells(self) -> list[StoredCell]:
        """All cells with vectors in row-group order, from the earlier part and from the journal."""
        cells = dict(self.earlier.cells) if self.earlier else {}
        for row, entry in self.journal.entries.items():
            if row is not None and entry.record is not None and row not in cells:
                cells[row] = StoredCell(row, len(entry.record.offsets), entry=entry)
        return [cells[row] for row in sorted(cells)]

    def _table(self, cells: Sequence[StoredCell]) -> pa.Table:
        """One row group, in pieces: what is made on the way, here and by Arrow when it writes, is a piece's only."""
        pieces = [cells[first : first + PIECE_CELLS] for first in range(0, len(cells), PIECE_CELLS)]
        return pa.concat_tables([self._piece(piece) for piece in pieces])

    def _piece(self, cells: Sequence[StoredCell]) -> pa.Table:
        """Runs of cells from the same place are built together."""
        return pa.concat_tables([self._run(run) for run in _runs(cells)]).combine_chunks()

    def _run(self, cells: Sequence[StoredCell]) -> pa.Table:
        if cells[0].entry is None:
            if self.earlier is None:
                raise RuntimeError("a cell of an earlier part without one")
            return self.earlier.rows(cells[0].start, sum(cell.count for cell in cells))
        entries = [cell.entry for cell in cells if cell.entry]
        dtype, dim = self.job.dtype, self.job.dim
        vectors = self.journal.vectors(entries, dtype, dim)
        return build_table([e.record for e in entries if e.record], vectors, dtype, self.job.extras)

    def _facts(self, timings: Sequence[CellTiming], rows: int, part: Path) -> ShardFacts:
        """What the manifest keeps of a shard."""
        counted = {row for row, t in self.earlier.timings.items() if t.status == "ok"} if self.earlier else set()
        records = [e.record for row, e in self.journal.entries.items() if e.record and row not in counted]
        earlier = self.earlier.facts if self.earlier else None
        baselines = Counter(r.baseline for r in records if r.baseline) + Counter(earlier.baselines if earlier else {})
        removed = sum(r.offset_removed for r in records) + (earlier.offset_removed if earlier else 0)
        ok = [timing for timing in timings if timing.status == "ok"]
        return ShardFacts(
            shard=self.info.name,
            **dataclasses.asdict(self.info.fingerprint),
            cells=len(ok),
            failed=len(timings) - len(ok),
            embeddings=rows,
            warnings=dict(sorted(Counter(_kind(w) for t in timings for w in t.warnings).items())),
            encodings=dict(sorted(Counter(t.encoding for t in ok if t.encoding).items())),
            baselines=dict(sorted(baselines.items())),
            offset_removed=removed,
            part_bytes=part.stat().st_size,
            part_sha256=sha256_of(part),
            unread=any(timing.row_group is None for timing in timings),
        )


@dataclass(frozen=True, slots=True)
class StoredCell:
    """A cell with vectors: in the journal (``entry``), or ``count`` rows from ``start`` of the earlier part."""

    row_group: int
    count: int
    start: int = 0
    entry: Entry | None = None


class EarlierPart:
    """A part that is already under its final name."""

    def __init__(self, path: Path, timings: Path) -> None:
        self.file = pq.ParquetFile(path)
        self.cells: dict[int, StoredCell] = {}
        start = 0
        for row, count in json.loads(self.file.metadata.metadata[PART_KEY])["cells"]:
            self.cells[row] = StoredCell(row, count, start)
            start += count
        self.timings: dict[int | None, CellTiming] = {}
        self.facts: ShardFacts | None = None
        if timings.exists():
            self.timings, self.facts = read_timings(timings)
        self._group: tuple[int, pa.Table] = (-1, None)  # the last one that was read, of which several pieces are cut

    @classmethod
    def find(cls, dataset: Dataset, stem: str) -> EarlierPart | None:
        path, timings = dataset.part(stem), dataset.timings(stem)
        if not path.exists() or not (timings.exists() or dataset.journal(stem).exists()):
            return None
        return cls(path, timings)

    def rows(self, start: int, count: int) -> pa.Table:
        """``count`` rows from ``start``; only the row groups that hold them are read."""
        first, tables, at = None, [], 0
        for group in range(self.file.num_row_groups):
            size = self.file.metadata.row_group(group).num_rows
            if at < start + count and at + size > start:
                first = at if first is None else first
                tables.append(self._row_group(group))
            at += size
        return pa.concat_tables(tables).slice(start - (first or 0), count)

    def _row_group(self, group: int) -> pa.Table:
        if self._group[0] != group:
            self._group = (group, self.file.read_row_group(group))
        return self._group[1]


def as_stored(vectors: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """The vectors in the type of the dataset.  Raises CellError where a value is not finite in it."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(dtype, copy=False)
    if not np.isfinite(stored).all():
        raise CellError(f"a vector has a value that {dtype} cannot hold: use --dtype float32", "write")
    return stored


def timing_table(timings: Sequence[CellTiming], facts: ShardFacts | None = None) -> pa.Table:
    """The timing rows of a part; the shard's facts ride in the schema's metadata."""
    columns = {}
    for field in dataclasses.fields(CellTiming):
        columns[field.name] = pa.array(
            [getattr(t, field.name) for t in timings], _TIMING_TYPES.get(field.name, pa.float64())
        )
    content = dataclasses.asdict(facts) if facts else {}
    return pa.table(columns).replace_schema_metadata({SHARD_KEY: json.dumps(content)})


_TIMING_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(
        ("shard", "grid_cell", "product_id", "status", "stage", "error", "encoding", "device", "worker"), pa.string()
    ),
    "row_group": pa.int32(),
    "warnings": pa.list_(pa.string()),
    "attempts": pa.int16(),
    "fragments": pa.int32(),
    "bytes_in": pa.int64(),
}


def read_timings(path: Path) -> tuple[dict[int | None, CellTiming], ShardFacts]:
    """Timing rows by row group, and the shard's facts.  Raises OutputError where the file is not one of timings."""
    try:
        table = pq.read_table(path, use_threads=False)
        rows = [CellTiming(**{**row, "warnings": tuple(row["warnings"])}) for row in table.to_pylist()]
        return {row.row_group: row for row in rows}, _stored_facts(table.schema)
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def read_facts(path: Path) -> ShardFacts:
    """A shard's facts from the footer of its timings.  Raises OutputError where the file is not one of timings."""
    try:
        return dataclasses.replace(_stored_facts(pq.read_schema(path)), timings_sha256=sha256_of(path))
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _stored_facts(schema: pa.Schema) -> ShardFacts:
    facts: ShardFacts = msgspec.json.decode((schema.metadata or {})[SHARD_KEY], type=ShardFacts)
    return facts


def _damaged(path: Path, error: Exception) -> OutputError:
    name = f"{path.parent.name}/{path.name}"
    return OutputError(f"{name} cannot be read ({first_line(error)}): remove it, and run the same command again")


def _runs(cells: Sequence[StoredCell]) -> Iterator[Sequence[StoredCell]]:
    """Neighbours that come from the same place."""
    start = 0
    for i in range(1, len(cells) + 1):
        if i == len(cells) or (cells[i].entry is None) != (cells[start].entry is None):
            yield cells[start:i]
            start = i


def _kind(warning: str) -> str:
    """A warning without its particulars, to be counted."""
    kinds = {
        "metadata names product": "the metadata name another product",
        "metadata names cell": "the metadata name another cell",
        "another extent": "a band claims another extent than the finest one",
    }
    return next((kind for words, kind in kinds.items() if words in warning), warning)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
