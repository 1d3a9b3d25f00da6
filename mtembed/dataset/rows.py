"""From embedded cells to the output table, and from tables to a GeoParquet 1.1 file.

The encodings were chosen by size, speed and what opens everywhere: BYTE_STREAM_SPLIT and zstd 1 make float32 vectors
1.3 times smaller at hundreds of MB/s; DuckDB refuses BYTE_STREAM_SPLIT on float16, so these are plain.  Geometry is WKB
and not Parquet's own GEOMETRY type, which several readers cannot open yet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyproj
import shapely

from mtembed.dataset.columns import SHAPE_KEY
from mtembed.dataset.unique_id import unique_ids
from mtembed.errors import CellError
from mtembed.geo.footprint import Footprints, footprints
from mtembed.geo.grid import grid_numbers
from mtembed.types import CellRecord, MapLayout, MapShape

Dtype = Literal["float32", "float16"]
Bounds = tuple[float, float, float, float]

TRANSFORM = "dense_transform"
_GROUP_ROWS = 10_000
_GROUP_BYTES = 32 * 2**20
_BBOX = ("xmin", "ymin", "xmax", "ymax")
_REPETITIVE = ("timestamp", "product_id", "grid_cell", "grid_row_u", "grid_col_r", "utm_crs", "baseline", "parquet_url")
_MEASURED = ("centre_lat", "centre_lon", *(f"bbox.{name}" for name in _BBOX), "nodata", "saturated", "cloud")
_WKB_TYPES = {b"\x03\0\0\0": "Polygon", b"\x06\0\0\0": "MultiPolygon"}


def schema(dim: int, dtype: Dtype, extras: bool, shape: MapShape | None = None) -> pa.Schema:
    """Return the columns of an output file: the thirteen of Major TOM, ``bbox``, and with ``extras`` seven more.

    ``dim`` is the number of values of a vector, or of a map of that ``shape``, which then is in the field's metadata;
    ``dense_transform`` says where the map lies.  The ``geo`` key is not here: its box is known when the file is closed.
    """
    fields: list[Any] = [
        ("unique_id", pa.string()),
        _vectors(dim, dtype, shape),
        ("timestamp", pa.string()),
        ("product_id", pa.string()),
        ("grid_cell", pa.string()),
        ("grid_row_u", pa.int16()),
        ("grid_col_r", pa.int16()),
        ("geometry", pa.binary()),
        ("centre_lat", pa.float32()),
        ("centre_lon", pa.float32()),
        ("utm_footprint", pa.string()),
        ("utm_crs", pa.string()),
        ("pixel_bbox", pa.list_(pa.int32(), 4)),
        ("bbox", pa.struct([(name, pa.float64()) for name in _BBOX])),
    ]
    if shape:
        fields.append((TRANSFORM, pa.list_(pa.float64(), 6)))
    if extras:
        fields += [(name, pa.float32()) for name in ("nodata", "saturated", "cloud")]
        fields += [("baseline", pa.string()), ("offset_removed", pa.bool_())]
        fields += [("parquet_url", pa.string()), ("parquet_row", pa.int64())]
    return pa.schema(fields)


def _vectors(dim: int, dtype: Dtype, shape: MapShape | None) -> pa.Field:
    kind = pa.list_(pa.float32() if dtype == "float32" else pa.float16(), dim)
    told = {SHAPE_KEY: json.dumps([shape.rows, shape.cols, shape.dim])} if shape else None
    return pa.field("embedding", kind, metadata=told)


def build_table(
    records: Sequence[CellRecord],
    vectors: npt.NDArray[np.float32] | npt.NDArray[np.float16],
    dtype: Dtype,
    extras: bool,
    shape: MapShape | None = None,
) -> pa.Table:
    """Make the rows of some cells: records as given, in each its fragments in the order of ``offsets``.

    ``vectors`` is [n, D], concatenated likewise, n fragments in all; it is stored as ``dtype``.  Where it is contiguous
    and of that type already, the table's embedding column is this very memory: leave it alone while the table lives.
    ``grid_row_u`` and ``grid_col_r`` are null where ``grid_numbers`` knows none.  With a ``shape`` the vectors are
    maps, and places are those of the ground that they cover.
    Raises ValueError where the numbers of rows differ, CellError (stage ``write``) naming the first cell that has a
    value which is not finite as ``dtype`` or a footprint that cannot be placed.
    """
    counts = [len(record.offsets) for record in records]
    if len(vectors) != sum(counts):
        raise ValueError(f"{len(vectors)} vectors for {sum(counts)} fragments")
    cell = np.repeat(np.arange(len(records)), counts)
    stored = _stored(vectors, dtype, records, cell)
    covered = [_covered(record, shape.layout) for record in records] if shape else records
    places = footprints(covered)
    columns = _cell_columns(records, cell) | _place_columns(places)
    if shape:
        columns[TRANSFORM] = _transforms(covered, shape.layout.step)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), stored.shape[1])
    outlines = shapely.to_wkt(places.geometry, rounding_precision=-1)  # equal to f"{geometry}"
    columns["unique_id"] = pa.array(
        unique_ids(outlines, columns["timestamp"].to_pylist(), columns["product_id"].to_pylist(), stored), pa.string()
    )
    if extras:
        columns |= _extra_columns(records, cell)
    wanted = schema(stored.shape[1], dtype, extras, shape)
    return pa.Table.from_arrays([columns[name] for name in wanted.names], schema=wanted)


def _covered(record: CellRecord, layout: MapLayout) -> CellRecord:
    """The record of the squares that maps cover, instead of those that the network saw."""
    return replace(record, offsets=record.offsets + np.int32(layout.origin), size=layout.covered(record.size))


def _transforms(covered: Sequence[CellRecord], step: int) -> pa.Array:
    """(a, b, c, d, e, f) of each map: x = a col + b row + c, y = d col + e row + f in ``utm_crs``, from its corner."""
    found = []
    for record in covered:
        place = record.georeference
        rows, cols = record.offsets.T.astype(np.float64)
        zero = np.zeros(len(rows))
        width, height = zero + step * place.pixel_width, zero - step * place.pixel_height
        left, top = place.left + cols * place.pixel_width, place.top - rows * place.pixel_height
        found.append(np.column_stack([width, zero, left, zero, height, top]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(found).reshape(-1)), 6)


def _stored(
    vectors: npt.NDArray[Any], dtype: Dtype, records: Sequence[CellRecord], cell: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        stored: npt.NDArray[Any] = np.ascontiguousarray(vectors, dtype)
    finite = np.isfinite(stored).all(axis=1)
    if not finite.all():
        name = records[cell[finite.argmin()]].grid_cell
        raise CellError(f"{name} has an embedding with a value that is not finite as {dtype}", "write")
    return stored


def _cell_columns(records: Sequence[CellRecord], cell: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    grid = [grid_numbers(record.grid_cell) for record in records]
    per_cell = {
        "timestamp": pa.array([record.timestamp for record in records], pa.string()),
        "product_id": pa.array([record.product_id for record in records], pa.string()),
        "grid_cell": pa.array([record.grid_cell for record in records], pa.string()),
        "grid_row_u": pa.array([row for row, _ in grid], pa.int16()),
        "grid_col_r": pa.array([col for _, col in grid], pa.int16()),
        "utm_crs": pa.array([f"EPSG:{record.georeference.epsg}" for record in records], pa.string()),
    }
    return {name: values.take(pa.array(cell)) for name, values in per_cell.items()}


def _place_columns(places: Footprints) -> dict[str, pa.Array]:
    edges = [pa.array(np.ascontiguousarray(edge)) for edge in places.bounds.T]
    return {
        "geometry": pa.array(shapely.to_wkb(places.geometry, byte_order=1), pa.binary()),
        "centre_lat": pa.array(places.latitude),
        "centre_lon": pa.array(places.longitude),
        "utm_footprint": pa.array(shapely.to_wkt(places.utm, rounding_precision=-1), pa.string()),
        "pixel_bbox": pa.FixedSizeListArray.from_arrays(pa.array(places.pixels.reshape(-1)), 4),
        "bbox": pa.StructArray.from_arrays(edges, names=list(_BBOX)),
    }


def _extra_columns(records: Sequence[CellRecord], cell: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    per_cell = {
        "baseline": pa.array([record.baseline for record in records], pa.string()),
        "offset_removed": pa.array([record.offset_removed for record in records], pa.bool_()),
        "parquet_url": pa.array([record.parquet_url for record in records], pa.string()),
        "parquet_row": pa.array([record.row_group for record in records], pa.int64()),
    }
    columns = {name: values.take(pa.array(cell)) for name, values in per_cell.items()}
    for name in ("nodata", "saturated", "cloud"):
        columns[name] = pa.concat_arrays([_shares(record, name) for record in records] or [pa.array([], pa.float32())])
    return columns


def _shares(record: CellRecord, name: str) -> pa.Array:
    shares = getattr(record, name)
    return pa.nulls(len(record.offsets), pa.float32()) if shares is None else pa.array(shares, pa.float32())


def row_groups(fragments_per_cell: Sequence[int], dim: int, itemsize: int) -> list[tuple[int, int]]:
    """Cut consecutive cells into row groups (first cell, cell after the last): whole cells, as many as fit.

    A group holds at most 10,000 rows and 32 MiB of vectors of ``dim`` values of ``itemsize`` bytes; a cell larger than
    that is a group of its own.
    """
    limit = min(_GROUP_ROWS, _GROUP_BYTES // (dim * itemsize))
    groups: list[tuple[int, int]] = []
    start = rows = 0
    for cell, fragments in enumerate(fragments_per_cell):
        if cell > start and rows + fragments > limit:
            groups.append((start, cell))
            start, rows = cell, 0
        rows += fragments
    return [*groups, (start, len(fragments_per_cell))] if fragments_per_cell else []


def geo_metadata(bounds: Bounds | None, geometry_types: Sequence[str] = ("Polygon",)) -> bytes:
    """Return the JSON of a file's ``geo`` key (GeoParquet 1.1); ``bounds`` is (xmin, ymin, xmax, ymax) or unknown.

    The CRS is PROJ's description of EPSG:4326; GeoParquet's axis order is always longitude, latitude.
    """
    column = {
        "encoding": "WKB",
        "geometry_types": sorted(geometry_types),
        "crs": pyproj.CRS.from_epsg(4326).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in _BBOX}},
    }
    if bounds:
        column["bbox"] = list(bounds)
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()


def writer_options(dtype: Dtype) -> dict[str, Any]:
    """Return what ``pyarrow.parquet.ParquetWriter`` is to be told about encodings, codecs and statistics."""
    vectors = "embedding.list.element"
    split = [vectors] if dtype == "float32" else []
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": [*_REPETITIVE, "pixel_bbox.list.element"],
        "use_byte_stream_split": split,
        "write_statistics": [*_REPETITIVE, *_MEASURED, "parquet_row"],
        "write_page_checksum": True,
    }


class PartWriter:
    """Writes one output file, a row group at a time; equal tables in an equal order give equal bytes.

    The caller gives a temporary name and renames: a file that was not closed has no footer, and no reader opens it.
    """

    def __init__(self, path: Path, columns: pa.Schema) -> None:
        """Open ``path`` for tables of ``columns`` (see ``schema``).  Raises OSError.

        Readers of a folder look for the ``geo`` key in Arrow's schema, which is written first: it says there what is
        known by then, and everything in the footer.
        """
        columns = columns.with_metadata({"geo": geo_metadata(None, ())})
        half = pa.types.is_float16(columns.field("embedding").type.value_type)
        self._writer = pq.ParquetWriter(path, columns, **writer_options("float16" if half else "float32"))
        self._bounds: list[Bounds] = []
        self._types: set[str] = set()

    def write(self, table: pa.Table) -> None:
        """Append the table as one row group; nothing is written for one without rows."""
        if not table.num_rows:
            return
        self._writer.write_table(table, row_group_size=table.num_rows)
        xmin, ymin, xmax, ymax = (pc.struct_field(table["bbox"], name) for name in _BBOX)
        self._bounds.append((pc.min(xmin).as_py(), pc.min(ymin).as_py(), pc.max(xmax).as_py(), pc.max(ymax).as_py()))
        kinds = pc.unique(pc.binary_slice(table["geometry"], 1, 5)).to_pylist()
        self._types.update(_WKB_TYPES[kind] for kind in kinds)

    def close(self, extra_metadata: Mapping[str, str]) -> None:
        """Add the ``geo`` key and ``extra_metadata`` to the footer and finish the file."""
        bounds = None
        if self._bounds:
            west, south, east, north = zip(*self._bounds, strict=True)
            bounds = (min(west), min(south), max(east), max(north))
        self._writer.add_key_value_metadata({"geo": geo_metadata(bounds, tuple(self._types)), **extra_metadata})
        self._writer.close()
