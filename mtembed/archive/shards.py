"""Archive -> Cell: find shards, open them one by one, and say which rows are wanted.

A footer of Core is 1.4 MB, so a shard is opened by a decode worker when its turn comes, and never twice for planning.
"""

from __future__ import annotations

import glob
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mtembed.errors import ShardError, UsageError
from mtembed.geo.grid import grid_centre
from mtembed.parquet import UNREADABLE, first_line
from mtembed.types import Cell, Fingerprint, MetadataLine, ShardListing

TIME_COLUMNS = ("product_datetime", "timestamp")
METADATA_COLUMNS = (
    "product_id", "timestamp", "grid_cell", "crs", "centre_lat", "centre_lon", "parquet_url", "parquet_row",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cells of the archive are wanted: a box (W, S, E, N in degrees) their centre lies in, and cell names."""

    bbox: tuple[float, float, float, float] | None = None
    cells: frozenset[str] | None = None

    def wants(self, grid_cell: str, lat: float, lon: float) -> bool:
        if self.cells is not None and grid_cell not in self.cells:
            return False
        if self.bbox is None:
            return True
        west, south, east, north = self.bbox
        inside = west <= lon <= east if west <= east else lon >= west or lon <= east
        return inside and south <= lat <= north

    @property
    def everything(self) -> bool:
        return self.bbox is None and self.cells is None


def find_shards(names: Iterable[str]) -> list[Path]:
    """Files, folders (their ``*.parquet``, or ``images/*.parquet``) and globs -> sorted paths.

    Raises UsageError when a name matches nothing, or when two files share one stem.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in _matches(name):
            other = found.setdefault(path.stem, path)
            if other.absolute() != path.absolute():
                raise UsageError(f"{other} and {path} would both become {path.stem}.parquet: run them into two folders")
    return sorted(found.values(), key=lambda p: (p.stem, str(p)))


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        folder = path / "images" if (path / "images").is_dir() else path
        files = sorted(p for p in folder.glob("*.parquet") if p.name != "metadata.parquet")
    elif path.exists() or path.is_symlink():
        files = [path]
    else:
        files = sorted(Path(p) for p in glob.glob(name, recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not files:
        raise UsageError(f"no shard matches {name}: give Parquet files, a folder of them, or a glob")
    return files


def find_metadata(shard: Path) -> Path | None:
    """``metadata.parquet`` beside ``images/`` (or beside the shard)."""
    candidates = (shard.parent.parent / "metadata.parquet", shard.parent / "metadata.parquet")
    return next((p for p in candidates if p.is_file()), None)


def read_cell_list(path: Path) -> frozenset[str]:
    """Cell names from a text file (one a line) or a Parquet file with a ``grid_cell`` column.  Raises UsageError."""
    try:
        if path.read_bytes()[:4] == b"PAR1":
            return frozenset(pq.read_table(path, columns=["grid_cell"]).column(0).to_pylist())
        return frozenset(filter(None, (line.strip() for line in path.read_text().splitlines())))
    except (*UNREADABLE, IndexError) as error:
        raise UsageError(f"--cells {path} cannot be read ({error}): give a text or Parquet file of cells") from error


def open_shard(path: Path) -> pq.ParquetFile:
    """The shard, footer parsed.  Raises ShardError with the file and the cause in one sentence."""
    try:
        file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
    except FileNotFoundError as error:
        raise ShardError(f"{path.name} does not exist (any more)") from error
    except UNREADABLE as error:
        raise ShardError(f"{path.name} is not a readable Parquet file: {first_line(error)}") from error
    if file.metadata.num_rows and file.metadata.num_row_groups != file.metadata.num_rows:
        rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
        file.close()
        raise ShardError(
            f"{path.name} has {rows} rows in {groups} row groups; a Core shard holds one row per row group"
        )
    return file


def fingerprint(path: Path, rows: int) -> Fingerprint:
    """Size, time stamp and footer hash of a Parquet file; the footer is read once, as bytes."""
    stat = path.stat()
    with path.open("rb") as file:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        digest = hashlib.sha256(file.read(length)).hexdigest()
    return Fingerprint(stat.st_size, stat.st_mtime_ns, rows, digest)


def missing_columns(columns: Sequence[str], bands: Sequence[str]) -> list[str]:
    """Band columns the model needs and the shard lacks (pyarrow itself drops unknown names silently)."""
    return [name for name in bands if name not in columns]


def plan_shard(
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


Located = tuple[MetadataLine, float, float]


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


class MetadataIndex:
    """``metadata.parquet``, read column-pruned: which of its row groups speak of a shard, and their lines on demand."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._groups: dict[str, list[int]] | None = None
        self._columns: list[str] = []

    def of_shard(self, name: str) -> dict[int, list[Located]]:
        """row -> lines about it (several where the archive repeats itself), with centre latitude and longitude."""
        if self.path is None:
            return {}
        lines: dict[int, list[Located]] = {}
        with pq.ParquetFile(self.path) as file:
            groups = self._index(file).get(name, [])
            for batch in file.iter_batches(row_groups=groups, columns=self._columns, batch_size=1 << 16):
                mine = batch.filter(_ends_with(batch.column("parquet_url"), name))
                for line in mine.to_pylist():
                    lines.setdefault(int(line["parquet_row"]), []).append(_located(line))
        return lines

    def _index(self, file: pq.ParquetFile) -> dict[str, list[int]]:
        if self._groups is None:
            self._groups = {}
            self._columns = [name for name in METADATA_COLUMNS if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                urls = file.read_row_group(group, columns=["parquet_url"], use_threads=False).column(0)
                for url in urls.unique().to_pylist():
                    self._groups.setdefault(str(url).rsplit("/", 1)[-1], []).append(group)
        return self._groups


def check_metadata(path: Path) -> None:
    """Raises UsageError unless the file is a metadata table of Core."""
    try:
        names = pq.read_schema(path).names
    except UNREADABLE as error:
        raise UsageError(f"--metadata {path} is not a readable Parquet file: {first_line(error)}") from error
    missing = missing_columns(names, ("parquet_url", "parquet_row", "product_id", "timestamp"))
    if missing:
        raise UsageError(f"--metadata {path} has no column {', '.join(missing)}: name Core's metadata.parquet")


def _ends_with(urls: Any, name: str) -> Any:
    import pyarrow.compute as pc

    return pc.or_(pc.ends_with(urls, "/" + name), pc.equal(urls, name))


def _located(line: dict[str, Any]) -> Located:
    text = {key: str(line.get(key) or "") for key in ("product_id", "timestamp", "grid_cell", "crs", "parquet_url")}
    lat, lon = (float(np.nan if line.get(key) is None else line[key]) for key in ("centre_lat", "centre_lon"))
    return MetadataLine(**text), lat, lon
