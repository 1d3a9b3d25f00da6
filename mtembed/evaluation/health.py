"""Health of a dataset without labels: what is broken, repeated, dead, or flat.  Diagnostics, never a score.

Two passes over all rows (counts; the first principal component for Moran's I) and a seeded sample for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.dataset.reader import EmbeddingBatch, EmbeddingDataset
from mtembed.evaluation import geometry, stability
from mtembed.evaluation.groups import Floats, Ints, Places, columns_at
from mtembed.evaluation.labelled import centres, priority
from mtembed.evaluation.stability import TwoDates
from mtembed.types import FloatArray, Tick

SAMPLE_ROWS = 50_000
SAMPLE_BYTES = 256 << 20
DISTANCE_ROWS = 5_000  # of the sample, for what looks at all pairs
MOST_HASHES = 4_000_000
MOST_FRAGMENTS = 2_000_000  # rows whose neighbours within a cell are looked at
LEAST_PAIRS = 10
DEAD = 1e-6  # of the widest dimension's spread
CHUNK = 4096
NORMS = ("min", "p01", "median", "p99", "max")


def of_dataset(dataset: EmbeddingDataset, seed: int, tick: Tick) -> dict[str, Any]:
    """All diagnostics of a dataset; None for what cannot be said of it."""
    counts, sample = _counted(dataset, seed, tick)
    good = np.isfinite(sample).all(axis=1)
    finite = sample if good.all() else sample[good]
    near = finite[:DISTANCE_ROWS]
    dimension, equal = geometry.two_nn(near)
    found = counts.facts(finite) | {
        "sample_rows": len(finite),
        "rankme": geometry.rankme(finite),
        "participation_ratio": geometry.participation_ratio(finite),
        "two_nn": dimension,
        "two_nn_rows": len(near),
        "two_nn_equal_rows": equal,
        "uniformity": geometry.uniformity(near),
        "mean_cosine": geometry.mean_cosine(finite),
    }
    return (
        {"dataset": dataset.name, "model": dataset.model, "rows": dataset.rows, "dim": dataset.dim}
        | found
        | _places(dataset, finite, seed, tick)
    )


# -- first pass -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Counts:
    """What one pass over all rows adds up."""

    dim: int
    weights: npt.NDArray[np.uint64]
    rows: int = 0
    not_finite: int = 0
    zero: int = 0
    low: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    high: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    norms: tuple[float, float] = (np.inf, -np.inf)
    hashes: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    kept: int = 0
    mask: int = 0  # hashes whose lowest bits under it are 0 are kept: all, a half, a quarter ...

    @classmethod
    def begun(cls, dim: int, seed: int) -> _Counts:
        weights = np.random.default_rng([seed, 31]).integers(1, 2**63, dim, dtype=np.uint64) * np.uint64(2) + np.uint64(
            1
        )
        counts = cls(dim, weights)
        counts.low, counts.high = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
        return counts

    def add(self, vectors: FloatArray) -> None:
        good = np.isfinite(vectors).all(axis=1)
        self.rows += len(vectors)
        self.not_finite += int((~good).sum())
        vectors = vectors if good.all() else vectors[good]
        if not len(vectors):
            return
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        self.zero += int((norms == 0).sum())
        self.norms = min(self.norms[0], float(norms.min())), max(self.norms[1], float(norms.max()))
        np.minimum(self.low, vectors.min(axis=0), out=self.low)
        np.maximum(self.high, vectors.max(axis=0), out=self.high)
        self._hash(vectors)

    def _hash(self, vectors: FloatArray) -> None:
        """One number per vector; equal vectors have equal ones, others practically never."""
        bits = np.ascontiguousarray(vectors).view(np.uint32)
        with np.errstate(over="ignore"):
            mixed = (bits.astype(np.uint64) * self.weights).sum(axis=1, dtype=np.uint64)
            mixed ^= mixed >> np.uint64(32)
        mixed = mixed[(mixed & np.uint64(self.mask)) == 0]
        self.hashes.append(mixed)
        self.kept += len(mixed)
        while self.kept > MOST_HASHES:
            self.mask = 2 * self.mask + 1
            thinned = np.concatenate(self.hashes)
            thinned = thinned[(thinned & np.uint64(self.mask)) == 0]
            self.hashes, self.kept = [thinned], len(thinned)

    def facts(self, sample: FloatArray) -> dict[str, Any]:
        """``sample``: finite vectors, for what is between the least and the largest norm."""
        norms = np.concatenate([np.zeros(0), *(np.linalg.norm(part, axis=1) for part in geometry.chunks(sample))])
        hashes = np.concatenate(self.hashes) if self.hashes else np.zeros(0, np.uint64)
        each = np.unique(hashes, return_counts=True)[1]
        spread = self.high.astype(np.float64) - self.low
        dead = int((spread <= DEAD * spread.max(initial=0)).sum()) if self.rows > self.not_finite else self.dim
        middle = np.percentile(norms, (1, 50, 99)).tolist() if len(norms) else [None] * 3
        return {
            "not_finite": self.not_finite,
            "zero_vectors": self.zero,
            "duplicate_share": float(each[each > 1].sum() / len(hashes)) if len(hashes) else 0.0,
            "duplicates_looked_at": len(hashes),
            "norm": dict(zip(NORMS, (self.norms[0], *middle, self.norms[1]), strict=True)),
            "dead_dimensions": dead,
            "dead_share": dead / self.dim,
        }


def _counted(dataset: EmbeddingDataset, seed: int, tick: Tick) -> tuple[_Counts, FloatArray]:
    """Counts over all rows, and the sampled vectors, float32 [n, D], in the order of the dataset."""
    wanted = min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * dataset.dim))
    limit = np.uint64(min(int(min(1.0, wanted / max(1, dataset.rows)) * 2.0**64), 2**64 - 1))
    counts, sampled, done = _Counts.begun(dataset.dim, seed), [np.empty((0, dataset.dim), np.float32)], 0
    for batch in dataset.batches():
        assert batch.vectors is not None
        for first in range(0, batch.rows, CHUNK):
            vectors = batch.vectors[first : first + CHUNK]
            counts.add(vectors)
            rows = np.arange(first, first + len(vectors)) + batch.first_row
            sampled.append(vectors[priority(batch.file, rows, seed) <= limit])
        done += batch.rows
        tick("counting", done, dataset.rows)
    return counts, np.concatenate(sampled)


# -- second pass ----------------------------------------------------------------------------------------------------


def _places(dataset: EmbeddingDataset, sample: FloatArray, seed: int, tick: Tick) -> dict[str, Any]:
    """Moran's I of the first principal component, between neighbouring cells and between fragments within cells; and
    the cosines of fragments that are there at two dates."""
    found: dict[str, Any] = {"moran_cells": None, "moran_fragments": None}
    centre = {"centre_lat", "centre_lon"} <= set(dataset.columns)
    dates = TwoDates(dataset)
    if len(sample) < geometry.LEAST or not (centre or "geometry" in dataset.columns):
        return found | dates.facts(seed)
    mean, axis = _first_axis(sample)
    where = ("centre_lat", "centre_lon") if centre else ("geometry",)
    named = [name for name in ("grid_cell", "pixel_bbox", "product_id") if name in dataset.columns]
    columns = list(dict.fromkeys((*where, *named, *dates.columns)))
    cells, inside, done = _Cells(), _Inside(), 0
    for batch in dataset.batches(columns):
        assert batch.vectors is not None
        with np.errstate(invalid="ignore", over="ignore"):
            values = (batch.vectors - mean) @ axis
        cells.add(batch, values)
        dates.add(batch)
        if "pixel_bbox" in columns and "grid_cell" in columns:
            inside.add(batch, values)
        done += batch.rows
        tick("looking at neighbours", done, dataset.rows)
    return {"moran_cells": cells.moran(), "moran_fragments": inside.moran()} | dates.facts(seed)


def _first_axis(sample: FloatArray) -> tuple[FloatArray, FloatArray]:
    mean = sample.mean(axis=0, dtype=np.float64)
    axis = np.linalg.eigh(geometry.scatter(sample, mean))[1][:, -1]
    return mean.astype(np.float32), axis.astype(np.float32)


class _Cells:
    """Sums of values by grid cell."""

    def __init__(self) -> None:
        self._row: list[Ints] = []
        self._col: list[Ints] = []
        self._sum: list[Floats] = []
        self._count: list[Floats] = []

    def add(self, batch: EmbeddingBatch, values: npt.NDArray[Any]) -> None:
        lat, lon = centres(batch.table)
        names = batch.table["grid_cell"].to_pylist() if "grid_cell" in batch.table.column_names else None
        good = np.isfinite(values) & np.isfinite(lat) & np.isfinite(lon)
        places = Places.of(names, np.where(good, lat, 0.0), np.where(good, lon, 0.0))
        _, first, inverse = np.unique(places.cells()[good], return_index=True, return_inverse=True)
        self._row.append(places.row[good][first])
        self._col.append(places.col[good][first])
        self._sum.append(np.asarray(np.bincount(inverse, values[good], minlength=len(first)), np.float64))
        self._count.append(np.asarray(np.bincount(inverse, minlength=len(first)), np.float64))

    def moran(self) -> float | None:
        """Rook neighbours: the next cell in the row, and the one above that this cell's middle lies under."""
        places = Places(np.concatenate(self._row), np.concatenate(self._col))
        keys, first, inverse = np.unique(places.cells(), return_index=True, return_inverse=True)
        total = np.bincount(inverse, np.concatenate(self._sum), minlength=len(keys))
        values = total / np.bincount(inverse, np.concatenate(self._count), minlength=len(keys))
        own = Places(places.row[first], places.col[first])
        _, lon = own.centres()
        above = np.floor(lon / (360.0 / columns_at(own.row + 1))).astype(np.int64)
        pairs = [_pairs(keys, Places(own.row, own.col + 1)), _pairs(keys, Places(own.row + 1, above))]
        return _moran(values, pairs)


