"""What a conversion lost: neighbours, directions, values; measured on rows of the dataset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtembed.conversion.target import Reduction
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.types import FloatArray

NEIGHBOURS = 10
MOST_ROWS, MOST_GROUPS, QUERIES, SEED = 4000, 20, 500, 0


@dataclass(frozen=True, slots=True)
class Losses:
    """``recall_at_10``: share of the ten nearest rows (cosine, itself left out) that stay the nearest among ``rows``
    sampled ones; ``mean_cosine`` of a vector with what is left of it; ``max_abs_error`` of its values."""

    rows: int
    recall_at_10: float
    mean_cosine: float
    max_abs_error: float


def losses(dataset: EmbeddingDataset, reduction: Reduction) -> Losses:
    """Encode and decode some rows of a dataset, the same ones every time."""
    whole = _sample(dataset)
    whole = whole[np.isfinite(whole).all(axis=1)]
    stored = reduction.projected(whole)
    left = reduction.form.decode(*reduction.form.encode(stored))
    restored = reduction.restored(left)
    return Losses(
        rows=len(whole),
        recall_at_10=round(_recall(whole, left), 4),
        mean_cosine=round(float(np.mean(np.sum(_unit(whole) * _unit(restored), axis=1))) if len(whole) else 1.0, 6),
        max_abs_error=float(np.abs(whole - restored).max(initial=0.0)),
    )


def _sample(dataset: EmbeddingDataset) -> FloatArray:
    chance = np.random.default_rng(SEED)
    groups = [(f, g) for f, file in enumerate(dataset.files) for g in range(len(file.row_groups))]
    chosen = chance.choice(len(groups), min(len(groups), MOST_GROUPS), replace=False)
    share = -(-MOST_ROWS // len(chosen))
    found: list[FloatArray] = []
    for number in np.sort(chosen).tolist():
        file, group = groups[number]
        counts = dataset.files[file].row_groups
        rows = sum(counts[:group]) + np.sort(chance.choice(counts[group], min(counts[group], share), replace=False))
        vectors, _ = dataset.take(file, rows)
        if vectors is not None:
            found.append(vectors)
    return np.concatenate(found)


def _recall(before: FloatArray, after: FloatArray) -> float:
    count = min(NEIGHBOURS, len(before) - 1)
    if count < 1:
        return 1.0
    queries = np.sort(np.random.default_rng(SEED).choice(len(before), min(QUERIES, len(before)), replace=False))
    true, found = (_nearest(vectors, queries, count) for vectors in (before, after))
    return float(np.mean([len(np.intersect1d(one, other)) for one, other in zip(true, found, strict=True)])) / count


def _nearest(vectors: FloatArray, queries: np.ndarray, count: int) -> np.ndarray:
    whole = _unit(vectors)
    score = whole[queries] @ whole.T
    score[np.arange(len(queries)), queries] = -np.inf
    return np.asarray(np.argpartition(-score, count - 1, axis=1)[:, :count])


def _unit(vectors: FloatArray) -> FloatArray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)
