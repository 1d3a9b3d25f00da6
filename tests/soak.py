"""Kill and stop a run again and again at random times, and compare what it ends with.

    python tests/soak.py --kills 200 --seed 1

Each round makes a dataset of small cells while the parent, a worker of some kind or the whole process group is killed
after a random time, a worker is stopped for ever, or one of a random stage dies by itself at a random call; the command
is started again whenever its parent is gone.  A round ends when the dataset is finished, and its parts must have the
bytes of a run that nobody disturbed.  Ends with one line: blows by kind, cells that were computed more than once, how
long it took until a dead worker had a successor.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.tools.commands import embeddings, leftovers, run, start, workers_of
from tests.tools.shards import default_cells, make_shard, write_metadata

SHARDS, CELLS = 4, 40
LONGEST_S = 8.0
STALL_S = 20.0  # a stopped worker has a successor after that
FROM_INSIDE = (
    ("decode", "mtembed.archive.listing:list_shard"),
    ("decode", "mtembed.archive.cell:decode_cell"),
    ("device", "mtembed.engine.cpu:CpuDevice.embed"),
    ("write", "mtembed.dataset.part:UnfinishedPart.append"),
    ("write", "mtembed.dataset.part:UnfinishedPart.close"),
    ("finish", "mtembed.dataset.part:UnfinishedPart.finish"),
)
"""Where a worker dies by itself."""


@dataclass
class Kills:
    """What was killed or stopped how often, and milliseconds until a killed worker had a successor."""

    counts: Counter[str] = field(default_factory=Counter)
    notice_ms: list[float] = field(default_factory=list)
    inside: list[tuple[str, Path]] = field(default_factory=list)

    def count_inside(self) -> None:
        """The workers that died by themselves since the last call."""
        for name, once in self.inside:
            self.counts[f"in {name}"] += once.exists()
            shutil.rmtree(once.parent)
        self.inside.clear()


def soak(command: Sequence[str], kills: int, chance: random.Random, counter: Path | None = None) -> Kills:
    """Start the command until it has finished or was hit ``kills`` times; ``counter`` gets a byte per embedded cell."""
    done = Kills()
    while True:
        process = _start(command, chance, done, counter)
        while process.poll() is None and done.counts.total() < kills:
            _kill_after_a_while(process, chance, done)
        if done.counts.total() >= kills:
            process.kill()
        process.communicate(timeout=240)
        done.count_inside()
        if done.counts.total() >= kills or process.returncode in (0, 3):
            return done
        if process.returncode not in (1, -signal.SIGKILL):  # 1: too many workers in a row died before their first task
            raise SystemExit(f"exit code {process.returncode}")


def _start(command: Sequence[str], chance: random.Random, done: Kills, counter: Path | None) -> subprocess.Popen[str]:
    faults: list[dict[str, Any]] = [_counting(counter)] if counter else []
    kind, function = chance.choice(FROM_INSIDE)
    if chance.random() < 0.5:  # once in this start
        once = Path(tempfile.mkdtemp(prefix="mtembed-soak-")) / "once"
        faults.append(
            {"kind": kind, "function": function, "call": chance.randint(1, 4), "action": "kill", "once": str(once)}
        )
        done.inside.append((function.rpartition(":")[2], once))
    options = ["--workers", str(chance.randint(1, 3)), "--stall-timeout", str(STALL_S)]
    return start([*command, *options], faults)


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
    choice = chance.choice(["parent", "group", "stop", *workers.values()])
    done.counts[choice] += 1
    if choice == "stop":
        _signal(chance.choice([*workers] or [process.pid]), signal.SIGSTOP if workers else signal.SIGKILL)
    elif choice == "parent":
        process.kill()
        process.wait()
    elif choice == "group":
        for pid in (process.pid, *workers):
            _signal(pid, signal.SIGKILL)
        process.wait()
    else:
        victim = chance.choice([pid for pid, kind in workers.items() if kind == choice])
        _signal(victim, signal.SIGKILL)
        done.notice_ms += _until_replaced(process, workers.keys(), choice)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
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
        f"{kills} blows ({kinds}) in {rounds} rounds of {SHARDS * CELLS} cells: every round ended in the same bytes; "
        f"{again} cells embedded again, {again / kills:.1f} per kill; a dead worker had a successor after "
        f"{statistics.median(total.notice_ms):.0f} ms (median), {max(total.notice_ms):.0f} ms at most"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
