"""Cell -> slot: a decode worker reads one row group and decodes its GeoTIFFs straight into shared memory."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.archive import tiff
from mtembed.archive.quality import Quality, fragment_quality
from mtembed.archive.shards import TIME_COLUMNS, open_shard
from mtembed.errors import CellError, DecodeError, ShardError
from mtembed.geo.fragments import FragmentGrid
from mtembed.parquet import UNREADABLE, first_line
from mtembed.ring import Slot
from mtembed.sources import SOURCES
from mtembed.types import Cell, CellRecord, CellTiming, DecodedCell, Georeference, MetadataLine, Plane, Source

CORNER_TOLERANCE_M = 1e-6
OFFSET_SINCE = 400  # ESA processing baseline 04.00 introduced the radiometric offset (RADIO_ADD_OFFSET = -1000)
OFFSET_DN = 1000
OPEN_SHARDS = 4


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


class ShardReader:
    """Row groups of shards; keeps the last few files open with their footers parsed."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, pq.ParquetFile] = OrderedDict()

    def row(self, path: Path, row_group: int, columns: Sequence[str]) -> pa.Table:
        """The one row of a row group.  Raises CellError (stage ``read``)."""
        try:
            return self._file(path).read_row_group(row_group, columns=list(columns), use_threads=False)
        except (ShardError, *UNREADABLE) as error:
            self._open.pop(path, None)
            raise CellError(
                f"row group {row_group} of {path.name} cannot be read: {first_line(error)}", "read"
            ) from error

    def columns(self, path: Path) -> list[str]:
        try:
            return list(self._file(path).schema_arrow.names)
        except (ShardError, *UNREADABLE) as error:
            raise CellError(first_line(error), "read") from error

    def _file(self, path: Path) -> pq.ParquetFile:
        if path not in self._open:
            self._open[path] = open_shard(path)
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def decode_cell(
    reader: ShardReader, job: DecodeJob, path: Path, cell: Cell, slot: Slot, timing: CellTiming
) -> DecodedCell | None:
    """Read and decode one cell into ``slot``; fills ``timing``.  Raises CellError.

    None means that every fragment was left out by ``max_nodata``.
    """
    started = perf_counter()
    table = reader.row(path, cell.row_group, _columns(job, reader.columns(path)))
    timing.read = (perf_counter() - started) * 1e3
    timing.product_id, timing.grid_cell = (_text(table, name) for name in ("product_id", "grid_cell"))
    warnings: list[str] = []
    line = _metadata_line(cell, timing, warnings)
    started = perf_counter()
    blobs = [_blob(table, band) for band in job.bands]
    bands = _decode_bands(job, blobs, slot)
    timing.bytes_in = sum(blob.size for blob in blobs)
    timing.encoding = "+".join(sorted({band.info.encoding for band in bands})) if bands else ""
    reference = _georeference(job.bands, bands, warnings)
    baseline = _baseline(timing.product_id)
    removed = job.remove_offset and SOURCES[job.source].has_offset and _has_offset(baseline)
    record = CellRecord(
        row_group=cell.row_group,
        product_id=timing.product_id,
        grid_cell=timing.grid_cell,
        timestamp=_timestamp(line, table, timing.product_id),
        georeference=reference,
        size=job.size,
        offsets=_grid(job, reference).offsets(),
        baseline=baseline,
        offset_removed=removed,
        parquet_url=line.parquet_url if line else "",
    )
    decoded = DecodedCell(
        tuple(band.plane for band in bands), bands[0].dtype, record, OFFSET_DN if removed else 0, bands[0].info.nodata
    )
    _apply_quality(job, table, bands, decoded)
    timing.warnings = tuple(warnings)
    timing.fragments = len(record.offsets)
    timing.decode = (perf_counter() - started) * 1e3
    return decoded if len(record.offsets) else None


@dataclass(frozen=True, slots=True)
class Band:
    """A decoded band: what its TIFF said, where it lies, its pixels [rows, cols]."""

    info: tiff.TiffInfo
    plane: Plane
    pixels: npt.NDArray[Any]

    @property
    def dtype(self) -> Any:
        return self.info.dtype


