"""``metadata.parquet`` of Core: what it says about the rows of a shard.  Damage in it costs its own lines only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtembed.archive.product import column_times
from mtembed.archive.reader import LONGEST_TEXT
from mtembed.archive.shards import missing_columns
from mtembed.errors import StorageError, UsageError
from mtembed.parquet import UNREADABLE, as_bytes, as_texts, first_line, holds_bytes, repeated
from mtembed.storage.address import Address, Place
from mtembed.storage.remote import Footer, RemoteParquet, footer_of, tail
from mtembed.types import MetadataLine

KEYS = ("parquet_url", "parquet_row")
TEXTS = ("product_id", "grid_cell", "crs")
COLUMNS = (*KEYS, *TEXTS, "timestamp", "centre_lat", "centre_lon")
BATCH = 1 << 16  # lines


@dataclass(frozen=True, slots=True)
class Located:
    """A line, and the centre it names in degrees; NaN where it names none."""

    line: MetadataLine
    lat: float
    lon: float


@dataclass(slots=True)
class ShardLines:
    """The lines about the rows of a shard (several where the archive repeats itself), and what users should be told."""

    of_row: dict[int, list[Located]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_metadata(shard: Place) -> Place | None:
    """``metadata.parquet`` beside ``images/`` (or beside the shard)."""
    if isinstance(shard, Address):
        return next((file for up in (2, 1) if _exists(file := shard.above(up, "metadata.parquet"))), None)
    candidates = (shard.parent.parent / "metadata.parquet", shard.parent / "metadata.parquet")
    return next((p for p in candidates if p.is_file()), None)


@lru_cache(maxsize=64)
def _exists(address: Address) -> bool:
    """Asked once: shards of a folder share their metadata."""
    try:
        tail(address, 8)
    except (FileNotFoundError, StorageError):
        return False
    return True


class MetadataIndex:
    """``metadata.parquet``, read column-pruned: which of its row groups speak of a shard, and their lines on demand."""

    def __init__(self, path: Place | None) -> None:
        self.path = path
        self._groups: dict[str, list[int]] | None = None
        self._columns: list[str] = []
        self._footer: Footer | None = None

    def of_shard(self, name: str) -> ShardLines:
        """The lines about a shard's rows.  A file that cannot be read has none, and a note says so."""
        if self.path is None:
            return ShardLines()
        found, unusable = ShardLines(), 0
        try:
            with self.open() as file:
                groups = self._index(file).get(name, [])
                for batch in file.iter_batches(row_groups=groups, columns=self._columns, batch_size=BATCH):
                    for row, located in _lines(_about(batch, name)):
                        if row is None:
                            unusable += 1
                        else:
                            found.of_row.setdefault(row, []).append(located)
        except Exception as error:  # whatever pyarrow makes of a damaged file: the shard itself may be read
            why = (
                f"{type(error).__name__}: {first_line(error)}" if isinstance(error, LookupError) else first_line(error)
            )
            return ShardLines(notes=(f"{self.path.name} cannot be read and is left aside: {why}",))
        if unusable:
            found.notes += (f"{self.path.name} has lines without a usable parquet_row or text, which are left out",)
        if not found.of_row:
            found.notes += (f"{self.path.name} has no line about some of the shards",)
        return found

    def row_groups(self, file: pq.ParquetFile, names: Iterable[str]) -> list[int]:
        """Which row groups of the open file have lines about shards.  Raises ValueError for a file that is none."""
        index = self._index(file)
        return sorted({group for name in names for group in index.get(name, ())})

    def open(self) -> pq.ParquetFile:
        """The file; behind an address the version that was seen first, of which is kept on disk what is read.

        Raises StorageError, FileNotFoundError, pyarrow's errors.
        """
        if isinstance(self.path, Address):
            self._footer = self._footer or footer_of(self.path)
        return _opened(self.path or Path(), self._footer)

    def _index(self, file: pq.ParquetFile) -> dict[str, list[int]]:
        if self._groups is None:
            for number in range(file.num_row_groups) if isinstance(file, RemoteParquet) else ():
                file.read_ahead(number, ["parquet_url"])
            _require_columns(file.schema_arrow)
            self._columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            groups: dict[str, list[int]] = {}
            for number in range(file.num_row_groups):
                urls = file.read_row_group(number, columns=["parquet_url"], use_threads=False).column(0)
                names = {name for url in as_texts(_distinct(urls)) for name in shard_names(url)}
                for name in names:
                    groups.setdefault(name, []).append(number)
            self._groups = groups
        return self._groups


