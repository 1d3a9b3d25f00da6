"""One part of a dataset, read back: its timings, then its embeddings row group by row group."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from mtembed.check.expected import Expected
from mtembed.check.files import check_digest, open_parquet
from mtembed.check.findings import SHOWN_PER_KIND, FileFindings, Findings, RowFindings
from mtembed.check.rows import Extent, Group, check_rows
from mtembed.dataset.atomic import json_object
from mtembed.dataset.folder import Dataset
from mtembed.dataset.part import PART_KEY
from mtembed.dataset.rows import Dtype, geo_metadata, row_groups, schema
from mtembed.dataset.timings import SHARD_KEY, timing_table
from mtembed.parquet import UNREADABLE, first_line

FAILURE_FIELDS = ("shard", "row_group", "grid_cell", "product_id", "stage", "error")
UNCHECKABLE = (*UNREADABLE, ArithmeticError, LookupError, TypeError, MemoryError, shapely.errors.ShapelyError)
"""What reading and computing with values that may be anything raises."""
COUNTED = ("shard", "cells", "failed", "embeddings", "encodings")  # facts that the timing rows repeat


@dataclass(frozen=True, slots=True)
class PartOrder:
    """What the dataset's manifest promises about a part: the facts of its shard, and whether every cell was wanted."""

    dataset: Dataset
    stem: str
    facts: Mapping[str, Any]
    expected: Expected
    everything: bool


@dataclass(slots=True)
class PartContent:
    """What the timings of a part tell: names (grid_cell, product_id) and numbers of rows by row group, failed cells."""

    names: dict[int, tuple[str, str]] = field(default_factory=dict)
    fragments: dict[int, int] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Cells:
    """Which cell each row of a part belongs to: the input's row groups [cells], and where their rows end [cells]."""

    groups: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def rows(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """The input's row group of ``count`` rows from ``first`` on."""
        return self.groups[np.searchsorted(self.ends, np.arange(first, first + count), side="right")]


def check_part(order: PartOrder, findings: Findings, tick: Callable[[int], None]) -> PartContent:
    """Check both files of a part; ``tick`` is told the rows of every row group that was read."""
    timings, part = findings.of(f"timings/{order.stem}.parquet"), findings.of(f"embeddings/{order.stem}.parquet")
    before = findings.verdict.counts.total()
    content = _check_timings(order, timings)
    if findings.verdict.counts.total() == before:
        check_digest(order.dataset.timings(order.stem), order.facts["timings_sha256"], timings)
    before = findings.verdict.counts.total()
    _check_embeddings(order, content, part, tick)
    if findings.verdict.counts.total() == before:
        check_digest(order.dataset.part(order.stem), order.facts["part_sha256"], part)
    return content or PartContent()


# -- timings ------------------------------------------------------------------------------------------------------


def _check_timings(order: PartOrder, found: FileFindings) -> PartContent | None:
    file = open_parquet(order.dataset.timings(order.stem), found)
    if file is None:
        return None
    with file:
        if not _same_schema(file.schema_arrow, timing_table(()).schema, found):
            return None
        try:
            table = file.read(use_threads=False)
            table.validate(full=True)
            facts = json_object(file.schema_arrow.metadata[SHARD_KEY])
            rows = table.to_pylist()
        except (*UNREADABLE, KeyError, TypeError) as error:
            found.add("unreadable", f"timings cannot be read: {first_line(error)}")
            return None
    _check_facts(order, facts, rows, found)
    _check_row_groups(order, rows, found)
    for place, row in enumerate(rows):
        _check_timing(order, row, f"row {place}", found)
    ok = [row for row in rows if row["status"] == "ok" and row["row_group"] is not None]
    return PartContent(
        {row["row_group"]: (row["grid_cell"], row["product_id"]) for row in ok},
        {row["row_group"]: row["fragments"] for row in ok if row["fragments"]},
        [{name: row[name] for name in FAILURE_FIELDS} for row in rows if row["status"] == "failed"],
    )


def _same_schema(stored: pa.Schema, wanted: pa.Schema, found: FileFindings) -> bool:
    """Names, types and order of the columns; every difference is named."""
    if stored.equals(wanted):
        return True
    for name in wanted.names:
        if name not in stored.names:
            found.add("schema", f"column {name} is missing")
        elif stored.names.count(name) > 1:
            found.add("schema", f"column {name} is there {stored.names.count(name)} times")
        elif stored.field(name) != wanted.field(name):
            found.add("schema", f"column {name} is {stored.field(name).type}, not {wanted.field(name).type}")
    for name in stored.names:
        if name not in wanted.names:
            found.add("schema", f"column {name} does not belong here")
    if set(stored.names) == set(wanted.names) and stored.names != wanted.names:
        found.add("schema", "the columns are in another order")
    return False


def _check_facts(
    order: PartOrder, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], found: FileFindings
) -> None:
    """Manifest, footer of the timings and timing rows tell the same about the shard."""
    for name in sorted({*facts, *order.facts} - {"timings_sha256"}):  # a file cannot hold its own digest
        if facts.get(name, False) != order.facts.get(name, False):  # ``unread`` was not always written
            found.add("facts", f"{name} is {facts.get(name)} here, {order.facts.get(name)} in the manifest")
    ok = [row for row in rows if row["status"] == "ok"]
    counted: tuple[Any, ...] = (
        order.facts["shard"], len(ok), len(rows) - len(ok), sum(row["fragments"] or 0 for row in rows),
        dict(Counter(row["encoding"] for row in ok if row["encoding"])),
    )  # fmt: skip
    for name, value in zip(COUNTED, counted, strict=True):
        if value != order.facts[name]:
            found.add("facts", f"the rows give {name} {value}, the manifest {order.facts[name]}")


