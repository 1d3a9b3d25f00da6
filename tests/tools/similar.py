"""Datasets to be searched, and what a search of them must find: numpy in float64, by brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tests.tools.embeddings import grid_table, random_vectors, write, write_manifest

FRAGMENTS = 9


def cell_names(count: int) -> list[str]:
    return [f"{450 + i // 40}U_{120 + i % 40}R" for i in range(count)]


def make(root: Path, cells: int = 120, files: int = 3, dim: int = 24, group: int = 100, **changes: Any) -> Path:
    """A run's folder of ``cells`` cells of nine fragments in ``files`` parts."""
    vectors, names, each = random_vectors(cells * FRAGMENTS, dim), cell_names(cells), cells // files
    for number in range(files):
        first, last = number * each, (number + 1) * each
        table = grid_table(vectors[first * FRAGMENTS : last * FRAGMENTS], names[first:last], FRAGMENTS, **changes)
        write(root / "embeddings" / f"part_{number:05d}.parquet", table, row_group_size=group)
    write_manifest(root)
    return root


def parts(root: Path) -> list[Path]:
    return sorted((root / "embeddings").iterdir())


def column(root: Path, name: str) -> list[Any]:
    """A column of all rows, in the order of the files."""
    return [value for path in parts(root) for value in pq.read_table(path, columns=[name])[name].to_pylist()]


def units(root: Path) -> npt.NDArray[np.float64]:
    """All vectors at length 1."""
    vectors = np.array(column(root, "embedding"), np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def nearest(units: npt.NDArray[np.float64], query: npt.NDArray[np.float64], count: int) -> list[int]:
    """Rows by cosine, equal ones by their number; rows without a direction are none."""
    scores = (units * (query / np.linalg.norm(query))).sum(axis=1)
    order = np.lexsort((np.arange(len(scores)), -scores))
    return [int(row) for row in order if np.isfinite(scores[row])][:count]
