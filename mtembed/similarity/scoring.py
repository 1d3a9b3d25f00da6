"""Cosines, and the best of them: the order is by score, equal ones by the number of the row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Names = npt.NDArray[np.object_]


def rounding(dim: int) -> float:
    """More than float32 can be off in a cosine of ``dim`` values, twice over: in the product and in the length."""
    return (dim + 8) * 2.0**-22


def cosines(vectors: FloatArray, query: Doubles) -> Doubles:
    """Cosine of each row [n, D] with a unit vector [D] in float64; NaN for rows without a direction.

    A row's value depends on the row alone, whatever rows are beside it.
    """
    x = vectors.astype(np.float64)
    with np.errstate(all="ignore"):
        length = np.sqrt(np.einsum("ij,ij->i", x, x))
        found = np.einsum("ij,j->i", x, query) / length
    return np.where(np.isfinite(found) & (length > 0), found.clip(-1.0, 1.0), np.nan)


def near_cosines(vectors: FloatArray, query: FloatArray) -> FloatArray:
    """The same in float32, off by ``rounding`` at most; what cannot be told so is NaN or infinite."""
    with np.errstate(all="ignore"):
        length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        return np.asarray((vectors @ query) / length, np.float32)


def unit(vectors: npt.NDArray[np.floating]) -> tuple[FloatArray, Mask]:
    """Rows [n, D] of length 1 as float32 of those that have a direction, and which those are."""
    x = vectors.astype(np.float64)
    with np.errstate(all="ignore"):
        length = np.sqrt(np.einsum("ij,ij->i", x, x))
        good = np.isfinite(length) & (length > 0)
        return (x[good] / length[good, None]).astype(np.float32), good


class Best:
    """The ``count`` best rows of those that were added; of each cell one only where cells are given."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.scores: Doubles = np.empty(0)
        self.ids: Integers = np.empty(0, np.int64)
        self._cells: Names = np.empty(0, np.object_)

    @property
    def least(self) -> float:
        """What a row must reach to be among them."""
        return float(self.scores[-1]) if len(self.ids) == self.count else -np.inf

    def add(self, scores: Doubles, ids: Integers, cells: Names | None = None) -> None:
        """Rows whose score is NaN are nobody's neighbours."""
        good = ~np.isnan(scores)
        scores, ids = np.concatenate([self.scores, scores[good]]), np.concatenate([self.ids, ids[good]])
        order = np.lexsort((ids, -scores))
        if cells is not None:
            every = np.concatenate([self._cells, cells[good]])
            order = order[_firsts(every[order])]
            self._cells = every[order[: self.count]]
        order = order[: self.count]
        self.scores, self.ids = scores[order], ids[order]


def _firsts(names: Names) -> Integers:
    """Positions at which a name comes for the first time; None is a name of its own each time."""
    seen: set[object] = set()
    found = []
    for i, name in enumerate(names):
        if name is None or name not in seen:
            seen.add(name)
            found.append(i)
    return np.array(found, np.int64)
