"""What workers tell about a run: facts for the manifest, and sentences for users where they should know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A device worker has loaded its network: the device's name, the fragment kernel, versions of what computes.

    ``position_independent`` says whether a fragment's bits are the same wherever in a batch it lies; None on a CPU,
    where a cell is a batch of its own.
    """

    name: ClassVar[str] = "device"
    device: str
    kernel: str
    versions: Mapping[str, str]
    position_independent: bool | None = None

    def sentence(self) -> str:
        if self.position_independent is False:
            return (
                f"vectors made on {self.device} depend in their last bits on where in a batch a fragment lies: "
                "two runs need not give the same bytes"
            )
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"versions": dict(self.versions)}


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """How far vectors are from torch in fp32: |v - g| / |g| of the first ``fragments`` fragments of the run."""

    name: ClassVar[str] = "precision_check"
    precision: str
    engine: str
    fragments: int
    median_relative_l2: float
    worst_relative_l2: float

    def sentence(self) -> str:
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PrecisionUnknown:
    """The error against fp32 could not be measured."""

    name: ClassVar[str] = "precision_unknown"
    cause: str

    def sentence(self) -> str:
        return f"the error against fp32 was not measured: {self.cause}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DecodedBands:
    """Numbers of compressed bands that a device worker was given: decoded on its GPU, and on the CPU in its stead."""

    name: ClassVar[str] = "decoded_bands"
    gpu: int
    cpu: int

    def sentence(self) -> str:
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchHalved:
    """A GPU had no memory for ``before`` fragments at a time; from here on it takes ``after``."""

    name: ClassVar[str] = "batch_halved"
    card: int | None
    before: int
    after: int

    def sentence(self) -> str:
        return (
            f"card {self.card} has too little memory: {self.after} instead of {self.before} fragments at a time; "
            "other starts may differ from this one in the last bits"
        )

    def as_json(self) -> dict[str, Any]:
        return {"card": self.card, "from": self.before, "to": self.after}


@dataclass(frozen=True, slots=True)
class LaneDropped:
    """The workers of a GPU's lane keep failing, so the lane is used no more."""

    name: ClassVar[str] = "dropped_cards"
    lane: int
    cause: str

    def sentence(self) -> str:
        return f"lane {self.lane} is given up, its cells go to the other cards: its worker {self.cause}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unpinned:
    """The driver could not keep the ring's pages in place for a GPU, so that copies do not overlap with computing."""

    name: ClassVar[str] = "unpinned"
    card: int | None
    cause: str

    def sentence(self) -> str:
        return f"card {self.card} copies more slowly than it could, because memory could not be pinned: {self.cause}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Unfused:
    """Joined operators do not run on a GPU, so that the network is slower than it could be."""

    name: ClassVar[str] = "unfused"
    card: int | None
    cause: str

    def sentence(self) -> str:
        return f"card {self.card} runs the network more slowly than it could, without joined operators: {self.cause}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DecodedOnCpu:
    """Bands that a GPU was to decode are decoded by one core of the CPU in its stead, which is slow."""

    name: ClassVar[str] = "decoded_on_cpu"
    card: int | None
    cause: str

    def sentence(self) -> str:
        return f"card {self.card} cannot decode all that was left to it, a core of the CPU does the rest: {self.cause}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PartRemade:
    """A part that was made earlier is damaged, so nothing of it is kept: all its cells are embedded again."""

    name: ClassVar[str] = "remade_parts"
    shard: str
    cause: str

    def sentence(self) -> str:
        return f"the part made of {self.shard} is damaged and is made again from the shard: {self.cause}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ShardLost:
    """No part could be made of a shard, so that the run went on without it; what was finished of it is kept."""

    name: ClassVar[str] = "lost_shards"
    shard: str
    stage: str
    error: str

    def sentence(self) -> str:
        return f"no part could be made of {self.shard}: {self.error}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a process asked of stores: ``requests``, how many of them were tried ``again``, ``bytes`` that came, seconds
    ``waited`` between tries, and seconds that readers were ``blocked``, because bytes were not there yet."""

    name: ClassVar[str] = "network"
    requests: int = 0
    again: int = 0
    bytes: int = 0
    waited: float = 0.0
    blocked: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(*(getattr(self, one.name) - getattr(other, one.name) for one in fields(self)))

    def sentence(self) -> str:
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class MetadataOdd:
    """Something in ``metadata.parquet`` could not be used; it becomes a warning of the dataset, told once."""

    name: ClassVar[str] = "warnings"
    cause: str

    def sentence(self) -> str:
        return ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Note = (
    WorkerReady
    | PrecisionCheck
    | PrecisionUnknown
    | DecodedBands
    | DecodedOnCpu
    | BatchHalved
    | LaneDropped
    | Unpinned
    | Unfused
    | PartRemade
    | ShardLost
    | MetadataOdd
    | Traffic
)
"""A fact about the run: ``name`` is its key in the manifest, ``sentence()`` what users are told, if anything."""
