"""How a run is laid out on this machine: a first look at the input, sizes of rings, numbers of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtembed import machine
from mtembed.archive import tiff
from mtembed.archive.cell import cell_blobs
from mtembed.archive.shards import missing_columns, open_shard
from mtembed.config import RunConfig
from mtembed.dataset.settings import Settings, cpu_layout
from mtembed.errors import MtembedError, ShardError, UsageError
from mtembed.geo.fragments import FragmentGrid
from mtembed.messages import DeviceJob
from mtembed.models import ModelSpec
from mtembed.parquet import UNREADABLE
from mtembed.ring import ALIGNMENT, RingShape, aligned
from mtembed.sources import SOURCES, source_of
from mtembed.types import Source, Weights

CORE_SIDE = 1068  # px of the finest band of Major TOM Core
LARGEST_SIDE = 1440  # a slot takes at least this: Core's S1RTC also has 1424 px cells
HEADROOM = 1.35  # or the first cell's side times this
RING_SHARE = 0.25  # of the machine's memory
PEEK_SHARDS = 20
BATCHES_HELD = 3  # by a card, of cells


@dataclass(frozen=True, slots=True)
class Peek:
    """The first readable cell: its source, the finest band's (rows, cols), each band's share of its pixels.

    ``encodings`` are those of its bands, ``place`` its shard and row group; empty and None where no cell was readable.
    """

    source: Source
    side: tuple[int, int]
    band_shares: tuple[float, ...]
    encodings: frozenset[str] = frozenset()
    place: tuple[Path, int] | None = None


@dataclass(frozen=True, slots=True)
class CrewSizes:
    """Numbers of worker processes."""

    decode: int
    device: int
    write: int


def peek(shards: Sequence[Path], spec: ModelSpec) -> Peek:
    """Source and sizes from the first shard that can be opened.  Raises UsageError when it lacks the model's bands."""
    for path in shards[:PEEK_SHARDS]:
        try:
            with open_shard(path) as file:
                columns, rows = file.schema_arrow.names, file.metadata.num_rows
        except (ShardError, *UNREADABLE):
            continue  # it will be a line in failures.jsonl
        source = source_of(columns) or spec.source
        bands = spec.bands_for(source)
        missing = missing_columns(columns, bands)
        if missing:
            raise UsageError(f"{path.name} lacks {', '.join(missing)}, which {spec.name} needs: choose another model")
        if rows:
            return _first_cell(path, rows, source, bands)
    return Peek(spec.source, (CORE_SIDE, CORE_SIDE), (1.0,) * len(spec.bands_for(spec.source)))


def _first_cell(path: Path, rows: int, source: Source, bands: Sequence[str]) -> Peek:
    for row in range(min(rows, 10)):
        try:
            infos = [tiff.parse(blob) for blob in cell_blobs(path, row, bands)]
        except MtembedError:
            continue
        side = max((info.rows, info.cols) for info in infos)
        pixels = max(1, side[0] * side[1])
        shares = tuple(min(1.0, info.rows * info.cols / pixels) for info in infos)
        return Peek(source, side, shares, frozenset(info.encoding for info in infos), (path, row))
    return Peek(source, (CORE_SIDE, CORE_SIDE), (1.0,) * len(bands))


def rings(peek: Peek, spec: ModelSpec, settings: Settings, config: RunConfig) -> list[RingShape]:
    """One ring per lane.  Slots take the largest expected cell; their number follows the workers and the memory."""
    side = max(LARGEST_SIDE, round(HEADROOM * max(peek.side)))
    itemsize = SOURCES[peek.source].itemsize
    planes = sum(aligned(round(side * side * share) * itemsize + ALIGNMENT) for share in peek.band_shares)
    grid = FragmentGrid.of(side, side, settings.fragment_size, settings.overlap, settings.border_shift)
    shape = RingShape(1, len(grid) * spec.dim * np.dtype(np.float32).itemsize, planes)
    sizes = crew_sizes(spec, settings, config)
    gpus = cards(settings, config)
    lanes = max(1, len(gpus))
    device = BATCHES_HELD * cells_in_batch(peek, settings) if gpus else 3 * sizes.device
    wanted = config.slots or 2 * sizes.decode + device + 2
    affordable = int(machine.memory_bytes() * RING_SHARE // shape.slot_bytes) // lanes
    return [dataclasses.replace(shape, slots=max(2, min(wanted, affordable)))] * lanes


def cards(settings: Settings, config: RunConfig) -> tuple[int, ...]:
    """The GPU of each lane, some perhaps twice; none on the CPU, where one lane feeds all workers."""
    return (config.gpus or machine.visible_gpus()) if settings.device == "cuda" else ()


def cells_in_batch(peek: Peek, settings: Settings) -> int:
    """How many cells like the first make a batch on a card, the one that may lie across its end counted too."""
    rows, cols = (max(side, settings.fragment_size) for side in peek.side)
    grid = FragmentGrid.of(rows, cols, settings.fragment_size, settings.overlap, settings.border_shift)
    return -(-settings.batch // len(grid)) + 1


def credit(job: DeviceJob) -> int:
    """Cells that a device worker may hold: on a card three batches, one going up, one computed, one coming down."""
    return 2 if job.card is None else BATCHES_HELD * job.cells


def crew_sizes(spec: ModelSpec, settings: Settings, config: RunConfig) -> CrewSizes:
    """CPU: as many device workers as ``cpu_layout`` says, one decode worker for four of them.  Else one per card."""
    gpus = len(cards(settings, config))
    if gpus:
        return CrewSizes(config.workers or max(1, machine.cores() - 2 * gpus), gpus, gpus)
    device = cpu_layout(spec)[0]
    return CrewSizes(config.workers or -(-device // 4), device, 1)


def device_jobs(
    spec: ModelSpec, source: Source, weights: Weights, settings: Settings, config: RunConfig, peek: Peek
) -> list[DeviceJob]:
    """What the workers of each lane are told."""
    gpus = cards(settings, config)
    cells = cells_in_batch(peek, settings) if gpus else 1
    return [
        DeviceJob(
            spec.name, source, weights, settings.fragment_size, settings.precision, settings.batch, settings.threads,
            settings.engine, lane, gpu, cells,
        )
        for lane, gpu in enumerate(gpus or (None,))
    ]  # fmt: skip


def device_environment(job: DeviceJob) -> dict[str, str]:
    """Variables of a device worker: its threads, and the one GPU it shall see."""
    threads = {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    return threads if job.card is None else {**threads, **machine.gpu_environment(job.card)}