def _check_row_groups(order: PartOrder, rows: Sequence[Mapping[str, Any]], found: FileFindings) -> None:
    """One row per cell of the shard, in order; a single row without a row group stands for the shard itself."""
    groups = [row["row_group"] for row in rows]
    for group, times in Counter(groups).items():
        if times > 1:
            found.add("twice", f"row group {group} of {order.facts['shard']} has {times} timing rows")
    if None in groups:
        if len(groups) > 1 or rows[0]["status"] != "failed":
            found.add("timings", "a row without a row group stands for a shard that could not be opened, and alone")
        return
    if groups != sorted(groups):
        found.add("timings", "the rows are not in the order of the row groups")
    inside = {group for group in groups if 0 <= group < order.facts["rows"]}
    outside = [group for group in groups if group not in inside]
    if outside:
        found.add("timings", f"row group {outside[0]} is not in the shard of {order.facts['rows']} rows")
    missing = order.facts["rows"] - len(inside) if order.everything else 0
    if missing > 0:  # the number of rows may be anything: only the first that are named are looked for
        absent = (group for group in itertools.count() if group not in inside)
        for group in itertools.islice(absent, min(missing, SHOWN_PER_KIND)):
            found.add("timings", f"row group {group} of {order.facts['shard']} has no timing row")
        if missing > SHOWN_PER_KIND:
            found.add("timings", "", times=missing - SHOWN_PER_KIND)


def _check_timing(order: PartOrder, row: Mapping[str, Any], where: str, found: FileFindings) -> None:
    status, fragments = row["status"], row["fragments"]
    if row["shard"] != order.facts["shard"]:
        found.add("timings", f"shard is {row['shard']}, not {order.facts['shard']}", where)
    if status not in ("ok", "failed"):
        found.add("timings", f"status is {status}, neither ok nor failed", where)
    elif status == "failed" and (fragments or not (row["error"] and row["stage"])):
        found.add("timings", "a failed cell has fragments, or no error and stage", where)
    elif status == "ok" and (fragments is None or fragments < (1 if order.expected.max_nodata >= 1 else 0)):
        found.add("timings", f"a cell is ok with {fragments} fragments", where)


# -- embeddings ---------------------------------------------------------------------------------------------------


def _check_embeddings(
    order: PartOrder, content: PartContent | None, found: FileFindings, tick: Callable[[int], None]
) -> None:
    path = order.dataset.part(order.stem)
    file = open_parquet(path, found)
    if file is None:
        return
    with file:
        if path.stat().st_size != order.facts["part_bytes"]:
            found.add("facts", f"the file has {path.stat().st_size} bytes, {order.facts['part_bytes']} in the manifest")
        expected, dtype = order.expected, cast(Dtype, order.expected.dtype)
        if not _same_schema(file.schema_arrow, schema(expected.dim, dtype, expected.extras, expected.shape), found):
            return
        cells = _check_cells(order, content, file, found)
        for group in range(file.num_row_groups):
            _check_encoding(file.metadata.row_group(group), group, expected.dtype, found)
        extents = _check_groups(file, cells, content, expected, found, tick)
        _check_geo(file, [extent for extent in extents if extent], found)


def _check_cells(
    order: PartOrder, content: PartContent | None, file: pq.ParquetFile, found: FileFindings
) -> Cells | None:
    """The part's own list of cells against manifest, timings and rows."""
    try:
        listed = json_object(file.metadata.metadata[PART_KEY])
        source, cells = dict(listed["source"]), np.asarray(listed["cells"], np.int64).reshape(-1, 2)
    except (KeyError, ValueError, TypeError, OverflowError):
        found.add("cells", "the list of cells in the footer (key mtembed) is missing or unreadable")
        return None
    for name in ("shard", "rows", "footer_sha256"):
        if source.get(name) != order.facts[name]:
            found.add("source", f"made from {name} {source.get(name)}, the manifest says {order.facts[name]}")
    groups, counts = cells.T
    for group, times in Counter(groups.tolist()).items():
        if times > 1:
            found.add("twice", f"row group {group} of {order.facts['shard']} is there {times} times")
    if (np.diff(groups) < 0).any():
        found.add("cells", "cells are not in the order of the row groups")
    if content is not None:
        stored: dict[int, int] = dict(zip(groups.tolist(), counts.tolist(), strict=True))
        for group in sorted(stored.keys() | content.fragments.keys()):
            have, want = stored.get(group, 0), content.fragments.get(group, 0)
            if have != want:
                found.add("cells", f"row group {group} of the shard has {have} rows here, {want} in the timings")
    return _rows_of(file, groups, counts, order, found)


