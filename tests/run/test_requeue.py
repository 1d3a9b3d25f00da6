"""Whom a death is counted against: nobody in company, the task that was alone otherwise; and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtembed.messages import (
    AppendTask,
    ClosePart,
    DecodeTask,
    EmbedTask,
    FinishTask,
    Key,
    OpenPart,
    PlanTask,
    SlotRef,
    Task,
)
from mtembed.run.requeue import DEATHS_ALLOWED, Suspects, Verdict, cell, suspect_of, verdict
from mtembed.types import (
    Cell,
    CellRecord,
    CellTiming,
    DecodedCell,
    Fingerprint,
    Georeference,
    PartInfo,
)

SLOT, MARK = SlotRef(0, 0), Fingerprint()


def decode(row: int) -> DecodeTask:
    return DecodeTask(SLOT, Path("a"), Cell(0, row), MARK)


def record(row: int) -> CellRecord:
    import numpy as np

    return CellRecord(row, "", "", "", Georeference(32631, 0, 0, 10, 10, 1, 1), 1, np.zeros((1, 2), np.int32))


def every_kind(shard: int) -> list[Task]:
    part = PartInfo(shard, "a", "a", MARK)
    key: Key = (shard, 1)
    timing = CellTiming("a", 1)
    return [
        PlanTask(shard, Path("a")),
        DecodeTask(SLOT, Path("a"), Cell(shard, 1), MARK),
        OpenPart(part, False),
        AppendTask(key, SLOT, record(1), timing),
        AppendTask(key, None, None, timing),
        ClosePart(shard),
        FinishTask(part, False, {}),
    ]


def test_each_step_of_a_shard_is_counted_on_its_own() -> None:
    tasks = [task for shard in (0, 1) for task in every_kind(shard)]
    assert len({suspect_of(task) for task in tasks}) == len(tasks)


def test_decoding_and_embedding_count_against_one_cell() -> None:
    decoded = DecodedCell((), "uint16", record(1))
    embed = EmbedTask((0, 1), SLOT, decoded, CellTiming("a", 1))
    assert suspect_of(embed) == suspect_of(decode(1)) == cell((0, 1))


@pytest.mark.parametrize("task", every_kind(0), ids=lambda task: type(task).__name__)
def test_two_deaths_alone_are_one_too_many_for_any_task(task: Task) -> None:
    suspects = Suspects()
    for deaths in range(DEATHS_ALLOWED):
        assert suspects.deaths(task) == deaths and not suspects.failed(task)
        suspects.died([suspect_of(task)])
    assert suspects.failed(task)


@given(st.lists(st.sets(st.integers(0, 4), min_size=1), max_size=30))
def test_only_deaths_alone_count_and_nothing_takes_them_back(deaths: list[set[int]]) -> None:
    suspects = Suspects()
    for held in deaths:
        suspects.died([suspect_of(decode(row)) for row in held])
    for row in range(5):
        assert suspects.deaths(decode(row)) == deaths.count({row})
        assert suspects.must_be_alone(cell((0, row))) == any(row in held for held in deaths)


@pytest.mark.parametrize(
    ("deaths", "alone", "device_error", "lane_gone", "other_lanes", "expected"),
    [
        (0, False, False, False, True, Verdict.RETRY),
        (1, True, False, False, True, Verdict.RETRY),
        (1, True, True, False, True, Verdict.OTHER_LANE),
        (1, True, True, False, False, Verdict.RETRY),
        (0, False, True, False, True, Verdict.RETRY),  # in company: the cell is not what the device failed at
        (0, False, True, True, True, Verdict.OTHER_LANE),
        (2, True, True, True, True, Verdict.FAILED),
        (2, False, False, False, True, Verdict.FAILED),
    ],
)
def test_what_becomes_of_a_cell(
    deaths: int, alone: bool, device_error: bool, lane_gone: bool, other_lanes: bool, expected: Verdict
) -> None:
    found = verdict(deaths, alone=alone, device_error=device_error, lane_gone=lane_gone, other_lanes=other_lanes)
    assert found is expected
