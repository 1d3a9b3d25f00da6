"""Lanes: which cell is next, who takes over, what is left when a lane or a shard goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtembed.messages import SlotRef
from mtembed.run.cells import Filled, Waiting
from mtembed.run.lanes import Lanes
from mtembed.types import Cell, CellRecord, CellTiming, DecodedCell, Fingerprint, Georeference


def waiting(row: int, shard: int = 0) -> Waiting:
    return Waiting(Cell(shard, row), Path("a"), Fingerprint())


def filled(row: int, slot: SlotRef, shard: int = 0) -> Filled:
    place = Georeference(32631, 0, 0, 10, 10, 1, 1)
    decoded = DecodedCell((), "uint16", CellRecord(row, "", "", "", place, 1, np.zeros((1, 2), np.int32)))
    return Filled(waiting(row, shard), slot, decoded, CellTiming("a", row))


def test_a_lane_without_cells_takes_from_the_longest_only_when_no_shard_is_left() -> None:
    lanes = Lanes([4, 4, 4])
    lanes[0].pending.extend(waiting(row) for row in range(5))
    lanes[1].promised = 3
    assert lanes.least_loaded() is lanes[2] and lanes.need_cells()
    assert lanes.peek(lanes[2], last=False) is None
    assert lanes.peek(lanes[2], last=True) == waiting(4) == lanes.take(lanes[2], last=True)
    assert lanes.take(lanes[0], last=True) == waiting(0)
    assert [cell.cell.row_group for cell in lanes[0].pending] == [1, 2, 3]


def test_a_lane_that_is_gone_gets_nothing() -> None:
    lanes = Lanes([2, 2])
    lanes[0].gone = True
    assert len(lanes) == 1 and [lane.index for lane in lanes] == [1]
    assert lanes.home(0) is lanes[1] is lanes.least_loaded() is lanes.least_loaded(but=1)


def test_a_slot_comes_back_to_its_lane() -> None:
    lanes = Lanes([1, 2])
    slot = lanes[1].take_slot()
    assert slot.lane == 1 and len(lanes[1].free) == 1
    lanes.release(slot)
    assert lanes[1].take_slot() == slot


def test_a_shard_that_is_forgotten_leaves_no_cell_and_frees_its_slots() -> None:
    lanes = Lanes([3])
    (lane,) = lanes
    slots = [lane.take_slot() for _ in range(3)]
    lane.ready.extend(filled(row, slot, shard=row % 2) for row, slot in enumerate(slots))
    lane.pending.extend([waiting(7, shard=0), waiting(8, shard=1)])
    lanes.forget(0)
    assert [one.key for one in lane.ready] == [(1, 1)] and [one.key for one in lane.pending] == [(1, 8)]
    assert sorted(lane.free) == sorted([slots[0].index, slots[2].index])
