"""Progress of commands that work in stages: bars with the time left on a terminal, plain lines or JSON elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from mtembed.cli.console import Speech, emit, say
from mtembed.text import duration

LINE_EVERY_S = 30.0
JSON_EVERY_S = 1.0
Tick = Callable[[str, int, int], None]


@contextlib.contextmanager
def stages(talk: Speech) -> Iterator[Tick]:
    """To be told (stage, done, total), from any thread that takes turns."""
    if talk.live:
        with _bars() as tick:
            yield tick
    elif talk.json:
        yield _Spaced(JSON_EVERY_S, _event)
    elif talk.quiet:
        yield lambda stage, done, total: None
    else:
        yield _Spaced(LINE_EVERY_S, _line)


class _Spaced:
    """Passes on at most one message in so many seconds, the first after that time, with the seconds of its stage."""

    def __init__(self, seconds: float, show: Callable[[str, int, int, float], None]) -> None:
        self._seconds, self._show = seconds, show
        self._stage, self._begun = "", time.monotonic()
        self._next = self._begun + seconds

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._begun = stage, now
        if now >= self._next:
            self._next = now + self._seconds
            self._show(stage, done, total, now - self._begun)


def _left(done: int, total: int, seconds: float) -> float | None:
    return seconds / done * (total - done) if done and seconds > 0 else None


def _line(stage: str, done: int, total: int, seconds: float) -> None:
    left = _left(done, total, seconds)
    say(f"{stage}: {done:,} of {total:,}" + ("" if left is None else f", {duration(left)} left"))


def _event(stage: str, done: int, total: int, seconds: float) -> None:
    left = _left(done, total, seconds)
    eta = None if left is None else round(left)
    emit({"event": "progress", "stage": stage, "done": done, "total": total, "eta_s": eta})


@contextlib.contextmanager
def _bars() -> Iterator[Tick]:
    """One bar a stage; a stage that is told of again goes on."""
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tick(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield tick
