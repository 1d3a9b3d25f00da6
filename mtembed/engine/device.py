"""Slot -> vectors: what a device worker expects of a device, and what it gets from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mtembed.errors import CellError
from mtembed.messages import EmbedTask
from mtembed.notes import Note
from mtembed.ring import Slot
from mtembed.types import DecodedCell, FloatArray


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cell that is done: its vectors are in its slot, or ``error`` says why not; ``notes`` go to the manifest."""

    task: EmbedTask
    notes: tuple[Note, ...] = ()
    error: CellError | None = None


class Device(Protocol):
    """Computes the vectors of cells into their slots, one cell or several at a time.

    ``name`` stands in the timings, ``ready`` are notes on what it found at its start.  ``patience_s`` is how long a
    worker should wait for another task before it calls ``idle``; None means for ever.
    """

    name: str
    ready: tuple[Note, ...]

    @property
    def patience_s(self) -> float | None: ...

    def take(self, task: EmbedTask, slot: Slot) -> list[Outcome]:
        """Accept one more cell; return those that are finished now, in any order: this one, others or none."""

    def idle(self) -> list[Outcome]:
        """No other cell is there: start what was waiting for a full batch; return what is finished."""

    def close(self) -> None:
        """Give the ring back; no call may follow."""


def vectors_in(slot: Slot, count: int, dim: int) -> FloatArray:
    """Return the room for a cell's vectors, float32 [count, dim].  Raises CellError where the slot has too little."""
    try:
        return slot.vectors(count, dim)
    except ValueError as error:
        raise CellError(f"{error}: run shards of larger cells on their own", "embed") from error


class CellView:
    """A decoded cell as the kernels want it: one flat array and small tables (see ``cutter.Cells``).

    ``fragments`` is int32 [n, 3]: cell (always 0), row, col.
    """

    def __init__(self, slot: Slot, cell: DecodedCell) -> None:
        itemsize = np.dtype(cell.dtype).itemsize
        reference = cell.record.georeference
        self.raw = slot.view.view(cell.dtype)
        self.planes = np.array(
            [[[p.offset // itemsize, p.cols, reference.rows // p.rows, reference.cols // p.cols] for p in cell.planes]],
            np.int64,
        )
        self.fragments = np.zeros((len(cell.record.offsets), 3), np.int32)
        self.fragments[:, 1:] = cell.record.offsets
        self.subtract = np.array([cell.subtract], np.int32)
        self.nodata = np.array([math.nan if cell.nodata_value is None else cell.nodata_value])
