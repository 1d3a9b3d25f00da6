"""``mtembed evaluate`` on many vectors: seconds and peak memory of the real command, at several sizes.

    python -m bench.evaluate --rows 20000                       # the smallest size, under a minute
    python -m bench.evaluate --rows 1000000 --dim 768 --labels 10000 --classes 10

Vectors are made: each 10 x 10 block of grid cells has a mean of its own, each class a direction; some have a label.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mtembed import machine as this_machine
from mtembed.evaluation.groups import STEP, columns_at
from mtembed.evaluation.result import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PART_ROWS = 50_000
FRAGMENTS = 25  # of a cell
SIDE = 224  # pixels of a fragment


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        begun = time.perf_counter()
        make(folder / "data" / "embeddings", options.rows, options.dim, options.labels, options.classes)
        print(f"{options.rows:,} vectors of {options.dim} made in {time.perf_counter() - begun:.0f} s", flush=True)
        found = measured(folder, options)
    report = {
        "machine": {"cpu": this_machine.cpu_name(), "cores": this_machine.cores(), "versions": versions()},
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": options.rows,
        "dim": options.dim,
        "labels": options.labels,
        "classes": options.classes,
        **found,
    }
    print(json.dumps(report, indent=1))
    if options.output:
        Path(options.output).write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--labels", type=int, default=2_000)
    parser.add_argument("--classes", type=int, default=5, help="1: numbers, and a regression")
    parser.add_argument("--output", help=f"JSON to write, such as {(RESULTS / 'evaluate.json').relative_to(ROOT)}")
    return parser.parse_args()


def make(folder: Path, rows: int, dim: int, labels: int, classes: int) -> None:
    """Parts of ``PART_ROWS`` rows; cells fill a square of the grid around 40 degrees north, row by row."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(max(2, classes), dim)).astype(np.float32)
    side = int(np.ceil(np.sqrt(rows / FRAGMENTS)))
    block_means = rng.normal(size=(side // 10 + 1, side // 10 + 1, dim)).astype(np.float32)
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        row = np.arange(first, min(first + PART_ROWS, rows))
        table = part(row, rng, directions, block_means, side, labels / rows, classes)
        pq.write_table(table, folder / f"part_{number:05d}.parquet", row_group_size=10_000, compression="zstd",
                       compression_level=1, use_dictionary=["grid_cell"])  # fmt: skip


def part(
    row: npt.NDArray[Any], rng: np.random.Generator, directions: npt.NDArray[np.float32],
    block_means: npt.NDArray[np.float32], side: int, share: float, classes: int,
) -> pa.Table:  # fmt: skip
    cell, fragment = np.divmod(row, FRAGMENTS)
    up, right = 440 + cell // side, 100 + cell % side
    lat = (up + 0.5) * STEP + (fragment // 5 - 2) * 0.018
    lon = (right + 0.5) * 360.0 / columns_at(up) + (fragment % 5 - 2) * 0.022
    kind = rng.integers(0, len(directions), len(row))
    vectors = rng.standard_normal((len(row), directions.shape[1]), dtype=np.float32) * 4
    vectors += directions[kind] + block_means[(up - 440) // 10, (right - 100) // 10]
    value = kind.astype(float) + rng.normal(0, 0.3, len(row)) if classes == 1 else kind
    labelled = rng.random(len(row)) < share
    return pa.table({
        "unique_id": [f"{number:09d}" for number in row],
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        "grid_cell": [f"{a}U_{b}R" for a, b in zip(up, right, strict=True)],
        "centre_lat": pa.array(lat, pa.float32()),
        "centre_lon": pa.array(lon, pa.float32()),
        "pixel_bbox": [[int(c) * SIDE, int(r) * SIDE, int(c + 1) * SIDE, int(r + 1) * SIDE]
                       for r, c in zip(fragment // 5, fragment % 5, strict=True)],
        "label": pa.array([value[i].item() if good else None for i, good in enumerate(labelled)]),
    })  # fmt: skip


def measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "mtembed", "evaluate", str(folder / "data"), "--column", "label", "--json"]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "--output", str(folder / "out")], capture_output=True, text=True, check=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    events = [json.loads(line) for line in done.stdout.splitlines()]
    result = events[-1]
    first = "r2" if options.classes == 1 else "balanced_accuracy"
    return {
        "seconds": round(seconds, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "progress_events": len(events) - 1,
        "rows_labelled": result["rows_labelled"],
        "scores": {
            f"{line['features']}, {line['probe']}": line["value"]
            for line in result["scores"]
            if line["metric"] == first
        },
    }


if __name__ == "__main__":
    main()
