"""Mean and scatter of any number of vectors in one pass; parts computed apart add up.

Differences from a shift are multiplied, not the values: nothing cancels where the mean is far from zero.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.types import FloatArray

Matrix = npt.NDArray[np.float64]
BLOCK_ROWS = 4096  # multiplied together; fixed, so that no bit depends on how the rows arrive
EXACT_ROWS = 1 << 18  # more vectors than this are multiplied in float32: their rounding errors average out


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of ``n`` vectors: ``mean`` float64 [D], and ``scatter`` float64 [D, D], the sum of (x - mean)(x - mean)'.

    ``not_finite`` vectors with a NaN or an infinite value were left out.
    """

    n: int
    mean: Matrix
    scatter: Matrix
    not_finite: int = 0

    @classmethod
    def empty(cls, dim: int) -> Moments:
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    def merged(self, other: Moments) -> Moments:
        """Of both sets together (Chan, Golub and LeVeque 1979)."""
        n, skipped = self.n + other.n, self.not_finite + other.not_finite
        if not self.n or not other.n:
            filled = self if self.n else other
            return Moments(n, filled.mean, filled.scatter, skipped)
        apart = other.mean - self.mean
        between = np.outer(apart, apart) * (self.n * other.n / n)
        return Moments(n, self.mean + apart * (other.n / n), self.scatter + other.scatter + between, skipped)

    def save(self, file: io.BufferedIOBase, **more: Any) -> None:
        """As an npz; ``more`` are further arrays or numbers."""
        np.savez(file, n=self.n, mean=self.mean, scatter=self.scatter, not_finite=self.not_finite, **more)

    @classmethod
    def load(cls, path: Path) -> tuple[Moments, dict[str, Any]]:
        """What ``save`` wrote, and what it was given beside.  Raises OSError, ValueError or KeyError."""
        with np.load(path, allow_pickle=False) as found:
            content = {name: found[name] for name in found.files}
        n, skipped = int(content.pop("n")), int(content.pop("not_finite"))
        return cls(n, content.pop("mean"), content.pop("scatter"), skipped), content


class Accumulator:
    """Takes vectors float32 [n, dim] in any portions; the same rows in the same order give the same bits.

    ``exact`` multiplies in float64; else products are float32 and their sums over blocks float64.
    """

    def __init__(self, dim: int, exact: bool = True) -> None:
        dtype = np.float64 if exact else np.float32
        self._block: npt.NDArray[Any] = np.empty((BLOCK_ROWS, dim), dtype)
        self._ones: npt.NDArray[Any] = np.ones(BLOCK_ROWS, dtype)
        self._filled = 0
        self._shift: npt.NDArray[Any] | None = None
        self._n = self._not_finite = 0
        self._sum, self._products = np.zeros(dim), np.zeros((dim, dim))

    def add(self, vectors: FloatArray) -> None:
        good = finite(vectors)
        if not good.all():
            self._not_finite += int((~good).sum())
            vectors = vectors[good]
        at = 0
        while at < len(vectors):
            count = min(BLOCK_ROWS - self._filled, len(vectors) - at)
            into = self._block[self._filled : self._filled + count]
            if self._shift is None:
                into[:] = vectors[at : at + count]
            else:
                np.subtract(vectors[at : at + count], self._shift, out=into, casting="same_kind")
            self._filled += count
            at += count
            if self._filled == BLOCK_ROWS:
                self._multiply()

    def _multiply(self) -> None:
        block = self._block[: self._filled]
        if self._shift is None:  # the mean of the first block
            self._shift = block.mean(axis=0, dtype=np.float64).astype(block.dtype)
            block -= self._shift
        self._products += block.T @ block
        self._sum += self._ones[: self._filled] @ block
        self._n += self._filled
        self._filled = 0

    def result(self) -> Moments:
        """Of all vectors so far."""
        if self._filled:
            self._multiply()
        if self._shift is None:
            empty = Moments.empty(len(self._sum))
            return Moments(0, empty.mean, empty.scatter, self._not_finite)
        off = self._sum / self._n
        scatter = self._products - np.outer(off, off) * self._n
        return Moments(self._n, self._shift.astype(np.float64) + off, scatter, self._not_finite)


def finite(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Which rows of [n, D] have finite values only; one product with ones where all have."""
    with np.errstate(over="ignore", invalid="ignore"):
        good: npt.NDArray[np.bool_] = np.isfinite(vectors @ np.ones(vectors.shape[1], vectors.dtype))
    suspect = np.flatnonzero(~good)
    good[suspect] = np.isfinite(vectors[suspect]).all(axis=1)
    return good
