"""Stop, wake and kill processes that share one folder at random, and compare what they end with.

    python tests/soak_shared.py --seconds 120 --seed 1

Up to three processes work on one dataset with a lease of two seconds.  All the time one of them, or its parent alone,
is stopped, woken or killed, and others are started.  Then all are woken, and what they end with must be the bytes of a
run that nobody disturbed, one manifest that is complete, nothing left behind, and ``verify`` finds nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tools.commands import embeddings, leftovers, run, start
from tests.tools.shards import default_cells, make_shard, write_metadata

SHARDS, CELLS, PROCESSES = 12, 4, 3
LONGEST_S = 3.0
WAIT_S = 300.0
BLOWS = ("stop", "stop parent", "wake", "wake", "wake", "kill", "nothing", "nothing")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="mtembed-soak-") as name:
        folder = Path(name)
        _archive(folder / "in")
        assert run(_command(folder, "expected"))[0] == 0
        counts = soak(_command(folder, "out"), options.seconds, random.Random(options.seed))
        assert run(_command(folder, "out"))[0] == 0
        assert embeddings(folder / "out") == embeddings(folder / "expected"), "other bytes"
        assert leftovers(folder / "out") == [], leftovers(folder / "out")
        code, out, err = run(["verify", str(folder / "out"), "--shards", str(folder / "in")])
        assert code == 0, out + err
        assert json.loads((folder / "out/manifest.json").read_text())["complete"]
    print(", ".join(f"{blow} {count}" for blow, count in sorted(counts.items())), "and nothing was lost")


def soak(command: Sequence[str], seconds: float, chance: random.Random) -> Counter[str]:
    """Blows by kind.  Raises SystemExit when a process that was not killed ends with an error."""
    counts: Counter[str] = Counter()
    processes: list[subprocess.Popen[str]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for process in [one for one in processes if one.poll() is not None]:
            processes.remove(process)
            _require_well(process)
        if len(processes) < PROCESSES:
            processes.append(start(command))
            counts["start"] += 1
        blow = chance.choice(BLOWS)
        with contextlib.suppress(ProcessLookupError):
            _strike(chance.choice(processes), blow)
            counts[blow] += 1
        time.sleep(chance.uniform(0.0, LONGEST_S))
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
    for process in processes:
        _require_well(process)
    return counts


def _strike(process: subprocess.Popen[str], blow: str) -> None:
    if blow == "stop parent":
        os.kill(process.pid, signal.SIGSTOP)
    elif blow != "nothing":
        numbers = {"stop": signal.SIGSTOP, "wake": signal.SIGCONT, "kill": signal.SIGKILL}
        os.killpg(process.pid, numbers[blow])


def _require_well(process: subprocess.Popen[str]) -> None:
    _, err = process.communicate(timeout=WAIT_S)
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"exit code {process.returncode}: {err[-500:]}")


def _archive(folder: Path) -> None:
    cells = default_cells(SHARDS * CELLS)
    shards = [
        make_shard(folder / f"images/part_{number:02}.parquet", cells[CELLS * number :][:CELLS], "S1RTC")
        for number in range(SHARDS)
    ]
    write_metadata(folder / "metadata.parquet", shards)


def _command(folder: Path, output: str) -> list[str]:
    small = ("--slots", "2", "--workers", "1", "--share-of-machine", "0.5", "--lease", "2")
    return ["--model", "rcf", "--fragment-size", "32", *small, "--output", str(folder / output), str(folder / "in")]


if __name__ == "__main__":
    main()
