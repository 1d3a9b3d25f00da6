"""The real command end to end, per model at its automatic precision, next to the model alone (``end_to_end.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import end_to_end

CELLS = {"rcf": 24, "ssl4eo-s2": 16, "ssl4eo-s1": 16, "dinov2": 6}


@pytest.mark.benchmark(group="end to end")
@pytest.mark.parametrize("model", CELLS)
def test_end_to_end(benchmark: BenchmarkFixture, smallest: bool, tmp_path: Path, model: str) -> None:
    shard = end_to_end.archive(tmp_path, model, 3 if smallest else CELLS[model])
    seconds = 0.0 if smallest else end_to_end.SECONDS
    named = (shard, model, [("torch", "auto")], 1 if smallest else 2, tmp_path, False, seconds)
    found = end_to_end.summary(model, benchmark.pedantic(end_to_end.rates, args=named, rounds=1)[0])
    benchmark.extra_info |= {
        "yardstick": "model alone",
        "ratio": found.to_model_alone,
        "ms_per_cell": round(1e3 / found.end_to_end, 1),
    }
