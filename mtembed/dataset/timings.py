"""``timings/``: one row per cell of a part, what became of it and how long each stage took; and the shard's facts."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.dataset.atomic import sha256_of
from mtembed.errors import OutputError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import CellTiming, ShardFacts

SHARD_KEY = b"mtembed.shard"
_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(
        ("shard", "grid_cell", "product_id", "status", "stage", "error", "encoding", "device", "worker"), pa.string()
    ),
    "row_group": pa.int32(),
    "warnings": pa.list_(pa.string()),
    "attempts": pa.int16(),
    "fragments": pa.int32(),
    "bytes_in": pa.int64(),
}


def timing_table(timings: Sequence[CellTiming], facts: ShardFacts | None = None) -> pa.Table:
    """The timing rows of a part; the shard's facts ride in the schema's metadata."""
    columns = {}
    for field in dataclasses.fields(CellTiming):
        values = [getattr(timing, field.name) for timing in timings]
        columns[field.name] = pa.array(values, _TYPES.get(field.name, pa.float64()))
    content = dataclasses.asdict(facts) if facts else {}
    return pa.table(columns).replace_schema_metadata({SHARD_KEY: json.dumps(content)})


def write_timings(path: Path, timings: Sequence[CellTiming], facts: ShardFacts) -> None:
    """With a checksum on every page, so that damage is noticed when they are read.  Raises OSError."""
    pq.write_table(timing_table(timings, facts), path, compression="zstd", write_page_checksum=True)


def read_timings(path: Path) -> tuple[dict[int | None, CellTiming], ShardFacts]:
    """Timing rows by row group, and the shard's facts.  Raises OutputError where the file is not one of timings."""
    try:
        table = pq.read_table(path, use_threads=False, page_checksum_verification=True)
        rows = [CellTiming(**{**row, "warnings": tuple(row["warnings"])}) for row in table.to_pylist()]
        return {row.row_group: row for row in rows}, _stored_facts(table.schema)
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def read_facts(path: Path) -> ShardFacts:
    """A shard's facts from the footer of its timings.  Raises OutputError where the file is not one of timings."""
    try:
        return dataclasses.replace(_stored_facts(pq.read_schema(path)), timings_sha256=sha256_of(path))
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _stored_facts(schema: pa.Schema) -> ShardFacts:
    facts: ShardFacts = msgspec.json.decode((schema.metadata or {})[SHARD_KEY], type=ShardFacts)
    return facts


def _damaged(path: Path, error: Exception) -> OutputError:
    name = f"{path.parent.name}/{path.name}"
    return OutputError(f"{name} cannot be read ({first_line(error)}): remove it, and run the same command again")
