"""``mtembed fetch``: a selection of an archive as shards of Core's layout on this machine, resumably."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex, find_metadata, shard_names
from mtembed.archive.selection import Selection, read_cell_list
from mtembed.archive.shards import find_shards, open_shard
from mtembed.dataset.result import ResultFolder
from mtembed.errors import OutputError, UsageError
from mtembed.parquet import as_texts
from mtembed.run.plan import selected
from mtembed.run.selected import MANY
from mtembed.storage.address import Place, place_of
from mtembed.storage.copies import download
from mtembed.storage.remote import RemoteParquet
from mtembed.storage.spans import of_columns
from mtembed.text import counted, plural, size
from mtembed.types import Fingerprint, ShardListing

RECORD, METADATA, IMAGES = "fetch.json", "metadata.parquet", "images"
OPENERS = 8  # threads that open shards
AHEAD = 4  # rows that are on their way while one is written
Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A shard of which row groups are wanted; ``whole``: all of them, ``bytes`` that are fetched for them."""

    place: Place
    mark: Fingerprint
    rows: tuple[int, ...]
    whole: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class FetchResult:
    """``unusable`` shards (name -> why) could not be opened; ``bytes`` were fetched, now or before."""

    output: str
    shards: int
    cells: int
    bytes: int
    unusable: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"event": "result", **dataclasses.asdict(self)}


def fetch(
    shards: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    metadata: str | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    cells: str | None = None,
    where: str | None = None,
    limit: int | None = None,
    fresh: bool = False,
    note: Callable[[str], None] = lambda sentence: None,
    tick: Tick = lambda done, total: None,
) -> FetchResult:
    """Mirror the selected rows of shards (files, folders, globs, addresses) to ``output/images``, with their lines of
    ``metadata.parquet`` beside it.

    ``note`` is told first how much that is; ``tick`` the bytes fetched and all there are.  Killed, the same call goes
    on.  Raises UsageError where nothing is selected, SettingsError where ``output`` holds something else, OutputError
    where it cannot be written or has no room, StorageError where a shard cannot be read any more.
    """
    names = [str(one) for one in ([shards] if isinstance(shards, str | Path) else shards)]
    places = find_shards(names)
    lines = place_of(metadata) if metadata else find_metadata(places[0])
    chosen = selected(Selection(bbox, read_cell_list(Path(cells)) if cells else None), where, metadata, places)
    if len(places) > MANY:
        note(f"looking at {plural(len(places), 'shard')}")
    listings = list(_listings(places, lines, chosen))
    wanted = _wanted(places, listings, limit)
    if not wanted:
        raise UsageError("no cell of the shards is selected: nothing matches")
    note(_told(wanted, Path(output)))
    digest = None if cells is None else hashlib.sha256(Path(cells).read_bytes()).hexdigest()
    settings = {"bbox": bbox, "cells": digest, "where": where, "limit": limit}
    with _folder(Path(output), settings, wanted, lines).held(fresh) as folder:
        if not folder.finished:
            _fetch(folder, wanted, lines, tick)
            folder.record({"shards": len(wanted), "cells": _cells(wanted)})
    unusable = {places[one.shard].name: one.error for one in listings if one.error}
    return FetchResult(str(output), len(wanted), _cells(wanted), sum(one.bytes for one in wanted), unusable)


def _folder(output: Path, settings: Mapping[str, Any], wanted: Sequence[Wanted], lines: Place | None) -> ResultFolder:
    sources = [{"file": one.place.name, **dataclasses.asdict(one.mark)} for one in wanted]
    files = [f"{IMAGES}/{one.place.name}" for one in wanted] + [METADATA] * (lines is not None)
    return ResultFolder(output, RECORD, files, settings, sources)


def _cells(wanted: Sequence[Wanted]) -> int:
    return sum(len(one.rows) for one in wanted)


def _listings(places: Sequence[Place], lines: Place | None, chosen: Selection) -> Iterator[ShardListing]:
    index = MetadataIndex(None if chosen.everything else lines)
    index.of_shard("")
    with ThreadPoolExecutor(OPENERS) as pool:
        yield from pool.map(lambda one: list_shard(one[0], one[1], (), index, chosen), enumerate(places))


def _wanted(places: Sequence[Place], listings: Sequence[ShardListing], limit: int | None) -> list[Wanted]:
    """Shards with wanted rows, the first ``limit`` rows of all."""
    left, found = limit, []
    for listing in listings:
        rows = tuple(cell.row_group for cell in listing.cells)[:left]
        left = None if left is None else left - len(rows)
        if rows:
            found.append((places[listing.shard], listing.fingerprint, rows))
    with ThreadPoolExecutor(OPENERS) as pool:
        return list(pool.map(lambda one: _weighed(*one), found))


