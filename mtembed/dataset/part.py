"""A part that is not finished: its journal, which a writer fills, and its files, which a finisher makes of it.

Cells are appended to the journal of their part as they come.  When a part is complete its files are written in
row-group order beside their final place, synced and renamed: embeddings first, timings second, the journal removed
last.  Killed anywhere in between, the same steps are done again with the same result.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.dataset.atomic import sha256_of, sync
from mtembed.dataset.board import Board
from mtembed.dataset.far import dataset_of
from mtembed.dataset.folder import Dataset
from mtembed.dataset.journal import Entry, Journal
from mtembed.dataset.rows import PartWriter, build_table, row_groups, schema
from mtembed.dataset.timings import read_timings, write_timings
from mtembed.errors import CellError, OutputError, PartError, PartTaken, SettingsError
from mtembed.geo.footprint import footprints
from mtembed.parquet import UNREADABLE, first_line
from mtembed.storage.address import Address, Place
from mtembed.types import CellRecord, CellTiming, MapShape, PartInfo, ShardFacts

PART_KEY = b"mtembed"
CELLS_AT_A_TIME = 20  # of a row group, made into rows: what is made on the way is of so many only


@dataclass(frozen=True, slots=True)
class WriteJob:
    """What a writer needs to know once; ``settings_id`` is a digest of the settings that decide the bytes, ``process``
    the name of the process in its folder, ``board`` where it has its claims."""

    place: Place
    board: Board
    index: int
    count: int
    process: str
    dim: int
    dtype: Literal["float32", "float16"]
    extras: bool
    settings_id: str
    shape: MapShape | None = None

    def dataset(self) -> Dataset:
        """As the writer sees it."""
        found = dataset_of(self.place, self.index, self.count, self.process)
        found.board = self.board
        return found


class UnfinishedPart:
    """The journal of a part, and the part made earlier where failed cells are tried again.

    ``damage`` says why a part that was made earlier is not used; its cells are embedded again.
    """

    def __init__(self, job: WriteJob, info: PartInfo, retry: bool) -> None:
        """Opens or creates the journal.  Raises SettingsError where it was made from something else, PartTaken where
        another process has taken the part over, OSError as files do."""
        self.job = job
        self.info = info
        self.dataset = job.dataset()
        self._require_claim()
        self.earlier, self.damage = _earlier_part(self.dataset, info.stem)
        mark = info.fingerprint
        identity = {
            "shard": info.name, "settings": job.settings_id, "bytes": mark.size, "rows": mark.rows,
            "footer_sha256": mark.footer_sha256,
        }  # fmt: skip
        self.journal = self._journal(identity)
        self.retry = retry

    def _journal(self, identity: dict[str, Any]) -> Journal:
        path = self.dataset.journal(self.info.stem)
        try:
            return Journal(path, identity)
        except ValueError as error:
            if isinstance(self.job.place, Address):  # another machine has started over there
                path.unlink()
                return Journal(path, identity)
            raise SettingsError(
                f"the unfinished part {self.info.stem} was made from something else: {error}; "
                "use another --output, or start over with --fresh"
            ) from error

    def done(self) -> set[int | None]:
        """Row groups that need no more work."""
        earlier = {} if self.earlier is None else self.earlier.timings
        kept = {row for row, timing in earlier.items() if not (self.retry and timing.status == "failed")}
        return kept | set(self.journal.entries)

    def all_timings(self) -> list[CellTiming]:
        """One per row group, in row-group order; the journal's before an earlier one's, unless that cell has rows:
        what was left here may be older than a part that another machine made."""
        timings = dict(self.earlier.timings) if self.earlier else {}
        if self.journal.entries and None not in self.journal.entries:
            timings.pop(None, None)  # the shard could not be opened then and could be now
        kept = {row for row, timing in timings.items() if timing.status == "ok"}
        timings |= {row: entry.timing for row, entry in self.journal.entries.items() if row not in kept}
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
                footprints([record])  # made again with the rows: a cell that has none must fail now, alone
            except Exception as error:
                _fail(timing, error)
                record = stored = None
        timing.write = (perf_counter() - started) * 1e3
        timing.total = (monotonic() - timing.started) * 1e3
        self.journal.append(timing, record, stored)
        timing.write = (perf_counter() - started) * 1e3

    def close(self) -> dict[int | None, float]:
        """Let go of the journal, for ``finish`` in another process.  Returns milliseconds of writing by row group."""
        self.journal.close()
        return {row: entry.timing.write for row, entry in self.journal.entries.items()}

    def finish(self, write_ms: Mapping[int | None, float], *, remade: bool = False) -> ShardFacts:
        """Write the part and its timings, rename both, remove the journal.  Returns the shard's facts.

        ``write_ms`` is what ``close`` gave; ``remade``: a damaged earlier part was noticed when the journal was begun.
        Raises PartError where one turns out to be damaged only now, so that its cells are missing, and PartTaken where
        another process has taken the part over.
        """
        if self.damage and not remade:
            raise PartError(f"the part made earlier was damaged meanwhile ({self.damage}): run the same command again")
        started = perf_counter()
        for row, entry in self.journal.entries.items():
            entry.timing.write = write_ms.get(row, entry.timing.write)
        final, scratch = self.dataset.part(self.info.stem), self.dataset.unfinished()
        rows = self._write_embeddings(scratch)
        timings = self.all_timings()
        share = (perf_counter() - started) * 1e3 / max(1, len(self.journal.entries))
        for row in self.journal.entries:
            self.journal.entries[row].timing.write += share
        facts = self._facts(timings, rows, scratch)
        timings_final = self.dataset.timings(self.info.stem)
        timings_scratch = self.dataset.unfinished()
        write_timings(timings_scratch, timings, facts)
        facts = dataclasses.replace(facts, timings_sha256=sha256_of(timings_scratch))
        for source, target in ((scratch, final), (timings_scratch, timings_final)):
            sync(source)
            self.dataset.publish(source, target, self._require_claim)
        self.journal.remove()
        return facts

    def _require_claim(self) -> None:
        if not self.dataset.holds(self.info.stem):
            raise PartTaken(f"another process has taken {self.info.stem} over")

    def _write_embeddings(self, path: Path) -> int:
        job = self.job
        cells = list(self._cells())
        groups = row_groups([cell.count for cell in cells], job.dim, np.dtype(job.dtype).itemsize)
        writer = PartWriter(path, schema(job.dim, job.dtype, job.extras, job.shape))
        for first, last in groups:
            writer.write(self._row_group(cells[first:last]))
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

    def _row_group(self, cells: Sequence[StoredCell]) -> pa.Table:
        """One row group, of a few cells at a time: what is made on the way, here and by Arrow, is theirs only."""
        few = [cells[first : first + CELLS_AT_A_TIME] for first in range(0, len(cells), CELLS_AT_A_TIME)]
        return pa.concat_tables([self._rows(some) for some in few])

    def _rows(self, cells: Sequence[StoredCell]) -> pa.Table:
        """The rows of cells; neighbours that come from the same place are built together."""
        return pa.concat_tables([self._rows_of_one_place(some) for some in _by_place(cells)]).combine_chunks()

    def _rows_of_one_place(self, cells: Sequence[StoredCell]) -> pa.Table:
        """Either all from the earlier part or all from the journal."""
        if cells[0].entry is None:
            if self.earlier is None:
                raise RuntimeError("a cell of an earlier part without one")
            return self.earlier.rows(cells[0].start, sum(cell.count for cell in cells))
        entries = [cell.entry for cell in cells if cell.entry]
        dtype, dim = self.job.dtype, self.job.dim
        vectors = self.journal.vectors(entries, dtype, dim)
        records = [entry.record for entry in entries if entry.record]
        return build_table(records, vectors, dtype, self.job.extras, self.job.shape)

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
    """A part that is already under its final name.  All its pages are read once, checksums compared.

    Raises what ``DAMAGE`` lists, or PartError, where it is damaged.
    """

    def __init__(self, path: Path, timings: Path) -> None:
        self.file = pq.ParquetFile(path, page_checksum_verification=True)
        self.cells: dict[int, StoredCell] = {}
        start = 0
        for row, count in json.loads(self.file.metadata.metadata[PART_KEY])["cells"]:
            self.cells[row] = StoredCell(row, count, start)
            start += count
        if start != self.file.metadata.num_rows:
            raise PartError(f"it should have {start} rows, not {self.file.metadata.num_rows}")
        self.timings: dict[int | None, CellTiming] = {}
        self.facts: ShardFacts | None = None
        if timings.exists():
            self.timings, self.facts = read_timings(timings)
        self._group: tuple[int, pa.Table] = (-1, None)  # the last one that was read, of which several cells are cut
        for group in range(self.file.num_row_groups):
            self._row_group(group)

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
            try:
                self._group = (group, self.file.read_row_group(group, use_threads=False))
            except UNREADABLE as error:
                raise PartError(f"row group {group} of the part made earlier: {first_line(error)}") from error
        return self._group[1]


DAMAGE = (*UNREADABLE, PartError, OutputError, KeyError, TypeError)
"""What a damaged part or its timings make reading raise."""


def _earlier_part(dataset: Dataset, stem: str) -> tuple[EarlierPart | None, str]:
    """The part that is under its final name, if any; or why it cannot be used."""
    path, timings = dataset.part(stem), dataset.timings(stem)
    if not path.exists() or not (timings.exists() or stem in dataset.journals()):
        return None, ""
    try:
        return EarlierPart(path, timings), ""
    except DAMAGE as error:
        return None, first_line(error)


def _fail(timing: CellTiming, error: Exception) -> None:
    """The cell gets no rows.  Raises the error again where it is the disk's, not the cell's."""
    if isinstance(error, OSError):
        raise error
    stage = error.stage if isinstance(error, CellError) else "write"
    words = str(error) if isinstance(error, CellError) else f"{type(error).__name__}: {error}"
    timing.status, timing.stage, timing.error, timing.fragments = "failed", stage, words, 0


def as_stored(vectors: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """The vectors in the type of the dataset.  Raises CellError where a value is not finite in it."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(dtype, copy=False)
    if not np.isfinite(stored).all():
        raise CellError(f"a vector has a value that {dtype} cannot hold: use --dtype float32", "write")
    return stored


def _by_place(cells: Sequence[StoredCell]) -> Iterator[Sequence[StoredCell]]:
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
