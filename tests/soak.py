"""Kill a run again and again at random times, and compare what it ends with.

    python tests/soak.py --kills 200 --seed 1

Each round makes a dataset of small cells while the parent, a worker of some kind or the whole process group is killed
after a random time; the command is started again whenever its parent is gone.  A round ends when the dataset is
finished, and its parts must have the bytes of a run that nobody disturbed.  Ends with one line: kills by kind, cells
that were computed more than once, how long it took until a dead worker had a successor.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tools.commands import embeddings, leftovers, run, start, workers_of
from tests.tools.shards import default_cells, make_shard, write_metadata

SHARDS, CELLS = 4, 40
LONGEST_S = 8.0


@dataclass
class Kills:
    """What was killed how often, and milliseconds until a killed worker had a successor."""

    counts: Counter[str] = field(default_factory=Counter)
    notice_ms: list[float] = field(default_factory=list)


def soak(command: Sequence[str], kills: int, chance: random.Random, counter: Path | None = None) -> Kills:
    """Start the command until it has finished or was hit ``kills`` times; ``counter`` gets a byte per embedded cell."""
    done = Kills()
    while True:
        process = _start(command, chance, counter)
        while process.poll() is None and done.counts.total() < kills:
            _kill_after_a_while(process, chance, done)
        if done.counts.total() >= kills:
            process.kill()
        process.communicate(timeout=120)
        if done.counts.total() >= kills or process.returncode in (0, 3):
            return done
        if process.returncode not in (1, -signal.SIGKILL):  # 1: too many workers in a row died before their first task
            raise SystemExit(f"exit code {process.returncode}")


def _start(command: Sequence[str], chance: random.Random, counter: Path | None) -> subprocess.Popen[str]:
    return start([*command, "--workers", str(chance.randint(1, 3))], [_counting(counter)] if counter else [])


def _counting(counter: Path) -> dict[str, str]:
    """A fault that only counts the cells that are embedded."""
    return {"kind": "device", "function": "mtembed.engine.cpu:CpuDevice.embed", "action": f"count:{counter}"}


def _kill_after_a_while(process: subprocess.Popen[str], chance: random.Random, done: Kills) -> None:
    """The parent, the whole group, or some worker."""
    try:
        process.wait(timeout=chance.uniform(0.2, LONGEST_S))
        return
    except subprocess.TimeoutExpired:
        workers = workers_of(process.pid)
    choice = chance.choice(["parent", "group", *workers.values()])
    done.counts[choice] += 1
    if choice == "parent":
        process.kill()
        process.wait()
    elif choice == "group":
        for pid in (process.pid, *workers):
            _kill(pid)
        process.wait()
    else:
        victim = chance.choice([pid for pid, kind in workers.items() if kind == choice])
        _kill(victim)
        done.notice_ms += _until_replaced(process, workers.keys(), choice)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _until_replaced(process: subprocess.Popen[str], before: Sequence[int], kind: str) -> list[float]:
    """Milliseconds until a worker of that kind is there that was not there before; nothing when the run ended."""
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 10:
        if any(found == kind and pid not in before for pid, found in workers_of(process.pid).items()):
            return [(time.monotonic() - began) * 1e3]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance, total, rounds = random.Random(options.seed), Kills(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cells = default_cells(SHARDS * CELLS)
        images = folder / "archive" / "images"
        shards = [make_shard(images / f"part_{i}.parquet", cells[i * CELLS :][:CELLS], "S1RTC") for i in range(SHARDS)]
        write_metadata(folder / "archive" / "metadata.parquet", shards)
        arguments = ["--model", "rcf", "--fragment-size", "32", str(folder / "archive"), "--output"]
        run([*arguments, str(folder / "calm")])
        expected, counter = embeddings(folder / "calm"), folder / "embedded"
        while total.counts.total() < options.kills:
            output, rounds = folder / f"out-{rounds}", rounds + 1
            found = soak([*arguments, str(output)], options.kills - total.counts.total(), chance, counter)
            total.counts += found.counts
            total.notice_ms += found.notice_ms
            code, _, text = run([*arguments, str(output)], [_counting(counter)])
            if code or embeddings(output) != expected or leftovers(output):
                print(f"round {rounds} ended differently (exit code {code}): {text}", file=sys.stderr)
                return 1
        again = counter.stat().st_size - rounds * SHARDS * CELLS
    kinds = ", ".join(f"{count} {kind}" for kind, count in total.counts.most_common())
    kills = total.counts.total()
    print(
        f"{kills} kills ({kinds}) in {rounds} rounds of {SHARDS * CELLS} cells: every round ended in the same bytes; "
        f"{again} cells embedded again, {again / kills:.1f} per kill; a dead worker had a successor after "
        f"{statistics.median(total.notice_ms):.0f} ms (median), {max(total.notice_ms):.0f} ms at most"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
