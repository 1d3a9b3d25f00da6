"""The live table on a terminal, drawn with rich."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtembed.cli.console import clean, say
from mtembed.cli.progress import Every, network, progress_facts, sentence, summary
from mtembed.run.progress import Progress
from mtembed.text import duration
from mtembed.types import RunSummary

DRAW_EVERY_S = 0.5
DEVICES_SHOWN = 8  # more device workers share one line
BAR = 20


class LiveView:
    """Redrawn twice a second; notes scroll above it."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = Live(Text("starting"), console=console or Console(stderr=True), auto_refresh=False, transient=True)
        self._live.start()
        self._due = Every(DRAW_EVERY_S, clock=clock)

    def tick(self, progress: Progress) -> None:
        if self._due():
            self._live.update(draw(progress), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(clean(text), style="dim", markup=False, highlight=False)

    def close(self) -> None:
        self._live.stop()

    def end(self, result: RunSummary) -> None:
        for line in summary(result):
            say(line)


def draw(progress: Progress) -> Group:
    """Counts, rates, devices, queues, and the sentence that names the limit."""
    table = Table.grid(padding=(0, 2))
    for row in (*_counts(progress), *_busy(progress)):
        table.add_row(*row)
    return Group(table, Text(sentence(progress), style="bold"))


Row = tuple[str, ProgressBar | str, str | Text]


def _counts(progress: Progress) -> list[Row]:
    facts = progress_facts(progress)
    total = max(1, progress.total)
    finished = progress.resumed + progress.done + progress.failed
    about = "~" if progress.unopened else ""
    failed = (f"{progress.failed:,} failed", "red" if progress.failed else "")
    cells = Text.assemble(f"{progress.done:,} done, ", failed, f", {about}{progress.remaining:,} to go")
    if progress.resumed:
        cells.append(f", {progress.resumed:,} were there before")
    left = "-" if facts["eta_s"] is None else duration(facts["eta_s"])
    filled = progress.slots - progress.free
    return [
        ("cells", _bar(finished, total), cells),
        ("shards", "", f"{progress.shards_done:,} of {progress.shards:,}"),
        ("speed", "", f"{progress.cells_per_s:.2f} cells/s, {progress.bytes_per_s / 1e9:.3f} GB/s read"),
        *([("network", "", network(progress))] if progress.traffic.requests else []),
        ("time", "", f"{duration(progress.elapsed_s)} so far, {left} left"),
        (
            "queue", _bar(filled, max(1, progress.slots)),
            f"{filled} of {progress.slots} slots filled, {progress.ready} wait for a device",
        ),
    ]  # fmt: skip


def _busy(progress: Progress) -> list[Row]:
    """Utilisation of each kind of worker, and of every device while they are few."""
    rows = [_share(kind, share) for kind, share in progress.busy.items() if kind != "device"]
    devices = list(progress.devices.items())
    if len(devices) <= DEVICES_SHOWN:
        rows[1:1] = [_share(name, share) for name, share in devices]
    else:
        shares = [share for _, share in devices]
        spread = f" busy on average, {min(shares):.0%} to {max(shares):.0%}"
        rows.insert(1, _share(f"{len(devices)} devices", sum(shares) / len(shares), spread))
    if progress.deaths:
        rows.append(("workers", "", f"{progress.deaths} died and were replaced"))
    return rows


def _share(name: str, share: float, words: str = " busy") -> Row:
    return name, _bar(share, 1.0), f"{share:.0%}{words}"


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(total, done, width=BAR, finished_style="bar.complete")
