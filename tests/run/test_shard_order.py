"""Which shards are opened, and which of their cells are taken: the first ones, whatever comes back first."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mtembed.run.shard_order import ShardOrder, parts_open
from mtembed.types import Cell, Fingerprint, ShardListing


def listing(shard: int, cells: int) -> ShardListing:
    return ShardListing(shard, Fingerprint(rows=cells), tuple(Cell(shard, row) for row in range(cells)))


@given(
    cells=st.lists(st.integers(0, 5), max_size=8),
    processes=st.integers(1, 3),
    limit=st.none() | st.integers(0, 20),
    done=st.sets(st.integers(0, 7)),
    seed=st.integers(),
)
def test_all_processes_together_take_the_first_cells(
    cells: list[int], processes: int, limit: int | None, done: set[int], seed: int
) -> None:
    """``done`` shards hold their cells already; the others come back in any order, some after a death."""
    chance = random.Random(seed)
    finished = {shard: count for shard, count in enumerate(cells) if shard in done}
    if limit is not None:
        finished = _first(finished, cells, limit)
    taken: dict[int, int] = dict(finished)
    for process in range(processes):
        mine = frozenset(range(process, len(cells), processes))
        known = {shard: count for shard, count in finished.items() if limit is not None or shard in mine}
        order = ShardOrder(len(cells), mine, known, limit)
        opening: list[int] = []
        while not order.finished:
            if order.peek() is not None and (not opening or chance.random() < 0.5):
                opening.append(order.take())
            elif opening:
                shard = opening.pop(chance.randrange(len(opening)))
                if chance.random() < 0.2:
                    order.put_back(shard)
                    continue
                for one, wanted in order.opened(listing(shard, cells[shard])):
                    assert one.shard in mine and one.shard not in taken
                    assert [cell.row_group for cell in wanted] == list(range(len(wanted)))
                    taken[one.shard] = len(wanted)
        assert order.peek() is None and order.unopened == 0 and order.ahead == 0
    wanted_of = dict(enumerate(cells)) if limit is None else _first(dict(enumerate(cells)), cells, limit)
    assert {shard: count for shard, count in taken.items() if count} == {
        shard: count for shard, count in wanted_of.items() if count
    }


def _first(held: dict[int, int], cells: list[int], limit: int) -> dict[int, int]:
    """What of ``held`` is among the first ``limit`` cells of all shards."""
    result, seen = {}, 0
    for shard, count in enumerate(cells):
        if shard in held and seen < limit:
            result[shard] = min(count, limit - seen)
        seen += count
    return result


def test_a_shard_that_is_put_back_is_the_next_one_again() -> None:
    order = ShardOrder(3, {0, 1, 2}, {}, None)
    assert [order.take(), order.take()] == [0, 1]
    order.put_back(0)
    assert order.peek() == 0
    assert [one.shard for one, _ in order.opened(listing(1, 1))] == [] and order.ahead == 1
    order.take()
    assert [one.shard for one, _ in order.opened(listing(0, 1))] == [0, 1]


def test_a_listing_that_comes_when_the_limit_is_reached_is_not_wanted() -> None:
    order = ShardOrder(2, {0, 1}, {}, 3)
    order.take(), order.take()
    assert [len(cells) for _, cells in order.opened(listing(0, 3))] == [3]
    assert order.finished and order.opened(listing(1, 3)) == []


def test_more_lanes_may_have_more_parts_open() -> None:
    assert parts_open(1) == 8 and parts_open(8) == 22


def test_a_shard_that_another_process_had_stands_in_nobodys_way() -> None:
    order = ShardOrder(3, {0, 1, 2}, {}, None)
    assert order.peek() == 0
    order.set_aside(0)
    assert [order.take(), order.take()] == [1, 2] and not order.awaits(0) and order.peek() is None
    order.bring_back(0)
    assert [one.shard for one, _ in order.opened(listing(1, 1))] == [1]
    assert [one.shard for one, _ in order.opened(listing(2, 1))] == [2] and order.ahead == 0
    assert order.take() == 0 and [one.shard for one, _ in order.opened(listing(0, 1))] == [0] and order.finished


def test_a_shard_that_another_process_finished_counts_for_the_limit() -> None:
    order = ShardOrder(3, {0, 1, 2}, {}, 5)
    order.set_aside(0)  # with a limit its cells are counted here
    assert order.peek() == 0 and order.awaits(0)
    assert order.done_elsewhere(0, 3) == []
    assert order.take() == 1
    assert [len(cells) for _, cells in order.opened(listing(1, 4))] == [2] and order.finished
