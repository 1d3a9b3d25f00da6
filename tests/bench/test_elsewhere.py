"""The benchmark's run whose network computes elsewhere: everything else is the product's, so it must follow it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from bench.elsewhere import CELL_MS
from tests.tools.shards import make_shard

ROOT = Path(__file__).resolve().parents[2]


def test_it_makes_the_rows_of_a_run(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "images/part_0.parquet", 3, side=240).path
    command = [sys.executable, "-m", "bench.elsewhere", "run", "rcf", str(tmp_path / "out"), str(shard)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), CELL_MS: "1"}, check=True)
    assert pq.read_metadata(tmp_path / "out/embeddings/part_0.parquet").num_rows == 3 * 4
    assert set(pq.read_table(tmp_path / "out/timings/part_0.parquet")["device"].to_pylist()) == {"elsewhere"}
