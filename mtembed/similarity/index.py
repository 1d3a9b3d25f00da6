"""``mtembed index``: a dataset's vectors in a form that is searched without reading them all.

Small sets keep their vectors as they are (unit length, ``IndexFlatIP``).  Larger ones become
``IVF,RaBitQ,Refine(SQ8)``: lists around centroids with 1-bit codes, and 8-bit codes for a second look.  The steps: read
everything once for a sample and the range of each dimension, train, encode file by file, write, measure the recall.
Each file that was encoded stays done when the command is started again; memory holds a batch and the sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import __version__
from mtembed.dataset.finding import Name, default_output, shared_folder
from mtembed.dataset.reader import EmbeddingDataset, open_dataset
from mtembed.dataset.result import ResultFolder
from mtembed.errors import UsageError
from mtembed.similarity.index_file import K_FACTOR, SPARE, Trained, open_index, write_flat
from mtembed.similarity.recall import NEIGHBOURS, Nearest, Queries
from mtembed.similarity.result import IndexResult, Kind
from mtembed.similarity.rows import GROUP_ROWS, KNOWN, SCHEMA, DatasetRows
from mtembed.similarity.scoring import Integers, unit
from mtembed.storage.address import Address, Place
from mtembed.types import FloatArray, Tick

FOLDER = "index"
RECORD, VECTORS, TABLE = "index.json", "index.faiss", "rows.parquet"
EXACT_BYTES = 1 << 30  # of float32 vectors that are kept as they are: a scan of them takes a fraction of a second
SAMPLE_BYTES = 512 << 20  # of vectors that the centroids are found from
PER_LIST = 64  # vectors of the sample for each centroid; below 39 FAISS calls them too few
QUERIES = 200  # rows whose neighbours are compared with the exact ones
GOOD_RECALL = 0.98  # to be reached by looking at more lists
LEAST_RECALL = 0.95
FIRST_NPROBE = 8
MOST_FACTOR = 160.0


def index(
    dataset: Name | Sequence[Name],
    output: Name | None = None,
    *,
    kind: Kind | None = None,
    fresh: bool = False,
    tick: Tick = lambda what, done, total: None,
) -> IndexResult:
    """Build an index of a dataset of embeddings, or finish one that was begun.

    Parameters
    ----------
    dataset
        A folder of embeddings, a glob, a file, or several of these that are one dataset.
    output
        Folder of the index. Default: ``DATASET/index`` for a folder here, ``NAME-index`` for anything else.
    kind
        ``exact`` keeps the vectors, ``ivf`` keeps codes of them and measures its recall. Default: by size.
    fresh
        Start over instead of resuming.
    tick
        Is told what is being done, rows done and rows in all.

    Raises UsageError for what cannot be done, OutputError for files that cannot be read or written, SettingsError where
    something else lies in the output folder.
    """
    if kind not in (None, "exact", "ivf"):
        raise UsageError(f"--kind {kind} is not known: choose exact or ivf")
    opened = open_dataset(dataset, tick=tick)
    chosen: Kind = kind or ("exact" if 4 * opened.rows * opened.dim <= EXACT_BYTES else "ivf")
    folder = default_output(dataset, FOLDER) if output is None else Path(output)
    return _Work(opened, folder, chosen, tick).run(fresh)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is kept of one file until all are done; the table comes last: where it is, the piece is whole."""

    lists: Path
    bits: Path
    codes: Path
    nearest: Path
    table: Path

    @classmethod
    def of(cls, work: Path, number: int) -> _Piece:
        kinds = ("lists", "bits", "codes", "nearest.npz", "rows.parquet")
        return cls(*(work / f"{number:05d}.{kind}" for kind in kinds))

    @property
    def encoded(self) -> tuple[Path, Path, Path]:
        return self.lists, self.bits, self.codes


