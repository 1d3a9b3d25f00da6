"""A shard that is opened, and which of its cells are wanted.

A footer of Core is 1.4 MB, so a shard is opened by a decode worker when its turn comes, and never twice for its list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from mtembed.archive.metadata import Located, MetadataIndex
from mtembed.archive.selection import Selection
from mtembed.archive.shards import fingerprint, missing_columns, open_shard
from mtembed.errors import ShardError
from mtembed.geo.grid import grid_centre
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import Cell, Fingerprint, ShardListing


def list_shard(
    index: int, path: Path, bands: Sequence[str], lines: MetadataIndex, selection: Selection
) -> ShardListing:
    """Open a shard and list its wanted cells.  A shard that cannot be opened comes back with ``error`` set."""
    try:
        file = open_shard(path)
        try:
            mark = fingerprint(path, file.metadata.num_rows)
            columns = file.schema_arrow.names
            missing = missing_columns(columns, (*bands, "product_id", "grid_cell"))
            if missing:
                return ShardListing(index, mark, (), f"{path.name} has no column {', '.join(missing)}")
            known = lines.of_shard(path.name)
            wanted = _wanted_rows(file, known, selection)
        finally:
            file.close()
    except (ShardError, *UNREADABLE) as error:
        return ShardListing(index, Fingerprint(), (), first_line(error))
    cells = tuple(Cell(index, row, tuple(line for line, _, _ in known.get(row, ()))) for row in wanted)
    return ShardListing(index, mark, cells)


def _wanted_rows(file: pq.ParquetFile, known: dict[int, list[Located]], selection: Selection) -> list[int]:
    rows = range(file.metadata.num_rows)
    if selection.everything:
        return list(rows)
    return [row for row in rows if selection.wants(*_locate(file, row, known.get(row, [])))]


def _locate(file: pq.ParquetFile, row: int, lines: list[Located]) -> tuple[str, float, float]:
    """grid_cell, latitude and longitude of a row's centre; the image row's own name where the metadata has no line."""
    if lines:
        line, lat, lon = lines[0]
        if math.isfinite(lat) and math.isfinite(lon):
            return line.grid_cell, lat, lon
    name = str(file.read_row_group(row, columns=["grid_cell"], use_threads=False).column(0)[0].as_py())
    return name, *grid_centre(name)
