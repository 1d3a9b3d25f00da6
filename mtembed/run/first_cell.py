"""The first cell of the input: it says what the source is and how large cells are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from mtembed.archive import tiff
from mtembed.archive.reader import cell_blobs
from mtembed.archive.shards import missing_columns, open_shard
from mtembed.errors import MtembedError, ShardError, UsageError
from mtembed.models import ModelSpec
from mtembed.parquet import UNREADABLE
from mtembed.sources import CORE_SIDE, source_of
from mtembed.storage.address import Address, Place
from mtembed.storage.remote import RemoteParquet
from mtembed.types import Source

SHARDS_TRIED = 20  # for the first cell
CELLS_TRIED = 10  # of a shard
NOT_SHARDS = {
    "parquet_url": "a table of Core's metadata",
    "embedding": "a file of embeddings",
    "ring_wait": "a file of timings",
}
"""Columns of files that lie beside shards and are none, and what these files are."""


@dataclass(frozen=True, slots=True)
class FirstCell:
    """The first readable cell of the input: its source, rows and columns of its finest band, each band's share of
    those pixels (0..1).

    ``encodings`` are those of its bands, ``place`` its shard and row group; empty and None where no cell was readable.
    """

    source: Source
    rows: int
    cols: int
    band_shares: tuple[float, ...]
    encodings: frozenset[str] = frozenset()
    place: tuple[Place, int] | None = None

    @classmethod
    def of_core(cls, source: Source, bands: int) -> FirstCell:
        """What stands in for it where no cell was readable."""
        return cls(source, CORE_SIDE, CORE_SIDE, (1.0,) * bands)


def first_cell(shards: Sequence[Place], spec: ModelSpec) -> FirstCell:
    """Source and sizes from the first shard that can be opened and has bands.

    Raises UsageError when it lacks the model's bands, when a file is not one of images, and when none has any band.
    """
    foreign = ""
    for path in shards[:SHARDS_TRIED]:
        try:
            with open_shard(path) as file:
                columns, rows = file.schema_arrow.names, file.metadata.num_rows
        except (ShardError, *UNREADABLE):
            _require_images(path, _columns(path))
            continue  # it will be a line in failures.jsonl
        source = source_of(columns)
        if source is None:
            _require_images(path, columns)
            foreign = foreign or path.name
            continue
        bands = spec.bands_for(source)
        missing = missing_columns(columns, bands)
        if missing:
            raise UsageError(f"{path.name} lacks {', '.join(missing)}, which {spec.name} needs: choose another model")
        if rows:
            return _of_shard(path, rows, source, bands)
    if foreign:
        raise UsageError(f"{foreign} has no band of Major TOM Core, nor has any other file: name a folder of images")
    return FirstCell.of_core(spec.source, len(spec.bands_for(spec.source)))


def _columns(path: Place) -> list[str]:
    """Names of a file's columns; none where it is not one of Parquet."""
    try:
        if isinstance(path, Address):
            return list(RemoteParquet(path).schema_arrow.names)
        return list(pq.read_schema(path).names) if path.is_file() else []
    except (ShardError, *UNREADABLE):
        return []


def _require_images(path: Place, columns: Sequence[str]) -> None:
    for column, what in NOT_SHARDS.items():
        if column in columns:
            raise UsageError(f"{path.name} is {what}, not a shard of images: name the folder images/")


def _of_shard(path: Place, rows: int, source: Source, bands: Sequence[str]) -> FirstCell:
    for row in range(min(rows, CELLS_TRIED)):
        try:
            infos = [tiff.parse(blob) for blob in cell_blobs(path, row, bands)]
        except MtembedError:
            continue
        height, width = max((info.rows, info.cols) for info in infos)
        pixels = max(1, height * width)
        return FirstCell(
            source=source,
            rows=height,
            cols=width,
            band_shares=tuple(min(1.0, info.rows * info.cols / pixels) for info in infos),
            encodings=frozenset(info.encoding for info in infos),
            place=(path, row),
        )
    return FirstCell.of_core(source, len(bands))
