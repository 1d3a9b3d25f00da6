"""What is known of a row beside its vector, in one form whatever the dataset's columns are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from mtembed.dataset.reader import EmbeddingDataset

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

CENTRE = ("centre_lat", "centre_lon")


def columns_for(dataset: EmbeddingDataset, wanted: Sequence[str]) -> list[str]:
    """The columns to read for those ``wanted`` of ``SCHEMA``: a centre may come from the geometry."""
    found = [name for name in wanted if name in dataset.columns]
    if set(wanted) & set(CENTRE) and not set(CENTRE) <= set(dataset.columns) and "geometry" in dataset.columns:
        found.append("geometry")
    return list(dict.fromkeys(found))


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


def centres(table: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Latitude and longitude of the rows, float64 [n] each, in degrees; NaN where a row has no place."""
    if set(CENTRE) <= set(table.column_names):
        lat, lon = (np.asarray(table[name].to_numpy(), np.float64) for name in CENTRE)
        return lat, lon
    middle = shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy()))
    return np.asarray(shapely.get_y(middle)), np.asarray(shapely.get_x(middle))
