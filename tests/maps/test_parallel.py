"""Files at once: results in order, errors in their places, nobody left at work."""

from __future__ import annotations

import threading

import pytest

from mtembed.maps.parallel import in_order


@pytest.mark.parametrize("together", [True, False])
def test_results_come_in_order(together: bool) -> None:
    assert list(in_order(lambda item, stopped: item * item, range(20), together)) == [i * i for i in range(20)]
    assert list(in_order(lambda item, stopped: item, [], together)) == []


@pytest.mark.parametrize("together", [True, False])
def test_an_error_arrives_where_its_result_would_have(together: bool) -> None:
    def careful(item: int, stopped: threading.Event) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    seen = []
    with pytest.raises(ValueError, match="three"):
        for value in in_order(careful, range(10), together):
            seen.append(value)
    assert seen == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("file")]


def test_those_at_work_are_told_when_nobody_waits() -> None:
    def patient(item: int, stopped: threading.Event) -> int:
        if item:
            assert stopped.wait(60)
        return item

    results = in_order(patient, range(5), True)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("file")]
