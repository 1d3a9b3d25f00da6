"""When a run stops by itself: by share of failures, and when workers die without anything coming of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtembed.errors import TooManyFailures
from mtembed.run.budget import FAILURE_SAMPLE, SHARD_SAMPLE, STARTS_ALLOWED, FailureBudget, RestartBudget
from mtembed.types import CellTiming


def timing(failed: bool, error: str = "broken") -> CellTiming:
    return CellTiming("part", 0, status="failed" if failed else "ok", stage="decode" if failed else "", error=error)


@given(failures=st.lists(st.booleans(), max_size=300), most=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
def test_it_stops_at_the_first_failure_that_is_too_many(failures: list[bool], most: float) -> None:
    budget = FailureBudget(most)
    for seen, failed in enumerate(failures, 1):
        too_many = failed and seen >= FAILURE_SAMPLE and sum(failures[:seen]) > most * seen
        if too_many:
            with pytest.raises(TooManyFailures):
                budget.cell(timing(True))
            return
        budget.cell(timing(failed))


def test_the_sentence_names_the_commonest_reasons() -> None:
    budget = FailureBudget(0.5)
    with pytest.raises(TooManyFailures, match=r"100 of 100 cells failed.*70 x decode: worse; 30 x decode: bad"):
        for number in range(FAILURE_SAMPLE):
            budget.cell(timing(True, "bad" if number < 30 else "worse"))


def test_lost_shards_have_a_limit_of_their_own() -> None:
    budget = FailureBudget(0.05)
    for _ in range(1000):
        budget.cell(timing(False))
    with pytest.raises(TooManyFailures, match=f"2 of {SHARD_SAMPLE} shards failed"):
        for number in range(SHARD_SAMPLE):
            budget.shard("not readable" if number in (0, SHARD_SAMPLE - 1) else "")


def test_a_place_where_every_start_fails_is_given_up() -> None:
    budget = RestartBudget(4)
    for _ in range(STARTS_ALLOWED):
        assert not budget.spent("device 0")
        budget.died("device 0", speaks_against_place=True)
    assert budget.spent("device 0") and not budget.spent("device 1")


def test_work_speaks_for_a_place() -> None:
    budget = RestartBudget(4)
    for _ in range(5):
        budget.died("write", speaks_against_place=True)
        budget.answered("write")
    assert not budget.spent("write")


@given(workers=st.integers(1, 100), answers=st.lists(st.booleans(), max_size=20))
def test_deaths_without_progress_end_whatever_is_answered(workers: int, answers: list[bool]) -> None:
    """Answers alone are no progress: the same work may be done again and again."""
    budget = RestartBudget(workers)
    budget.progressed()
    for number in range(budget.most):
        assert not budget.exhausted
        budget.died("decode", speaks_against_place=False)
        if answers and answers[number % len(answers)]:
            budget.answered("decode")
    assert budget.exhausted
    budget.progressed()
    assert not budget.exhausted
