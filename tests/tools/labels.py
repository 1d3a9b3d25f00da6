"""Datasets whose vectors hold a known answer, and labels for them in every form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tests.tools.embeddings import grid_table, write


@dataclass(frozen=True)
class Known:
    """A dataset at ``path`` of cells in rows of the grid: ``number`` is linear in the vectors, ``word`` its sign."""

    path: Path
    table: pa.Table
    vectors: npt.NDArray[np.float32]
    number: npt.NDArray[np.float64]
    word: list[str]


def cell_names(rows: int = 6, cols: int = 6, spread: int = 10, first: tuple[int, int] = (300, 100)) -> list[str]:
    """Cells ``spread`` cells apart: with 10, about one a block."""
    return [f"{first[0] + spread * i}U_{first[1] + spread * j}R" for i in range(rows) for j in range(cols)]


def known_dataset(
    folder: Path, cells: Sequence[str] | None = None, fragments: int = 4, dim: int = 16, seed: int = 0, **changes: Any
) -> Known:
    """Written to ``folder/embeddings/part_00001.parquet``; columns ``number`` and ``word`` hold the answers."""
    cells = cell_names() if cells is None else cells
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(cells) * fragments, dim)).astype(np.float32)
    number = vectors.astype(np.float64) @ np.linspace(1, 2, dim) + 30
    word = np.where(number > 30, "forest", "water").tolist()
    table = grid_table(vectors, cells, fragments, None, **{"number": number, "word": word, **changes})
    path = write(folder / "embeddings" / "part_00001.parquet", table)
    return Known(path, table, vectors, number, word)


def with_columns(known: Known, path: Path, **columns: Any) -> Path:
    """The same rows with other columns too."""
    table = known.table
    for name, values in columns.items():
        table = (
            table.append_column(name, pa.array(values))
            if name not in table.column_names
            else table.set_column(table.column_names.index(name), name, pa.array(values))
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
