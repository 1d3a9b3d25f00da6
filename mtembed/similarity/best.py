"""The best rows so far, exactly: cosines in float64, equal ones by file and row, whatever the size of the batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
AT_ONCE = 1024  # rows in float64 at a time
MARGIN = 4e-4  # what a cosine in float32 may be off for vectors of up to 4096 values (D * 2^-23, Higham 2002, 3.1)


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """Vectors [n, D] at length 1, float64; those without length or with a value that is not finite become NaN."""
    found = np.asarray(vectors, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(found / np.sqrt((found * found).sum(axis=1, keepdims=True)), np.float64)


def cosines(vectors: FloatArray, target: Floats) -> Floats:
    """Cosines of rows [n, D] to a target [D] of length 1: each row is added up in the same order wherever it lies."""
    return np.asarray((unit(vectors) * target).sum(axis=1), np.float64)


class Best:
    """The ``count`` best of all rows that are offered; with ``per_group`` only the best one of each group."""

    def __init__(self, target: Floats, count: int, per_group: bool = False) -> None:
        self._target, self._count, self._per_group = target, count, per_group
        self._near = target.astype(np.float32)
        self.not_finite = 0
        self.score: Floats = np.empty(0)
        self.file: Integers = np.empty(0, np.int64)
        self.row: Integers = np.empty(0, np.int64)
        self._group: npt.NDArray[np.object_] = np.empty(0, object)

    @property
    def _least(self) -> float:
        """What a cosine in float32 must reach to be looked at closely."""
        return float(self.score[-1]) - MARGIN if len(self.score) == self._count else -np.inf

    def offer(
        self, vectors: FloatArray, file: int, rows: Integers, groups: npt.NDArray[np.object_] | None = None
    ) -> None:
        """Rows of a file with their vectors, float32 [n, D]."""
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
            about = (vectors @ self._near) / length
        about[~np.isfinite(about)] = np.inf  # too long for float32, or no vector at all: looked at closely
        near = np.flatnonzero(about >= self._least)
        near = near[np.argsort(-about[near], kind="stable")]
        for first in range(0, len(near), AT_ONCE):
            some = near[first : first + AT_ONCE]
            some = some[about[some] >= self._least]
            if not len(some):
                return
            self._compare(vectors[some], file, rows[some], None if groups is None else groups[some])

    def _compare(self, vectors: FloatArray, file: int, rows: Integers, groups: npt.NDArray[np.object_] | None) -> None:
        score = cosines(vectors, self._target)
        finite = np.isfinite(score)
        self.not_finite += int((~finite).sum())
        rows = rows[finite]
        self._merge(score[finite], np.full(len(rows), file), rows, None if groups is None else groups[finite])

    def _merge(self, score: Floats, file: Integers, row: Integers, group: npt.NDArray[np.object_] | None) -> None:
        scores = np.concatenate((self.score, score))
        files, rows = np.concatenate((self.file, file)), np.concatenate((self.row, row))
        order = np.lexsort((rows, files, -scores))
        if self._per_group and group is not None:
            groups = np.concatenate((self._group, group))
            order = _first_of_each(groups, order)[: self._count]
            self._group = groups[order]
        order = order[: self._count]
        self.score, self.file, self.row = scores[order], files[order], rows[order]


def _first_of_each(groups: npt.NDArray[np.object_], order: Integers) -> Integers:
    """Of rows in ``order`` the first of each group."""
    seen: set[object] = set()
    kept = []
    for i in order.tolist():
        if groups[i] not in seen:
            seen.add(groups[i])
            kept.append(i)
    return np.array(kept, np.int64)
