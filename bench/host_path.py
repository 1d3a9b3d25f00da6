"""CPU time per cell of everything beside the network: parent, decode workers and writer of a run.

    python -m bench.host_path --cells 200

Runs over copies of the packaged Sentinel-2 cell: 13 bands, uncompressed blobs in snappy pages.  ``as it is`` are the
sample's own pixels, which were mirrored to fill the cell, so that snappy finds much to copy; ``noisy`` has noise added
until pages hardly shrink, as in the archive.  CPU time is what the kernel counts for each process, from the end of a
first small part, so that everything has been loaded and done once, to the end of the run.  The network computes
elsewhere (see ``elsewhere.py``), as on a GPU: where it computes on the same cores, every stage takes up to twice as
much CPU time, because two busy hyperthreads share a core; ``--model rcf --here`` shows that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.elsewhere import CELL_MS
from mtembed import machine
from mtembed.dataset.folder import Dataset
from mtembed.dataset.journal import read_journal

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "mtembed/sample/Core-S2L1C/images/part_00001.parquet"
ALIKE = {"finish": "write"}  # both write the dataset: one cells, the other whole parts
KINDS = {"parent": "parent", "decode": "read and decode", "write": "geometry, identifiers, Parquet"}
WORKERS = (b"mtembed.run.worker", b"bench.feed")
WARM = 4  # cells of the first part
EVERY_S = 0.05
HEADER = 16384  # bytes of a blob that stay as they are, at its start (where its tables are) and at its end
NOISE_DN = 40


def journalled(root: Path, stem: str) -> int:
    """Cells in the journal of an open part."""
    return max((len(read_journal(path)) for path in Dataset(root).journals().get(stem, ())), default=0)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--model", default="ssl4eo-s2")
    parser.add_argument("--pixels", default="as it is,noisy")
    parser.add_argument("--here", action="store_true", help="the network computes on these cores")
    parser.add_argument("--cell-ms", type=float, default=20.0, help="time of a cell elsewhere")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/host-path.json")
    options = parser.parse_args(words)
    print(f"{machine.cpu_name()}, {machine.cores()} cores, pyarrow {pa.__version__}, numpy {np.__version__}")
    found = {}
    for pixels in options.pixels.split(","):
        each = cpu_ms_per_cell(options, pixels)
        found[pixels] = {"cpu_ms_per_cell": each, "together": round(sum(each.values()), 2)}
        print(f"{pixels}:")
        for kind, what in KINDS.items():
            print(f"  {kind:8s} {each[kind]:6.2f} CPU-ms per cell   {what}")
        print(f"  together {found[pixels]['together']:6.2f}", flush=True)
    content = {
        "machine": machine.cpu_name(), "cores": machine.cores(), "model": options.model, "cells": options.cells,
        "network": "here" if options.here else f"elsewhere, {options.cell_ms:g} ms per cell", "pixels": found,
    }  # fmt: skip
    options.output.write_text(json.dumps(content, indent=1) + "\n")


def cpu_ms_per_cell(options: argparse.Namespace, pixels: str) -> dict[str, float]:
    """Of a run over the sample's pixels, as they are or noisy."""
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        shards = copies(Path(name), options.cells, noise=pixels == "noisy")
        run = command(options, Path(name) / "out", list(map(str, shards)))
        return spent(run, Path(name) / "out", options.cells, options.cell_ms)


def copies(folder: Path, cells: int, noise: bool) -> list[Path]:
    """A small shard and one of ``cells`` rows, each row a row group as in the archive."""
    row = pq.read_table(SAMPLE).slice(0, 1)
    row = noisy(row) if noise else row
    shards = [folder / f"part_{part}.parquet" for part in range(2)]
    for path, count in zip(shards, (WARM, cells), strict=True):
        with pq.ParquetWriter(path, row.schema) as writer:
            for _ in range(count):
                writer.write_table(row)
    return shards


def spent(
    words: Sequence[str], output: Path, cells: int, cell_ms: float, looked: Callable[[int], None] = lambda pid: None
) -> dict[str, float]:
    """CPU milliseconds per cell of each kind of process, from the end of the first part to that of the run.

    ``looked`` is called with the parent's number about twenty times a second.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), CELL_MS: str(cell_ms)}
    with subprocess.Popen(words, env=env) as run:
        seen: dict[int, tuple[str, float]] = {}
        begun, done = None, 0
        while run.poll() is None:
            look(run.pid, "parent", seen)
            looked(run.pid)
            if begun is None and (output / "embeddings/part_0.parquet").exists():
                begun, done = by_kind(seen), journalled(output, "part_1")
            time.sleep(EVERY_S)
    if run.returncode or begun is None:
        sys.exit(f"the run ended with {run.returncode}")
    counted = max(1, cells - done)  # of very few all may be done by then
    return {kind: round((now - begun[kind]) / counted, 2) for kind, now in by_kind(seen).items()}


def command(options: argparse.Namespace, output: Path, shards: Sequence[str]) -> list[str]:
    if not options.here:
        return [sys.executable, "-m", "bench.elsewhere", "run", options.model, str(output), *shards]
    weights = [] if options.model == "rcf" else ["--weights", "random:1"]
    fixed = ["--model", options.model, "--quiet", "--output", str(output), *weights]
    return [sys.executable, "-m", "mtembed", *fixed, *shards]


def noisy(row: pa.Table) -> pa.Table:
    """The row with noise in all pixels of its bands but nodata; strips are uncompressed, so blobs keep their form."""
    noise = np.random.default_rng(0)
    for index, field in enumerate(row.schema):
        blob = row.column(index)[0].as_py()
        if field.name.startswith("B") and isinstance(blob, bytes):
            pixels = np.frombuffer(blob, np.uint16, len(blob) // 2 - HEADER, HEADER).astype(np.int32)
            added = pixels + noise.normal(0, NOISE_DN, pixels.size).astype(np.int32)
            changed = np.where(pixels, added.clip(1, 65534), 0).astype(np.uint16).tobytes()
            blob = blob[:HEADER] + changed + blob[HEADER + len(changed) :]
            row = row.set_column(index, field, pa.array([blob], field.type))
    return row


def by_kind(seen: dict[int, tuple[str, float]]) -> dict[str, float]:
    return {kind: sum(used for other, used in seen.values() if ALIKE.get(other, other) == kind) for kind in KINDS}


def look(pid: int, kind: str, seen: dict[int, tuple[str, float]]) -> None:
    """Note the CPU time that a process, all its threads, and its children have used so far."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        used = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e6
        seen[pid] = (kind, max(used, seen.get(pid, ("", 0.0))[1]))
        for task in tasks:
            for child in map(int, (task / "children").read_text().split()):
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                module = next((name for name in WORKERS if name in words), None)
                if module:
                    look(child, words[words.index(module) + 1].decode(), seen)
    except OSError:
        return


if __name__ == "__main__":
    main()
