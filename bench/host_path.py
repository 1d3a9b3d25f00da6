"""CPU time per cell of everything beside the network: parent, decode workers and writer of a real run.

python -m bench.host_path --cells 60

One run over copies of the packaged Sentinel-2 cell (uncompressed blobs, 13 bands, snappy pages).  CPU time is what the
kernel counts for each process (user and system), from the end of a first small part, so that everything has been loaded
and done once, to the end of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from mtembed.journal import read_journal

ROOT = Path(__file__).resolve().parents[1]


SAMPLE = ROOT / "mtembed/sample/Core-S2L1C/images/part_00001.parquet"
KINDS = {"parent": "parent", "decode": "read and decode", "write": "geometry, identifiers, Parquet"}
WARM = 4  # cells of the first part
EVERY_S = 0.02
TICK_MS = 1e3 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--model", default="rcf")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/host-path.json")
    options = parser.parse_args()
    each = cpu_ms_per_cell(options.model, options.cells)
    for kind, what in KINDS.items():
        print(f"{kind:8s} {each[kind]:6.2f} CPU-ms per cell   {what}")
    together = round(sum(each.values()), 2)
    print(f"together {together:6.2f} CPU-ms per cell")
    content = {"model": options.model, "cells": options.cells, "cpu_ms_per_cell": each, "together": together}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


def cpu_ms_per_cell(model: str, cells: int) -> dict[str, float]:
    """CPU milliseconds per cell of each kind of process, from the end of the first part to that of the run."""
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        row = pq.read_table(SAMPLE).slice(0, 1)
        for part, count in enumerate((WARM, cells)):
            with pq.ParquetWriter(folder / f"part_{part}.parquet", row.schema) as writer:
                for _ in range(count):
                    writer.write_table(row)
        command = [sys.executable, "-m", "mtembed.cli", "--model", model, "--quiet", "--output", str(folder / "out")]
        weights = [] if model == "rcf" else ["--weights", "random:1"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen([*command, *weights, str(folder)], env=env) as run:
            seen: dict[int, tuple[str, float]] = {}
            begun, done = None, 0
            while run.poll() is None:
                look(run.pid, "parent", seen)
                if begun is None and (folder / "out/embeddings/part_0.parquet").exists():
                    begun, done = by_kind(seen), len(read_journal(folder / "out/.mtembed/part_1.journal"))
                time.sleep(EVERY_S)
        if run.returncode or begun is None:
            sys.exit(f"the run ended with {run.returncode}")
    return {kind: round((spent - begun[kind]) / (cells - done), 2) for kind, spent in by_kind(seen).items()}


def by_kind(seen: dict[int, tuple[str, float]]) -> dict[str, float]:
    return {kind: sum(spent for other, spent in seen.values() if other == kind) for kind in KINDS}


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
