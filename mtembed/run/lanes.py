"""Lanes: a ring each, and the device workers it feeds.  One per GPU, or one for all CPU workers.

Whole shards are dealt to lanes; when none is left to open, a lane without work takes from the one that has most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mtembed.messages import SlotRef
from mtembed.run.cells import Filled, Waiting

DEVICE_ERRORS = ("CUDA error", "CUDA_ERROR", "cudaError", "CUDNN_STATUS", "CUBLAS_STATUS", "OutOfMemoryError")
"""What torch, CuPy and numba write when it is the GPU that fails, not the cell."""


@dataclass(slots=True)
class Lane:
    """Slots that are free, cells that wait for one, decoded cells that wait for the device.

    ``promised`` counts cells of shards whose parts are just being opened; a lane that is ``gone`` gets nothing more.
    """

    index: int
    free: deque[int]
    pending: deque[Waiting] = field(default_factory=deque)
    ready: deque[Filled] = field(default_factory=deque)
    promised: int = 0
    gone: bool = False

    def take_slot(self) -> SlotRef:
        """The slot that was freed last: its memory is the warmest."""
        return SlotRef(self.index, self.free.pop())


class Lanes:
    """All lanes of a run, with the rules by which work moves between them."""

    def __init__(self, slots: Sequence[int]) -> None:
        self.all = [Lane(i, deque(range(count))) for i, count in enumerate(slots)]

    def __getitem__(self, index: int) -> Lane:
        return self.all[index]

    def __iter__(self) -> Iterator[Lane]:
        """Those that are not gone, the one with the most free slots first."""
        return iter(sorted((lane for lane in self.all if not lane.gone), key=lambda lane: -len(lane.free)))

    def __len__(self) -> int:
        return sum(not lane.gone for lane in self.all)

    def home(self, index: int) -> Lane:
        """The lane of that index, or one in its place when it is gone."""
        return self.least_loaded() if self.all[index].gone else self.all[index]

    def least_loaded(self, but: int | None = None) -> Lane:
        """The lane with the fewest cells to come, another one than ``but`` where there is any."""
        able = [lane for lane in self if lane.index != but] or list(self)
        return min(able, key=lambda lane: (len(lane.pending) + lane.promised, lane.index))

    def need_cells(self) -> bool:
        """Whether a lane has too few cells waiting to fill its slots twice."""
        return any(len(lane.pending) + lane.promised < 2 * len(lane.free) + 2 for lane in self)

    def peek(self, lane: Lane, last: bool) -> Waiting | None:
        """A lane's own next cell; with the ``last`` shard open, one from the end of the lane that has most."""
        if lane.pending:
            return lane.pending[0]
        longest = max(self, key=lambda other: len(other.pending))
        return longest.pending[-1] if longest.pending and last else None

    def take(self, lane: Lane, last: bool) -> Waiting:
        """The cell that ``peek`` showed, taken out."""
        if lane.pending:
            return lane.pending.popleft()
        return max(self, key=lambda other: len(other.pending)).pending.pop()

    def release(self, slot: SlotRef) -> None:
        self.all[slot.lane].free.append(slot.index)

    def forget(self, shard: int) -> None:
        """Take out all cells of a shard that wait here; the slots of those that were ready are free again."""
        for lane in self.all:
            for filled in lane.ready:
                if filled.origin.cell.shard == shard:
                    self.release(filled.slot)
            lane.ready = deque(filled for filled in lane.ready if filled.origin.cell.shard != shard)
            lane.pending = deque(waiting for waiting in lane.pending if waiting.cell.shard != shard)
