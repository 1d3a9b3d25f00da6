"""What travels between the parent and its workers: small records, never pixels or vectors (those stay in the ring)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtembed.types import Cell, CellRecord, CellTiming, DecodedCell, PartInfo, Source, Weights

Key = tuple[int, int | None]  # (shard, row group); None stands for the shard itself


@dataclass(frozen=True, slots=True)
class DeviceJob:
    """What a device worker needs to know once.

    ``size`` is the fragment's side in pixels, ``batch`` counts fragments per forward, ``threads`` cores per forward.
    ``lane`` is the ring it is fed from, ``card`` the GPU (None: the CPU) and ``cells`` how many cells make a batch
    there.
    """

    model: str
    source: Source
    weights: Weights
    size: int
    precision: str
    batch: int
    threads: int
    engine: str = "torch"
    lane: int = 0
    card: int | None = None
    cells: int = 1


@dataclass(frozen=True, slots=True)
class SlotRef:
    """A slot of the ring of one lane."""

    lane: int
    index: int


@dataclass(frozen=True, slots=True)
class PlanTask:
    """To a decode worker: open a shard, list its wanted cells (answered by a ``ShardListing``)."""

    shard: int
    path: Path

    @property
    def key(self) -> Key:
        return (self.shard, None)


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """To a decode worker: bring one cell into a slot."""

    slot: SlotRef
    path: Path
    cell: Cell

    @property
    def key(self) -> Key:
        return (self.cell.shard, self.cell.row_group)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The cell lies in its slot; ``decoded`` is None when it failed (see timing) or no fragment was wanted."""

    key: Key
    timing: CellTiming
    decoded: DecodedCell | None


@dataclass(frozen=True, slots=True)
class EmbedTask:
    """To a device worker: compute the vectors of a decoded cell into its slot.

    ``check`` asks for the error of some of them against fp32, which comes with the answer as a note.
    """

    key: Key
    slot: SlotRef
    decoded: DecodedCell
    timing: CellTiming
    check: bool = False


GPU_ENCODINGS = ("lzw", "lzw+2", "deflate", "deflate+2")
"""What a GPU may decode, as ``TiffInfo.encoding`` names it: strips, predictor 2 or none."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """Which GPU is asked what it can decode, and the cell it is timed with."""

    dtype: str
    path: Path
    row_group: int
    bands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors lie in the slot, or the timing says why not; ``notes`` are facts for the manifest."""

    key: Key
    timing: CellTiming
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenPart:
    """To a writer: open (or continue) the journal of a part; ``retry`` forgets failures found in its files."""

    part: PartInfo
    retry: bool

    @property
    def key(self) -> Key:
        return self.part.key


@dataclass(frozen=True, slots=True)
class PartOpened:
    """Row groups of the part that need no more work, and how many of them failed."""

    key: Key
    done: frozenset[int | None]
    failed: int


@dataclass(frozen=True, slots=True)
class AppendTask:
    """To a writer: a finished cell; its vectors are in ``slot`` (None for a failed one)."""

    key: Key
    slot: SlotRef | None
    record: CellRecord | None
    timing: CellTiming


@dataclass(frozen=True, slots=True)
class Appended:
    """The cell is safe on disk and its slot is free."""

    key: Key
    timing: CellTiming


@dataclass(frozen=True, slots=True)
class FinishTask:
    """To a writer: all wanted cells of a part are in its journal; make the part."""

    shard: int

    @property
    def key(self) -> Key:
        return (self.shard, None)


@dataclass(frozen=True, slots=True)
class PartFinished:
    """The part is under its final name; ``facts`` go into the manifest."""

    key: Key
    facts: dict[str, Any]
