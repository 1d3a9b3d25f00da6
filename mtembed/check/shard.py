"""What is in a file: a Core shard (columns, GeoTIFF encodings, nodata, models that fit) or embeddings (health)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import models
from mtembed.archive import tiff
from mtembed.archive.metadata import find_metadata
from mtembed.archive.product import TIME_COLUMNS, baseline
from mtembed.archive.quality import nodata_mask
from mtembed.archive.reader import blob_of
from mtembed.archive.shards import find_shards, state_of
from mtembed.check import embeddings
from mtembed.dataset.finding import find_files, is_folder
from mtembed.errors import CellError, UsageError
from mtembed.parquet import UNREADABLE, first_line
from mtembed.sources import BAND_COLUMNS, CLOUD_MASK, source_of
from mtembed.storage.address import WEB, Address, Place
from mtembed.storage.finding import files_of
from mtembed.storage.remote import open_parquet
from mtembed.types import Source

SAMPLE = 50  # rows of a shard whose GeoTIFFs are looked at
BANDS = (*BAND_COLUMNS, CLOUD_MASK)
MAX_PIXELS = 1 << 26  # of one band: eight times the side of Core's


def inspect(path: Place) -> dict[str, Any]:
    """Facts about a shard, a file of embeddings, or an output folder, as plain data; ``kind`` says which it is.

    Of a folder in Core's layout its first shard is looked at.

    Raises UsageError for what is missing, unreadable or neither of these, StorageError.
    """
    if isinstance(path, Address):
        return _behind(path) if is_folder(path.url) else _inspected(path)
    if path.is_dir():
        if not (path / "images").is_dir():
            return embeddings.of_folder(path)
        return inspect(next(shard for shard in find_shards([str(path)]) if isinstance(shard, Path)))
    if not path.exists():
        raise UsageError(f"{path} does not exist: name Parquet files or an output folder")
    if not path.is_file():  # a pipe would be waited for
        raise UsageError(f"{path} is not a regular file: name Parquet files or an output folder")
    return _inspected(path)


def _behind(folder: Address) -> dict[str, Any]:
    """An archive's first shard, or all embeddings of a dataset."""
    shards = [] if folder.scheme in WEB else files_of(folder, ".parquet")
    for shard in shards:
        if shard.above(1).name == "images":
            return _inspected(shard)
    return embeddings.of_dataset(find_files(folder.url), folder)


def _inspected(path: Place) -> dict[str, Any]:
    try:
        with open_parquet(path) as file:
            if "embedding" in file.schema_arrow.names:
                return embeddings.of_file(path)
            source = source_of(file.schema_arrow.names)
            if source is None:
                names = ", ".join(file.schema_arrow.names[:8])
                raise UsageError(f"{path} holds neither Sentinel bands nor embeddings; its columns are {names}")
            return _shard(path, file, source)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: name Parquet files or an output folder") from None
    except UNREADABLE as error:
        raise UsageError(
            f"{path} is not a readable Parquet file ({first_line(error).rstrip('.')}): copy it again"
        ) from error


@dataclass(slots=True)
class BandFacts:
    """What the sampled GeoTIFFs of one band have in common, counted."""

    dtype: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)
    pixel: Counter[str] = field(default_factory=Counter)
    encoding: Counter[str] = field(default_factory=Counter)
    layout: Counter[str] = field(default_factory=Counter)
    nodata_tag: Counter[str] = field(default_factory=Counter)
    nodata_shares: list[float] = field(default_factory=list)

    def add(self, info: tiff.TiffInfo, share: float | None) -> None:
        self.dtype[info.dtype] += 1
        self.size[f"{info.rows}x{info.cols}"] += 1
        self.pixel[f"{info.pixel_width:g} m"] += 1
        self.encoding[info.encoding.split("/")[0]] += 1
        block = f"{info.block_rows}x{info.block_cols}"
        self.layout[f"tiles {block}" if info.tiled else f"strips of {info.block_rows}"] += 1
        self.nodata_tag["none" if info.nodata is None else f"{info.nodata:g}"] += 1
        if share is not None:
            self.nodata_shares.append(share)

    def as_json(self) -> dict[str, Any]:
        names = ("dtype", "size", "pixel", "encoding", "layout", "nodata_tag")
        share = float(np.mean(self.nodata_shares)) if self.nodata_shares else None
        return {name: dict(getattr(self, name)) for name in names} | {"nodata_share": share}


