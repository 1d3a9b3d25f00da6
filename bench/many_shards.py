"""A simulated archive of many tiny shards: time to embed, time to plan and resume, memory of the process tree.

python -m bench.many_shards --shards 5000 [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "mtembed/sample/Core-S1RTC/images/part_00001.parquet"
SIDE = 32


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=5000)
    parser.add_argument("--resumes", type=int, default=3, help="starts of the finished dataset that are measured")
    parser.add_argument("--keep", help="build and leave the archive and the dataset here")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/many-shards.json")
    options = parser.parse_args(words)
    folder = Path(options.keep or tempfile.mkdtemp(prefix="mtembed-bench-"))
    try:
        archive(folder / "images", options.shards)
        found = measure(folder, options.shards, options.resumes)
        print(json.dumps(found))
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def archive(images: Path, count: int) -> None:
    """One cell of 32 px a shard: the same bytes under many names."""
    if images.exists():
        return
    images.mkdir(parents=True)
    from tests.tools.shards import default_cells, make_shard

    first = make_shard(images / "part_00000.parquet", default_cells(1, SIDE), "S1RTC").path
    content = first.read_bytes()
    for number in range(1, count):
        (images / f"part_{number:05d}.parquet").write_bytes(content)


def measure(folder: Path, count: int, resumes: int) -> dict[str, float]:
    command = [sys.executable, "-m", "mtembed", "--model", "rcf", "--fragment-size", str(SIDE), "--quiet",
               "--output", str(folder / "out"), str(folder / "images")]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    subprocess.run(command, env=env, check=True)
    first = time.monotonic() - started
    again = []
    for _ in range(resumes):
        started = time.monotonic()
        subprocess.run(command, env=env, check=True)
        again.append(time.monotonic() - started)
    timings = [
        pq.read_table(p, columns=["started", "total"]).to_pylist()[0]
        for p in sorted((folder / "out/timings").iterdir())
    ]
    ended = sorted(row["started"] + row["total"] / 1e3 for row in timings)
    tenth = len(ended) // 10
    return {
        "shards": count,
        "embed_s": round(first, 1),
        "first_tenth_s": round(ended[tenth] - ended[0], 2),
        "last_tenth_s": round(ended[-1] - ended[-1 - tenth], 2),
        "resume_s": round(statistics.median(again), 2),
    }


if __name__ == "__main__":
    main()
