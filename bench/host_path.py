"""CPU time per cell of everything beside the network: parent, decode workers and writer of a real run.

python bench/host_path.py --cells 60

Two runs of different length on the packaged Sentinel-2 cell (uncompressed blobs, 13 bands) are compared, so that
start-up drops out; CPU time is what the kernel counted for each process (user and system).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "mtembed/sample/Core-S2L1C/images/part_00001.parquet"
KINDS = {"parent": "parent", "decode": "read and decode", "write": "geometry, identifiers, Parquet"}
FEW = 4
EVERY_S = 0.02
TICK_MS = 1e3 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--model", default="rcf")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/host-path.json")
    options = parser.parse_args()
    short, long = cpu_ms(options.model, FEW), cpu_ms(options.model, FEW + options.cells)
    each = {kind: round((long[kind] - short[kind]) / options.cells, 2) for kind in KINDS}
    for kind, what in KINDS.items():
        print(f"{kind:8s} {each[kind]:6.2f} CPU-ms per cell   {what}")
    print(f"together {sum(each.values()):6.2f} CPU-ms per cell")
    content = {"model": options.model, "cells": options.cells, "cpu_ms_per_cell": each, "together": sum(each.values())}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


def cpu_ms(model: str, cells: int) -> Counter[str]:
    """CPU milliseconds of each kind of process over a whole run."""
    seen: dict[int, tuple[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        row = pq.read_table(SAMPLE).slice(0, 1)
        with pq.ParquetWriter(folder / "part_00001.parquet", row.schema) as writer:
            for _ in range(cells):
                writer.write_table(row)
        command = [sys.executable, "-m", "mtembed.cli", "--model", model, "--quiet", "--output", str(folder / "out")]
        weights = [] if model == "rcf" else ["--weights", "random:1"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([*command, *weights, str(folder / "part_00001.parquet")], env=env) as process:
            while process.poll() is None:
                look(process.pid, "parent", seen)
                time.sleep(EVERY_S)
        if process.returncode:
            sys.exit(f"the run ended with {process.returncode}")
    total: Counter[str] = Counter()
    for kind, spent in seen.values():
        total[kind] += spent
    return total


def look(pid: int, kind: str, seen: dict[int, tuple[str, float]]) -> None:
    """Note the CPU time that a process and its children have used so far."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        seen[pid] = (kind, (int(fields[11]) + int(fields[12])) * TICK_MS)
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if b"mtembed.worker" in words:
                    look(child, words[words.index(b"mtembed.worker") + 1].decode(), seen)
    except OSError:
        return


if __name__ == "__main__":
    main()
