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
    if "geometry" not in table.column_names:
        return np.full(table.num_rows, np.nan), np.full(table.num_rows, np.nan)
    middle = shapely.centroid(joined(shapely.from_wkb(table["geometry"].to_numpy())))
    lon = (np.asarray(shapely.get_x(middle)) + 180.0) % 360.0 - 180.0
    return np.asarray(shapely.get_y(middle)), np.asarray(lon)


def joined(shapes: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Shapes [n] in degrees; of those that are cut at the antimeridian the western part goes east of 180."""
    bounds = shapely.bounds(shapes)
    whole = shapes.copy()
    with np.errstate(invalid="ignore"):
        wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180.0)
    for i in wide.tolist():
        whole[i] = shapely.transform(shapes[i], _eastwards)
    return whole


def _eastwards(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack([np.where(points[:, 0] < 0, points[:, 0] + 360.0, points[:, 0]), points[:, 1]])