def check_metadata(path: Place) -> None:
    """Raises UsageError unless the file is a metadata table of Core; its first and last lines are read to see."""
    if isinstance(path, Path) and not path.is_file():
        raise UsageError(f"--metadata {path} is not a file: name Core's metadata.parquet")
    try:
        with _opened(path) as file:
            missing = missing_columns(file.schema_arrow.names, (*KEYS, "product_id", "timestamp"))
            if missing:
                raise UsageError(f"--metadata {path} has no column {', '.join(missing)}: name Core's metadata.parquet")
            _require_columns(file.schema_arrow)
            names = [name for name in COLUMNS if name in file.schema_arrow.names]
            for number in {0, file.num_row_groups - 1} if file.num_row_groups else ():
                file.read_row_group(number, columns=names, use_threads=False)
    except StorageError as error:
        raise UsageError(str(error)) from None
    except UNREADABLE as error:
        raise UsageError(f"--metadata {path} is not a readable Parquet file: {first_line(error)}") from error


def _opened(path: Place, footer: Footer | None = None) -> pq.ParquetFile:
    return RemoteParquet(path, kept=True, footer=footer) if isinstance(path, Address) else pq.ParquetFile(path)


def shard_names(url: str) -> set[str]:
    """The file names that a URL, or a path, may stand for: its last part, also without a query and percent signs."""
    last = url.rsplit("/", 1)[-1]
    plain = url.partition("?")[0].partition("#")[0].rsplit("/", 1)[-1]
    return {last, plain, unquote(plain)} - {""}


def _require_columns(schema: pa.Schema) -> None:
    """Raises ValueError where a line cannot be told from another."""
    missing = missing_columns(schema.names, KEYS)
    twice = repeated(name for name in schema.names if name in COLUMNS)
    if missing or twice:
        raise ValueError(f"there is no column {missing[0]}" if missing else f"there are two columns {twice[0]}")
    if not holds_bytes(schema.field("parquet_url").type):
        raise ValueError(f"column parquet_url is {str(schema.field('parquet_url').type)[:60]}, not text")


def _distinct(urls: pa.ChunkedArray) -> pa.Array:
    return pc.unique(pa.chunked_array([as_bytes(chunk) for chunk in urls.chunks] or [pa.array([], pa.binary())]))


def _about(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """The lines whose URL is that of the shard; their texts as bytes, of which all types of text can be filtered."""
    columns = [as_bytes(column) if holds_bytes(column.type) else column for column in batch.columns]
    batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    urls = batch.column("parquet_url")
    wanted = [url for url in pc.unique(urls).to_pylist() if url is not None and name in shard_names(_text(url))]
    return batch.filter(pc.is_in(urls, pa.array(wanted, urls.type)))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _lines(batch: pa.RecordBatch) -> Iterator[tuple[int | None, Located]]:
    """Row number and line; None for a line that cannot be used."""
    count, names = batch.num_rows, batch.schema.names
    blank = [""] * count
    texts = {name: as_texts(batch.column(name)) if name in names else blank for name in ("parquet_url", *TEXTS)}
    times = column_times(batch.column("timestamp")) if "timestamp" in names else [("", "")] * count
    numbers = {name: _values(batch, name) for name in ("parquet_row", "centre_lat", "centre_lon")}
    for i in range(count):
        url = texts["parquet_url"][i].partition("?")[0]
        line = MetadataLine(
            product_id=texts["product_id"][i],
            timestamp=times[i][0] or times[i][1],
            grid_cell=texts["grid_cell"][i],
            crs=texts["crs"][i],
            parquet_url=url,
        )
        short = all(len(text) <= LONGEST_TEXT for text in (url, *(texts[name][i] for name in TEXTS)))
        row = _row_number(numbers["parquet_row"][i]) if short else None
        yield row, Located(line, _degrees(numbers["centre_lat"][i]), _degrees(numbers["centre_lon"][i]))


def _values(batch: pa.RecordBatch, name: str) -> list[Any]:
    return list(batch.column(name).to_pylist()) if name in batch.schema.names else [None] * batch.num_rows


def _row_number(value: Any) -> int | None:
    """A row group as a whole number, in whatever type; None for anything else."""
    number = _number(value)
    return int(number) if number >= 0 and number < 2**31 and number == int(number) else None


def _degrees(value: Any) -> float:
    number = _number(value)
    return number if abs(number) <= 360 else math.nan


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
