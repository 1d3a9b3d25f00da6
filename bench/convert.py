"""Seconds, bytes and memory of mtembed convert and merge, and how fast a raw array is read beside pandas.

    python -m bench.convert --rows 20000 --dim 128                # the smallest size that says anything
    python -m bench.convert --rows 100000 --dim 768
    python -m bench.convert --rows 3300000 --dim 768 --forms float16,array:float16   # 10 GB of vectors

The files are those of ``bench.search``.  Each command runs in a process of its own; ``peak_bytes`` is its largest
resident size, of which pages of a mapped file are a part that the system takes back when it likes, ``anonymous_bytes``
what it held at its end without them.  Reading is timed with warm caches, best of three: a raw array with
numpy.fromfile, the dataset with pandas and numpy.stack, and a thousand rows in random order by a memory map.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.search import write

ROOT = Path(__file__).resolve().parents[1]
FORMS = ("float16", "bfloat16", "int8", "uint8", "bits", "pca:16", "array", "array:float16")
RANDOM_ROWS, BEST_OF = 1000, 3


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/convert.json")
    parser.add_argument("--side", nargs=3, metavar=("FORM", "FOLDER", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.side:
        form, folder, out = options.side
        print(json.dumps(ours(form, Path(folder), Path(out))))
        return
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-") as name:
        folder = Path(name)
        write(folder, options.rows, options.dim)
        made = {form: measured(form, folder, folder / "out") for form in [*options.forms.split(","), "merge"]}
        measured("array", folder, folder / "raw")
        content = {
            "rows": options.rows,
            "dim": options.dim,
            "forms": made,
            "reading": reading(folder / "embeddings", folder / "raw"),
        }
    options.output.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def measured(form: str, folder: Path, out: Path) -> dict[str, Any]:
    """What one conversion says of itself, in a fresh process; its output is removed if it is not to be read."""
    command = [sys.executable, "-m", "bench.convert", "--side", form, str(folder / "embeddings"), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    if out.name == "out":
        subprocess.run(["rm", "-r", str(out)], check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(form: str, folder: Path, out: Path) -> dict[str, Any]:
    from mtembed import convert, merge

    began = time.perf_counter()
    if form == "merge":
        result = merge(folder, out)
        facts = {"bytes": result.bytes}
    else:
        changed = convert(folder, out, to=form)
        facts = {"bytes": changed.bytes_after, "recall_at_10": changed.recall_at_10}
    return facts | {"s": round(time.perf_counter() - began, 2)} | memory()


def memory() -> dict[str, int]:
    """Bytes of this process at most, and of them what no file stands behind now."""
    text = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    found = dict(re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", text))
    return {"peak_bytes": 1024 * int(found.get("VmHWM", 0)), "anonymous_bytes": 1024 * int(found.get("RssAnon", 0))}


def reading(parts: Path, raw: Path) -> dict[str, float]:
    """Milliseconds of each way to read, and how many times as long pandas takes."""
    import pandas as pd

    header = json.loads((raw / "header.json").read_text())
    rows, dim = header["shape"]
    values = np.memmap(raw / "embeddings.bin", header["dtype"], "r", shape=(rows, dim))
    some = np.random.default_rng(0).choice(rows, min(rows, RANDOM_ROWS), replace=False)
    ways: dict[str, Callable[[], Any]] = {
        "pandas_stack_ms": lambda: np.stack(pd.read_parquet(parts, columns=["embedding"])["embedding"]),
        "fromfile_ms": lambda: np.fromfile(raw / "embeddings.bin", header["dtype"]).reshape(rows, dim),
        "random_rows_ms": lambda: values[some],
    }
    found = {name: 1e3 * min(seconds(way) for _ in range(BEST_OF)) for name, way in ways.items()}
    ratio = found["pandas_stack_ms"] / found["fromfile_ms"]
    return {name: round(took, 2) for name, took in found.items()} | {"pandas_over_fromfile": round(ratio, 1)}


def seconds(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
