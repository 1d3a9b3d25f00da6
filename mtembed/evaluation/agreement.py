"""Two datasets of the same places: how far they agree, and for two dates how stable a place is.  Never a score.

Rows are matched by grid cell and pixel box, else by cell, else by centre (to 1e-4 degrees).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.dataset.reader import EmbeddingBatch, EmbeddingDataset
from mtembed.evaluation import geometry
from mtembed.evaluation.groups import Floats, Ints
from mtembed.evaluation.join import Tick
from mtembed.evaluation.labelled import centres, priority
from mtembed.types import FloatArray

MOST_PAIRS = 5_000
NEAREST = 10
LEAST = 10


def of_pair(first: EmbeddingDataset, second: EmbeddingDataset, seed: int, tick: Tick) -> dict[str, Any]:
    """CKA, shared neighbours; where dimensions are equal also alignment, retrieval across and stability."""
    by = next(
        names for names in (("grid_cell", "pixel_bbox"), ("grid_cell",), ())
        if all(set(names) <= set(one.columns) for one in (first, second))
    )  # fmt: skip
    keys = [_keys(one, by, tick) for one in (first, second)]
    _, at_first, at_second = np.intersect1d(keys[0][0], keys[1][0], assume_unique=True, return_indices=True)
    found: dict[str, Any] = {
        "datasets": [first.name, second.name],
        "matched_by": list(by) or ["centre"],
        "matched": len(at_first),
    }
    if len(at_first) < LEAST:
        return found
    order = np.argsort(priority(0, keys[0][2][at_first], seed), kind="stable")[:MOST_PAIRS]
    a, b = (
        _vectors(one, file[at[order]], row[at[order]])
        for one, (_, file, row), at in zip((first, second), keys, (at_first, at_second), strict=True)
    )
    cells = keys[0][0][at_first[order]]
    good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    return found | compared(a[good], b[good]) | {"pairs": int(good.sum()), "different_places": len(np.unique(cells))}


def compared(a: FloatArray, b: FloatArray) -> dict[str, Any]:
    """Measures of vectors float32 [n, D] and [n, E] of the same n places."""
    found: dict[str, Any] = {
        "cka": geometry.linear_cka(a, b),
        "shared_neighbours_10": _shared_neighbours(a, b),
        "alignment": None,
        "retrieval_1": None,
        "retrieval_10": None,
        "retrieval_chance": 1 / max(1, len(a)),
        "same_place_cosine": None,
        "other_places_cosine": None,
    }
    if a.shape[1] != b.shape[1] or len(a) < LEAST:
        return found
    x, y = geometry.unit(a), geometry.unit(b)
    found["alignment"] = float(((x - y) ** 2).sum(axis=1).mean())
    similar = geometry.unit(a - a.mean(axis=0)) @ geometry.unit(b - b.mean(axis=0)).T
    own = np.diag(similar)
    rank = (similar > own[:, None]).sum(axis=1)
    found["retrieval_1"], found["retrieval_10"] = float((rank < 1).mean()), float((rank < NEAREST).mean())
    middle = (a.mean(axis=0) + b.mean(axis=0)) / 2
    x, y = geometry.unit(a - middle), geometry.unit(b - middle)
    every = float(x.sum(axis=0) @ y.sum(axis=0))
    same = float((x * y).sum())
    found["same_place_cosine"] = same / len(x)
    found["other_places_cosine"] = (every - same) / (len(x) * (len(x) - 1))
    return found


def _shared_neighbours(a: FloatArray, b: FloatArray) -> float | None:
    """Mean share of the 10 nearest rows (cosine, centred) that two sets have in common."""
    if len(a) <= NEAREST:
        return None
    near = [_nearest(geometry.unit(v - v.mean(axis=0))) for v in (a, b)]
    return float(np.mean([len(np.intersect1d(p, q)) / NEAREST for p, q in zip(*near, strict=True)]))


def _nearest(x: Floats) -> Ints:
    similar = x @ x.T
    np.fill_diagonal(similar, -np.inf)
    return np.argpartition(-similar, NEAREST, axis=1)[:, :NEAREST]


def _keys(dataset: EmbeddingDataset, by: tuple[str, ...], tick: Tick) -> tuple[npt.NDArray[np.uint64], Ints, Ints]:
    """Sorted distinct hashes of places, and file and row of the first row of each."""
    from pandas.util import hash_array

    columns = by or tuple(name for name in ("centre_lat", "centre_lon", "geometry") if name in dataset.columns)
    hashes, files, rows, done = [], [], [], 0
    for batch in dataset.batches(columns, vectors=False):
        hashes.append(hash_array(np.array(_names(batch, by), object)))
        files.append(np.full(batch.rows, batch.file, np.int64))
        rows.append(np.arange(batch.rows, dtype=np.int64) + batch.first_row)
        done += batch.rows
        tick("matching places", done, dataset.rows)
    found, first = np.unique(np.concatenate(hashes), return_index=True)
    return found, np.concatenate(files)[first], np.concatenate(rows)[first]


def _names(batch: EmbeddingBatch, by: tuple[str, ...]) -> list[str]:
    if by:
        return [repr(row) for row in zip(*(batch.table[name].to_pylist() for name in by), strict=True)]
    lat, lon = centres(batch.table)
    return [f"{a:.4f} {b:.4f}" for a, b in zip(lat, lon, strict=True)]


def _vectors(dataset: EmbeddingDataset, file: Ints, row: Ints) -> FloatArray:
    found = np.empty((len(file), dataset.dim), np.float32)
    for number in np.unique(file).tolist():
        mine = file == number
        found[mine] = dataset.take(number, row[mine])[0]
    return found
