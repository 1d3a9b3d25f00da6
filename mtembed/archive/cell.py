"""Cell -> slot: a decode worker reads one row group and decodes its GeoTIFFs straight into shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mtembed.archive import product, tiff
from mtembed.archive.bands import BandBlob, check_bands, common_nodata, fill_slot
from mtembed.archive.quality import Quality, fragment_quality
from mtembed.archive.reader import ShardReader, blob_of, text_of
from mtembed.errors import CellError, DecodeError
from mtembed.geo.fragments import FragmentGrid
from mtembed.geo.utm import surely_on_earth
from mtembed.ring import Slot
from mtembed.sources import CLOUD_MASK, SOURCES
from mtembed.storage.address import Place
from mtembed.types import (
    Cell,
    CellRecord,
    CellTiming,
    DecodedCell,
    Fingerprint,
    Georeference,
    MetadataLine,
    Source,
)

ROW_SHARE, ROW_SPARE = 2, 1 << 24  # a row that is read may take so many slots, and bytes beside them


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """What a decode worker needs to know once: the model's bands in its order and the rules for fragments.

    ``gpu`` names the encodings that are left to the GPU: their blobs go into the slot as they are.  ``dim`` is the
    length of a vector, for which a slot must have room.
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
    dim: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What the image row calls itself."""

    product_id: str
    grid_cell: str


def decode_cell(
    reader: ShardReader,
    job: DecodeJob,
    path: Place,
    cell: Cell,
    slot: Slot,
    timing: CellTiming,
    listed: Fingerprint | None = None,
) -> DecodedCell | None:
    """Read and decode one cell into ``slot``; fills ``timing``.  Raises CellError.

    ``listed`` is its shard as it was listed: a shard that was replaced since then is refused.  None means that every
    fragment was left out by ``max_nodata``.
    """
    started = perf_counter()
    most = ROW_SHARE * slot.view.size + ROW_SPARE
    table = reader.row(path, cell.row_group, columns(job), listed, most)
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
    bands = _bands(job, table, warnings)
    timing.bytes_in = sum(band.blob.size for band in bands)
    timing.encoding = "+".join(sorted({band.info.encoding for band in bands}))
    place = check_bands(bands, job.source, warnings)
    if min(place.rows, place.cols) < job.size:
        raise CellError(f"the cell is {place.rows} x {place.cols} px, smaller than a fragment of {job.size} px")
    record = _record(job, cell, identity, line, place, _time(line, table, identity.product_id, warnings))
    _require_room(len(record.offsets), job.dim, slot)
    _require_on_earth(record)
    nodata, shared = common_nodata(bands)
    planes, pixels = fill_slot(bands, slot, own_nodata=not shared)
    decoded = DecodedCell(
        planes=planes,
        dtype=SOURCES[job.source].dtype,
        record=record,
        subtract=product.OFFSET_DN if record.offset_removed else 0,
        nodata_value=nodata,
    )
    _apply_quality(job, table, pixels, decoded)
    return decoded


def _record(
    job: DecodeJob, cell: Cell, identity: Identity, line: MetadataLine | None, place: Georeference, time: str
) -> CellRecord:
    baseline = product.baseline(identity.product_id)
    return CellRecord(
        row_group=cell.row_group,
        product_id=identity.product_id,
        grid_cell=identity.grid_cell,
        timestamp=time,
        georeference=place,
        size=job.size,
        offsets=FragmentGrid.of(place.rows, place.cols, job.size, job.overlap, job.border_shift).offsets(),
        baseline=baseline,
        offset_removed=job.remove_offset and SOURCES[job.source].has_offset and product.has_offset(baseline),
        parquet_url=line.parquet_url if line else "",
    )


def columns(job: DecodeJob) -> list[str]:
    """Columns of a shard that cells are made of."""
    return [*job.bands, "product_id", "grid_cell", *product.TIME_COLUMNS, *([CLOUD_MASK] if job.extras else [])]


def _bands(job: DecodeJob, table: pa.Table, warnings: list[str]) -> list[BandBlob]:
    """The bands' directories; bands whose nodata values differ are not left to the GPU, which knows one for all."""
    bands = [BandBlob.parse(band, blob_of(table, band), job.gpu) for band in job.bands]
    if SOURCES[job.source].dtype == "float32" and not common_nodata(bands)[1]:
        tags = ", ".join(f"{band.name} {band.nodata}" for band in bands)
        warnings.append(f"bands have nodata values of their own: {tags}")
        bands = [replace(band, encoded=False) for band in bands]
    return bands


def _require_room(fragments: int, dim: int, slot: Slot) -> None:
    """Vectors go before the planes of a slot: too many would be written over pixels that are still to be read."""
    if not slot.has_room_for(fragments, dim):
        raise CellError(
            f"the cell has {fragments} fragments, more than a slot has room for ({slot.vector_bytes // (4 * dim)}): "
            "run shards of larger cells on their own"
        )


def _require_on_earth(record: CellRecord) -> None:
    """Raises CellError unless every fragment has an outline; cells in UTM are known to by their numbers."""
    if surely_on_earth(record.georeference):
        return
    from mtembed.geo.footprint import footprints

    try:
        footprints([record])
    except CellError as error:
        raise CellError(str(error)) from error


def _time(line: MetadataLine | None, table: pa.Table, product_id: str, warnings: list[str]) -> str:
    """The metadata's time, else that of the row's own column, else the sensing start in product_id; else empty.

    A time that is none, of any type, is passed over with a warning.
    """
    if line and line.timestamp:
        if time := product.utc_time(line.timestamp):
            return time
        warnings.append(f"the metadata's timestamp {line.timestamp[:40]!r} is no time")
    for name in product.TIME_COLUMNS:
        if name in table.column_names:
            time, text = product.column_times(table.column(name))[0]
            if time:
                return time
            if text:
                warnings.append(f"{name} {text!r} is no time")
    time = product.sensing_start(product_id)
    if not time:
        warnings.append("no time is known: neither metadata, row nor product_id has one")
    return time


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