def _moran(values: Floats, pairs: Sequence[tuple[Ints, Ints]]) -> float | None:
    """None where there are hardly any neighbours."""
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return geometry.moran(values, first, second) if len(first) >= LEAST_PAIRS else None


def _pairs(keys: Ints, neighbour: Places) -> tuple[Ints, Ints]:
    """Positions of cells and of those neighbours that are among the sorted ``keys``."""
    wanted = neighbour.cells()
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    there = np.flatnonzero(keys[at] == wanted)
    return there, at[there]


class _Inside:
    """Values and pixel offsets of fragments, by cell and product."""

    def __init__(self) -> None:
        self._rows: list[Ints] = []
        self._values: list[Floats] = []
        self._count = 0

    def add(self, batch: EmbeddingBatch, values: npt.NDArray[Any]) -> None:
        if self._count >= MOST_FRAGMENTS:
            return
        cell = stability.hashed(batch.table["grid_cell"])
        if "product_id" in batch.table.column_names:
            with np.errstate(over="ignore"):
                cell = cell * np.uint64(3) + stability.hashed(batch.table["product_id"])
        box = stability.boxes(batch.table)
        good = np.isfinite(values)
        self._rows.append(np.stack([cell.view(np.int64), box[:, 1], box[:, 0]], axis=1)[good])
        self._values.append(np.asarray(values, np.float64)[good])
        self._count += batch.rows

    def moran(self) -> float | None:
        if not self._rows:
            return None
        rows, values = np.concatenate(self._rows), np.concatenate(self._values)
        pairs = [_next(rows, along) for along in (2, 1)]
        return _moran(values, pairs)


def _next(rows: Ints, along: int) -> tuple[Ints, Ints]:
    """Pairs that follow each other along a column of (cell, row, col), the other two equal."""
    still = 3 - along
    order = np.lexsort((rows[:, along], rows[:, still], rows[:, 0]))
    step = np.diff(rows[order], axis=0)
    next_to = np.flatnonzero((step[:, 0] == 0) & (step[:, still] == 0) & (step[:, along] > 0))
    return order[next_to], order[next_to + 1]
