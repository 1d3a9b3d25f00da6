"""``paired``: a benchmark beside its yardstick, round by round, so that a noisy machine slows both alike.

    pytest bench --benchmark-json=new.json
    python -m bench.compare new.json

What is kept and compared is the ratio: how many times as long the yardstick takes.  Times are of the process's CPU
where it computes by itself, of the clock where it starts others.

``pytest bench --smallest`` runs every benchmark function once, on its first parameters: that it runs, not how fast.
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--smallest", action="store_true", help="each benchmark once, on its first parameters")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the first set of parameters of every function where only the smallest size is wanted."""
    if not config.getoption("smallest"):
        return
    first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
    config.hook.pytest_deselected(items=[item for item in items if item not in first.values()])
    items[:] = [item for item in items if item in first.values()]


@pytest.fixture(scope="session")
def smallest(request: pytest.FixtureRequest) -> bool:
    """Whether a benchmark is only to be seen to run."""
    return bool(request.config.getoption("smallest"))


@pytest.fixture
def paired(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, smallest: bool) -> Paired:
    """Call ``paired(subject, yardstick, what the yardstick is, rounds, cells the subject handles)``."""
    marker = request.node.get_closest_marker("benchmark")
    timer = marker.kwargs.get("timer", time.perf_counter)

    def measure(
        subject: Callable[[], Any], yardstick: Callable[[], Any], what: str, rounds: int = 8, cells: float = 1
    ) -> None:
        beside: list[float] = []

        def before() -> None:
            began = timer()
            yardstick()
            beside.append(timer() - began)

        if not smallest:
            subject()
            yardstick()
        benchmark.pedantic(subject, setup=before, rounds=1 if smallest else rounds)
        mine = benchmark.stats.stats.data
        ratio = statistics.median(other / own for own, other in zip(mine, beside, strict=True))
        clock = "cpu_ms" if timer is time.process_time else "ms"
        benchmark.extra_info |= {
            "yardstick": what,
            "ratio": round(ratio, 4),
            f"{clock}_per_cell": round(statistics.median(mine) * 1e3 / cells, 3),
        }

    return measure
