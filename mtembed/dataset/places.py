"""Where rows are: centres of their footprints, from the columns or from the geometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from mtembed.dataset.reader import EmbeddingDataset

CENTRE = ("centre_lat", "centre_lon")


def columns_for(dataset: EmbeddingDataset, wanted: Sequence[str]) -> list[str]:
    """The columns to read for those ``wanted``: a centre may come from the geometry."""
    found = [name for name in wanted if name in dataset.columns]
    if set(wanted) & set(CENTRE) and not set(CENTRE) <= set(dataset.columns) and "geometry" in dataset.columns:
        found.append("geometry")
    return list(dict.fromkeys(found))


def centres(table: pa.Table) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Latitude and longitude of the rows, float64 [n] each, in degrees; NaN where a row has no place."""
    if set(CENTRE) <= set(table.column_names):
        lat, lon = (np.asarray(table[name].to_numpy(), np.float64) for name in CENTRE)
        return lat, lon
    middle = shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy()))
    return np.asarray(shapely.get_y(middle)), np.asarray(shapely.get_x(middle))