def _weighed(place: Place, mark: Fingerprint, rows: tuple[int, ...]) -> Wanted:
    with open_shard(place) as file:
        whole = len(rows) == file.metadata.num_row_groups
        chunks = sum(stop - start for start, stop in of_columns(file.metadata, rows, None))
    return Wanted(place, mark, rows, whole, mark.size if whole else chunks)


def _told(wanted: Sequence[Wanted], output: Path) -> str:
    """How much it is.  Raises OutputError where it does not fit."""
    total, above = sum(one.bytes for one in wanted), output.absolute()
    while not above.exists():
        above = above.parent
    there = {path.name for path in (output / IMAGES).glob("*")} if (output / IMAGES).is_dir() else set()
    here = sum(one.bytes for one in wanted if one.place.name in there)
    free = shutil.disk_usage(above).free
    if total - here > free:
        raise OutputError(f"{output} has room for {size(free)}, and {size(total - here)} are to come: make space")
    cells = counted(_cells(wanted))
    before = f", {size(here)} of them there already" if here else ""
    return f"{cells} in {plural(len(wanted), 'shard')}, {size(total)}{before}; {size(free)} free"


def _fetch(folder: ResultFolder, wanted: Sequence[Wanted], lines: Place | None, tick: Tick) -> None:
    images = folder.root / IMAGES
    images.mkdir(exist_ok=True)
    done, total = 0, sum(one.bytes for one in wanted)
    for one in wanted:
        tick(done, total)
        if not (images / one.place.name).exists():
            scratch = folder.work / "shard.parquet"
            _copy(one, scratch)
            folder.publish(scratch, f"{IMAGES}/{one.place.name}")
        done += one.bytes
        tick(done, total)
    if lines is not None:
        scratch = folder.work / METADATA
        _write_lines(MetadataIndex(lines), scratch, wanted)
        folder.publish(scratch)


def _copy(one: Wanted, scratch: Path) -> None:
    """The file itself, or its wanted row groups, each as it is.  Raises OSError, ShardError."""
    if one.whole:
        download(one.place, scratch)
        return
    with open_shard(one.place) as file:
        codec = file.metadata.row_group(one.rows[0]).column(0).compression
        with pq.ParquetWriter(
            scratch, file.schema_arrow, compression="none" if codec == "UNCOMPRESSED" else codec, use_dictionary=False
        ) as writer:
            for at, row in enumerate(one.rows):
                for coming in one.rows[at + 1 : at + 1 + AHEAD] if isinstance(file, RemoteParquet) else ():
                    file.read_ahead(coming, file.schema_arrow.names)
                writer.write_table(file.read_row_group(row), row_group_size=1)


def _write_lines(index: MetadataIndex, target: Path, wanted: Sequence[Wanted]) -> None:
    """The lines about the rows that were fetched, with the numbers that they have now; no other row group is read."""
    numbers = {one.place.name: {row: row if one.whole else at for at, row in enumerate(one.rows)} for one in wanted}
    with index.open() as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches(row_groups=index.row_groups(file, numbers)):
            kept, now = _kept(batch, numbers)
            if not kept:
                continue
            lines = pa.Table.from_batches([batch]).take(kept)
            at = lines.schema.get_field_index("parquet_row")
            writer.write_table(
                lines.set_column(at, lines.schema.field(at), pa.array(now).cast(lines.schema.field(at).type))
            )


def _kept(batch: pa.RecordBatch, numbers: Mapping[str, Mapping[int, int]]) -> tuple[list[int], list[int]]:
    """Positions of the lines of a batch that are kept, and the numbers of their rows."""
    urls = batch.column("parquet_url").dictionary_encode()
    shards = [_named(url, numbers) for url in as_texts(urls.dictionary)]
    kept, now = [], []
    rows = batch.column("parquet_row").to_pylist()
    for at, (url, row) in enumerate(zip(urls.indices.to_pylist(), rows, strict=True)):
        shard = None if url is None else shards[url]
        if shard is not None and row in numbers[shard]:
            kept.append(at)
            now.append(numbers[shard][row])
    return kept, now


def _named(url: str, known: Collection[str]) -> str | None:
    return next((name for name in shard_names(url) if name in known), None)