class _Work:
    """One start of the command."""

    def __init__(self, dataset: EmbeddingDataset, output: Path, kind: Kind, tick: Tick) -> None:
        self.dataset, self.kind, self._tick = dataset, kind, tick
        self.rows = DatasetRows(dataset)
        sources = [dataset.files[number].source() for number in self.rows.order]
        self.folder = ResultFolder(output, RECORD, (VECTORS, TABLE), {"kind": kind}, sources)
        self.pieces = [_Piece.of(self.folder.work, i) for i in range(len(self.rows.order))]

    def run(self, fresh: bool) -> IndexResult:
        with self.folder.held(fresh) as folder:
            nothing_to_do = folder.finished
            if not nothing_to_do:
                self._make()
        return IndexResult.of(folder.root, folder.content(), nothing_to_do)

    def _make(self) -> None:
        trained = self._trained() if self.kind == "ivf" else None
        queries = Queries.load(self.folder.work / "queries.npz") if trained else None
        done = 0
        for start, number, piece in zip(self.rows.starts.tolist(), self.rows.order, self.pieces, strict=False):
            self._tick("encoding", done, self.dataset.rows)
            if not piece.table.exists():
                self._encode(start, number, piece, trained, queries)
            done += self.dataset.files[number].rows
        count = sum(pq.read_metadata(piece.table).num_rows for piece in self.pieces)
        if not count:
            raise UsageError(f"no vector of {self.dataset.name} has a direction (NaN, or all zeros): it has no index")
        self._tick("writing", 0, count)
        self._write(count, trained)
        self._tick("measuring", 0, count)
        found = self._measured(count, queries, trained) if trained and queries else (None, None, 1.0)
        content = self._content(count, trained, *found)
        for name in (VECTORS, TABLE):
            self.folder.publish(self.folder.work / name)
        self.folder.record(content)
        self._tick("measuring", count, count)

    def _content(
        self, count: int, trained: Trained | None, nprobe: int | None, factor: float | None, recall: float
    ) -> dict[str, object]:
        shared = shared_folder([file.path for file in self.dataset.files])
        return {
            "mtembed": __version__,
            "kind": self.kind,
            "metric": "cosine",
            "model": self.dataset.model,
            "dim": self.dataset.dim,
            "rows": count,
            "left_out": self.dataset.rows - count,
            "recall_at_10": recall,
            "lists": trained.lists if trained else None,
            "nprobe": nprobe,
            "k_factor": factor,
            "bytes": (self.folder.work / VECTORS).stat().st_size,
            "columns": list(self.rows.columns),
            "dataset": self._relative(shared),
        }

    def _relative(self, shared: Place) -> str:
        return str(shared) if isinstance(shared, Address) else os.path.relpath(shared, self.folder.root.absolute())

    # -- training ------------------------------------------------------------------------------------------------------

    def _trained(self) -> Trained:
        """From where an earlier start came to, or from one pass over all vectors."""
        path = self.folder.work / "trained.faiss"
        if not path.exists():
            sample, low, high, queries = self._sampled()
            lists = _lists(self.dataset.rows, len(sample))
            self._tick("training", 0, len(sample))
            trained = Trained.of(sample, low, high, lists)
            queries.save(self.folder.work / "queries.npz")
            trained.save(path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        return Trained.load(path)

    def _sampled(self) -> tuple[FloatArray, FloatArray, FloatArray, Queries]:
        """Unit vectors of some rows, the least and greatest value of each dimension over all, rows to ask for."""
        random, total, dim = np.random.default_rng(0), self.dataset.rows, self.dataset.dim
        most = max(1, min(total, SAMPLE_BYTES // (4 * dim), PER_LIST * _lists(total, total)))
        wanted = np.sort(random.choice(total, most, replace=False))
        asked = np.sort(random.choice(total, min(total, QUERIES), replace=False))
        low, high = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
        sample, queries, ids = [], [], []
        for start, number in zip(self.rows.starts.tolist(), self.rows.order, strict=False):
            for batch in self.dataset.batches(files=[number]):
                assert batch.vectors is not None
                first = start + batch.first_row
                vectors, good = unit(batch.vectors)
                if len(vectors):
                    low, high = np.minimum(low, vectors.min(axis=0)), np.maximum(high, vectors.max(axis=0))
                    numbers = first + np.flatnonzero(good)
                    sample.append(vectors[np.isin(numbers, wanted, assume_unique=True)])
                    chosen = np.isin(numbers, asked, assume_unique=True)
                    queries.append(vectors[chosen])
                    ids.append(numbers[chosen])
                self._tick("reading", first + batch.rows, total)
        if not sample or not sum(map(len, sample)):
            raise UsageError(f"no vector of {self.dataset.name} has a direction (NaN, or all zeros): it has no index")
        return np.concatenate(sample), low, high, Queries(np.concatenate(queries), np.concatenate(ids))

    # -- encoding ------------------------------------------------------------------------------------------------------

    def _encode(self, start: int, number: int, piece: _Piece, trained: Trained | None, queries: Queries | None) -> None:
        """One file: its rows that have a direction, as codes or as they are, and as lines of the table."""
        scratch = piece.table.with_suffix(".tmp")
        nearest = Nearest(queries) if queries else None
        names = self.rows.stored(KNOWN)
        with (
            piece.lists.open("wb") as lists, piece.bits.open("wb") as bits, piece.codes.open("wb") as codes,
            pq.ParquetWriter(scratch, SCHEMA, compression="zstd") as table,
        ):  # fmt: skip
            for batch in self.dataset.batches(names, files=[number]):
                assert batch.vectors is not None
                vectors, good = unit(batch.vectors)
                inside = np.flatnonzero(good)
                read = batch.table.take(pa.array(inside))
                numbers = batch.first_row + inside
                if len(inside):
                    table.write_table(self.rows.table(read, SCHEMA.names, number, numbers), GROUP_ROWS)
                if trained is not None:
                    of, one_bit, eight_bit = trained.encode(vectors)
                    of.tofile(lists)
                    one_bit.tofile(bits)
                    eight_bit.tofile(codes)
                else:
                    vectors.tofile(codes)
                if nearest is not None:
                    nearest.add(vectors, start + numbers)
                self._tick("encoding", start + batch.first_row + batch.rows, self.dataset.rows)
        if nearest is not None:
            nearest.save(piece.nearest)
        scratch.replace(piece.table)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self, count: int, trained: Trained | None) -> None:
        work = self.folder.work
        if trained is not None:
            trained.write(work / VECTORS, [piece.encoded for piece in self.pieces])
        else:
            write_flat(work / VECTORS, self.dataset.dim, count, _floats([piece.codes for piece in self.pieces]))
        options = {"compression": "zstd", "write_page_checksum": True}
        with pq.ParquetWriter(work / TABLE, SCHEMA, **options) as writer:
            waiting: list[pa.Table] = []
            for piece in self.pieces:
                with pq.ParquetFile(piece.table) as file:
                    for batch in file.iter_batches(GROUP_ROWS):
                        waiting.append(pa.Table.from_batches([batch]))
                        if sum(table.num_rows for table in waiting) >= GROUP_ROWS:
                            writer.write_table(pa.concat_tables(waiting), 2 * GROUP_ROWS)
                            waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting), 2 * GROUP_ROWS)

    def _measured(self, count: int, queries: Queries, trained: Trained) -> tuple[int, float, float]:
        """How many lists and candidates must be looked at, and the recall that this gives a search, which looks at
        ``SPARE`` more rows than it shows."""
        opened = open_index(self.folder.work / VECTORS, "ivf", self.dataset.dim, count)
        truth = Nearest(queries)
        for piece in self.pieces:
            truth.merge(piece.nearest)
        asked = min(count, NEIGHBOURS + SPARE + 1)
        nprobe, factor = min(FIRST_NPROBE, trained.lists), K_FACTOR
        while True:
            recall = truth.recall(self._numbers(opened.nearest(queries.vectors, asked, nprobe, factor)))
            if recall >= GOOD_RECALL or (nprobe == trained.lists and factor >= MOST_FACTOR):
                return nprobe, factor, recall
            if nprobe == trained.lists:
                factor *= 4
            nprobe = min(2 * nprobe, trained.lists)

    def _numbers(self, found: Integers) -> Integers:
        """The numbers in the dataset of rows of the index; -1 stays -1."""
        numbers, first = np.full(found.shape, -1, np.int64), 0
        for start, piece in zip(self.rows.starts.tolist(), self.pieces, strict=False):
            rows = pq.read_table(piece.table, columns=["row"])["row"].to_numpy()
            here = (found >= first) & (found < first + len(rows))
            numbers[here] = start + rows[found[here] - first]
            first += len(rows)
        return numbers


def _lists(rows: int, sample: int) -> int:
    """Centroids: about four for each root of the rows, a power of two, never too many for the sample."""
    wanted = 2 ** round(np.log2(4 * np.sqrt(rows)))
    most = max(1, sample // 39)
    return int(min(wanted, 2 ** int(np.log2(most))))


def _floats(paths: Sequence[Path]) -> Iterator[FloatArray]:
    for path in paths:
        with path.open("rb") as file:
            while len(block := np.fromfile(file, np.float32, 1 << 22)):
                yield block
