"""The recall of an index: what it finds for some rows of the dataset beside their exact nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtembed.similarity.scoring import Integers
from mtembed.types import FloatArray

NEIGHBOURS = 10
EQUAL = 1 - 1e-6  # cosine of rows that are the same, as float32 has it
BLOCK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Rows that are asked for: unit vectors [q, D] and their numbers in the dataset."""

    vectors: FloatArray
    ids: Integers

    @classmethod
    def load(cls, path: Path) -> Queries:
        with np.load(path) as file:
            return cls(file["vectors"], file["ids"])

    def save(self, path: Path) -> None:
        np.savez(path, vectors=self.vectors, ids=self.ids)


class Nearest:
    """The exact nearest rows of each query, itself left out: numbers in the dataset and cosines [q, 10]."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._scores = np.full((len(queries.ids), NEIGHBOURS), -np.inf, np.float32)
        self._ids = np.full((len(queries.ids), NEIGHBOURS), -1, np.int64)

    def add(self, vectors: FloatArray, ids: Integers) -> None:
        step = max(1, BLOCK_BYTES // (4 * max(1, len(self._ids))))
        for first in range(0, len(vectors), step):
            block = ids[first : first + step]
            scores = self._queries.vectors @ vectors[first : first + step].T
            scores[self._queries.ids[:, None] == block[None, :]] = -np.inf
            kept = min(NEIGHBOURS, len(block))
            best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
            self._join(np.take_along_axis(scores, best, axis=1), block[best])

    def _join(self, scores: FloatArray, ids: Integers) -> None:
        scores, ids = np.hstack([self._scores, scores]), np.hstack([self._ids, ids])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS]
        self._scores, self._ids = np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)

    def save(self, path: Path) -> None:
        np.savez(path, scores=self._scores, ids=self._ids)

    def merge(self, path: Path) -> None:
        with np.load(path) as file:
            self._join(file["scores"], file["ids"])

    def recall(self, found: Integers) -> float:
        """Share of the nearest rows that are among ``found`` [q, n].

        Rows that equal ten others say nothing: any of those is as good.
        """
        hit = wanted = 0
        telling = self._scores[:, -1] < EQUAL
        for own, true, answer in zip(self._queries.ids[telling], self._ids[telling], found[telling], strict=True):
            others = answer[(answer != own) & (answer >= 0)]
            true = true[true >= 0]
            hit, wanted = hit + len(np.intersect1d(true, others)), wanted + len(true)
        return hit / wanted if wanted else 1.0
