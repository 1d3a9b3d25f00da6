"""Peak memory of a run's whole process tree, for few and for many cells: it must not grow with their number.

python -m bench.memory --model rcf --source S1RTC --cells 20,500

Memory is the sum of the processes' proportional set sizes (shared pages counted once, the ring included), looked at
five times a second.  The shard holds copies of the packaged sample cell, one row group each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
EVERY_S = 0.2


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rcf")
    parser.add_argument("--source", default="S1RTC")
    parser.add_argument("--cells", default="20,500")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/memory.json")
    options = parser.parse_args(words)
    peaks = {int(word): peak(options.model, options.source, int(word)) for word in options.cells.split(",")}
    few, many = min(peaks), max(peaks)
    growth = peaks[many] / peaks[few] - 1
    for cells, size in peaks.items():
        print(f"{cells} cells: {size / 2**20:.0f} MiB at most")
    print(f"{growth:+.1%} from {few} to {many} cells")
    content = {"model": options.model, "source": options.source, "peak_bytes": peaks, "growth": round(growth, 4)}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


def peak(model: str, source: str, cells: int) -> int:
    """Bytes at most while so many cells are embedded."""
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        row = pq.read_table(ROOT / f"mtembed/sample/Core-{source}/images/part_00001.parquet").slice(0, 1)
        with pq.ParquetWriter(folder / "part_00001.parquet", row.schema) as writer:
            for _ in range(cells):
                writer.write_table(row)
        command = [sys.executable, "-m", "mtembed", "--model", model, "--quiet", "--output", str(folder / "out")]
        weights = [] if model == "rcf" else ["--weights", "random:1"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        highest = 0
        with subprocess.Popen([*command, *weights, str(folder / "part_00001.parquet")], env=env) as process:
            while process.poll() is None:
                highest = max(highest, tree_bytes(process.pid))
                time.sleep(EVERY_S)
        rows = pq.read_metadata(folder / "out/embeddings/part_00001.parquet").num_rows
        if process.returncode or rows != 25 * cells:
            sys.exit(f"the run ended with {process.returncode} and {rows} rows")
    return highest


def tree_bytes(root: int) -> int:
    """Proportional set size of a process and its descendants."""
    total, left = 0, [root]
    while left:
        pid = left.pop()
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
            for task in Path(f"/proc/{pid}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
        except (OSError, StopIteration):
            continue
    return total


if __name__ == "__main__":
    main()
