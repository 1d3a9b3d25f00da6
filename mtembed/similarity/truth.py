"""The exact neighbours of some rows, to measure by them what an index finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.similarity.best import Integers, unit
from mtembed.types import FloatArray

QUERIES = 200
NEIGHBOURS = 10
SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Rows by their number over all files [q], and their vectors at length 1, float32 [q, D]."""

    rows: Integers
    vectors: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """For each query the rows nearest to it but itself, and their cosines [q, up to 10]."""

    queries: Queries
    rows: Integers
    scores: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, queries: Queries) -> Truth:
        count = len(queries.rows)
        return cls(queries, np.empty((count, 0), np.int64), np.empty((count, 0), np.float32))

    def compared(self, vectors: FloatArray, first: int) -> Truth:
        """With more rows, float32 [n, D] at length 1, numbered from ``first`` on."""
        scores = np.nan_to_num(self.queries.vectors @ vectors.T, nan=-2.0)
        rows = np.broadcast_to(np.arange(first, first + len(vectors)), scores.shape)
        scores = np.where(rows == self.queries.rows[:, None], np.float32(-2.0), scores)
        return self.merged(Truth(self.queries, rows, scores))

    def merged(self, other: Truth) -> Truth:
        rows, scores = np.hstack((self.rows, other.rows)), np.hstack((self.scores, other.scores))
        if scores.shape[1] > NEIGHBOURS:
            best = np.argpartition(-scores, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
            rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
        return Truth(self.queries, rows, scores)

    def recall(self, found: Integers) -> float:
        """The share of the true neighbours that are among ``found`` [q, k]."""
        hits = [len(np.intersect1d(true, one)) for true, one in zip(self.rows, found, strict=True)]
        return float(np.mean(hits) / max(1, self.rows.shape[1]))


def queries_of(dataset: EmbeddingDataset) -> Queries:
    """Rows of the dataset, from at most one row group of a file in ten, the same ones every time."""
    chance = np.random.default_rng(SEED)
    filled = [number for number, file in enumerate(dataset.files) if file.rows]
    chosen = np.sort(chance.choice(filled, min(len(filled), max(1, len(filled) // 10), 20), replace=False))
    ends = np.cumsum([0, *(file.rows for file in dataset.files)])
    rows, vectors = [], []
    for number in chosen.tolist():
        groups = np.cumsum((0, *dataset.files[number].row_groups))
        group = int(chance.integers(len(groups) - 1))
        inside = np.arange(groups[group], groups[group + 1])
        count = min(len(inside), -(-QUERIES // len(chosen)))
        some = np.sort(chance.choice(inside, count, replace=False)) if len(inside) else inside
        found, _ = dataset.take(number, some)
        if found is not None and len(some):
            rows.append(ends[number] + some)
            vectors.append(unit(found))
    joined, numbers = np.concatenate(vectors), np.concatenate(rows)
    usable = np.isfinite(joined).all(axis=1)
    return Queries(numbers[usable], joined[usable].astype(np.float32))