def cell_blobs(path: Path, row_group: int, bands: Sequence[str]) -> list[npt.NDArray[np.uint8]]:
    """The blobs of a cell's bands, uint8 [bytes] each.  Raises CellError."""
    table = ShardReader().row(path, row_group, bands)
    return [_blob(table, band) for band in bands]


def _columns(job: DecodeJob, available: Sequence[str]) -> list[str]:
    wanted = [*job.bands, "product_id", "grid_cell", *TIME_COLUMNS]
    if job.extras:
        wanted.append("cloud_mask")
    return [name for name in wanted if name in available]


def _text(table: pa.Table, name: str) -> str:
    return str(table.column(name)[0].as_py() or "")


def _blob(table: pa.Table, band: str) -> npt.NDArray[np.uint8]:
    """The band's bytes where Arrow has them, without a copy."""
    if band not in table.column_names:
        raise CellError(f"band {band} has no column", "read")
    chunk = table.column(band).chunk(0)
    if chunk.null_count or not len(chunk):
        raise CellError(f"band {band} is null", "read")
    width = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    _, offsets, data = chunk.buffers()
    first, last = np.frombuffer(offsets, width, 2, chunk.offset * np.dtype(width).itemsize)
    return np.frombuffer(data, np.uint8, int(last - first), int(first))


def _decode_bands(job: DecodeJob, blobs: Sequence[npt.NDArray[np.uint8]], slot: Slot) -> list[Band]:
    """All IFDs first, so that a cell that cannot be used costs no decoding; then the pixels."""
    expected = SOURCES[job.source].dtype
    infos = [_parse(band, blob) for band, blob in zip(job.bands, blobs, strict=True)]
    for band, info in zip(job.bands, infos, strict=True):
        if info.dtype != expected:
            raise CellError(f"band {band} holds {info.dtype}, {job.source} should hold {expected}")
    rows, cols = max((info.rows, info.cols) for info in infos)
    for band, info in zip(job.bands, infos, strict=True):
        if rows % info.rows or cols % info.cols:
            raise CellError(f"band {band} is {info.rows} x {info.cols} px, which does not divide {rows} x {cols}")
    if min(rows, cols) < job.size:
        raise CellError(f"the cell is {rows} x {cols} px, smaller than a fragment of {job.size} px")
    bands = []
    for band, blob, info in zip(job.bands, blobs, infos, strict=True):
        plane, pixels = slot.place(info.rows, info.cols, info.dtype)
        if _left_to_gpu(job, blob, info, pixels.nbytes):
            pixels.reshape(-1).view(np.uint8)[: blob.size] = blob
            plane = replace(plane, encoded=blob.size)
        else:
            try:
                tiff.decode_into(blob, info, pixels)
            except DecodeError as error:
                raise DecodeError(f"band {band}: {error}") from error
        bands.append(Band(info, plane, pixels))
    return bands


def _left_to_gpu(job: DecodeJob, blob: npt.NDArray[np.uint8], info: tiff.TiffInfo, room: int) -> bool:
    """Whether the card decodes a blob: an encoding it has proven, nothing odd, and no larger than its pixels."""
    return (
        info.encoding in job.gpu
        and info.plain
        and info.byteorder == "<"
        and bool(info.counts.all())
        and blob.size <= room
    )


def _parse(band: str, blob: npt.NDArray[np.uint8]) -> tiff.TiffInfo:
    try:
        return tiff.parse(blob)
    except DecodeError as error:
        raise DecodeError(f"band {band}: {error}") from error


def _georeference(names: Sequence[str], bands: Sequence[Band], warnings: list[str]) -> Georeference:
    """The finest band's; all others must share its CRS and corner (their pixels are then nested in its)."""
    best = max(range(len(bands)), key=lambda i: bands[i].info.rows * bands[i].info.cols)
    info = bands[best].info
    if info.epsg is None:
        raise CellError(f"band {names[best]} has no EPSG code for its CRS")
    for name, band in zip(names, bands, strict=True):
        other = band.info
        if other.epsg != info.epsg:
            raise CellError(
                f"bands {names[best]} and {name} have different CRS: EPSG:{info.epsg} and EPSG:{other.epsg}"
            )
        shift = max(abs(other.left - info.left), abs(other.top - info.top))
        if not shift <= CORNER_TOLERANCE_M:
            raise CellError(f"bands {names[best]} and {name} have corners {shift:.6g} m apart")
        if abs(other.pixel_width * other.cols - info.pixel_width * info.cols) > CORNER_TOLERANCE_M:
            warnings.append(f"band {name} claims another extent than {names[best]}")
    return Georeference(
        info.epsg, info.left, info.top, info.pixel_width, info.pixel_height, info.rows, info.cols
    )  # fmt: skip


