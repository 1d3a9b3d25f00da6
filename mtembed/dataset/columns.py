"""Columns of embedding files in one form, however they were written: vectors, text, WKB."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from mtembed.types import FloatArray

TEXT = ("unique_id", "timestamp", "product_id", "grid_cell", "utm_footprint", "utm_crs", "parquet_url", "baseline")
GEOMETRY = "geometry"
SHAPE_KEY = "mtembed.shape"
"""In the metadata of the field of vectors, where these are maps: a JSON list of rows, columns, values of a vector."""
FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def vector_type(kind: pa.DataType) -> tuple[str, int | None] | None:
    """numpy's name of the values' type, and the length of a vector (None: the type does not say); None: no vectors."""
    kind = _storage_type(kind)
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return None
    name = FLOATS.get(str(kind.value_type))
    if name is None:
        return None
    return name, kind.list_size if pa.types.is_fixed_size_list(kind) else None


def lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """The length of each vector of a list column, int64 [n]; -1 for a null."""
    column = storage(column)
    if pa.types.is_fixed_size_list(column.type):
        return np.where(column.is_valid().to_numpy(zero_copy_only=False), column.type.list_size, -1)
    found = pc.fill_null(pc.list_value_length(column), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def vectors(column: pa.Array, dim: int) -> FloatArray:
    """A column of n lists as float32 [n, dim]: the column's own memory where it is float32 and has no nulls.

    A null vector, or a null value in one, becomes NaN.  Raises ValueError where a list has another length than ``dim``.
    """
    column = storage(column)
    found = lengths(column)
    null = found < 0
    if not (null | (found == dim)).all():
        raise ValueError(f"vectors of {found[~null & (found != dim)][0]} values among those of {dim}")
    valid = column.filter(pa.array(~null)) if null.any() else column
    values = valid.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        rows: FloatArray = values.astype(np.float32, copy=False).reshape(-1, dim)
    if not null.any():
        return rows
    spread = np.full((len(column), dim), np.nan, np.float32)
    spread[~null] = rows
    return spread


def plain(name: str, column: pa.Array) -> pa.Array:
    """Decode a column other than the vectors: text as string, time stamps as ``YYYYMMDDTHHMMSS``, geometry as WKB.

    Dictionaries and extension types are taken off; what else a column holds is kept.  Raises ValueError (of which
    Arrow's own errors are) where it cannot be read so.
    """
    column = storage(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if name == GEOMETRY:
        return _wkb(column)
    if name in TEXT:
        return _text(column)
    return column


def storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _storage_type(kind: Any) -> Any:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column.cast(pa.timestamp("s", column.type.tz), safe=False), "%Y%m%dT%H%M%S")
    return column.cast(pa.string())


def _wkb(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        try:
            shapes = shapely.from_wkt(column.to_numpy(zero_copy_only=False))
        except shapely.errors.ShapelyError as error:
            raise ValueError(f"geometry is text that is not WKT ({error})") from error
        return pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary())
    if pa.types.is_struct(kind) or pa.types.is_list(kind):
        raise ValueError(f"geometry is {kind}: only WKB and WKT are read")
    return column.cast(pa.binary())
