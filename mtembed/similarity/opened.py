"""An index that is there: whether it fits its dataset, and what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mtembed.dataset.atomic import read_json
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import OutputError
from mtembed.similarity.best import Best, Floats, Integers
from mtembed.similarity.filters import Filters
from mtembed.similarity.index import RECORD, ROWS, VECTORS
from mtembed.similarity.lists import LEAST_RECALL, Lists
from mtembed.similarity.scan import Tick, require, scan_rows

EXACT_SELECTION = 50_000  # rows that filters leave; so few are compared one by one (lists found 4 % in small boxes)
SLICE_BYTES = 64 << 20
ROW_GROUP = 65_536


class OpenIndex:
    """The index in a folder, and the dataset it was made from."""

    def __init__(self, root: Path, dataset: EmbeddingDataset) -> None:
        self.root, self.dataset = root, dataset
        self.content = record_of(root)

    @property
    def stale(self) -> bool:
        """Whether the dataset has changed since the index was made."""
        return bool(self.content.get("sources") != self.dataset.sources())

    @property
    def recall(self) -> float:
        return float(self.content["recall_at_10"])

    @property
    def poor(self) -> bool:
        return self.recall < LEAST_RECALL

    def search(
        self, target: Floats, filters: Filters, count: int, per_cell: bool, tick: Tick
    ) -> tuple[Best, int, bool]:
        """The best rows, how many the filters left, and whether each of those was compared."""
        require(self.dataset, filters.columns, "a filter")
        allowed = self._allowed(filters, tick)
        left = self.dataset.rows if allowed is None else int(allowed.sum())
        if self.content["kind"] == "flat":
            return self._flat(target, allowed, count, per_cell), left, True
        if left > EXACT_SELECTION:
            best = self._listed(target, allowed, left, count, per_cell)
            if best is not None:
                return best, left, False
        rows = np.arange(self.dataset.rows) if allowed is None else np.flatnonzero(allowed)
        return scan_rows(self.dataset, target, rows, count, per_cell, tick), left, True

    def _allowed(self, filters: Filters, tick: Tick) -> npt.NDArray[np.bool_] | None:
        """For every row whether the filters leave it; None where there is no filter."""
        if not filters.columns:
            return None
        allowed, first = np.empty(self.dataset.rows, np.bool_), 0
        with pq.ParquetFile(self.root / ROWS) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=filters.columns):
                table = batch.from_arrays(batch.columns, names=batch.schema.names)
                mask = filters.mask(_as_table(table))
                allowed[first : first + batch.num_rows] = True if mask is None else mask
                first += batch.num_rows
                tick("choosing rows", first, self.dataset.rows)
        return allowed

    def _flat(self, target: Floats, allowed: npt.NDArray[np.bool_] | None, count: int, per_cell: bool) -> Best:
        import faiss

        stored = faiss.read_index(str(self.root / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        vectors = faiss.rev_swig_ptr(stored.get_xb(), stored.ntotal * stored.d).reshape(-1, stored.d)
        cells = self._cells() if per_cell else None
        best, step = Best(target, count, per_cell), max(1, SLICE_BYTES // (4 * stored.d))
        ends = self._ends()
        for first in range(0, stored.ntotal, step):
            rows = np.arange(first, min(first + step, stored.ntotal))
            if allowed is not None:
                rows = rows[allowed[rows]]
            if len(rows):
                some = vectors[rows] if allowed is not None else vectors[first : first + step]
                best.offer(some, 0, rows, None if cells is None else cells[rows])
        return _placed(best, ends)

    def _listed(
        self, target: Floats, allowed: npt.NDArray[np.bool_] | None, left: int, count: int, per_cell: bool
    ) -> Best | None:
        """What the lists find, ranked by the codes and then exactly; None where that is not ``count`` rows."""
        opened = Lists(self.root, VECTORS)
        share = left / self.dataset.rows
        probes = min(opened.index.nlist, round(self.content["lists_searched"] / share))
        wanted = count * self.content["candidates_per_hit"] * (4 if per_cell else 1)
        query = target.astype(np.float32)[None]
        rows = opened.candidates(query, min(wanted, left), probes, allowed)[0]
        rows = np.sort(rows[rows >= 0])
        best = Best(target, count, per_cell)
        best.offer(opened.vectors(rows), 0, rows, self._cells()[rows] if per_cell else None)
        if len(best.row) < min(count, left):
            return None
        nothing: Tick = lambda what, done, total: None  # noqa: E731
        return scan_rows(self.dataset, target, np.sort(best.row), count, per_cell, nothing)

    def _cells(self) -> npt.NDArray[np.object_]:
        with pq.ParquetFile(self.root / ROWS) as file:
            return np.asarray(file.read(["grid_cell"])["grid_cell"].to_numpy())

    def _ends(self) -> Integers:
        return np.cumsum([0, *(file.rows for file in self.dataset.files)])


def _as_table(batch: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches([batch])


def _placed(best: Best, ends: Integers) -> Best:
    """Rows that are numbered over all files, as rows of their files."""
    best.file = np.searchsorted(ends, best.row, side="right") - 1
    best.row = best.row - ends[best.file]
    return best


def record_of(root: Path) -> dict[str, Any]:
    """The record of an index.  Raises OutputError where it is none."""
    content = read_json(root / RECORD)
    wanted = ("kind", "metric", "dim", "rows", "recall_at_10", "sources", "dataset")
    if not all(name in content for name in wanted):
        raise OutputError(f"{root / RECORD} is no record of an index: make it again with mtembed index --fresh")
    return content


def is_index(path: Path) -> bool:
    return (path / RECORD).is_file()


def dataset_names(root: Path) -> list[str]:
    """What the index was made from, as paths from here."""
    return [
        str((root / name).resolve()) if not _is_glob(name) else str(root / name) for name in record_of(root)["dataset"]
    ]


def _is_glob(name: str) -> bool:
    return any(letter in name for letter in "*?[")
