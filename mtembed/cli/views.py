"""What a run looks like: a live table on a terminal, plain lines elsewhere, one JSON object per line on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from mtembed.cli.console import Speech, emit, say
from mtembed.cli.progress import Every, progress_facts, progress_line, summary, summary_facts
from mtembed.run.progress import Progress
from mtembed.types import RunSummary

PLAIN_EVERY_S = 30.0
JSON_EVERY_S = 1.0


class View(Protocol):
    """Shows a run while it lasts, and how it ended."""

    def tick(self, progress: Progress) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...
    def end(self, result: RunSummary) -> None: ...


def view(talk: Speech) -> View:
    """The view for a terminal, a log, a program or nobody."""
    if talk.live:
        from mtembed.cli.live import LiveView

        return LiveView()
    return JsonView() if talk.json else QuietView() if talk.quiet else PlainView()


class QuietView:
    """Nothing but errors."""

    def tick(self, progress: Progress) -> None:
        del progress

    def note(self, text: str) -> None:
        del text

    def close(self) -> None:
        return

    def end(self, result: RunSummary) -> None:
        del result


class PlainView:
    """A line every half minute, on stderr, each with its time (UTC)."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, date: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._due = Every(PLAIN_EVERY_S, at_once=False, clock=clock)
        self._date = date

    def tick(self, progress: Progress) -> None:
        if self._due():
            self.note(progress_line(progress))

    def note(self, text: str) -> None:
        say(f"{self._date():%Y-%m-%dT%H:%M:%SZ} {text}")

    def close(self) -> None:
        return

    def end(self, result: RunSummary) -> None:
        for line in summary(result):
            self.note(line)


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

    def end(self, result: RunSummary) -> None:
        emit({"event": "end", **summary_facts(result)})
