"""CPU time of what the writer does after the network: footprints, identifiers, table, file; 25 fragments a cell."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from mtembed.footprint import footprints
from mtembed.rows import PartWriter, build_table, row_groups, schema
from mtembed.types import CellRecord, Georeference
from mtembed.unique_id import print_vectors

CELLS, FRAGMENTS = 100, 25
STEPS = (0, 211, 422, 633, 844)

pytestmark = pytest.mark.benchmark(timer=time.process_time, warmup=True, warmup_iterations=1, min_rounds=5)


def _records() -> list[CellRecord]:
    offsets = np.array([(row, col) for row in STEPS for col in STEPS], np.int32)
    places = [
        Georeference(32631 + i // 20, 300000.25, 5000000.5 + 10000 * i, 10.0, 10.0, 1068, 1068) for i in range(CELLS)
    ]
    names = [(f"S2B_MSIL2A_20230824T131249_{i}", f"{i}U_457L", "20230824T131249") for i in range(CELLS)]
    return [CellRecord(i, *names[i], places[i], 224, offsets) for i in range(CELLS)]


def _vectors(dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CELLS * FRAGMENTS, dim)).astype(np.float32)


def _report(benchmark: BenchmarkFixture, cells: int = CELLS) -> None:
    benchmark.extra_info["cpu_ms_per_cell"] = round(benchmark.stats.stats.median * 1e3 / cells, 3)


@pytest.mark.parametrize("dim", [768, 2048])
def test_rows_to_file(benchmark: BenchmarkFixture, tmp_path: Path, dim: int) -> None:
    records, vectors = _records(), _vectors(dim)

    def write() -> None:
        writer = PartWriter(tmp_path / "part.parquet", schema(dim, "float32", False))
        for first, last in row_groups([FRAGMENTS] * CELLS, dim, 4):
            rows = vectors[first * FRAGMENTS : last * FRAGMENTS]
            writer.write(build_table(records[first:last], rows, "float32", False))
        writer.close({})

    benchmark(write)
    _report(benchmark)


def test_footprints(benchmark: BenchmarkFixture) -> None:
    benchmark(footprints, _records())
    _report(benchmark)


@pytest.mark.parametrize("dim", [512, 768, 1152, 2048])
def test_printed_vectors(benchmark: BenchmarkFixture, dim: int) -> None:
    benchmark(print_vectors, _vectors(dim))
    _report(benchmark)


@pytest.mark.parametrize("dim", [768, 2048])
def test_printed_vectors_by_numpy(benchmark: BenchmarkFixture, dim: int) -> None:
    """What the recipe costs as it is written."""
    vectors = _vectors(dim)[: 4 * FRAGMENTS]
    benchmark.pedantic(lambda: [str(vector) for vector in vectors], rounds=3)
    _report(benchmark, 4)
