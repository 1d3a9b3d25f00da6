"""What a running pipeline knows about itself: counts, rates, and the stage that limits it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mtembed.notes import Traffic
from mtembed.run.process import Worker
from mtembed.types import CellTiming

WINDOW_S = 30.0
ADVICE = {
    "decode": "decoding limits the run: more --workers or a faster disk would help",
    "network": "the network limits the run: decode workers wait for bytes more than they decode",
    "device": "the model limits the run: the device is busy, everything else waits for it",
    "write": "writing limits the run: a faster disk for --output would help",
    "start": "starting: workers are loading",
    "others": "waiting: what is left is in the hands of other processes",
}


@dataclass(slots=True)
class Progress:
    """Counts of this start unless named otherwise; ``known`` cells are those of shards opened so far.

    ``most`` is what ``known`` can grow to at most (None: no limit).  ``busy`` holds each kind of worker's share of time
    with work at hand, 0..1, over the last second or so; ``devices`` each device worker's.  Finishing parts counts as
    writing; ``clock`` counts seconds.  ``failed_shards`` could not be opened, or no part could be made of them;
    ``theirs`` are in the hands of other processes; ``open_parts`` have ``open_cells``;
    ``traffic`` is that of everything behind addresses.
    """

    shards: int = 0
    shards_done: int = 0
    known: int = 0
    done: int = 0
    failed: int = 0
    resumed: int = 0
    failed_shards: int = 0
    embeddings: int = 0
    bytes_in: int = 0
    deaths: int = 0
    ready: int = 0
    free: int = 0
    slots: int = 0
    unopened: int = 0
    theirs: int = 0
    open_parts: int = 0
    open_cells: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    most: int | None = None
    stopping: bool = False
    limiting: str = "start"
    busy: dict[str, float] = field(default_factory=dict)
    devices: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    _device_ms: float = 0.0
    _decoders: int = 1
    _recent: deque[tuple[float, ...]] = field(default_factory=deque)
    _busy_before: dict[str, float] = field(default_factory=dict)
    _observed: float = 0.0
    _shards_before: int = 0

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._shards_before = self.shards_done

    def count(self, timing: CellTiming) -> None:
        """One more cell is safe on disk."""
        if timing.status == "ok":
            self.done += 1
            self.embeddings += timing.fragments
        else:
            self.failed += 1
        self.bytes_in += timing.bytes_in
        self._device_ms += timing.preprocess + timing.forward

    def elsewhere(self) -> None:
        """Another process has finished a shard."""
        self.shards_done += 1
        self._shards_before += 1

    def observe(self, workers: Iterable[Worker], unopened: int) -> None:
        """Look at the workers about once a second: share of time each kind was busy, and what limits."""
        self.unopened = unopened
        now = self.clock()
        if now - self._observed < 1.0:
            return
        traffic = self.traffic
        self._recent.append((now, self.done, self.bytes_in, traffic.bytes, self._device_ms, traffic.blocked))
        while self._recent[0][0] < now - WINDOW_S and len(self._recent) > 2:
            self._recent.popleft()
        self._utilisation(list(workers), now)
        self._observed = now
        self.limiting = self._limiting()

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.started

    @property
    def cells_per_s(self) -> float:
        """Over the last half minute."""
        return self._rate(1)

    @property
    def bytes_per_s(self) -> float:
        return self._rate(2)

    @property
    def fetched_per_s(self) -> float:
        """Bytes that came over the network."""
        return self._rate(3)

    @property
    def waiting(self) -> float:
        """Share of the decode workers' time, 0..1, in which they waited for bytes, over the last half minute."""
        return min(1.0, self._rate(5) / self._decoders)

    @property
    def total(self) -> int:
        """Cells of this start, shards not yet opened counted like the average of those opened."""
        opened = max(1, self.shards - self._shards_before - self.unopened - self.theirs)
        total = self.known + round(self.known / opened * self.unopened)
        return total if self.most is None else min(total, max(self.most, self.known))

    @property
    def remaining(self) -> int:
        return max(0, self.total - self.resumed - self.done - self.failed)

    @property
    def eta_s(self) -> float | None:
        rate = self.cells_per_s
        return self.remaining / rate if rate > 0 else None

    def _rate(self, column: int) -> float:
        if len(self._recent) < 2:
            return 0.0
        first, last = self._recent[0], self._recent[-1]
        return (last[column] - first[column]) / max(1e-9, last[0] - first[0])

    def _utilisation(self, workers: list[Worker], now: float) -> None:
        busy = {w.name: w.busy_s + (now - w.busy_since if w.tasks else 0.0) for w in workers}
        if self._observed:
            passed, before = now - self._observed, self._busy_before
            shares = {name: min(1.0, max(0.0, (s - before.get(name, 0.0)) / passed)) for name, s in busy.items()}
            self.devices = {w.name: shares[w.name] for w in workers if w.kind == "device"}
            crews = {
                kind: [shares[w.name] for w in workers if w.kind == kind]
                for kind in ("decode", "device", "write", "finish")
            }
            self._decoders = max(1, len(crews["decode"]))
            means = {kind: sum(crew) / len(crew) for kind, crew in crews.items() if crew}
            self.busy |= {kind: means[kind] for kind in ("decode", "device") if kind in means}
            self.busy["write"] = max(means.get("write", 0.0), means.get("finish", 0.0))
        self._busy_before = busy

    def _computing(self) -> float:
        """Share of time that devices computed, 0..1: one that waits for its batch to fill has cells at hand too."""
        at_hand = self.busy.get("device", 0.0)
        return min(at_hand, self._rate(4) / 1e3 / max(1, len(self.devices))) if self._device_ms else at_hand

    def _limiting(self) -> str:
        if self.theirs and not (self.ready or self.unopened or self.remaining):
            return "others"
        if not self.done and not self.failed:
            return "start"
        busy = {**self.busy, "device": self._computing()}
        if self.ready or busy["device"] > 0.9:
            return "device"
        found = max(("decode", "write", "device"), key=lambda kind: busy.get(kind, 0.0))
        return "network" if found == "decode" and self.waiting > busy.get("decode", 0.0) / 2 else found
