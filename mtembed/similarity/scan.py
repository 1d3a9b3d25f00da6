"""The exact way: every row that the filters leave is compared with the query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

from mtembed.dataset.places import columns_for
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.similarity.best import Best, Floats, Integers
from mtembed.similarity.filters import Filters

Tick = Callable[[str, int, int], None]


def require(dataset: EmbeddingDataset, columns: Iterable[str], what: str) -> None:
    """Raises UsageError where a column that is needed is missing and cannot be had from another one."""
    centre = "geometry" in dataset.columns
    needed = [name for name in columns if not (name.startswith("centre_") and centre)]
    dataset.require(needed, what)


def scan(
    dataset: EmbeddingDataset, target: Floats, filters: Filters, count: int, per_cell: bool, tick: Tick
) -> tuple[Best, int]:
    """The best rows of a dataset, and how many the filters left.  Raises UsageError, OutputError."""
    require(dataset, filters.columns, "a filter")
    best, left, done = Best(target, count, per_cell), 0, 0
    names = list(dict.fromkeys([*columns_for(dataset, filters.columns), *(["grid_cell"] if per_cell else [])]))
    for batch in dataset.batches(names):
        mask = filters.mask(batch.table)
        rows = np.arange(batch.rows) if mask is None else np.flatnonzero(mask)
        left, done = left + len(rows), done + batch.rows
        if len(rows) and batch.vectors is not None:
            groups = batch.table["grid_cell"].to_numpy()[rows] if per_cell else None
            vectors = batch.vectors if mask is None else batch.vectors[rows]
            best.offer(vectors, batch.file, batch.first_row + rows, groups)
        tick("comparing", done, dataset.rows)
    return best, left


def scan_rows(
    dataset: EmbeddingDataset, target: Floats, rows: Integers, count: int, per_cell: bool, tick: Tick
) -> Best:
    """The best of some rows, which are numbered over all files in order, ascending."""
    best = Best(target, count, per_cell)
    ends = np.cumsum([0, *(file.rows for file in dataset.files)])
    names = ["grid_cell"] if per_cell else []
    cuts = np.searchsorted(rows, ends)
    for number, (first, last) in enumerate(pairwise(cuts)):
        inside = rows[first:last] - ends[number]
        for group in _by_row_group(inside, dataset.files[number].row_groups):
            vectors, table = dataset.take(number, group, names)
            if vectors is not None:
                best.offer(vectors, number, group, table["grid_cell"].to_numpy() if per_cell else None)
        tick("comparing", int(last), len(rows))
    return best


def _by_row_group(rows: Integers, groups: tuple[int, ...]) -> list[Integers]:
    """Rows of a file, row group by row group: so many are in memory at a time."""
    cuts = np.searchsorted(rows, np.cumsum(groups)[:-1])
    return [piece for piece in np.split(rows, cuts) if len(piece)]
