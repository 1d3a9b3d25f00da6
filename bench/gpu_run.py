"""The real command on a GPU, in its steady state; a step of ``bench.gpu``.

The archive is one shard of copies of the packaged cell under many names (hard links), so that the page cache holds it.
A first start on another folder warms caches up; what is counted is the rate between the 20th and the 90th percentile
of the cells' ends, over all parts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench import end_to_end

CELLS_PER_SHARD = 200
MIDDLE = (0.2, 0.9)


def main() -> None:
    from bench.gpu_fed import options, tell

    chosen = options()
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        cells = min(chosen.cells, CELLS_PER_SHARD)
        first = end_to_end.archive(folder, chosen.model, cells)
        for number in range(1, max(1, chosen.cells // cells)):
            (first.parent / f"copy_{number:05d}.parquet").hardlink_to(first)
        embed(chosen.model, chosen.batch, folder / "warm", first)
        embed(chosen.model, chosen.batch, folder / "out", first.parent)
        tell(cells_per_s=round(middle_rate(all_ends(folder / "out/timings")), 2))
        report = subprocess.run(
            [sys.executable, "-m", "mtembed", "report", "--json", str(folder / "out")],
            capture_output=True, text=True, env=end_to_end.ENVIRONMENT, check=True,
        )  # fmt: skip
        tell(report=report.stdout.strip().splitlines()[-1])


def all_ends(timings: Path) -> np.ndarray:
    """Seconds since 1970 at which each cell of a run was done, in order of time."""
    return np.sort(np.concatenate([ended(part) for part in timings.glob("*.parquet")]))


def middle_rate(ends: np.ndarray) -> float:
    """Cells per second in the steady middle of a run."""
    low, high = (int(share * (len(ends) - 1)) for share in MIDDLE)
    return float((high - low) / (ends[high] - ends[low])) if high > low else float("nan")


def embed(model: str, batch: int | None, output: Path, shards: Path) -> None:
    weights = [] if model == "rcf" else ["--weights", "random:0"]
    sizes = ["--batch", str(batch)] if batch else []
    command = [sys.executable, "-m", "mtembed", "--model", model, "--gpus", "0", "--quiet", *weights, *sizes]
    environment = end_to_end.ENVIRONMENT | dict(os.environ)
    subprocess.run([*command, "--output", str(output), str(shards)], env=environment, check=True)


def ended(part: Path) -> np.ndarray:
    """Seconds since 1970 at which each cell of a part was done."""
    table = pq.read_table(part, columns=["started", "clock", "total"])
    started, clock, total = (table[name].to_numpy() for name in ("started", "clock", "total"))
    return np.asarray(started + clock + total / 1e3, np.float64)


if __name__ == "__main__":
    main()
