"""Hits in a file: GeoParquet, GeoJSON or CSV, by the suffix of its name."""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from mtembed.dataset.atomic import output_problem, rename_whole, write_atomically
from mtembed.dataset.rows import geo_metadata
from mtembed.errors import OutputError, UsageError
from mtembed.similarity.result import Hit
from mtembed.similarity.rows import BOX
from mtembed.similarity.scoring import Names

SUFFIXES = (".parquet", ".geojson", ".csv")
EDGES = ("xmin", "ymin", "xmax", "ymax")
SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("score", pa.float64()),
        ("unique_id", pa.string()),
        ("grid_cell", pa.string()),
        ("product_id", pa.string()),
        ("timestamp", pa.string()),
        ("centre_lat", pa.float64()),
        ("centre_lon", pa.float64()),
        ("pixel_bbox", BOX),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)


def require_new(option: str, path: Path, suffixes: Sequence[str], fresh: bool) -> None:
    """Raises UsageError for another suffix, OutputError for a file that is there and may not be written over."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--{option} {path} should end in {', '.join(suffixes)}: its suffix says what is written")
    if path.exists() and not fresh:
        raise OutputError(f"--{option} {path} exists: choose another name, or write over it with --fresh")


def write_hits(path: Path, hits: Sequence[Hit], shapes: Names) -> None:
    """Write hits with their footprints or points in degrees, one for each.  The file appears complete or not at all.

    Raises OutputError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".parquet":
            _geoparquet(path, hits, shapes)
        else:
            write_atomically(path, _geojson(hits, shapes) if path.suffix.lower() == ".geojson" else _csv(hits))
    except OSError as error:
        raise OutputError(output_problem(path, error)) from error


def _geoparquet(path: Path, hits: Sequence[Hit], shapes: Names) -> None:
    table = pa.Table.from_pylist([hit.as_json() for hit in hits], SCHEMA)
    bounds = shapely.bounds(shapes)
    known = [shape for shape in shapes if shape is not None and not shape.is_empty]
    box = shapely.total_bounds(known) if known else None
    edges = [pa.array(np.ascontiguousarray(edge), from_pandas=True) for edge in bounds.T]
    table = table.append_column("geometry", pa.array(shapely.to_wkb(shapes), pa.binary()))
    table = table.append_column("bbox", pa.StructArray.from_arrays(edges, names=list(EDGES)))
    geo = json.loads(geo_metadata(None if box is None else tuple(box.tolist()), sorted({s.geom_type for s in known})))
    del geo["columns"]["geometry"]["orientation"]  # rings are as they were given
    table = table.replace_schema_metadata({"geo": json.dumps(geo)})
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    pq.write_table(table, scratch, compression="zstd", write_page_checksum=True)
    rename_whole(scratch, path)


def _geojson(hits: Sequence[Hit], shapes: Names) -> str:
    features: list[dict[str, Any]] = [
        {
            "type": "Feature",
            "id": hit.rank,
            "geometry": None if shape is None else shapely.geometry.mapping(shape),
            "properties": hit.as_json(),
        }
        for hit, shape in zip(hits, shapes, strict=True)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n"


def _csv(hits: Sequence[Hit]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, SCHEMA.names, lineterminator="\n")
    writer.writeheader()
    for hit in hits:
        box = "" if hit.pixel_bbox is None else " ".join(map(str, hit.pixel_bbox))
        writer.writerow({**hit.as_json(), "pixel_bbox": box})
    return text.getvalue()
