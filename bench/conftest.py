"""``paired``: a benchmark beside its yardstick, round by round, so that a noisy machine slows both alike.

    pytest bench --benchmark-json=new.json
    python -m bench.compare new.json

What is kept and compared is the ratio: how many times as long the yardstick takes.  Times are of the process's CPU
where it computes by itself, of the clock where it starts others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


class Paired(Protocol):
    def __call__(
        self, subject: Callable[[], Any], yardstick: Callable[[], Any], what: str, rounds: int = 8, cells: float = 1
    ) -> None: ...


@pytest.fixture
def paired(benchmark: BenchmarkFixture) -> Paired:
    """Call ``paired(subject, yardstick, what the yardstick is, rounds, cells the subject handles)``."""

    def measure(
        subject: Callable[[], Any], yardstick: Callable[[], Any], what: str, rounds: int = 8, cells: float = 1
    ) -> None:
        timer = benchmark._timer
        beside: list[float] = []

        def before() -> None:
            began = timer()
            yardstick()
            beside.append(timer() - began)

        subject()
        yardstick()
        benchmark.pedantic(subject, setup=before, rounds=rounds)
        mine = benchmark.stats.stats.data
        ratio = statistics.median(other / own for own, other in zip(mine, beside, strict=True))
        clock = "cpu_ms" if timer is time.process_time else "ms"
        benchmark.extra_info |= {
            "yardstick": what,
            "ratio": round(ratio, 4),
            f"{clock}_per_cell": round(statistics.median(mine) * 1e3 / cells, 3),
        }

    return measure
