"""A cell on its way: the states it goes through in the parent, each with all that is known in it.

Waiting -> Decoding -> Filled -> (appended)
   ^__________|__________|        a worker died, or its lane is gone
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtembed.messages import Key, SlotRef
from mtembed.storage.address import Place
from mtembed.types import Cell, CellTiming, DecodedCell, Fingerprint


@dataclass(frozen=True, slots=True)
class Waiting:
    """In a lane, without a slot.  ``attempts`` counts how often it was given to a decode or device worker before."""

    cell: Cell
    path: Place
    fingerprint: Fingerprint
    attempts: int = 0

    @property
    def key(self) -> Key:
        return (self.cell.shard, self.cell.row_group)

    def tried(self) -> Waiting:
        """Once more."""
        return replace(self, attempts=self.attempts + 1)


@dataclass(frozen=True, slots=True)
class Decoding:
    """With a decode worker, which fills its slot."""

    origin: Waiting
    slot: SlotRef


@dataclass(frozen=True, slots=True)
class Filled:
    """Its bands are in its slot: it is ready for a device worker, with one, or on its way to disk."""

    origin: Waiting
    slot: SlotRef
    decoded: DecodedCell
    timing: CellTiming

    @property
    def key(self) -> Key:
        return self.origin.key

    def tried(self) -> Filled:
        """Once more."""
        return replace(self, origin=self.origin.tried())


CellState = Waiting | Decoding | Filled
