"""How a run is laid out on this machine: a first look at the input, sizes of rings, numbers of workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtembed import machine, tiff
from mtembed.config import RunConfig
from mtembed.decode import ShardReader, _blob
from mtembed.errors import MtembedError, ShardError, UsageError
from mtembed.fragments import FragmentGrid
from mtembed.messages import DeviceJob
from mtembed.models import ModelSpec
from mtembed.ring import ALIGNMENT, RingShape, aligned
from mtembed.settings import Settings, cpu_layout
from mtembed.source import missing_columns, open_shard, source_of
from mtembed.types import Source

CORE_SIDE = 1068  # px of the finest band of Major TOM Core
LARGEST_SIDE = 1440  # a slot takes at least this: Core's S1RTC also has 1424 px cells
HEADROOM = 1.35  # or the first cell's side times this
RING_SHARE = 0.25  # of the machine's memory
PEEK_SHARDS = 20


@dataclass(frozen=True, slots=True)
class Peek:
    """What the first readable cell says: its source, the finest band's (rows, cols), each band's share of its pixels."""

    source: Source
    side: tuple[int, int]
    band_shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CrewSizes:
    """Numbers of worker processes."""

    decode: int
    device: int
    write: int


def peek(shards: Sequence[Path], spec: ModelSpec) -> Peek:
    """Source and sizes from the first shard that can be opened.  Raises UsageError when the model cannot use it."""
    problem = ""
    for path in shards[:PEEK_SHARDS]:
        try:
            with open_shard(path) as file:
                columns, rows = file.schema_arrow.names, file.metadata.num_rows
        except (ShardError, OSError) as error:
            problem = problem or str(error)
            continue
        source = source_of(columns)
        if source is None:
            problem = problem or f"{path.name} has no Sentinel band columns"
            continue
        bands = spec.bands_for(source)
        missing = missing_columns(columns, bands)
        if missing:
            raise UsageError(f"{path.name} lacks {', '.join(missing)}, which {spec.name} needs: choose another model")
        if rows:
            return _first_cell(path, rows, source, bands)
    if problem and len(shards) == 1:
        raise UsageError(f"{problem}: nothing can be embedded")
    return Peek(spec.source, (CORE_SIDE, CORE_SIDE), (1.0,) * len(spec.bands_for(spec.source)))


def _first_cell(path: Path, rows: int, source: Source, bands: Sequence[str]) -> Peek:
    reader = ShardReader()
    for row in range(min(rows, 10)):
        try:
            table = reader.row(path, row, bands)
            infos = [tiff.parse(_blob(table, band)) for band in bands]
        except MtembedError:
            continue
        side = max((info.rows, info.cols) for info in infos)
        pixels = max(1, side[0] * side[1])
        return Peek(source, side, tuple(min(1.0, info.rows * info.cols / pixels) for info in infos))
    return Peek(source, (CORE_SIDE, CORE_SIDE), (1.0,) * len(bands))


def rings(peek: Peek, spec: ModelSpec, settings: Settings, config: RunConfig) -> list[RingShape]:
    """One ring per lane.  Slots take the largest expected cell; their number follows the workers and the memory."""
    side = max(LARGEST_SIDE, round(HEADROOM * max(peek.side)))
    itemsize = 4 if peek.source == "S1RTC" else 2
    planes = sum(aligned(round(side * side * share) * itemsize + ALIGNMENT) for share in peek.band_shares)
    grid = FragmentGrid.of(side, side, settings.fragment_size, settings.overlap, settings.border_shift)
    shape = RingShape(1, len(grid) * spec.dim * np.dtype(np.float32).itemsize, planes)
    sizes = crew_sizes(spec, settings, config)
    wanted = config.slots or 2 * sizes.decode + 3 * sizes.device + 2
    affordable = int(machine.memory_bytes() * RING_SHARE // shape.slot_bytes)
    return [dataclasses.replace(shape, slots=max(2, min(wanted, affordable)))]


def crew_sizes(spec: ModelSpec, settings: Settings, config: RunConfig) -> CrewSizes:
    """CPU: as many device workers as ``cpu_layout`` says, one decode worker for four of them."""
    device = cpu_layout(spec)[0]
    return CrewSizes(config.workers or -(-device // 4), device, 1)


def unchecked(job: DeviceJob) -> DeviceJob:
    return dataclasses.replace(job, check=False)
