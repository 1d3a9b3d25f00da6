"""Seconds and memory of mtembed pca beside scikit-learn's IncrementalPCA, on the same files in one run.

    python -m bench.pca --rows 20000 --dim 128                  # the smallest size that says anything
    python -m bench.pca --rows 1000000 --dim 768 --every 4      # scikit-learn reads a quarter of the files

The files are synthetic: vectors of a falling spectrum, a cell of the grid for each, written as mtembed writes parts.
Each side runs in a process of its own; memory is its largest resident size.  scikit-learn's time is partial_fit
alone, over what it was given to read, and mtembed's "adding up" is the same work; its time in all is the whole command:
choosing the central fragments, adding up, projecting, table and maps.
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
import shapely

from mtembed.dataset.reader import open_dataset
from mtembed.dataset.rows import writer_options
from mtembed.maps.pca import pca

ROOT = Path(__file__).resolve().parents[1]
PART_ROWS = 25_000
COMPONENTS = 3
ROW_CELLS = 1300  # of a row of the grid that are used, to the right of longitude 0


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--every", type=int, default=1, help="scikit-learn reads every n-th file")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/pca.json")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "FOLDER", "EVERY"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.side:
        side, folder, every = options.side
        print(json.dumps(ours(Path(folder)) if side == "ours" else theirs(Path(folder), int(every))))
        return
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        write(folder, options.rows, options.dim)
        mine, other = (measured(side, folder, options.every) for side in ("ours", "theirs"))
    content = {
        "rows": options.rows, "dim": options.dim, "mtembed": mine, "incremental_pca": other,
        "ratio_of_fits": round(other["s_per_million"] / (mine["fit_s"] * 1e6 / mine["rows"]), 3),
        "largest_angle": angle(mine.pop("components"), other.pop("components")),
    }  # fmt: skip
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def write(folder: Path, rows: int, dim: int) -> None:
    """Parts of ``PART_ROWS`` rows."""
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
    scale = 3 / np.arange(1, dim + 1, dtype=np.float32) ** 0.7
    for number, first in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - first)
        vectors = (random.standard_normal((count, dim), np.float32) * scale) @ turn + 1.0
        cells = np.arange(first, first + count)
        lat, lon = (cells // ROW_CELLS) * 0.0898, (cells % ROW_CELLS) * 0.09
        table = pa.table(
            {
                "unique_id": [f"{cell:064d}" for cell in cells.tolist()],
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim),
                "grid_cell": [f"{cell // ROW_CELLS}U_{cell % ROW_CELLS}R" for cell in cells.tolist()],
                "geometry": pa.array(shapely.to_wkb(shapely.box(lon, lat, lon + 0.02, lat + 0.02)), pa.binary()),
                "pixel_bbox": pa.array([[422, 422, 646, 646]] * count, pa.list_(pa.int32(), 4)),
            }
        )
        options = writer_options("float32")
        options |= {"use_dictionary": ["grid_cell"], "write_statistics": False}
        (folder / "embeddings").mkdir(exist_ok=True)
        pq.write_table(table, folder / f"embeddings/part_{number:05d}.parquet", row_group_size=10_000, **options)


def measured(side: str, folder: Path, every: int) -> dict[str, Any]:
    """What one side says of itself, in a fresh process."""
    command = [sys.executable, "-m", "bench.pca", "--side", side, str(folder), str(every)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(folder: Path) -> dict[str, Any]:
    """The whole command, and seconds and CPU seconds of each of its steps."""
    began, steps = time.perf_counter(), {"opening": np.zeros(2)}
    last, doing = np.array([time.perf_counter(), time.process_time()]), "opening"

    def tick(what: str, done: int, total: int) -> None:
        nonlocal last, doing
        now = np.array([time.perf_counter(), time.process_time()])
        steps[doing] = steps.get(doing, 0.0) + now - last
        last, doing = now, what

    result = pca(folder, components=COMPONENTS, tick=tick)
    told = {name: dict(zip(("s", "cpu_s"), spent.round(2).tolist(), strict=True)) for name, spent in steps.items()}
    return facts(result.n, began, result.components) | {"fit_s": told["adding up"]["s"], "steps": told}


def theirs(folder: Path, every: int) -> dict[str, Any]:
    """partial_fit over every n-th file, read as mtembed reads them."""
    from sklearn.decomposition import IncrementalPCA

    dataset = open_dataset(folder)
    began = time.perf_counter()
    fit, rows = IncrementalPCA(COMPONENTS), 0
    for batch in dataset.batches(rows=10_000, files=range(0, len(dataset.files), every)):
        fit.partial_fit(batch.vectors)
        rows += batch.rows
    return facts(rows, began, fit.components_)


def facts(rows: int, began: float, components: np.ndarray) -> dict[str, Any]:
    """Seconds, memory and components of this process."""
    seconds = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "rows": rows,
        "s": round(seconds, 2),
        "cpu_s": round(time.process_time(), 2),
        "s_per_million": seconds * 1e6 / rows,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "components": components.tolist(),
    }


def angle(one: list[list[float]], other: list[list[float]]) -> float:
    """The largest principal angle between two sets of components, in radians."""
    a, b = np.array(one), np.array(other)
    sines = np.linalg.svd(a - a @ b.T @ b, compute_uv=False)
    return float(np.arcsin(min(1.0, sines.max())))


if __name__ == "__main__":
    main()
