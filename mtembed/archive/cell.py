"""Cell -> slot: a decode worker reads one row group and decodes its GeoTIFFs straight into shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtembed.archive import product, tiff
from mtembed.archive.bands import BandBlob, check_bands, fill_slot
from mtembed.archive.quality import Quality, fragment_quality
from mtembed.archive.reader import ShardReader, blob_of, text_of
from mtembed.errors import CellError, DecodeError
from mtembed.geo.fragments import FragmentGrid
from mtembed.ring import Slot
from mtembed.sources import CLOUD_MASK, SOURCES
from mtembed.types import Cell, CellRecord, CellTiming, DecodedCell, Georeference, MetadataLine, Source


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What a decode worker needs to know once: the model's bands in its order and the rules for fragments.

    ``gpu`` names the encodings that are left to the card: their blobs go into the slot as they are.
    """

    source: Source
    bands: tuple[str, ...]
    size: int
    overlap: float
    border_shift: bool
    remove_offset: bool
    max_nodata: float
    extras: bool
    gpu: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Identity:
    """What the image row calls itself."""

    product_id: str
    grid_cell: str


def decode_cell(
    reader: ShardReader, job: DecodeJob, path: Path, cell: Cell, slot: Slot, timing: CellTiming
) -> DecodedCell | None:
    """Read and decode one cell into ``slot``; fills ``timing``.  Raises CellError.

    None means that every fragment was left out by ``max_nodata``.
    """
    started = perf_counter()
    table = reader.row(path, cell.row_group, _columns(job, reader.columns(path)))
    timing.read = (perf_counter() - started) * 1e3
    identity = Identity(text_of(table, "product_id"), text_of(table, "grid_cell"))
    timing.product_id, timing.grid_cell = identity.product_id, identity.grid_cell
    started = perf_counter()
    warnings: list[str] = []
    decoded = _decode(job, table, cell, identity, slot, timing, warnings)
    timing.warnings = tuple(warnings)
    timing.fragments = len(decoded.record.offsets)
    timing.decode = (perf_counter() - started) * 1e3
    return decoded if timing.fragments else None


def _decode(
    job: DecodeJob, table: pa.Table, cell: Cell, identity: Identity, slot: Slot, timing: CellTiming, warnings: list[str]
) -> DecodedCell:
    """Pixels into the slot, and the record.  All directories first: a cell that cannot be used costs no decoding."""
    line = _metadata_line(cell, identity, warnings)
    bands = [BandBlob.parse(band, blob_of(table, band), job.gpu) for band in job.bands]
    timing.bytes_in = sum(band.blob.size for band in bands)
    timing.encoding = "+".join(sorted({band.info.encoding for band in bands}))
    place = check_bands(bands, job.source, warnings)
    if min(place.rows, place.cols) < job.size:
        raise CellError(f"the cell is {place.rows} x {place.cols} px, smaller than a fragment of {job.size} px")
    planes, pixels = fill_slot(bands, slot)
    record = _record(job, table, cell, identity, line, place)
    decoded = DecodedCell(
        planes=planes,
        dtype=SOURCES[job.source].dtype,
        record=record,
        subtract=product.OFFSET_DN if record.offset_removed else 0,
        nodata_value=bands[0].info.nodata,
    )
    _apply_quality(job, table, pixels, decoded)
    return decoded


def _record(
    job: DecodeJob, table: pa.Table, cell: Cell, identity: Identity, line: MetadataLine | None, place: Georeference
) -> CellRecord:
    baseline = product.baseline(identity.product_id)
    return CellRecord(
        row_group=cell.row_group,
        product_id=identity.product_id,
        grid_cell=identity.grid_cell,
        timestamp=_timestamp(line, table, identity.product_id),
        georeference=place,
        size=job.size,
        offsets=FragmentGrid.of(place.rows, place.cols, job.size, job.overlap, job.border_shift).offsets(),
        baseline=baseline,
        offset_removed=job.remove_offset and SOURCES[job.source].has_offset and product.has_offset(baseline),
        parquet_url=line.parquet_url if line else "",
    )


def _columns(job: DecodeJob, available: Sequence[str]) -> list[str]:
    wanted = [*job.bands, "product_id", "grid_cell", *product.TIME_COLUMNS]
    if job.extras:
        wanted.append(CLOUD_MASK)
    return [name for name in wanted if name in available]


def _timestamp(line: MetadataLine | None, table: pa.Table, product_id: str) -> str:
    """Metadata's, else the row's own time column as YYYYMMDDTHHMMSS, else the sensing start in product_id."""
    if line and line.timestamp:
        return line.timestamp
    return product.row_time(table) or product.sensing_start(product_id)


def _metadata_line(cell: Cell, identity: Identity, warnings: list[str]) -> MetadataLine | None:
    """The line whose product_id is the image row's; None, with a warning, where there is none."""
    if not cell.metadata:
        warnings.append("no line in the metadata")
        return None
    if not identity.product_id:
        warnings.append("the image row has no product_id")
    line = next((m for m in cell.metadata if m.product_id == identity.product_id), None)
    if line is None:
        warnings.append(f"metadata names product {cell.metadata[0].product_id}, the image row {identity.product_id}")
        return None
    if line.grid_cell and line.grid_cell != identity.grid_cell:
        warnings.append(f"metadata names cell {line.grid_cell}, the image row {identity.grid_cell}")
    return line


def _apply_quality(job: DecodeJob, table: pa.Table, pixels: Sequence[npt.NDArray[Any]], decoded: DecodedCell) -> None:
    """Quality shares per fragment where asked for, and ``max_nodata`` applied to the record's fragments."""
    if not job.extras and job.max_nodata >= 1.0:
        return
    record = decoded.record
    place = record.georeference
    cloud = _cloud_mask(table, place) if job.extras else None
    quality = fragment_quality(pixels, decoded.nodata_value, cloud, (place.rows, place.cols), record.offsets, job.size)
    keep = quality.nodata <= job.max_nodata
    record.offsets = record.offsets[keep]
    if job.extras:
        kept: Quality = quality.take(keep)
        record.nodata, record.saturated, record.cloud = kept.nodata, kept.saturated, kept.cloud


def _cloud_mask(table: pa.Table, reference: Georeference) -> npt.NDArray[np.uint8] | None:
    """Major TOM's mask (0 clear, 1 thick, 2 thin, 3 shadow), uint8 [rows, cols]; None where there is none."""
    if CLOUD_MASK not in table.column_names or table.column(CLOUD_MASK).null_count:
        return None
    blob = blob_of(table, CLOUD_MASK)
    try:
        info = tiff.parse(blob)
        if info.dtype != "uint8" or info.rows > reference.rows or info.cols > reference.cols:
            return None
        pixels = np.empty((info.rows, info.cols), np.uint8)
        tiff.decode_into(blob, info, pixels)
    except DecodeError:
        return None
    return pixels
