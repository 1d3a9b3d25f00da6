"""Two datasets of the same places: how far they agree, and for two dates how stable a place is.  Never a score.

Rows are matched by grid cell and pixel box, else by cell, else by centre (to 1e-4 degrees).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mtembed.dataset.reader import EmbeddingBatch, EmbeddingDataset
from mtembed.evaluation import geometry, stability
from mtembed.evaluation.groups import Floats, Ints
from mtembed.evaluation.labelled import centres, priority, vectors_of
from mtembed.evaluation.stability import Hashes
from mtembed.types import FloatArray, Tick

MOST_PAIRS = 5_000
NEAREST = 10
LEAST = 10
CENTRE_DIGITS = 1e4  # a degree in steps of about 11 m


def of_pair(first: EmbeddingDataset, second: EmbeddingDataset, seed: int, tick: Tick) -> dict[str, Any]:
    """CKA, shared neighbours; where dimensions are equal also alignment, retrieval across and stability."""
    both = set(first.columns) & set(second.columns)
    by = next(names for names in (stability.PLACE, ("grid_cell",), ()) if set(names) <= both)
    date = next((name for name in stability.DATES if name in both), None)
    one, two = (_Keys.of(dataset, by, date, tick) for dataset in (first, second))
    _, at_one, at_two = np.intersect1d(one.place, two.place, assume_unique=True, return_indices=True)
    found: dict[str, Any] = {
        "datasets": [first.name, second.name],
        "matched_by": list(by) or ["centre"],
        "matched": len(at_one),
        "share_looked_at": min(one.share, two.share),
        "at_another_date": int((one.date[at_one] != two.date[at_two]).sum()) if date else None,
    }
    if len(at_one) < LEAST:
        return found
    order = np.argsort(priority(0, one.row[at_one], seed), kind="stable")[:MOST_PAIRS]
    a = vectors_of(first, one.file[at_one[order]], one.row[at_one[order]])
    b = vectors_of(second, two.file[at_two[order]], two.row[at_two[order]])
    good = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    return found | compared(a[good], b[good]) | {"pairs": int(good.sum())}


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
    found["same_place_cosine"], found["other_places_cosine"] = stability.cosines(a, b)
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


@dataclass(frozen=True, slots=True, eq=False)
class _Keys:
    """Sorted distinct numbers of places, and file, row and date (0 where it is not known) of the first row of each;
    ``share`` of all places that were looked at."""

    place: Hashes
    file: Ints
    row: Ints
    date: Hashes
    share: float

    @classmethod
    def of(cls, dataset: EmbeddingDataset, by: tuple[str, ...], date: str | None, tick: Tick) -> _Keys:
        columns = by or tuple(name for name in ("centre_lat", "centre_lon", "geometry") if name in dataset.columns)
        table, done = stability.Table(), 0
        for batch in dataset.batches([*columns, *([date] if date else [])], vectors=False):
            dates = stability.hashed(batch.table[date]) if date else np.zeros(batch.rows, np.uint64)
            row = np.arange(batch.rows) + batch.first_row
            table.add(_places(batch, by), np.full(batch.rows, batch.file), row, dates)
            done += batch.rows
            tick("matching places", done, dataset.rows)
        place, file, row, dates = table.columns()
        place, first = np.unique(place, return_index=True)
        return cls(place, file[first].astype(np.int64), row[first].astype(np.int64), dates[first], table.share)


def _places(batch: EmbeddingBatch, by: tuple[str, ...]) -> Hashes:
    if by == stability.PLACE:
        return stability.places(batch.table)
    if by:
        return stability.hashed(batch.table[by[0]])
    lat, lon = centres(batch.table)
    rounded = np.round(np.stack([lat, lon], axis=1) * CENTRE_DIGITS).astype(np.int64)
    return stability.mixed(np.zeros(batch.rows, np.uint64), rounded)
