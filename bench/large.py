"""Peak memory and seconds of every command that reads embeddings, over a set of any size.

    python -m bench.large --rows 20000 --dim 128          # that it runs
    python -m bench.large --rows 3300000 --dim 768        # 10 GB of vectors; takes about 30 GB of disk

The files are those of ``bench.pca``.  Each command is the real one in a process of its own.  ``anonymous_bytes`` is
the most that it held of its own at any look, twenty times a second; ``peak_bytes`` also counts pages of mapped files,
which the system takes back when it needs them.  Pages are counted where ``/proc`` is.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.pca import write
from mtembed import machine

ROOT = Path(__file__).resolve().parents[1]
EVERY_S = 0.05
QUERY = f"{7:064d}"
COMMANDS = {
    "pca": "pca set --fragments central --output pca",
    "search, exact": f"search set --row {QUERY}",
    "index": "index set",
    "search, index": f"search set --row {QUERY}",
    "evaluate": "evaluate set --output evaluation",
    "convert to float16": "convert set half --to float16",
    "convert to array:uint8": "convert set array --to array:uint8",
    "merge": "merge set merged",
}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--only", choices=COMMANDS, help="one command")
    parser.add_argument("--folder", type=Path, help="a disk with room; default: where temporary files go")
    parser.add_argument("--output", type=Path, default=ROOT / "bench/results/large.json")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="mtembed-bench-", dir=options.folder) as name:
        folder = Path(name)
        (folder / "set").mkdir()
        write(folder / "set", options.rows, options.dim)
        found = {}
        for what in [options.only] if options.only else COMMANDS:
            found[what] = measured(COMMANDS[what].split(), folder)
            print(what, json.dumps(found[what]), flush=True)
    content = {"machine": machine.cpu_name(), "cores": machine.cores(), "rows": options.rows, "dim": options.dim}
    content |= {"bytes_of_vectors": 4 * options.rows * options.dim, "commands": found}
    options.output.write_text(json.dumps(content, indent=1) + "\n")


def measured(words: list[str], folder: Path) -> dict[str, Any]:
    """Seconds and memory of one command; what it made is left there."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began, most = time.perf_counter(), {"VmHWM": 0, "RssAnon": 0}
    with subprocess.Popen([sys.executable, "-m", "mtembed", *words, "--quiet"], cwd=folder, env=env) as process:
        while process.poll() is None:
            for key, value in memory(process.pid).items():
                most[key] = max(most[key], value)
            time.sleep(EVERY_S)
    if process.returncode:
        sys.exit(f"mtembed {' '.join(words)} ended with {process.returncode}")
    seconds = round(time.perf_counter() - began, 1)
    return {"s": seconds, "peak_bytes": most["VmHWM"], "anonymous_bytes": most["RssAnon"]}


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process that is running; nothing where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return {}
    return {name: 1024 * int(kilobytes) for name, kilobytes in re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", text)}


if __name__ == "__main__":
    main()
