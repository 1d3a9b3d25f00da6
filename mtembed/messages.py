"""What travels between the parent and its workers: small records, never pixels or vectors (those stay in the ring)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mtembed.notes import Note, Traffic
from mtembed.storage.address import Place
from mtembed.types import (
    Cell,
    CellRecord,
    CellTiming,
    DecodedCell,
    Fingerprint,
    PartInfo,
    ShardFacts,
    ShardListing,
    Source,
    Weights,
)

Key = tuple[int, int | None]  # (shard, row group); None stands for the shard itself


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it can take work."""

    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Fatal:
    """From a worker: the run cannot go on.  An exception of ``errors.py`` by name, and its sentence."""

    error: str
    message: str


@dataclass(frozen=True, slots=True)
class WeightsFound:
    """From a worker that looked for published weights."""

    weights: Weights


@dataclass(frozen=True, slots=True)
class Probed:
    """From a worker that asked its GPU what it decodes: ``exact`` encodings, ``problems`` of the others (encoding ->
    reason), ``seconds`` for the sample cell (0.0 where none of its bands has an exact encoding)."""

    exact: frozenset[str]
    problems: Mapping[str, str]
    seconds: float


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
    model_card: str | None = None
    dense: bool = False


@dataclass(frozen=True, slots=True)
class SlotRef:
    """A slot of the ring of one lane."""

    lane: int
    index: int


@dataclass(frozen=True, slots=True)
class PlanTask:
    """To a decode worker: open a shard, list its wanted cells."""

    shard: int
    path: Place

    @property
    def key(self) -> Key:
        return (self.shard, None)


@dataclass(frozen=True, slots=True)
class ShardOpened:
    """A shard's cells, or why it could not be opened; ``traffic`` of the worker since its last answer."""

    answers: ClassVar[type] = PlanTask
    listing: ShardListing
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def key(self) -> Key:
        return (self.listing.shard, None)


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """To a decode worker: bring one cell into a slot; ``fingerprint`` is the shard's as it was listed."""

    slot: SlotRef
    path: Place
    cell: Cell
    fingerprint: Fingerprint

    @property
    def key(self) -> Key:
        return (self.cell.shard, self.cell.row_group)


@dataclass(frozen=True, slots=True)
class Decoded:
    """The cell lies in its slot; ``decoded`` is None when it failed (see timing) or no fragment was wanted."""

    answers: ClassVar[type] = DecodeTask
    key: Key
    timing: CellTiming
    decoded: DecodedCell | None
    traffic: Traffic = field(default_factory=Traffic)


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
    path: Place
    row_group: int
    bands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors lie in the slot, or the timing says why not."""

    answers: ClassVar[type] = EmbedTask
    key: Key
    timing: CellTiming
    notes: tuple[Note, ...] = ()


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
    """Row groups of the part that need no more work; ``damage`` says why an earlier part is not used."""

    answers: ClassVar[type] = OpenPart
    key: Key
    done: frozenset[int | None]
    damage: str = ""


@dataclass(frozen=True, slots=True)
class AppendTask:
    """To a writer: a finished cell; its vectors are in ``slot``.  A failed one has neither slot nor record."""

    key: Key
    slot: SlotRef | None
    record: CellRecord | None
    timing: CellTiming


@dataclass(frozen=True, slots=True)
class Appended:
    """The cell is safe on disk and its slot is free."""

    answers: ClassVar[type] = AppendTask
    key: Key
    timing: CellTiming


@dataclass(frozen=True, slots=True)
class ClosePart:
    """To a writer: all wanted cells of a part are in its journal; let go of it."""

    shard: int

    @property
    def key(self) -> Key:
        return (self.shard, None)


@dataclass(frozen=True, slots=True)
class PartClosed:
    """The journal is whole; ``write_ms`` holds what appending each of its row groups took in this worker."""

    answers: ClassVar[type] = ClosePart
    key: Key
    write_ms: Mapping[int | None, float]


@dataclass(frozen=True, slots=True)
class FinishTask:
    """To a finisher: make the part from its journal, and from an earlier part where there is one that is not to be
    ``remade``."""

    part: PartInfo
    retry: bool
    write_ms: Mapping[int | None, float]
    remade: bool = False

    @property
    def key(self) -> Key:
        return self.part.key


@dataclass(frozen=True, slots=True)
class PartFinished:
    """The part is under its final name; ``facts`` go into the manifest."""

    answers: ClassVar[type] = FinishTask
    key: Key
    facts: ShardFacts


@dataclass(frozen=True, slots=True)
class PartFailed:
    """From a writer or a finisher, instead of the answer to ``task``: no part can be made of this shard.

    ``taken``: because another process makes it.
    """

    task: OpenPart | AppendTask | ClosePart | FinishTask
    error: str
    taken: bool = False

    @property
    def key(self) -> Key:
        return self.task.key

    @property
    def answers(self) -> type:
        return type(self.task)


Task = PlanTask | DecodeTask | EmbedTask | OpenPart | AppendTask | ClosePart | FinishTask
TaskAnswer = ShardOpened | Decoded | Embedded | PartOpened | Appended | PartClosed | PartFinished | PartFailed
"""Each names the task that it answers by ``key`` and by its type, ``answers``."""
