"""A shard that is opened, and which of its cells are wanted.

A footer of Core is 1.4 MB, so a shard is opened by a decode worker when its turn comes, and never twice for its list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive.metadata import Located, MetadataIndex
from mtembed.archive.product import TIME_COLUMNS
from mtembed.archive.reader import LONGEST_TEXT, wrong_type
from mtembed.archive.selection import Selection
from mtembed.archive.shards import filled_row_groups, fingerprint, missing_columns, open_shard
from mtembed.errors import ShardError
from mtembed.geo.grid import grid_centre
from mtembed.parquet import as_text, as_texts, first_line, holds_bytes, repeated
from mtembed.sources import CLOUD_MASK
from mtembed.storage.address import Place
from mtembed.storage.remote import RemoteParquet
from mtembed.types import Cell, Fingerprint, ShardListing

NAMES = ("product_id", "grid_cell")


def list_shard(
    index: int, path: Place, bands: Sequence[str], lines: MetadataIndex, selection: Selection
) -> ShardListing:
    """Open a shard and list its wanted cells.  A shard that cannot be used comes back with ``error`` set."""
    mark = Fingerprint()
    if not selection.passes(path.name):
        return ShardListing(index, mark, ())
    try:
        with open_shard(path) as file:
            mark = fingerprint(path, file.metadata.num_rows, file)
            require_columns(file, path.name, bands)
            filled = selection.of_rows(path.name, filled_row_groups(file, path.name))
            known = lines.of_shard(path.name)
            named = selection.bbox is not None or selection.cells is not None
            names = _grid_cells(file, filled) if named else {}
    except Exception as error:  # a damaged shard makes pyarrow raise what it likes, and costs that shard only
        why = first_line(error)
        return ShardListing(
            index, mark, (), why if isinstance(error, ShardError) else f"{path.name} cannot be read: {why}"
        )
    wanted = [row for row in filled if not named or _wants(selection, names[row], known.of_row.get(row, ()))]
    return ShardListing(
        shard=index,
        fingerprint=mark,
        cells=tuple(Cell(index, row, tuple(one.line for one in known.of_row.get(row, ()))) for row in wanted),
        notes=known.notes,
        named=frozenset() if selection.cells is None else selection.cells & frozenset(names.values()),
    )


def require_columns(file: pq.ParquetFile, name: str, bands: Sequence[str]) -> None:
    """Raises ShardError where a column that cells are made of is missing, there twice, or of a type without bytes."""
    schema = file.schema_arrow
    missing = missing_columns(schema.names, (*bands, *NAMES))
    if missing:
        raise ShardError(f"{name} has no column {', '.join(missing)}")
    used = {*bands, *NAMES, *TIME_COLUMNS, CLOUD_MASK}
    twice = repeated(column for column in schema.names if column in used)
    if twice:
        raise ShardError(f"{name} has two columns {twice[0]}: leave one of them out")
    for what, columns in (("band", bands), ("column", NAMES)):
        for column in columns:
            kind = schema.field(column).type
            if not holds_bytes(kind) and not (what == "column" and pa.types.is_null(kind)):
                raise ShardError(f"{name}: {wrong_type(what, column, kind)}")


def _grid_cells(file: pq.ParquetFile, filled: Sequence[int]) -> Mapping[int, str]:
    """Row group -> the name in its row; a name that is too long for one is nobody's.

    Behind an address names come from the footer, where it tells them: a request for each would take minutes.
    """
    names: dict[int, str] = {}
    for row in filled:
        told = _told(file, row) if isinstance(file, RemoteParquet) else None
        if told is not None:
            names[row] = told[:LONGEST_TEXT]
            continue
        column = file.read_row_group(row, columns=["grid_cell"], use_threads=False).column(0)
        names[row] = as_texts(column)[0][:LONGEST_TEXT]
    return names


def _told(file: pq.ParquetFile, row: int) -> str | None:
    """The one value of a column chunk, by the footer's statistics; None where they do not tell."""
    group = file.metadata.row_group(row)
    chunk = next(one for i in range(group.num_columns) if (one := group.column(i)).path_in_schema == "grid_cell")
    found = chunk.statistics
    if found is None or not found.has_min_max or found.min != found.max:
        return None
    return as_text(found.min)


def _wants(selection: Selection, name: str, lines: Sequence[Located]) -> bool:
    """By the image row's own name, and the centre that the metadata gives it, or else the grid."""
    if lines and math.isfinite(lines[0].lat) and math.isfinite(lines[0].lon):
        return selection.wants(name, lines[0].lat, lines[0].lon)
    return selection.wants(name, *grid_centre(name))
