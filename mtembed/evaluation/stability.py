"""Fragments that a dataset holds at two dates: how alike a place stays, against how alike places are.  No score."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mtembed.dataset.reader import EmbeddingBatch, EmbeddingDataset
from mtembed.evaluation import geometry
from mtembed.evaluation.groups import Ints
from mtembed.evaluation.labelled import priority, vectors_of
from mtembed.types import FloatArray

PLACE = ("grid_cell", "pixel_bbox")
DATES = ("timestamp", "product_id")  # the first that is there
MOST_ROWS = 4_000_000
MOST_PAIRS = 5_000
LEAST = 10
Hashes = npt.NDArray[np.uint64]


def hashed(column: pa.ChunkedArray) -> Hashes:
    """A number for each text of a column; equal texts have equal ones, others practically never."""
    from pandas.util import hash_array

    coded = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
    names = hash_array(np.array(coded.dictionary.to_pylist(), object)) if len(coded.dictionary) else np.zeros(0)
    found: Hashes = np.asarray(names, np.uint64)[coded.indices.to_numpy()]
    return found


def places(table: pa.Table) -> Hashes:
    """A number for each fragment, from its cell and pixel box."""
    return mixed(hashed(table["grid_cell"]), boxes(table))


def mixed(numbers: Hashes, more: Ints) -> Hashes:
    """Numbers of n rows that depend on ``numbers`` and on every column of ``more``, int64 [n, K]."""
    with np.errstate(over="ignore"):
        for column in more.T:
            numbers = (numbers ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            numbers ^= numbers >> np.uint64(29)
    return numbers


def boxes(table: pa.Table) -> Ints:
    """``pixel_bbox`` of n rows, int64 [n, 4]; 0 where it is null, of another length, or no list of whole numbers."""
    column = table["pixel_bbox"].combine_chunks()
    if not (_is_list(column.type) and pa.types.is_integer(column.type.value_type)):
        return np.zeros((len(column), 4), np.int64)
    good = pc.equal(pc.fill_null(pc.list_value_length(column), -1), 4).to_numpy(zero_copy_only=False)
    found = np.zeros((len(column), 4), np.int64)
    values = pc.fill_null(pc.list_flatten(column.filter(pa.array(good))), 0)
    found[good] = values.to_numpy(zero_copy_only=False).reshape(-1, 4)
    return found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


class Table:
    """Columns of numbers, batch by batch, the first one of places: of more than ``most`` rows those of a half of all
    places are kept, then of a quarter, and so on, so that memory has an end and a place has all of its rows."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self._parts: list[Hashes] = []
        self._most, self._kept, self._mask = most, 0, 0

    @property
    def share(self) -> float:
        """Of all places that are kept."""
        return 1 / (self._mask + 1)

    def add(self, *columns: npt.NDArray[Any]) -> None:
        self._append(np.stack([column.astype(np.uint64) for column in columns]))
        while self._kept > self._most:
            parts, self._parts, self._kept, self._mask = self._parts, [], 0, 2 * self._mask + 1
            for part in parts:
                self._append(part)

    def _append(self, part: Hashes) -> None:
        chosen = part[:, (part[0] >> np.uint64(17)) & np.uint64(self._mask) == 0]
        self._parts.append(chosen)
        self._kept += chosen.shape[1]

    def columns(self) -> Hashes:
        """uint64 [columns, rows], in the order they came."""
        return np.concatenate(self._parts, axis=1)


class TwoDates:
    """Places and dates of all rows, batch by batch, then the cosines."""

    def __init__(self, dataset: EmbeddingDataset) -> None:
        self._dataset = dataset
        self._date = next((name for name in DATES if name in dataset.columns), None)
        self._known = self._date is not None and set(PLACE) <= set(dataset.columns)
        self._table = Table()
        self._rows = 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that ``add`` needs."""
        return (*PLACE, self._date) if self._known and self._date else ()

    def add(self, batch: EmbeddingBatch) -> None:
        if not self._known or self._date is None:
            return
        row = np.arange(batch.rows) + batch.first_row
        file = np.full(batch.rows, batch.file)
        self._table.add(places(batch.table), hashed(batch.table[self._date]), file, row)
        self._rows += batch.rows

    def facts(self, seed: int) -> dict[str, Any]:
        """Keys for ``health``: None where hardly any fragment is there at two dates."""
        found: dict[str, Any] = {
            "two_date_places": None,
            "two_date_share_looked_at": self._table.share,
            "same_place_cosine": None,
            "other_places_cosine": None,
        }
        if not self._rows:
            return found
        place, date, file, row = self._table.columns()
        order = np.lexsort((row, file, date, place))
        next_to = np.flatnonzero((place[order][1:] == place[order][:-1]) & (date[order][1:] != date[order][:-1]))
        _, first = np.unique(place[order][next_to], return_index=True)  # one pair of each place
        pairs = order[next_to[first]], order[next_to[first] + 1]
        found["two_date_places"] = len(first)
        if len(first) < LEAST:
            return found
        chosen = np.argsort(priority(0, row[pairs[0]], seed), kind="stable")[:MOST_PAIRS]
        a, b = (
            vectors_of(self._dataset, file[at[chosen]].astype(np.int64), row[at[chosen]].astype(np.int64))
            for at in pairs
        )
        good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
        if good.sum() >= LEAST:
            found["same_place_cosine"], found["other_places_cosine"] = cosines(a[good], b[good])
        return found


def cosines(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Mean cosines of rows with their own partner and with the partners of all others, float32 [n, D] each; around
    the mean of both, so that a direction that all vectors share counts for nothing."""
    middle = (a.mean(axis=0) + b.mean(axis=0)) / 2
    x, y = geometry.unit(a - middle), geometry.unit(b - middle)
    every, same = float(x.sum(axis=0) @ y.sum(axis=0)), float((x * y).sum())
    return same / len(x), (every - same) / (len(x) * (len(x) - 1))
