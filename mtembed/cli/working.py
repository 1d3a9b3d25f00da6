"""What one sees of a command that works through rows: a bar with the time left, plain lines, or JSON events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from mtembed.cli.console import Speech, emit, say
from mtembed.cli.progress import Every
from mtembed.text import duration
from mtembed.types import Tick

PLAIN_EVERY_S = 30.0
JSON_EVERY_S = 1.0


@contextlib.contextmanager
def working(talk: Speech, unit: str = "rows", clock: Callable[[], float] = time.monotonic) -> Iterator[Tick]:
    """A ``Tick`` that shows its numbers in the way ``talk`` asks for, on stderr; JSON events go to stdout."""
    if talk.live:
        with _bar() as tick:
            yield tick
    elif talk.quiet and not talk.json:
        yield lambda what, done, total: None
    else:
        yield _Lines(talk.json, unit, clock)


@contextlib.contextmanager
def counting(
    talk: Speech, what: str, unit: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """One thing that is counted, to be told (done, total): a bar or plain lines on stderr; JSON is the result alone."""
    if talk.live:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    elif talk.quiet or talk.json:
        yield lambda done, total: None
    else:
        lines = _Lines(False, unit, clock)
        yield lambda done, total: lines(what, done, total)


class _Lines:
    """A line, or an event, from time to time."""

    def __init__(self, as_json: bool, unit: str, clock: Callable[[], float]) -> None:
        self._json, self._unit, self._clock = as_json, unit, clock
        self._due = Every(JSON_EVERY_S if as_json else PLAIN_EVERY_S, at_once=as_json, clock=clock)
        self._what, self._began, self._from = "", clock(), 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._what, self._began, self._from = what, self._clock(), done
        if not self._due():
            return
        spent, made = self._clock() - self._began, done - self._from
        left = spent * (total - done) / made if made else None
        if self._json:
            eta = None if left is None else round(left, 1)
            emit({"event": "progress", "doing": what, "unit": self._unit, "done": done, "total": total, "eta_s": eta})
        else:
            after = "" if left is None else f", {duration(left)} left"
            say(" ".join(f"{what}: {done:,} of {total:,} {self._unit}".split()) + after)


@contextlib.contextmanager
def _bar() -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        shown = ""

        def tick(what: str, done: int, total: int) -> None:
            nonlocal shown
            if what != shown:
                bar.reset(task, description=what, total=total, completed=done)
                shown = what
            bar.update(task, completed=done, total=total)

        yield tick
