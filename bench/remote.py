"""A run over a web server's shards beside the same run over a disk's: bytes, requests, CPU time and memory per cell.

    python -m bench.remote --cells 200

The shards are copies of the packaged Sentinel-2 cell with noise added (see ``host_path.py``), of which only the model's
bands are read; the server is on this machine, in this program.  Local and remote runs take turns; of each the median is
told.  ``fetched`` are the bytes that the server sent, ``needed`` those of the column chunks that the model reads.
Memory is that of the whole process tree at its largest.  The model's network computes elsewhere (``elsewhere.py``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.host_path import KINDS, command, copies, spent
from bench.memory import tree_bytes
from mtembed import machine, models
from tests.tools.web import Server, serving

ROOT = Path(__file__).resolve().parents[1]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--model", default="ssl4eo-s2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cell-ms", type=float, default=20.0, help="time of a cell elsewhere")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/remote.json")
    options = parser.parse_args(words)
    options.here = False
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        shards = copies(folder, options.cells, noise=True)
        with serving(folder) as server:
            urls = [server.url(path.name) for path in shards]
            runs: dict[str, list[dict[str, float]]] = {"local": [], "remote": []}
            for turn in range(options.rounds):
                runs["local"].append(one(options, folder / f"local-{turn}", list(map(str, shards))))
                runs["remote"].append(one(options, folder / f"remote-{turn}", urls))
        cells = options.rounds * sum(pq.read_metadata(path).num_rows for path in shards)
        content = {
            "machine": machine.cpu_name(), "cores": machine.cores(), "pyarrow": pa.__version__, "model": options.model,
            "cells": options.cells, "rounds": options.rounds,
            **{side: {key: round(statistics.median(run[key] for run in found), 2) for key in found[0]}
               for side, found in runs.items()},
            **asked(server, cells, needed(shards, options.model)),
        }  # fmt: skip
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def one(options: argparse.Namespace, output: Path, shards: Sequence[str]) -> dict[str, float]:
    """CPU milliseconds per cell of each kind of process, and the largest memory in MiB, of one run."""
    peak = 0

    def looked(pid: int) -> None:
        nonlocal peak
        peak = max(peak, tree_bytes(pid))

    costs = spent(command(options, output, shards), output, options.cells, options.cell_ms, looked)
    return {**costs, "together": sum(costs[kind] for kind in KINDS), "peak_mib": peak / 2**20}


def needed(shards: Sequence[Path], model: str) -> int:
    """Bytes of a cell's column chunks that a run reads: its bands, and what a row says of itself."""
    spec = models.get(model)
    wanted = {*spec.bands_for(spec.source), "grid_cell", "product_id", "timestamp"}
    group = pq.read_metadata(shards[-1]).row_group(0)
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in wanted)


def asked(server: Server, cells: int, each: int) -> dict[str, Any]:
    """What the server was asked for in all, per cell."""
    return {
        "requests_per_cell": round(len(server.requests) / cells, 2),
        "fetched_bytes_per_cell": round(server.sent / cells),
        "needed_bytes_per_cell": each,
    }


if __name__ == "__main__":
    main()
