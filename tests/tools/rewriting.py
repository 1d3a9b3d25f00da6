"""Write parts, manifests and timings of a dataset again with changes, so that only these are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from mtembed.dataset.atomic import sha256_of
from mtembed.dataset.rows import writer_options
from mtembed.dataset.timings import SHARD_KEY
from mtembed.dataset.unique_id import unique_ids

PART, TIMINGS = "embeddings/part_00001.parquet", "timings/part_00001.parquet"


def rewrite(
    root: Path,
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
    keys: Mapping[str, Any] | None = None,
    cuts: Callable[[int], list[int]] = lambda rows: [rows],
    file: str = PART,
    **options: Any,
) -> None:
    """Write a part again with other rows, footer keys (None: left out), row groups or encodings."""
    path = root / file
    with pq.ParquetFile(path) as old:
        table, footer = old.read(), dict(old.metadata.metadata)
    metadata = {key.decode(): value.decode() for key, value in footer.items() if key != b"ARROW:schema"}
    metadata |= {key: json.dumps(value) for key, value in (keys or {}).items() if value is not None}
    metadata = {key: value for key, value in metadata.items() if (keys or {}).get(key, "") is not None}
    table = change(table.replace_schema_metadata(None)).combine_chunks()
    with pq.ParquetWriter(path, table.schema, **{**writer_options("float32"), **options}) as writer:
        start = 0
        for rows in cuts(table.num_rows):
            writer.write_table(table.slice(start, rows), row_group_size=rows)
            start += rows
        writer.add_key_value_metadata(metadata)
    facts(root, part_bytes=path.stat().st_size, part_sha256=sha256_of(path))


def facts(root: Path, timings: bool = True, **changes: Any) -> None:
    """Change what manifest (and footer of the timings) say about the first shard."""
    with editing(root / "manifest.json") as manifest:
        manifest["shards"]["part_00001"].update(changes)
        told = manifest["shards"]["part_00001"]
    if timings:
        path = root / TIMINGS
        pq.write_table(pq.read_table(path).replace_schema_metadata({SHARD_KEY: json.dumps(told)}), path)
        timings_written(root)


def timings_written(root: Path) -> None:
    """The manifest gets the digest of the first shard's timings as they are now."""
    with editing(root / "manifest.json") as manifest:
        manifest["shards"]["part_00001"]["timings_sha256"] = sha256_of(root / TIMINGS)


class editing:  # noqa: N801 - a context manager that reads as a verb
    """A JSON file, changed in place; a manifest loses its digest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> dict[str, Any]:
        self.content: dict[str, Any] = json.loads(self.path.read_text())
        self.content.pop("digest", None)  # what is changed on purpose is not noticed by that alone
        return self.content

    def __exit__(self, *error: object) -> None:
        self.path.write_text(json.dumps(self.content))


def put(table: pa.Table, name: str, values: Mapping[int, Any]) -> pa.Table:
    """Other values in some rows of a column."""
    column = table[name].to_pylist()
    for row, value in values.items():
        column[row] = value
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(column, table.schema.field(name).type))


def rehash(table: pa.Table) -> pa.Table:
    """Make unique_id fit again, so that another damage stands alone."""
    outlines = shapely.to_wkt(shapely.from_wkb(table["geometry"].to_numpy()), rounding_precision=-1)
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    ids = unique_ids(outlines, table["timestamp"].to_pylist(), table["product_id"].to_pylist(), vectors)
    return put(table, "unique_id", dict(enumerate(ids)))
