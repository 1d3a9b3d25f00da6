"""Which rows of which shards ``metadata.parquet`` selects: by a condition in SQL, a box, a list of cells.

Conditions are evaluated by DuckDB over the columns they name, row groups apart by their statistics, in a database that
can open no file and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtembed.archive.metadata import KEYS, shard_names
from mtembed.archive.selection import Rows, Selection
from mtembed.errors import StorageError, UsageError
from mtembed.parquet import UNREADABLE, as_texts, first_line
from mtembed.storage.address import Place
from mtembed.storage.scanned import scanned

MOST_ROW = 2**31  # row groups have 32-bit numbers
CLOSED = {"enable_external_access": "false", "lock_configuration": "true"}


def by_metadata(selection: Selection, where: str | None, files: Iterable[Place], skip: bool) -> Selection:
    """The selection with what metadata files say: the rows that ``where`` selects, and, for ``skip``, the shards that
    hold nothing of the box or the list of cells, by their lines.

    Raises UsageError for a condition or a file that cannot be used.
    """
    rows: dict[str, npt.NDArray[np.int64]] = {}
    empty: set[str] = set()
    for place in files:
        if where is not None:
            rows |= _rows(place, f"({where}\n)", f"--where {where}")
        if skip and not selection.everything:
            known = _rows(place, "true", "")
            empty |= known.keys() - _rows(place, *_about(selection)).keys()
    return replace(selection, rows=rows if where is not None else None, empty=frozenset(empty))


def _about(selection: Selection) -> tuple[str, str, dict[str, Any]]:
    """The box and the list of cells as a condition; lines that name no centre may lie in any box."""
    said, given = ["true"], dict[str, Any]()
    if selection.bbox is not None:
        west, south, east, north = selection.bbox
        inside = "between $west and $east" if west <= east else "not between $east and $west"
        said.append(
            f"(centre_lat is null or centre_lon is null or isnan(centre_lat) or isnan(centre_lon) or "
            f"(centre_lon {inside} or centre_lon in ($west, $east)) and centre_lat between $south and $north)"
        )
        given = {"west": west, "south": south, "east": east, "north": north}
    if selection.cells is not None:
        said.append("grid_cell in (select unnest($cells))")
        given |= {"cells": sorted(selection.cells)}
    return " and ".join(said), "", given


def _rows(place: Place, condition: str, told: str, given: Mapping[str, Any] | None = None) -> Rows:
    """Numbers of the row groups for which a condition holds, by the names their shard may have."""
    import duckdb

    names: list[str] = []
    try:
        with scanned(place) as lines:
            names = lines.schema.names
            if missing := [name for name in KEYS if name not in names]:
                raise UsageError(f"{place} has no column {missing[0]}: name Core's metadata.parquet with --metadata")
            text = f"select parquet_url, parquet_row from metadata where {condition}"
            with duckdb.connect(":memory:", config=CLOSED) as base:  # type: ignore[arg-type]
                base.register("metadata", lines)
                if len(base.extract_statements(text)) != 1:
                    raise UsageError(f"{told} is not possible: give one condition")
                found = base.sql(text, params=dict(given) if given else None).to_arrow_table()
    except duckdb.Error as error:
        columns = ", ".join(names)
        raise UsageError(f"{told or place} is not possible ({first_line(error)}): columns are {columns}") from None
    except StorageError as error:
        raise UsageError(str(error)) from None
    except UNREADABLE as error:
        raise UsageError(f"{place} cannot be read ({first_line(error)}): name Core's metadata.parquet") from error
    return _by_shard(found)


def _by_shard(found: pa.Table) -> Rows:
    urls = found.column("parquet_url").combine_chunks().dictionary_encode()
    numbers = found.column("parquet_row").cast(pa.float64(), safe=False).combine_chunks()
    row = np.nan_to_num(np.asarray(numbers.fill_null(-1)), nan=-1.0)
    shard = np.asarray(urls.indices.fill_null(-1))
    fit = (row >= 0) & (row < MOST_ROW) & (row == np.floor(row)) & (shard >= 0)
    shard, row = shard[fit], row[fit].astype(np.int64)
    order = np.argsort(shard, kind="stable")
    counts = np.bincount(shard, minlength=len(urls.dictionary))
    pieces = np.split(row[order], np.cumsum(counts)[:-1]) if len(counts) else []
    rows: dict[str, npt.NDArray[np.int64]] = {}
    for url, piece in zip(as_texts(urls.dictionary), pieces, strict=True):
        for name in shard_names(url) if len(piece) else ():
            rows[name] = np.union1d(rows[name], piece) if name in rows else np.unique(piece)
    return rows
