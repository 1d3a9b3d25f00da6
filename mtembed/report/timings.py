"""What a dataset's timing files say, as arrays: finished parts, and the journals of parts that are not finished.

Works beside a running process: nothing is locked or written.  Journals are listed and read before the parts, so that a
part that finishes meanwhile is seen in one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from mtembed.dataset.folder import WORK, Dataset
from mtembed.dataset.journal import read_journal
from mtembed.dataset.manifest import Manifest
from mtembed.dataset.manifest import read as read_manifest
from mtembed.dataset.timings import read_facts, read_timings, timing_table
from mtembed.errors import OutputError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import STAGES, ShardFacts

TEXTS = ("shard", "grid_cell", "status", "stage", "error", "worker", "device")
COLUMNS = (*TEXTS, "row_group", "fragments", "bytes_in", "started", "clock", *STAGES)
MOST_CELLS = 500_000  # looked at one by one, the newest parts first
FILES_AT_ONCE = 512
MOST_REASONS = 10_000  # different error texts that are told apart
MOST_NAMED = 20  # failed cells that are listed by name

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class WorkerName:
    """A worker of one process: the process that ran it (-1: not known), its kind, its name, what it computed on."""

    process: int
    kind: str
    name: str
    device: str = ""


@dataclass(frozen=True, slots=True)
class FailedCell:
    """A cell, or (without a row group) a shard, that could not be embedded, and why."""

    shard: str
    row_group: int | None
    grid_cell: str
    stage: str
    error: str

    @property
    def row(self) -> str:
        return "-" if self.row_group is None else str(self.row_group)


@dataclass(frozen=True, slots=True)
class Cells:
    """One entry per cell in order of its start, failed ones too; ``ms`` columns are named by ``STAGES``.

    ``start`` and ``end`` are seconds since 1970: reading began, the vectors were handed to the writer.  ``decoder`` and
    ``device`` point into ``workers`` (-1: none).
    """

    ok: npt.NDArray[np.bool_]
    fragments: Ints
    bytes_in: npt.NDArray[np.int64]
    process: Ints
    decoder: Ints
    device: Ints
    start: Floats
    ms: npt.NDArray[np.float32]
    workers: list[WorkerName]
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    named: list[FailedCell] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.start)

    def stage(self, name: str) -> npt.NDArray[np.float32]:
        """Milliseconds [n] of one stage."""
        return self.ms[:, STAGES.index(name)]

    @property
    def end(self) -> Floats:
        return self.start + self.stage("total") / 1e3

    @property
    def embedded(self) -> npt.NDArray[np.bool_]:
        """Cells that went all the way: ok, and with at least one fragment."""
        return self.ok & (self.fragments > 0)


@dataclass(frozen=True, slots=True)
class Sums:
    """Parts that were not looked at cell by cell."""

    cells: int = 0
    failed: int = 0
    embeddings: int = 0

    @classmethod
    def of(cls, facts: Sequence[ShardFacts]) -> Sums:
        return cls(*(sum(getattr(one, field.name) for one in facts) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class DatasetTimings:
    """The manifests of a dataset and its cells; ``older`` sums up the parts beyond ``MOST_CELLS``."""

    root: Path
    manifests: list[Manifest]
    cells: Cells
    older: Sums
    unfinished: bool


def load(root: Path, most_cells: int = MOST_CELLS) -> DatasetTimings:
    """Read the dataset in ``root``.  Raises UsageError when it is none, OutputError when a file of it is damaged."""
    paths = Dataset(root).manifests()
    if not paths:
        raise UsageError(f"{root} is not a dataset made by mtembed: name the --output folder of a run")
    unfinished = (root / WORK).is_dir()
    journals = {stem: max(map(read_journal, paths), key=len) for stem, paths in Dataset(root).journals().items()}
    manifests = [read_manifest(path) for path in paths]
    facts = {stem: known for manifest in manifests for stem, known in manifest.shards.items()}
    owner = {stem: i for i, manifest in enumerate(manifests) for stem in manifest.shards}
    unlisted = 0 if len(manifests) == 1 else -1
    gathered = _Gathered(lambda stem: owner.get(stem, unlisted))
    try:
        for stem, timings in journals.items():
            part = Dataset(root).timings(stem)
            earlier = read_timings(part)[0] if part.exists() else {}
            rows = list((earlier | {timing.row_group: timing for timing in timings}).values())
            gathered.add(timing_table(rows))
        parts = [path for path in (root / "timings").glob("*.parquet") if path.stem not in journals]
        newest, oldest = _newest(parts, facts, most_cells - gathered.count)
        for table in _tables(newest):
            gathered.add(table)
        older = Sums.of([facts.get(path.stem) or read_facts(path) for path in oldest])
    except UNREADABLE as error:
        raise OutputError(f"a timing file of {root} cannot be read: {first_line(error)}") from error
    return DatasetTimings(root, manifests, gathered.cells(), older, unfinished)


def _newest(parts: list[Path], facts: Mapping[str, ShardFacts], most: int) -> tuple[list[Path], list[Path]]:
    """The parts written last that together have at most ``most`` cells (one part at least), and the others."""
    known = sum(one.cells + one.failed for one in facts.values())
    if known <= most and len(parts) <= len(facts):
        return sorted(parts), []
    by_age = sorted(parts, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for i, path in enumerate(by_age):
        shard = facts.get(path.stem) or read_facts(path)
        most -= shard.cells + shard.failed
        if most < 0 and i:
            return by_age[:i], by_age[i:]
    return by_age, []


def _tables(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """A few hundred parts at a time, only the columns that are needed."""
    types = timing_table([]).schema
    schema = pa.schema([types.field(name) for name in COLUMNS])
    for first in range(0, len(parts), FILES_AT_ONCE):
        files = [str(path) for path in parts[first : first + FILES_AT_ONCE]]
        yield ds.dataset(files, schema=schema, format="parquet").to_table()


class _Gathered:
    """Tables turned into arrays as they come; ``owner`` names the process that made a part."""

    def __init__(self, owner: Callable[[str], int]) -> None:
        self.owner = owner
        self.count = 0
        self.pieces: list[dict[str, npt.NDArray[Any]]] = []
        self.numbers: dict[WorkerName, int] = {}
        self.reasons: dict[tuple[str, str], int] = {}
        self.named: list[FailedCell] = []

    def add(self, table: pa.Table) -> None:
        self.count += table.num_rows
        process = self._processes(table)
        decoder, device = self._workers(table, process)
        self.pieces.append({
            "ok": _numpy(pc.equal(table["status"], "ok"), np.bool_),
            "fragments": _numpy(table["fragments"], np.int32),
            "bytes_in": _numpy(table["bytes_in"], np.int64),
            "process": process, "decoder": decoder, "device": device,
            "start": _numpy(table["started"], np.float64) + _numpy(table["clock"].fill_null(0.0), np.float64),
            "ms": np.stack([_numpy(table[name], np.float32) for name in STAGES], axis=1),
        })  # fmt: skip
        self._count_reasons(table)

    def cells(self) -> Cells:
        if not self.pieces:
            self.add(timing_table([]))
        whole = {name: np.concatenate([piece[name] for piece in self.pieces]) for name in self.pieces[0]}
        self.pieces.clear()
        order = np.argsort(whole["start"], kind="stable")
        arrays = {f.name: whole[f.name][order] for f in fields(Cells) if f.name in whole}
        return Cells(**arrays, workers=list(self.numbers), reasons=self.reasons, named=self.named)

    def _processes(self, table: pa.Table) -> Ints:
        shards, codes = _codes(table["shard"])
        return _lookup([self.owner(Path(shard).stem) for shard in shards], codes)

    def _workers(self, table: pa.Table, process: Ints) -> tuple[Ints, Ints]:
        """``worker`` reads "decode-0 device-1", "decode-0", or nothing; numbers of both, per cell."""
        joined = pc.binary_join_element_wise(table["worker"], table["device"], "\t")
        names, codes = _codes(joined)
        pairs, inverse = np.unique(np.stack([process, codes], axis=1), axis=0, return_inverse=True)
        decoders, devices = [], []
        for owner, code in pairs.tolist():
            worker, _, device = names[code].partition("\t")
            first, _, second = worker.partition(" ")
            decoders.append(self._number(WorkerName(owner, "decode", first)))
            devices.append(self._number(WorkerName(owner, "device", second, device)))
        return _lookup(decoders, inverse.ravel()), _lookup(devices, inverse.ravel())

    def _number(self, worker: WorkerName) -> int:
        return self.numbers.setdefault(worker, len(self.numbers)) if worker.name and worker.process >= 0 else -1

    def _count_reasons(self, table: pa.Table) -> None:
        failed = table.filter(pc.equal(table["status"], "failed")).select([field.name for field in fields(FailedCell)])
        for cell in (FailedCell(**row) for row in failed.to_pylist()):
            reason = (cell.stage, cell.error if len(self.reasons) < MOST_REASONS else "other errors")
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
            if len(self.named) < MOST_NAMED:
                self.named.append(cell)


def _codes(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """The different texts of a column, and which of them each row has."""
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)


def _lookup(values: Sequence[int], codes: npt.NDArray[Any]) -> Ints:
    return np.asarray(values, np.int32)[codes] if len(values) else np.empty(0, np.int32)


def _numpy(column: pa.ChunkedArray, dtype: Any) -> npt.NDArray[Any]:
    return np.asarray(column.to_numpy(), dtype)
