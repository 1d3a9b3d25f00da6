"""The best rows of those that pass: a scan of the dataset, a scan of an index, or its inverted lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from mtembed.similarity.index_file import SPARE, OpenIndex
from mtembed.similarity.rows import DatasetRows
from mtembed.similarity.scoring import Best, Doubles, Integers, Mask, Names, cosines, near_cosines, rounding
from mtembed.similarity.target import Target

Count = Callable[[int], None]
SCANNED_ROWS = 1_000_000  # rows that filters leave and that are all compared: a fraction of a second
READ_AT_ONCE = 32  # rows whose vectors are read from the dataset for an exact look
MOST_READ = 4096  # of them: more are as good as the last by what the index knows


@dataclass(frozen=True, slots=True)
class Wanted:
    """A unit vector [D], how many hits, at most one of each cell, the rows that pass (None: all)."""

    query: Doubles
    count: int
    per_cell: bool
    mask: Mask | None

    @property
    def passed(self) -> int | None:
        return None if self.mask is None else int(self.mask.sum())


def nearest(target: Target, wanted: Wanted, tick: Count) -> tuple[Best, Literal["exact", "ivf"]]:
    """The hits, numbered as ``target.rows`` numbers them, and how they were found."""
    if target.index is None:
        assert target.dataset is not None
        return _scan(target.dataset, wanted, tick), "exact"
    passed = wanted.passed
    if target.index.kind == "exact" or (passed is not None and passed <= SCANNED_ROWS):
        return _compare(target, target.index, wanted), "exact"
    found = _probe(target, target.index, wanted)
    if len(found.ids) == wanted.count:
        return found, "ivf"
    return _compare(target, target.index, wanted), "exact"


def _scan(rows: DatasetRows, wanted: Wanted, tick: Count) -> Best:
    """Every row that passes, read from the files; nothing is read of row groups without one."""
    best, query = Best(wanted.count), wanted.query.astype(np.float32)
    names = ("grid_cell",) if wanted.per_cell and "grid_cell" in rows.columns else ()
    margin = 2 * rounding(rows.dataset.dim)
    for start, number in zip(rows.starts.tolist(), rows.order, strict=False):
        count = rows.dataset.files[number].rows
        kept = np.arange(count) if wanted.mask is None else np.flatnonzero(wanted.mask[start : start + count])
        for numbers, batch in rows.dataset.chosen(number, kept, names):
            assert batch.vectors is not None
            near = near_cosines(batch.vectors, query)
            least = best.least - margin
            if not wanted.per_cell and len(near) > wanted.count:
                usable = np.where(np.isfinite(near), near, -np.inf)
                least = max(least, float(np.partition(usable, -wanted.count)[-wanted.count]) - margin)
            good = np.flatnonzero(~(np.where(np.isfinite(near), near, np.nan) < least))
            cells = _names(batch.table["grid_cell"].take(pa.array(good))) if names else None
            best.add(cosines(batch.vectors[good], wanted.query), start + numbers[good], cells)
            tick(start + int(numbers[-1]) + 1)
    return best


def _compare(target: Target, index: OpenIndex, wanted: Wanted) -> Best:
    """Every row that passes by what the index keeps of it; then the best of them as they are, until no other can be
    better: what the index keeps is off by ``bound`` at most."""
    ids = None if wanted.mask is None else np.flatnonzero(wanted.mask)
    near = index.approximate(wanted.query, ids)
    order = _ordered(near, ids, min(MOST_READ, len(near)), index.bound)
    return _looked_at(target, wanted, order, near, ids, index.bound)


def _ordered(near: np.ndarray, ids: Integers | None, most: int, bound: float) -> Integers:
    """Positions in ``near`` of its best values, best first; values that rounding tells apart are in the rows' order."""
    chosen = np.arange(len(near))
    if len(near) > most:
        least = np.partition(near, -most)[-most]
        chosen = np.flatnonzero(near >= least - 1e-6)
    order = np.lexsort((chosen, -np.round(near[chosen].astype(np.float64), 6)))
    return chosen[order][:most]


def _looked_at(
    target: Target, wanted: Wanted, order: Integers, near: np.ndarray, ids: Integers | None, bound: float
) -> Best:
    best = Best(wanted.count)
    names = wanted.per_cell and "grid_cell" in target.rows.columns
    step = max(READ_AT_ONCE, wanted.count + SPARE)
    for first in range(0, len(order), step):
        if best.least > float(near[order[first]]) + bound + 1e-6:
            break
        places = np.sort(order[first : first + step])
        rows = places if ids is None else ids[places]
        if target.dataset is None:
            scores = np.asarray(near[places], np.float64)
        else:
            scores = cosines(target.vectors(rows), wanted.query)
        best.add(scores, rows, _names(target.rows.take(rows, ("grid_cell",))["grid_cell"]) if names else None)
    return best


def _probe(target: Target, index: OpenIndex, wanted: Wanted) -> Best:
    """What the inverted lists find; the fewer rows pass, the more lists are looked at."""
    share = 1.0 if wanted.passed is None else max(wanted.passed, 1) / index.count
    nprobe = int(np.ceil(target.nprobe / share))
    query = wanted.query.astype(np.float32)[None]
    asked = min(index.count, wanted.count + SPARE)
    while True:
        found = index.nearest(query, asked, nprobe, target.k_factor, wanted.mask)[0]
        rows = np.sort(found[found >= 0])
        scores = cosines(target.vectors(rows), wanted.query)
        best = Best(wanted.count)
        names = wanted.per_cell and "grid_cell" in target.rows.columns
        best.add(scores, rows, _names(target.rows.take(rows, ("grid_cell",))["grid_cell"]) if names else None)
        if len(best.ids) == wanted.count or len(rows) < asked or asked >= min(MOST_READ, index.count):
            return best
        asked = min(index.count, 4 * asked)


def _names(column: pa.ChunkedArray) -> Names:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.object_)
