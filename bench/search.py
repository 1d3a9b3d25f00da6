"""Seconds, memory and recall of mtembed index and search beside FAISS Flat, on the same files in one run.

    python -m bench.search --rows 20000 --dim 128               # the smallest size that says anything
    python -m bench.search --rows 1000000 --dim 768 --queries 50

The files are synthetic: vectors around some hundred centres with a falling spectrum, written as mtembed writes parts.
Each side runs in a process of its own; memory is its largest resident size.  FAISS Flat reads the files with the same
reader, keeps all vectors in memory and is asked one query at a time, as mtembed is.  mtembed's time for a query is that
of the whole call: opening the index, reading the query's row, searching, an exact look at the hits, their columns.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed.dataset.reader import open_dataset
from mtembed.dataset.rows import writer_options
from mtembed.similarity.index import index
from mtembed.similarity.search import search

ROOT = Path(__file__).resolve().parents[1]
PART_ROWS = 25_000
CENTRES = 400
TOP = 10
ROW_CELLS = 1300  # of a row of the grid that are used, to the right of longitude 0
SIDES = ("flat", "exact", "ivf")
BOX = (0.0, -1.0, 1.0, 90.0)  # W, S, E, N: a few of the columns of cells


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/search.json")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "QUERIES"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.side:
        side, folder, queries = options.side
        found = flat(Path(folder), int(queries)) if side == "flat" else ours(Path(folder), side, int(queries))
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        write(Path(name), options.rows, options.dim)
        sides = {side: measured(side, Path(name), options.queries) for side in SIDES}
    truth = sides["flat"].pop("found")
    for side in SIDES[1:]:
        hits = zip(truth, sides[side].pop("found"), strict=True)
        sides[side]["recall_at_10"] = round(sum(len({*one} & {*two}) for one, two in hits) / (TOP * len(truth)), 4)
    content = {"rows": options.rows, "dim": options.dim, "queries": options.queries, **sides}
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def write(folder: Path, rows: int, dim: int) -> None:
    """Parts of ``PART_ROWS`` rows; row r is cell r of the grid."""
    random = np.random.default_rng(0)
    scale = 1 / np.arange(1, dim + 1, dtype=np.float32) ** 0.5
    centres = random.standard_normal((CENTRES, dim), np.float32) * scale
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - first)
        vectors = centres[random.integers(0, CENTRES, count)]
        vectors = vectors + 0.6 * random.standard_normal((count, dim), np.float32) * scale
        cells = np.arange(first, first + count)
        table = pa.table(
            {
                "unique_id": [f"{cell:064d}" for cell in cells.tolist()],
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim),
                "timestamp": ["20200630T103000"] * count,
                "grid_cell": [f"{cell // ROW_CELLS}U_{cell % ROW_CELLS}R" for cell in cells.tolist()],
                "centre_lat": pa.array((cells // ROW_CELLS) * 0.0898, pa.float32()),
                "centre_lon": pa.array((cells % ROW_CELLS) * 0.09, pa.float32()),
            }
        )
        options = writer_options("float32")
        options |= {"use_dictionary": ["grid_cell", "timestamp"], "write_statistics": False}
        (folder / "embeddings").mkdir(exist_ok=True)
        pq.write_table(table, folder / f"embeddings/part_{number:05d}.parquet", row_group_size=10_000, **options)


def measured(side: str, folder: Path, queries: int) -> dict[str, Any]:
    """What one side says of itself, in a fresh process."""
    command = [sys.executable, "-m", "bench.search", "--side", side, str(folder), str(queries)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def asked(rows: int, queries: int) -> list[int]:
    """Rows that are looked for, the same ones for every side."""
    return sorted(np.random.default_rng(1).choice(rows, min(rows, queries), replace=False).tolist())


def flat(folder: Path, queries: int) -> dict[str, Any]:
    """All vectors in memory, compared one by one."""
    import faiss

    dataset = open_dataset(folder)
    began = time.perf_counter()
    made = faiss.IndexFlatIP(dataset.dim)
    for batch in dataset.batches():
        vectors = np.array(batch.vectors)
        faiss.normalize_L2(vectors)
        made.add(vectors)
    built, times, found = time.perf_counter() - began, [], []
    for row in asked(dataset.rows, queries):
        began = time.perf_counter()
        found.append(made.search(made.reconstruct(row)[None], TOP)[1][0].tolist())
        times.append(time.perf_counter() - began)
    return facts(built, times, found) | {"index_bytes": 4 * dataset.rows * dataset.dim}


def ours(folder: Path, kind: str, queries: int) -> dict[str, Any]:
    """An index of one kind; each query as a user asks it, then in a small box."""
    began = time.perf_counter()
    made = index(folder, folder / kind, kind="ivf" if kind == "ivf" else "exact")
    built, times, boxed, found = time.perf_counter() - began, [], [], []
    for row in asked(made.rows, queries):
        began = time.perf_counter()
        hits = search(folder / kind, row=f"{row:064d}", top=TOP).hits
        times.append(time.perf_counter() - began)
        found.append([int(hit.unique_id or -1) for hit in hits])
        began = time.perf_counter()
        search(folder / kind, row=f"{row:064d}", top=TOP, bbox=BOX)
        boxed.append(time.perf_counter() - began)
    content = {"index_bytes": made.bytes, "recall_measured": made.recall_at_10, "lists": made.lists}
    return facts(built, times, found) | content | {"median_ms_in_a_box": round(1e3 * float(np.median(boxed)), 2)}


def facts(built: float, times: Sequence[float], found: list[list[int]]) -> dict[str, Any]:
    """Seconds, milliseconds and memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "build_s": round(built, 2),
        "median_ms": round(1e3 * float(np.median(times)), 2),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "found": found,
    }


if __name__ == "__main__":
    main()