def _shard(path: Place, file: pq.ParquetFile, source: Source) -> dict[str, Any]:
    names, groups = file.schema_arrow.names, file.num_row_groups
    filled = [group for group in range(groups) if file.metadata.row_group(group).num_rows]
    sample = [filled[i] for i in np.linspace(0, len(filled) - 1, min(len(filled), SAMPLE)).astype(int)]
    bands = list(dict.fromkeys(name for name in names if name in BANDS))
    facts, crs, damaged = _read_bands(file, sample, bands)
    products = _texts(file, "product_id")
    cells = _texts(file, "grid_cell")
    metadata = find_metadata(path)
    return {
        "kind": "shard",
        "file": path.name,
        "bytes": state_of(path)[0],
        "source": source,
        "rows": file.metadata.num_rows,
        "row_groups": groups,
        "written_by": file.metadata.created_by,
        "time_column": next((name for name in TIME_COLUMNS if name in names), None),
        "metadata": metadata.name if metadata else None,
        "columns": columns(file.metadata, file.schema_arrow),
        "sampled_rows": len(sample),
        "bands": {band: facts[band].as_json() for band in bands},
        "crs": dict(crs.most_common()),
        "baselines": dict(Counter(filter(None, map(baseline, products))).most_common()),
        "repeated_grid_cells": len(cells) - len(set(cells)),
        "models": _fitting(source, names),
        "damaged": damaged,
        "problems": _problems(file, names),
    }


def columns(metadata: pq.FileMetaData, schema: pa.Schema) -> list[dict[str, Any]]:
    """Each column's name, type, codec, encodings and bytes, summed over the row groups; names may repeat."""
    found: list[dict[str, Any]] = [
        {"name": field.name, "type": str(field.type), "codec": "", "encodings": [], "bytes": 0, "plain_bytes": 0}
        for field in schema
    ]
    owners = [number for number, field in enumerate(schema) for _ in range(leaves(field.type))]
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for leaf, owner in zip(range(row_group.num_columns), owners, strict=False):
            chunk, facts = row_group.column(leaf), found[owner]
            facts["codec"] = chunk.compression.lower()
            facts["encodings"] = sorted({*facts["encodings"], *chunk.encodings})
            facts["bytes"] += chunk.total_compressed_size
            facts["plain_bytes"] += chunk.total_uncompressed_size
    return found


def leaves(kind: pa.DataType) -> int:
    """How many of Parquet's columns hold a column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return leaves(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return 1
    return sum(leaves(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _texts(file: pq.ParquetFile, name: str) -> list[str]:
    if name not in file.schema_arrow.names:
        return []
    batches = file.iter_batches(columns=[name], use_threads=False)
    return [as_text(value) for batch in batches for value in batch.column(0).to_pylist()]


def as_text(value: Any) -> str:
    """What a text column holds: text, or its bytes where its writer did not say that they are text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else "" if value is None else str(value)


def _read_bands(
    file: pq.ParquetFile, sample: Sequence[int], bands: Sequence[str]
) -> tuple[dict[str, BandFacts], Counter[str], list[dict[str, Any]]]:
    """Parse and decode the GeoTIFFs of the first row of some row groups; what cannot be decoded is listed."""
    facts = {band: BandFacts() for band in bands}
    crs: Counter[str] = Counter()
    damaged = []
    for group in sample:
        try:
            table = file.read_row_group(group, columns=list(bands), use_threads=False)
        except UNREADABLE as error:
            damaged.append({"row_group": group, "band": None, "error": first_line(error)})
            continue
        codes = set()
        for band in bands:
            try:
                codes.add(_look(blob_of(table, band), facts[band]))
            except (CellError, *UNREADABLE, LookupError, TypeError) as error:
                damaged.append({"row_group": group, "band": band, "error": first_line(error)})
        crs.update(f"EPSG:{code}" if code else "none" for code in codes)
    return facts, crs, damaged


def _look(blob: npt.NDArray[np.uint8], facts: BandFacts) -> int | None:
    """Add one GeoTIFF to its band's facts; returns the code of its CRS.  Raises DecodeError."""
    info = tiff.parse(blob)
    share = None
    if info.rows * info.cols <= MAX_PIXELS:
        pixels = np.empty((info.rows, info.cols), info.dtype)
        tiff.decode_into(blob, info, pixels)
        if pixels.dtype in (np.uint16, np.float32):
            share = float(nodata_mask(pixels, info.nodata).mean())
    facts.add(info, share)
    return info.epsg


def _fitting(source: Source, names: Iterable[str]) -> dict[str, str]:
    """For each model: ``fits``, for which source it was made if for another, or what is missing."""
    present, found = set(names), {}
    for name in models.names():
        spec = models.get(name)
        missing = [band for band in spec.bands.get(source, ()) if band not in present]
        if source not in spec.bands:
            found[name] = f"runs on {' or '.join(spec.bands)} only"
        elif missing:
            found[name] = f"lacks {', '.join(missing)}"
        else:
            found[name] = "fits" if spec.recommends(source) else f"fits, made for {spec.source}"
    return found


def _problems(file: pq.ParquetFile, names: Sequence[str]) -> list[str]:
    problems = []
    rows, groups = file.metadata.num_rows, file.num_row_groups
    if rows and rows != groups:
        problems.append(f"{rows} rows in {groups} row groups: mtembed needs one row per row group")
    problems += [f"there is no column {name}" for name in ("product_id", "grid_cell") if name not in names]
    used = {"product_id", "grid_cell", *TIME_COLUMNS, *BANDS}
    problems += [
        f"there are {count} columns {name}" for name, count in Counter(names).items() if count > 1 and name in used
    ]
    if not any(name in names for name in TIME_COLUMNS):
        problems.append("there is no time column: times come from metadata.parquet or from product_id")
    return problems
