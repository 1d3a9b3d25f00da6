"""The live table on a terminal, drawn with rich."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtembed.progress import ADVICE, Progress

DRAW_EVERY_S = 0.5


class LiveView:
    """Redrawn twice a second; notes scroll above it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live = Live(Text("starting"), console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._next = 0.0

    def tick(self, progress: Progress) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + DRAW_EVERY_S
        self._live.update(draw(progress), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(text, style="dim")

    def close(self) -> None:
        self._live.stop()


def draw(progress: Progress) -> Group:
    """Counts, rates, devices, queues, and the sentence that names the limit."""
    from mtembed.console import duration, progress_facts

    facts = progress_facts(progress)
    total = max(1, progress.total)
    finished = progress.resumed + progress.done + progress.failed
    table = Table.grid(padding=(0, 2))
    eta = "-" if facts["eta_s"] is None else duration(facts["eta_s"])
    table.add_row(
        "cells", f"{finished} of {'~' if progress.unopened else ''}{total}", ProgressBar(total, finished, width=30)
    )
    failed = f"[red]{progress.failed}[/]" if progress.failed else "0"
    table.add_row(
        "", f"{progress.done} done now, {failed} failed", f"shards {facts['shards_done']} of {facts['shards']}"
    )
    table.add_row("speed", f"{facts['cells_per_s']:.2f} cells/s", f"{facts['bytes_per_s'] / 1e9:.3f} GB/s read")
    table.add_row("time", f"{duration(facts['elapsed_s'])} so far", f"{eta} left")
    busy = "  ".join(f"{kind} {share:4.0%}" for kind, share in progress.busy.items()) or "-"
    table.add_row("busy", busy, f"queue: {progress.ready} ready, {progress.free} slots free")
    if progress.deaths:
        table.add_row("workers", f"{progress.deaths} replaced", "")
    sentence = "stopping: finishing what is in flight" if progress.stopping else ADVICE[progress.limiting]
    return Group(table, Text(sentence, style="bold"))