def _grid(job: DecodeJob, reference: Georeference) -> FragmentGrid:
    return FragmentGrid.of(reference.rows, reference.cols, job.size, job.overlap, job.border_shift)


def _apply_quality(job: DecodeJob, table: pa.Table, bands: Sequence[Band], decoded: DecodedCell) -> None:
    """Quality shares per fragment where asked for, and ``max_nodata`` applied to the record's fragments."""
    if not job.extras and job.max_nodata >= 1.0:
        return
    record = decoded.record
    reference = record.georeference
    cloud = _cloud_mask(table, reference) if job.extras else None
    quality = fragment_quality(
        [band.pixels for band in bands], decoded.nodata_value, cloud, (reference.rows, reference.cols),
        record.offsets, job.size,
    )  # fmt: skip
    keep = quality.nodata <= job.max_nodata
    record.offsets = record.offsets[keep]
    if job.extras:
        kept: Quality = quality.take(keep)
        record.nodata, record.saturated, record.cloud = kept.nodata, kept.saturated, kept.cloud


def _cloud_mask(table: pa.Table, reference: Georeference) -> npt.NDArray[np.uint8] | None:
    """Major TOM's mask (0 clear, 1 thick, 2 thin, 3 shadow), uint8 [rows, cols]; None where there is none."""
    if "cloud_mask" not in table.column_names or table.column("cloud_mask").null_count:
        return None
    blob = _blob(table, "cloud_mask")
    try:
        info = tiff.parse(blob)
        if info.dtype != "uint8" or info.rows > reference.rows or info.cols > reference.cols:
            return None
        pixels = np.empty((info.rows, info.cols), np.uint8)
        tiff.decode_into(blob, info, pixels)
    except DecodeError:
        return None
    return pixels


def _metadata_line(cell: Cell, timing: CellTiming, warnings: list[str]) -> MetadataLine | None:
    """The line whose product_id is the image row's; otherwise the first, with a warning.  None without lines."""
    if not cell.metadata:
        warnings.append("no line in the metadata")
        return None
    if not timing.product_id and cell.metadata:
        warnings.append("the image row has no product_id")
    line = next((m for m in cell.metadata if m.product_id == timing.product_id), None)
    if line is None:
        warnings.append(f"metadata names product {cell.metadata[0].product_id}, the image row {timing.product_id}")
        return None
    if line.grid_cell and line.grid_cell != timing.grid_cell:
        warnings.append(f"metadata names cell {line.grid_cell}, the image row {timing.grid_cell}")
    return line


def _timestamp(line: MetadataLine | None, table: pa.Table, product_id: str) -> str:
    """Metadata's, else the row's own time column as YYYYMMDDTHHMMSS, else the sensing start in product_id."""
    if line and line.timestamp:
        return line.timestamp
    for name in TIME_COLUMNS:
        if name in table.column_names and (value := table.column(name)[0].as_py()) is not None:
            digits = re.sub(r"\D", "", value.isoformat() if hasattr(value, "isoformat") else str(value))
            if len(digits) >= 14:
                return f"{digits[:8]}T{digits[8:14]}"
    match = re.search(r"(?<!\d)\d{8}T\d{6}(?!\d)", product_id)
    return match.group() if match else ""


def _baseline(product_id: str) -> str:
    """Sentinel-2 processing baseline as written in product_id (``N0509``), or empty."""
    match = re.search(r"_(N\d{4})_", product_id)
    return match.group(1) if match else ""


def _has_offset(baseline: str) -> bool:
    """Baselines from 04.00 on carry +1000; N9999 says nothing and is left alone."""
    return bool(baseline) and baseline != "N9999" and int(baseline[1:]) >= OFFSET_SINCE
