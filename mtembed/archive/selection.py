"""Which cells of the archive are wanted: a box, and a list of names."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mtembed.errors import UsageError
from mtembed.geo.grid import is_grid_cell
from mtembed.parquet import UNREADABLE, as_texts, first_line, holds_bytes

COLUMN = "grid_cell"
SAMPLE = 3  # names in a sentence


Rows = Mapping[str, npt.NDArray[np.int64]]
"""Numbers of row groups, ascending, by the name of their shard."""
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cells of the archive are wanted: a box (W, S, E, N in degrees) their centre lies in, and cell names.

    ``rows`` are the row groups that a condition on the metadata selects, by shard; ``empty`` shards hold none of them.
    """

    bbox: tuple[float, float, float, float] | None = None
    cells: frozenset[str] | None = None
    rows: Rows | None = None
    empty: frozenset[str] = frozenset()

    def wants(self, grid_cell: str, lat: float, lon: float) -> bool:
        """Whether a cell of that name and centre (degrees) is selected."""
        if self.cells is not None and grid_cell not in self.cells:
            return False
        if self.bbox is None:
            return True
        west, south, east, north = self.bbox
        inside = west <= lon <= east if west <= east else lon >= west or lon <= east
        return inside and south <= lat <= north

    @property
    def everything(self) -> bool:
        return self.bbox is None and self.cells is None and self.rows is None

    def passes(self, shard: str) -> bool:
        """Whether a shard may hold a wanted cell, as far as is known without opening it."""
        return shard not in self.empty and (self.rows is None or shard in self.rows)

    def of_rows(self, shard: str, rows: Sequence[int]) -> list[int]:
        """Those of a shard's row groups that the condition selects."""
        if self.rows is None:
            return list(rows)
        found = set(self.rows.get(shard, _NONE).tolist())
        return [row for row in rows if row in found]


def unmatched(cells: frozenset[str] | None, found: Iterable[str]) -> str:
    """The sentence on names of a list that no shard holds; empty where all were found (``ShardListing.named``)."""
    missing = sorted((cells or frozenset()) - set(found))
    if not missing:
        return ""
    names = ", ".join(missing[:SAMPLE]) + (" ..." if len(missing) > SAMPLE else "")
    return f"{len(missing)} of the {len(cells or ())} names of --cells are in no shard: {names}"


def read_cell_list(path: Path) -> frozenset[str]:
    """Cell names from a text file (one a line), a CSV or a Parquet file with a ``grid_cell`` column.

    Raises UsageError for a file that cannot be read, for one without a name, and for what is no name of a cell.
    """
    try:
        content = path.read_bytes() if path.is_file() else None
        if content is None:
            raise UsageError(f"--cells {path} is not a file: give a text or Parquet file of cells")
        names = _of_parquet(path) if content[:4] == b"PAR1" else _of_text(path, content)
        return frozenset(_checked(path, names))
    except UNREADABLE as error:
        raise UsageError(
            f"--cells {path} cannot be read ({first_line(error)}): give a text or Parquet file of cells"
        ) from error


def _checked(path: Path, names: Iterable[tuple[int, str]]) -> Iterator[str]:
    """The names, without blank ones; ``names`` are (line or row from 1 on, name)."""
    empty = True
    for number, name in names:
        if name:
            empty = False
            if not is_grid_cell(name):
                raise UsageError(f"--cells {path}, line {number}: {name[:40]!r} is not a grid cell such as 433D_629L")
            yield name
    if empty:
        raise UsageError(f"--cells {path} holds no name of a cell: give one a line, or a column {COLUMN}")


def _of_parquet(path: Path) -> list[tuple[int, str]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if names.count(COLUMN) != 1:
            raise UsageError(f"--cells {path} has {names.count(COLUMN)} columns {COLUMN}: it needs one")
        kind = file.schema_arrow.field(COLUMN).type
        if not holds_bytes(kind):
            raise UsageError(f"--cells {path}: column {COLUMN} is {str(kind)[:60]}, not text")
        return list(enumerate(map(str.strip, as_texts(file.read(columns=[COLUMN]).column(0))), 1))


def _of_text(path: Path, content: bytes) -> list[tuple[int, str]]:
    """Names in the column ``grid_cell`` of a CSV, or in its first one; a plain list is a CSV of one column."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content:
        raise UsageError(f"--cells {path} is not UTF-8 (UTF-16?): save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"--cells {path} is not UTF-8: save it as UTF-8") from error
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    separator = next((mark for mark in ",;\t" if mark in first), ",")
    names: list[tuple[int, str]] = []
    place = 0
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        for fields in reader:
            cleaned = [field.strip() for field in fields]
            if not names and COLUMN in cleaned:
                place = cleaned.index(COLUMN)
            elif len(cleaned) > place:
                names.append((reader.line_num, cleaned[place]))
    except csv.Error as error:
        raise UsageError(f"--cells {path}, line {reader.line_num}: {error}") from error
    return names
