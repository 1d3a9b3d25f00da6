"""The types that travel, each named once.  Imports nothing else of the package, and neither torch nor pyarrow.

Vocabulary: a *shard* is one input Parquet file; a *row group* of it holds one *cell* (a 10 km square, one GeoTIFF
blob per *band*); a *fragment* is the square part of a cell that a model sees; its *footprint* is where its pixels
are on the ground.  Rows and columns count in pixels of the finest band, from the upper-left corner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Source = Literal["S2L1C", "S2L2A", "S1RTC"]
Rule = Literal["reflectance", "rgb", "decibel", "standard", "standard-valid", "decibel-standard"]
Tick = Callable[[str, int, int], None]
"""To be told what is being done, how much of it is done, and how much it is in all."""

CLOCK = time.time() - time.monotonic()  # seconds since 1970 at which this machine's monotonic clock was zero


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How raw pixels become network input.

    ``reflectance``: x / 10000.  ``rgb``: (clip(2.5 x / 10000, 0, 1) - mean) / std.
    ``decibel``: 10 log10(max(x, 1e-10)) mapped from mean - 2 std .. mean + 2 std onto 0..1 and clipped; nodata, NaN,
    negatives and -inf give 0, +inf gives 1.
    ``standard``: (x - mean) / std; nodata by the GeoTIFF's tag, NaN and infinities give 0.  ``standard-valid``: the
    same, and pixels that are 0 once an offset is taken off count as nodata.
    ``decibel-standard``: (10 log10(max(x, 1e-10)) - mean) / std; nodata, 0, negatives, NaN and infinities give 0.
    ``mean`` and ``std`` hold one value per band (empty for ``reflectance``).
    """

    rule: Rule
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Where the vectors of a network's map lie in the fragment that it was given: along each axis ``count(size)``
    squares of ``step`` px, the first of which begins ``origin`` px inside; ``trim`` px of a fragment make no square."""

    step: int
    origin: int = 0
    trim: int = 0

    def count(self, size: int) -> int:
        """Vectors along an axis of ``size`` px."""
        return (size - self.trim) // self.step

    def covered(self, size: int) -> int:
        """Pixels of an axis that the map covers."""
        return self.count(size) * self.step


@dataclass(frozen=True, slots=True)
class MapShape:
    """A map as it is stored: ``layout``, and ``rows`` x ``cols`` vectors of ``dim`` values."""

    layout: MapLayout
    rows: int
    cols: int
    dim: int


@dataclass(frozen=True, slots=True)
class MetadataLine:
    """A line of ``metadata.parquet`` about a row; ``timestamp`` is ``YYYYMMDDTHHMMSS`` in UTC, or another text."""

    product_id: str
    timestamp: str
    grid_cell: str
    crs: str
    parquet_url: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A reference to one row of one shard, and what the archive's metadata says about it."""

    shard: int
    row_group: int
    metadata: tuple[MetadataLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies an input shard: size in bytes, time stamp, number of rows, sha256 of the Parquet footer."""

    size: int = 0
    mtime_ns: int = 0
    rows: int = 0
    footer_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ShardListing:
    """An opened shard: its fingerprint and the cells wanted of it; ``error`` says why it could not be used.

    ``notes`` are sentences on the metadata that users are told once; ``named`` are the names of a list of cells that
    the shard holds.
    """

    shard: int
    fingerprint: Fingerprint
    cells: tuple[Cell, ...]
    error: str = ""
    notes: tuple[str, ...] = ()
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A part to be written: its input shard's name and fingerprint, and the stem of its files."""

    shard: int
    name: str
    stem: str
    fingerprint: Fingerprint

    @property
    def key(self) -> tuple[int, None]:
        return (self.shard, None)


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights to build a network from: either a file (``path``, ``sha256``) or a ``seed``.

    ``label`` goes into the manifest: the file's name without its folder, or ``random:SEED``; ``sha256`` is the file's
    (hex), empty for a seed.
    """

    label: str
    sha256: str
    path: Path | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class Plane:
    """Where one decoded band lies in a slot: ``offset`` in bytes (a multiple of 64), native size in pixels.

    ``encoded``: its first so many bytes hold a GeoTIFF instead, which the card is to decode; 0 where there are pixels.
    """

    offset: int
    rows: int
    cols: int
    encoded: int = 0


@dataclass(frozen=True, slots=True)
class Georeference:
    """The finest band's place on Earth, exactly as its GeoTIFF says: CRS ``EPSG:<epsg>``, corner and pixel in metres.

    ``left``/``top`` is the outer corner of the upper-left pixel; rows go south (y = top - row * pixel_height).
    """

    epsg: int
    left: float
    top: float
    pixel_width: float
    pixel_height: float
    rows: int
    cols: int


DECODE_STAGES = ("read", "decode")
DEVICE_STAGES = ("upload", "preprocess", "forward", "download")
STAGES_OF = {"decode": DECODE_STAGES, "device": DEVICE_STAGES, "write": ("write",)}
"""What a worker of each kind does for a cell; fields of a ``CellTiming``."""
STAGES = (*DECODE_STAGES, "ring_wait", *DEVICE_STAGES, "write", "total")
"""All fields of a ``CellTiming`` that are milliseconds, in the order in which a cell goes through them."""


@dataclass(slots=True)
class CellTiming:
    """One row of ``timings/``: what became of a cell and how long each stage took (milliseconds).

    ``started`` is the monotonic clock (seconds) when reading began; ``started + clock`` is that moment in seconds since
    1970, which compares across machines and restarts.
    """

    shard: str
    row_group: int | None
    grid_cell: str = ""
    product_id: str = ""
    status: Literal["ok", "failed"] = "ok"
    stage: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()
    attempts: int = 1
    fragments: int = 0
    bytes_in: int = 0
    encoding: str = ""
    device: str = ""
    worker: str = ""
    read: float = 0.0
    decode: float = 0.0
    ring_wait: float = 0.0
    upload: float = 0.0
    preprocess: float = 0.0
    forward: float = 0.0
    download: float = 0.0
    write: float = 0.0
    total: float = 0.0
    started: float = 0.0
    clock: float = CLOCK


@dataclass(slots=True)
class CellRecord:
    """Everything about one decoded cell but its pixels and its vectors: what the writer needs to make its rows.

    ``offsets`` is int32 [n, 2], the (row, col) of each fragment's upper-left pixel, row-major; ``size`` is the
    fragment's side in pixels.  ``nodata``, ``saturated`` and ``cloud`` are float32 [n] shares in 0..1 (``--extras``).
    """

    row_group: int
    product_id: str
    grid_cell: str
    timestamp: str
    georeference: Georeference
    size: int
    offsets: npt.NDArray[np.int32]
    baseline: str = ""
    offset_removed: bool = False
    parquet_url: str = ""
    nodata: FloatArray | None = None
    saturated: FloatArray | None = None
    cloud: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class DecodedCell:
    """A cell whose bands lie in a slot: the planes in the model's band order, and what to know to use them.

    ``subtract`` is the radiometric offset to take off (0 or 1000), ``nodata_value`` the GeoTIFF tag or None.
    """

    planes: tuple[Plane, ...]
    dtype: Literal["uint16", "float32"]
    record: CellRecord
    subtract: int = 0
    nodata_value: float | None = None


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """What a dataset keeps of a shard: its fingerprint, and counts of what became of its cells.

    ``warnings``, ``encodings`` and ``baselines`` count cells, ``offset_removed`` is the number of cells whose
    radiometric offset was taken off, ``part_bytes`` the size of the part's file.  Digests are of the two files as they
    were written; empty where they are not known (a file cannot hold its own).  ``unread``: the shard as a whole could
    not be read, which is the one failure that ``failed`` counts then.
    """

    shard: str
    size: int
    mtime_ns: int
    rows: int
    footer_sha256: str
    cells: int
    failed: int
    embeddings: int
    warnings: Mapping[str, int]
    encodings: Mapping[str, int]
    baselines: Mapping[str, int]
    offset_removed: int
    part_bytes: int
    part_sha256: str = ""
    timings_sha256: str = ""
    unread: bool = False

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(self.size, self.mtime_ns, self.rows, self.footer_sha256)


@dataclass(frozen=True, slots=True)
class CrewSizes:
    """Numbers of worker processes."""

    decode: int
    device: int
    write: int


@dataclass(frozen=True, slots=True)
class Roofline:
    """What each stage can do alone: milliseconds of a cell in one worker, cells per second of its crew (0: no limit was
    found), bytes of blobs that one worker reads per second, and cells per second end to end at best.
    ``over_network``: shards lay behind addresses, so that reading is waiting for the network."""

    alone_ms: Mapping[str, float]
    limits: Mapping[str, float]
    read_bytes_per_s: float
    best: float
    over_network: bool = False


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What ``mtembed.embed`` returns.

    ``failed`` is the number of lines in the list of failures: cells, and ``failed_shards`` whole shards that could not
    be read.  ``new_cells`` were embedded by this start, the other counts are of the dataset.  ``failures`` is the
    list's name in the ``output`` folder.
    """

    output: str
    model: str
    source: str
    cells: int = 0
    failed: int = 0
    embeddings: int = 0
    seconds: float = 0.0
    exit_code: int = 0
    message: str = ""
    new_cells: int = 0
    limiting_stage: str = ""
    failures: str = "failures.jsonl"
    failed_shards: int = 0
