"""What a run looks like: a live table on a terminal, plain lines elsewhere, one JSON object per line on request."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from mtembed.errors import MtembedError
from mtembed.run.progress import ADVICE, Progress
from mtembed.text import duration
from mtembed.types import RunSummary

PLAIN_EVERY_S = 30.0
JSON_EVERY_S = 1.0
Mode = Literal["live", "plain", "json", "quiet"]


class View(Protocol):
    """Shows a run while it lasts."""

    def tick(self, progress: Progress) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def mode(as_json: bool, quiet: bool) -> Mode:
    if as_json:
        return "json"
    if quiet:
        return "quiet"
    return "live" if sys.stderr.isatty() else "plain"


def view(kind: Mode) -> View:
    if kind == "live":
        from mtembed.cli.live import LiveView

        return LiveView()
    views: dict[str, type[View]] = {"plain": PlainView, "json": JsonView, "quiet": QuietView}
    return views[kind]()


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


class QuietView:
    """Nothing but errors."""

    def tick(self, progress: Progress) -> None:
        del progress

    def note(self, text: str) -> None:
        del text

    def close(self) -> None:
        return


class PlainView:
    """A line every half minute, on stderr."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._due = Every(PLAIN_EVERY_S, at_once=False, clock=clock)

    def tick(self, progress: Progress) -> None:
        if self._due():
            say(progress_line(progress))

    def note(self, text: str) -> None:
        say(text)

    def close(self) -> None:
        return


class JsonView:
    """One event per line on stdout."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._due = Every(JSON_EVERY_S, clock=clock)

    def tick(self, progress: Progress) -> None:
        if self._due():
            emit({"event": "progress", **progress_facts(progress)})

    def note(self, text: str) -> None:
        emit({"event": "note", "text": text})

    def close(self) -> None:
        return


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
    left = "" if facts["eta_s"] is None else f", {duration(facts['eta_s'])} left"
    failed = f", {facts['cells_failed']} failed" if facts["cells_failed"] else ""
    busy = ", ".join(f"{kind} {share:.0%}" for kind, share in progress.busy.items())
    return (
        f"{facts['cells_done']} cells done{failed}, {facts['cells_remaining']} to go, "
        f"{facts['cells_per_s']:.2f} cells/s, {facts['bytes_per_s'] / 1e9:.3f} GB/s read{left}; "
        + (f"busy: {busy}; {progress.slots - progress.free} of {progress.slots} slots filled; " if busy else "")
        + sentence(progress)
    )


def summary(result: RunSummary, kind: Mode) -> None:
    """The end of a run."""
    if kind == "json":
        emit({"event": "end", **summary_facts(result)})
        return
    if kind == "quiet":
        return
    if result.message:
        say(result.message)
    rate = f" at {result.new_cells / result.seconds:.2f} cells/s" if result.new_cells else ""
    say(
        f"{result.output}: {result.embeddings} embeddings of {result.cells} cells"
        + (f", {result.new_cells} of them now in {duration(result.seconds)}{rate}" if result.new_cells else "")
    )
    if result.failed:
        listed = f"{result.output}/failures.jsonl"
        failed, them = (
            ("1 cell failed and is", "it") if result.failed == 1 else (f"{result.failed} cells failed and are", "them")
        )
        say(f"{failed} listed in {listed}; --retry-failed tries {them} again")


def summary_facts(result: RunSummary) -> dict[str, Any]:
    names = (
        "output",
        "model",
        "source",
        "cells",
        "failed",
        "embeddings",
        "new_cells",
        "seconds",
        "exit_code",
        "message",
    )
    return {name: getattr(result, name) for name in names}


def show(text: str, facts: Iterable[Mapping[str, Any]], kind: Mode) -> None:
    """A result on stdout: the text, or its facts as one JSON object per line."""
    if kind == "json":
        for fact in facts:
            emit(fact)
    elif kind != "quiet":
        print(text, flush=True)


@contextlib.contextmanager
def counting(label: str, kind: Mode) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere; to be told (done, total)."""
    if kind != "live":
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def fail(error: MtembedError, kind: Mode) -> None:
    """An error: one sentence on stderr."""
    if kind == "json":
        emit({"event": "error", "error": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
    say(f"mtembed: {error}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def emit(event: Mapping[str, Any]) -> None:
    print(json.dumps(event, ensure_ascii=False), flush=True)
