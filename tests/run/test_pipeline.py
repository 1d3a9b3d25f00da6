"""The loop under thousands of schedules of deaths: it ends, no cell is lost or made twice, no slot is leaked, and only
what kills every worker fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.errors import WorkerError
from mtembed.messages import FinishTask, PartFinished
from mtembed.types import Fingerprint, PartInfo
from tests.tools.simulation import Simulation, Trouble, facts

CELL_STAGES = ("decode", "embed", "append")
PART_STAGES = ("open part", "close part", "finish")


@st.composite
def troubles(draw: Any, cells: list[int]) -> Trouble:
    rows = [(shard, row) for shard, count in enumerate(cells) for row in range(count)]
    places = [(stage, shard, row) for shard, row in rows for stage in CELL_STAGES]
    places += [(stage, shard, None) for shard in range(len(cells)) for stage in ("open shard", *PART_STAGES)]
    deadly = draw(st.frozensets(st.sampled_from(places), max_size=3)) if places else frozenset()
    broken = draw(st.frozensets(st.sampled_from(places), max_size=3)) if places else frozenset()
    broken = frozenset(place for place in broken if place[0] != "append") - deadly
    return Trouble(deadly, broken, chance=draw(st.sampled_from([0.0, 0.05, 0.3])), deaths=8)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), cells=st.lists(st.integers(0, 6), max_size=6), seed=st.integers(0, 2**32))
def test_every_schedule_ends_with_what_can_be_made(data: Any, cells: list[int], seed: int) -> None:
    trouble = data.draw(troubles(cells))
    lanes = data.draw(st.sampled_from([(4,), (1,), (3, 3)]))
    crew = data.draw(st.sampled_from([(1, 1, 1, 1), (2, 2, 1, 1), (3, 2, 2, 1)]))
    crew = (crew[0], max(crew[1], len(lanes)), crew[2], crew[3])
    simulation = Simulation(cells, trouble, seed, slots=lanes, crew=crew, credit=data.draw(st.sampled_from([1, 4])))
    simulation.run()
    bad = trouble.deadly | trouble.broken
    for shard, count in enumerate(cells):
        name = f"part_{shard}.parquet"
        unopened = ("open shard", shard, None) in bad
        if any((stage, shard, None) in bad for stage in PART_STAGES):
            assert name in simulation.lost and shard not in simulation.finished
            continue
        assert name not in simulation.lost
        ok, failed = simulation.finished[shard]
        wanted = set() if unopened else set(range(count))
        expected = {row for row in wanted if any((stage, shard, row) in bad for stage in CELL_STAGES)}
        assert failed == (expected | {None} if unopened else expected)
        assert ok == wanted - expected
    flow = simulation.pipeline.flow
    assert not flow.cells and not flow.parts.open and not flow.to_finish
    assert [sorted(lane.free) for lane in flow.lanes.all] == [list(range(count)) for count in lanes]
    assert simulation.alive == [] or all(one.worker.process.killed for one in simulation.alive)  # type: ignore[attr-defined]


@settings(max_examples=30, deadline=None)
@given(cells=st.lists(st.integers(0, 6), max_size=6), limit=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_a_limit_takes_the_first_cells_whoever_dies(cells: list[int], limit: int, seed: int) -> None:
    simulation = Simulation(cells, Trouble(chance=0.2, deaths=8), seed, limit=limit)
    simulation.run()
    taken = [(shard, row) for shard, (ok, _) in sorted(simulation.finished.items()) for row in sorted(ok)]  # type: ignore[type-var]
    assert taken == [(shard, row) for shard, count in enumerate(cells) for row in range(count)][:limit]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), credit=st.sampled_from([1, 3, 9]))
def test_a_lane_whose_device_fails_is_dropped_and_its_cells_go_to_the_other(seed: int, credit: int) -> None:
    cells = [5, 5, 5]
    simulation = Simulation(
        cells, Trouble(dead_lanes=frozenset({1})), seed, slots=(4, 4), crew=(2, 2, 1, 1), credit=credit
    )
    simulation.run()
    assert {shard: len(ok) for shard, (ok, _) in simulation.finished.items()} == {0: 5, 1: 5, 2: 5}
    assert simulation.pipeline.flow.lanes[1].gone and not simulation.lost


def test_the_last_lane_ends_the_run() -> None:
    simulation = Simulation([5], Trouble(dead_lanes=frozenset({0})), 1, credit=4)
    with pytest.raises(WorkerError, match="device workers cannot do their work here"):
        simulation.run()


@pytest.mark.parametrize("stage", ["note failure", "append"])
def test_a_writer_that_dies_of_everything_loses_the_part_and_not_the_run(stage: str) -> None:
    """A failed cell that cannot even be noted costs its shard; a cell whose vectors cannot be written fails."""
    deadly = frozenset((stage, 0, row) for row in range(3))
    broken = frozenset({("decode", 0, 1)}) if stage == "note failure" else frozenset()
    simulation = Simulation([3, 3], Trouble(deadly, broken), 1)
    simulation.run()
    assert simulation.finished[1] == (frozenset({0, 1, 2}), frozenset())
    if stage == "note failure":
        assert simulation.lost == {"part_0.parquet"}
    else:
        assert simulation.finished[0] == (frozenset(), frozenset({0, 1, 2}))


def test_a_part_that_is_finished_after_it_was_taken_over_is_nobodys_loss() -> None:
    """Its files are there, and whoever has taken it over finds them; nor is it finished again from here."""
    flow = Simulation([1], Trouble(), 0).pipeline.flow
    part = flow.parts.add(PartInfo(0, "part_0.parquet", "part_0", Fingerprint()), (), "", 0, 1)
    flow.lanes[0].promised = 0
    flow.to_finish.append(FinishTask(part.info, False, {}))
    flow.give_up(0)
    assert not flow.to_finish
    flow._part_finished(FinishTask(part.info, False, {}), PartFinished((0, None), facts("part_0.parquet", 0, 0)))
    assert list(flow.theirs) == [0] and flow.progress.shards_done == 0
