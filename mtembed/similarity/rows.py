"""What is known of a row beside its vector, in one form whatever the dataset's columns are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtembed.dataset.places import CENTRE, centres

SCHEMA = pa.schema(
    [
        ("unique_id", pa.string()),
        ("grid_cell", pa.string()),
        ("product_id", pa.string()),
        ("timestamp", pa.string()),
        ("centre_lat", pa.float64()),
        ("centre_lon", pa.float64()),
        ("pixel_bbox", pa.list_(pa.int64())),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)
"""Columns of ``rows.parquet`` and of every hit; what a dataset does not have is null.  Degrees are of EPSG:4326."""


def described(table: pa.Table, file: str, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Columns that were read of some ``rows`` of a ``file``, as a table with ``SCHEMA``."""
    known = {
        "file": pa.repeat(file, len(rows)),
        "row": pa.array(rows),
        **({name: table[name] for name in SCHEMA.names if name in table.column_names}),
    }
    if not set(CENTRE) <= set(known) and "geometry" in table.column_names:
        lat, lon = centres(table)
        known |= {"centre_lat": pa.array(lat), "centre_lon": pa.array(lon)}
    nothing = {name: pa.nulls(len(rows), SCHEMA.field(name).type) for name in SCHEMA.names if name not in known}
    return pa.table({**known, **nothing}).select(SCHEMA.names).cast(SCHEMA)
