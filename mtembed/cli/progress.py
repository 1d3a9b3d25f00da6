"""The numbers of a run, while it lasts and at its end, as plain data and as sentences; prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from mtembed.cli.console import INTERRUPTED
from mtembed.run.progress import ADVICE, Progress
from mtembed.text import counted, duration, plural
from mtembed.types import RunSummary

SUMMARY = (
    "output", "model", "source", "cells", "failed", "embeddings", "new_cells", "seconds", "exit_code", "message",
    "failed_shards",
)  # fmt: skip


class Every:
    """True when called, but at most once in ``seconds``; ``at_once``: also on the first call."""

    def __init__(self, seconds: float, at_once: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = clock() + (0.0 if at_once else seconds)

    def __call__(self) -> bool:
        due = self._clock() >= self._next
        if due:
            self._next = self._clock() + self._seconds
        return due


def progress_facts(progress: Progress) -> dict[str, Any]:
    """The live numbers as plain data."""
    eta = progress.eta_s
    return {
        "cells_done": progress.done,
        "cells_failed": progress.failed,
        "cells_resumed": progress.resumed,
        "cells_remaining": progress.remaining,
        "shards_done": progress.shards_done,
        "shards": progress.shards,
        "cells_per_s": round(progress.cells_per_s, 3),
        "bytes_per_s": round(progress.bytes_per_s),
        "eta_s": None if eta is None else round(eta),
        "busy": {kind: round(share, 3) for kind, share in progress.busy.items()},
        "devices": {name: round(share, 3) for name, share in progress.devices.items()},
        "queue": {"ready": progress.ready, "free_slots": progress.free, "slots": progress.slots},
        "worker_deaths": progress.deaths,
        "network": {
            **{name: round(value, 3) for name, value in asdict(progress.traffic).items()},
            "bytes_per_s": round(progress.fetched_per_s),
            "waiting": round(progress.waiting, 3),
        },
        "limiting": progress.limiting,
        "sentence": sentence(progress),
        "elapsed_s": round(progress.elapsed_s, 1),
    }


def sentence(progress: Progress) -> str:
    """What limits the run right now."""
    return "stopping: finishing what is in flight" if progress.stopping else ADVICE[progress.limiting]


def progress_line(progress: Progress) -> str:
    """Everything of ``progress_facts`` that fits a line of a log."""
    facts = progress_facts(progress)
    parts = [
        cells_so_far(progress),
        f"{progress.shards_done:,} of {plural(progress.shards, 'shard')}",
        *([f"{progress.failed:,} failed"] if progress.failed else []),
        f"{facts['cells_per_s']:.2f} cells/s",
        f"{facts['bytes_per_s'] / 1e9:.3f} GB/s read",
        *([network(progress)] if progress.traffic.requests else []),
        *([] if facts["eta_s"] is None else [f"{duration(facts['eta_s'])} left"]),
    ]
    busy = ", ".join(f"{kind} {share:.0%}" for kind, share in progress.busy.items())
    slots = f"busy: {busy}; {progress.slots - progress.free} of {plural(progress.slots, 'slot')} filled; "
    return f"{', '.join(parts)}; {slots if busy else ''}{sentence(progress)}"


def network(progress: Progress) -> str:
    """'0.120 GB/s over the network, 9 requests (3 again after 2 s), decode workers wait 62% of their time for it'."""
    traffic = progress.traffic
    again = f" ({traffic.again:,} again after {duration(traffic.waited)})" if traffic.again else ""
    requests = f"{plural(traffic.requests, 'request')}{again}"
    waiting = f"decode workers wait {progress.waiting:.0%} of their time for it"
    return f"{progress.fetched_per_s / 1e9:.3f} GB/s over the network, {requests}, {waiting}"


def cells_so_far(progress: Progress) -> str:
    """'64 of 117 cells (50 from before)': cells that need no more work, of all that were asked for."""
    finished = progress.resumed + progress.done + progress.failed
    about = "about " if progress.unopened else ""
    before = f" ({progress.resumed:,} from before)" if progress.resumed else ""
    return f"{finished:,} of {about}{counted(max(progress.total, finished))}{before}"


def summary(result: RunSummary) -> Iterator[str]:
    """The end of a run in a few lines."""
    if result.message:
        yield result.message
    rate = f" at {result.new_cells / result.seconds:.2f} cells/s" if result.new_cells and result.seconds else ""
    parts = f"{plural(result.embeddings, 'embedding')} of {counted(result.cells)}"
    if result.exit_code == INTERRUPTED:
        now = f"{counted(result.new_cells)} now in {duration(result.seconds)}{rate}"
        yield f"{result.output}: {now}; {parts} in finished parts, the others are kept"
    else:
        now = f", {result.new_cells:,} of them now in {duration(result.seconds)}{rate}" if result.new_cells else ""
        yield f"{result.output}: {parts}{now}"
    if result.failed:
        cells, shards = result.failed - result.failed_shards, result.failed_shards
        failed = [f"{counted(cells)} failed"] if cells else []
        failed += [f"{plural(shards, 'shard')} could not be read"] if shards else []
        them = "it" if result.failed == 1 else "them"
        yield f"{' and '.join(failed)}: see {result.output}/{result.failures}; --retry-failed tries {them} again"


def summary_facts(result: RunSummary) -> dict[str, Any]:
    """The end of a run as plain data."""
    return {name: getattr(result, name) for name in SUMMARY}
