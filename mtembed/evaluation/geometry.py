"""Shape of a cloud of vectors, without labels: rank, dimension, spread.  Diagnostics, not scores: noise has high rank.

Inputs are float arrays [n, D]; results are plain numbers, None where too few rows are left to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PAIRS_FROM = 2_000  # rows of which all pairs are looked at
LEAST = 3
CHUNK = 4_096  # rows in float64 at a time


def rankme(vectors: npt.NDArray[Any]) -> float | None:
    """Effective rank: exp of the entropy of the singular values (Garrido et al. 2023); n orthonormal rows give n."""
    sizes = np.sqrt(_eigenvalues(vectors, centred=False))
    return _effective(sizes)


def participation_ratio(vectors: npt.NDArray[Any]) -> float | None:
    """(sum of variances)^2 / sum of their squares, along principal axes."""
    variances = _eigenvalues(vectors, centred=True)
    square = float((variances**2).sum())
    return None if square <= 0 else float(variances.sum() ** 2 / square)


def _eigenvalues(vectors: npt.NDArray[Any], centred: bool) -> Floats:
    """Of X'X or XX', whichever is smaller; what rounding leaves below zero or near it is 0."""
    if not len(vectors):
        return np.zeros(0)
    mean = vectors.mean(axis=0, dtype=np.float64) if centred else np.zeros(vectors.shape[1])
    if vectors.shape[0] >= vectors.shape[1]:
        gram = scatter(vectors, mean)
    else:
        x = vectors - mean
        gram = x @ x.T
    values = np.linalg.eigvalsh(gram)
    return np.where(values > values.max(initial=0) * 1e-12, values, 0.0)


def scatter(vectors: npt.NDArray[Any], mean: Floats) -> Floats:
    """X'X of the rows minus ``mean``, float64 [D, D], in chunks: no copy of all rows in float64 is made."""
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for part in chunks(vectors):
        x = part - mean
        total += x.T @ x
    return total


def chunks(vectors: npt.NDArray[Any]) -> Iterator[Floats]:
    """The rows in float64, some at a time."""
    for first in range(0, len(vectors), CHUNK):
        yield np.asarray(vectors[first : first + CHUNK], np.float64)


def _effective(sizes: Floats) -> float | None:
    if sizes.sum() <= 0:
        return None
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def two_nn(vectors: npt.NDArray[Any]) -> tuple[float | None, int]:
    """Intrinsic dimension from the two nearest neighbours (Facco et al. 2017, maximum likelihood), and the number of
    rows left out because another row equals them.

    Distances are in float64: in float32 near neighbours come out as 0.
    """
    from sklearn.neighbors import NearestNeighbors

    distinct = np.unique(np.asarray(vectors, np.float64), axis=0)
    repeated = len(vectors) - len(distinct)
    if len(distinct) < LEAST:
        return None, repeated
    search = NearestNeighbors(n_neighbors=3, algorithm="brute" if distinct.shape[1] > 15 else "kd_tree").fit(distinct)
    distance = _exact(distinct, search.kneighbors(distinct, return_distance=False))
    first, second = distance[:, 0], distance[:, 1]
    good = (first > 0) & np.isfinite(second)
    ratios = np.log(second[good] / first[good])
    total = float(ratios.sum())
    return (None if total <= 0 else float((len(ratios) - 1) / total)), repeated + int((~good).sum())


def _exact(vectors: Floats, found: npt.NDArray[np.int64]) -> Floats:
    """Distances [n, 2] to the two nearest other rows among ``found`` [n, 3], by differences."""
    distance = np.empty((len(vectors), 3))
    for first in range(0, len(vectors), 1024):
        rows = slice(first, first + 1024)
        difference = vectors[rows, None, :] - vectors[found[rows]]
        distance[rows] = np.sqrt((difference**2).sum(axis=2))
    distance[found == np.arange(len(vectors))[:, None]] = np.inf  # itself
    return np.sort(distance, axis=1)[:, :2]


def uniformity(vectors: npt.NDArray[Any]) -> float | None:
    """log of the mean of exp(-2 d^2) over pairs on the unit sphere (Wang and Isola 2020); lower is more spread out."""
    x = unit(vectors[:PAIRS_FROM])
    if len(x) < LEAST:
        return None
    square = np.maximum(0.0, 2 - 2 * (x @ x.T))
    pairs = np.triu_indices(len(x), 1)
    return float(np.log(np.exp(-2 * square[pairs]).mean()))


def mean_cosine(vectors: npt.NDArray[Any]) -> float | None:
    """Mean cosine of pairs: 1 where all vectors point one way, near 0 where they are spread around the origin."""
    n = len(vectors)
    if n < LEAST:
        return None
    total, square = np.zeros(vectors.shape[1]), 0.0
    for part in chunks(vectors):
        x = unit(part)
        total += x.sum(axis=0)
        square += float((x**2).sum())
    return float((total @ total - square) / (n * (n - 1)))


def unit(vectors: npt.NDArray[Any]) -> Floats:
    x = np.asarray(vectors, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1))


def moran(values: Floats, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> float | None:
    """Moran's I of ``values`` over pairs of neighbours, each named once: 1 alike, 0 at random, -1 a checkerboard.

    Only values that have a neighbour count.
    """
    used = np.unique(np.concatenate([first, second]))
    if len(used) < LEAST:
        return None
    centred = values - values[used].mean()
    spread = float((centred[used] ** 2).sum())
    if spread <= 1e-300:
        return None
    return float(len(used) / len(first) * (centred[first] * centred[second]).sum() / spread)


def linear_cka(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float | None:
    """Similarity of two sets of vectors of the same rows (Kornblith et al. 2019), whatever their rotation and scale."""
    x, y = (np.asarray(v, np.float64) - np.mean(v, axis=0, dtype=np.float64) for v in (a, b))
    if x.shape[0] < min(x.shape[1], y.shape[1]):
        kx, ky = x @ x.T, y @ y.T
        cross, own_x, own_y = float((kx * ky).sum()), float(np.linalg.norm(kx)), float(np.linalg.norm(ky))
    else:
        cross = float(np.linalg.norm(x.T @ y) ** 2)
        own_x, own_y = float(np.linalg.norm(x.T @ x)), float(np.linalg.norm(y.T @ y))
    return None if own_x * own_y <= 0 else cross / (own_x * own_y)
