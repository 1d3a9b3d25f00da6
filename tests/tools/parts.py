"""Files of embeddings made without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mtembed.dataset.rows import PartWriter, build_table, schema
from mtembed.types import CellRecord, Georeference


def write_part(path: Path, vectors: np.ndarray, dtype: Any = "float32", extras: bool = False) -> Path:
    """A part of one cell with as many fragments as there are vectors."""
    place = Georeference(32633, 400_000.0, 5_000_000.0, 10.0, 10.0, 32, 32 * len(vectors))
    offsets = np.array([[0, 32 * i] for i in range(len(vectors))], np.int32)
    record = CellRecord(0, "product", "1U_1R", "20200101T000000", place, 32, offsets)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = PartWriter(path, schema(vectors.shape[1], dtype, extras))
    writer.write(build_table([record], vectors.astype(dtype), dtype, extras))
    writer.close({"mtembed": json.dumps({"cells": [[0, len(vectors)]]})})
    return path
