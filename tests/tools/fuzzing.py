"""A long fuzz run: mutated inputs in child processes with little memory to spare and a deadline for each.

A child that dies is replaced and its input counts as a crash or a hang.  Used by the ``fuzz_*.py``, which say how to
start it.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPARE_BYTES = 256 << 20
DEADLINE_S = 5.0
ENDLESS = 1000  # deaths of a child after which the run is given up


@dataclass(frozen=True)
class Target:
    """What is fuzzed: ``warm_up`` loads and compiles everything, ``make`` (seed, number) gives the input with that
    number, ``attempt`` tries it and says ``decoded``, ``refused`` or ``differs: HOW``.  ``arguments`` follow the
    name of the script."""

    script: str
    warm_up: Callable[[], None]
    make: Callable[[int, int], Any]
    attempt: Callable[[Any], str]
    spare_bytes: int = SPARE_BYTES
    deadline_s: float = DEADLINE_S
    arguments: tuple[str, ...] = ()


def run_child(target: Target, seed: int, start: int, stop: int) -> None:
    """Try the inputs in order, one line of outcome and milliseconds for each."""
    faulthandler.enable()
    target.warm_up()
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + target.spare_bytes, resource.RLIM_INFINITY))
    for number in range(start, stop):
        made = target.make(seed, number)
        signal.setitimer(signal.ITIMER_REAL, target.deadline_s)  # no handler: SIGALRM ends the process, even inside C
        began = time.perf_counter()
        outcome, _, how = target.attempt(made).partition(": ")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if how:
            print(f"input {number}: {how}", file=sys.stderr)
        print(outcome, (time.perf_counter() - began) * 1e3, flush=True)
    print("grew", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usage) / 1024, flush=True)


def run(target: Target, seed: int, start: int, count: int) -> int:
    tally: Counter[str] = Counter()
    slowest, grew, number, stop = 0.0, 0.0, start, start + count
    while number < stop and tally["crashes"] + tally["hangs"] < ENDLESS:
        command = [
            sys.executable,
            target.script,
            *target.arguments,
            "--child",
            *map(str, ("--seed", seed, "--start", number, "--count", stop - number)),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                word, figure = line.split()
                if word == "grew":
                    grew = max(grew, float(figure))
                    continue
                tally[word] += 1
                slowest = max(slowest, float(figure))
                number += 1
        if child.returncode:
            what = "hangs" if child.returncode == -signal.SIGALRM else "crashes"
            print(f"input {number}: {what} (exit status {child.returncode})", file=sys.stderr)
            tally[what] += 1
            number += 1
    bad = {word: tally.pop(word, 0) for word in ("crashes", "hangs", "differs")}
    outcomes = ", ".join(f"{count} {word}" for word, count in sorted(tally.items()))
    print(
        f"{number - start} inputs: {outcomes}, slowest {slowest:.0f} ms, memory +{grew:.0f} MiB, "
        f"{bad['crashes']} crashes, {bad['hangs']} hangs, {bad['differs']} differences"
    )
    return int(sum(bad.values()) > 0)


def main(target: Target, text: str | None) -> int:
    """The command line of a fuzz script."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(target, options.seed, options.start, options.start + options.count)
        return 0
    return run(target, options.seed, options.start, options.count)
