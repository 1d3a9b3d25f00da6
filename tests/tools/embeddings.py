"""Files of embeddings in every form they are published in, made in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

FORMS = (
    pa.list_(pa.float32()),
    pa.list_(pa.float16()),
    pa.list_(pa.float64()),
    pa.large_list(pa.float32()),
    pa.list_(pa.float32(), 12),
    pa.list_(pa.float16(), 12),
)


def random_vectors(count: int, dim: int = 12, seed: int = 0) -> npt.NDArray[np.float32]:
    """Correlated, off centre, with a spectrum that falls: what embeddings are like.  Exact in float16."""
    random = np.random.default_rng(seed)
    spread = random.standard_normal((count, dim)) * np.geomspace(3, 0.1, dim)
    mixed = spread @ np.linalg.qr(np.random.default_rng(1).standard_normal((dim, dim)))[0] + 2.0
    return np.asarray(mixed, np.float16).astype(np.float32)


def vector_column(vectors: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1)).cast(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, kind.list_size)
    made = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    offsets = np.arange(len(vectors) + 1, dtype=np.int64 if made is pa.LargeListArray else np.int32)
    return made.from_arrays(pa.array(offsets * vectors.shape[1]), values)


def grid_table(
    vectors: npt.NDArray[Any],
    cells: Sequence[str],
    fragments: int = 1,
    kind: pa.DataType | None = None,
    **changes: Any,
) -> pa.Table:
    """Rows in the columns of Major TOM: ``fragments`` (a square number) of each cell, row-major, placed on the grid."""
    from mtembed.geo.grid import grid_centre

    side = round(fragments**0.5)
    steps = [(224 * row, 224 * col) for row in range(side) for col in range(side)]
    places = [(cell, grid_centre(cell), step) for cell in cells for step in steps]
    lat = np.array([place[0] - (step[0] - 112 * (side - 1)) * 9e-5 for _, place, step in places])
    lon = np.array([place[1] + (step[1] - 112 * (side - 1)) * 9e-5 for _, place, step in places])
    boxes = shapely.box(lon - 0.01, lat - 0.01, lon + 0.01, lat + 0.01)
    names = [cell for cell, _, _ in places]
    columns: dict[str, Any] = {
        "unique_id": [f"{cell}-{row}-{col}" for cell, _, (row, col) in places],
        "embedding": vector_column(vectors, kind or pa.list_(pa.float32(), vectors.shape[1])),
        "timestamp": ["20200101T120000"] * len(places),
        "product_id": [f"S2A_{cell}" for cell in names],
        "grid_cell": names,
        "geometry": pa.array(shapely.to_wkb(boxes), pa.binary()),
        "centre_lat": pa.array(lat, pa.float32()),
        "centre_lon": pa.array(lon, pa.float32()),
        "pixel_bbox": pa.array([[c, r, c + 224, r + 224] for _, _, (r, c) in places], pa.list_(pa.int32(), 4)),
    }
    columns |= changes
    return pa.table({name: column for name, column in columns.items() if column is not None})


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **{"write_page_checksum": True, **options})
    return path


def write_manifest(root: Path, model: str = "rcf", weights: str = "random:1", **more: Any) -> Path:
    """A manifest as a run leaves it, as far as readers of embeddings look."""
    root.mkdir(parents=True, exist_ok=True)
    content: Mapping[str, Any] = {
        "settings": {"model": model, "weights": weights},
        "weights": {"file": weights},
        **more,
    }
    path = root / "manifest.json"
    path.write_text(json.dumps(content))
    return path