def _rows_of(
    file: pq.ParquetFile,
    groups: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    order: PartOrder,
    found: FileFindings,
) -> Cells | None:
    rows = file.metadata.num_rows
    if rows != order.facts["embeddings"]:
        found.add("rows", f"{rows} rows, {order.facts['embeddings']} in the manifest")
    total = sum(counts.tolist())
    if (counts < 1).any() or total != rows:
        found.add("rows", f"{rows} rows, {total} by the list of cells")
        return None
    cuts = row_groups(counts.tolist(), order.expected.dim, np.dtype(order.expected.dtype).itemsize)
    wanted = [int(counts[first:last].sum()) for first, last in cuts]
    stored = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    if stored != wanted:
        found.add("row groups", f"row groups have {stored[:8]} rows, cut by the rule they have {wanted[:8]}")
    return Cells(groups, np.cumsum(counts))


def _check_encoding(metadata: pq.RowGroupMetaData, group: int, dtype: str, found: FileFindings) -> None:
    """Vectors: zstd, BYTE_STREAM_SPLIT for float32 and never for float16, no dictionary."""
    for i in range(metadata.num_columns):
        column = metadata.column(i)
        if not column.path_in_schema.startswith("embedding"):
            continue
        split, dictionary = ("BYTE_STREAM_SPLIT" in column.encodings, column.has_dictionary_page)
        if split != (dtype == "float32") or dictionary or column.compression != "ZSTD":
            stored = ", ".join((column.compression, *column.encodings))
            found.add("encoding", f"{dtype} vectors are stored as {stored}", f"row group {group}")


def _check_groups(
    file: pq.ParquetFile,
    cells: Cells | None,
    content: PartContent | None,
    expected: Expected,
    found: FileFindings,
    tick: Callable[[int], None],
) -> list[Extent | None]:
    """Read and check one row group after the other.  What cannot be checked is a problem of its row group."""
    extents, first = [], 0
    for number in range(file.num_row_groups):
        count = file.metadata.row_group(number).num_rows
        try:
            table = file.read_row_group(number, use_threads=False)
            table.validate(full=True)
            if table.num_rows != count:
                raise ValueError(f"it has {table.num_rows} rows, {count} by the footer")
            cell = None if cells is None else cells.rows(first, count)
            group = Group(table, cell, expected, RowFindings(found, number, first))
            if count:
                extents.append(check_rows(group, content.names if content else {}))
        except UNCHECKABLE as error:
            found.add("unreadable", f"cannot be read: {first_line(error)}", f"row group {number}")
        first += count
        tick(count)
    return extents


def _check_geo(file: pq.ParquetFile, extents: Sequence[Extent], found: FileFindings) -> None:
    """The ``geo`` key of GeoParquet 1.1: as we write it, with all types named and a box around all rows."""
    wanted = json.loads(geo_metadata(None))
    try:
        geo = json_object(file.metadata.metadata[b"geo"])
        column = dict(geo["columns"]["geometry"])
        crs = pyproj.CRS.from_json_dict(column["crs"]).to_epsg()
        named = set(map(str, column.get("geometry_types", ())))
    except (KeyError, ValueError, TypeError, pyproj.exceptions.CRSError) as error:
        found.add("geo", f"the geo metadata is missing or unreadable ({first_line(error)})")
        return
    for name in ("version", "primary_column"):
        if geo.get(name) != wanted[name]:
            found.add("geo", f"{name} is {geo.get(name)}, not {wanted[name]}")
    for name in ("encoding", "orientation", "edges", "covering"):
        if column.get(name) != wanted["columns"]["geometry"][name]:
            found.add("geo", f"{name} is {column.get(name)}, not {wanted['columns']['geometry'][name]}")
    if crs != 4326:
        found.add("geo", f"the CRS of geometry is EPSG:{crs}, not EPSG:4326")
    kinds = {kind for extent in extents for kind in extent.kinds}
    if not kinds <= named:
        found.add("geo", f"geometry_types are {column.get('geometry_types')}, the rows have {sorted(kinds)}")
    if extents and not _covers(column.get("bbox"), extents):
        found.add("geo", f"bbox {column.get('bbox')} does not cover all rows")


def _covers(box: Any, extents: Sequence[Extent]) -> bool:
    try:
        west, south, east, north = box
        bounds = np.array([extent.bounds for extent in extents])
        low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
        return bool(west <= low[0] and south <= low[1] and east >= high[0] and north >= high[1])
    except (TypeError, ValueError):
        return False
