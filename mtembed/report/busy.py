"""Who was busy when, from the timings of cells.

A worker is *busy* while it reads and decodes, or computes, or writes; what lies between two of its cells is waiting.
Shares are of the time from the first cell on a device to the last cell, so that loading a model does not count; a new
start of the run ends a stretch of work, and so does a pause of more than ``PAUSE_S`` without any cell on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.report.timings import Cells, DatasetTimings, Floats, WorkerName
from mtembed.types import DECODE_STAGES, STAGES_OF

PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99th percentile in milliseconds; None where there is nothing to measure."""

    median_ms: float | None
    p99_ms: float | None

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Spread:
        if not len(values):
            return cls(None, None)
        median, high = np.percentile(values.astype(np.float64), [50, 99])
        return cls(round(float(median), 3), round(float(high), 3))


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """One worker: the cells it had and the share of time (0..1) it was busy with them."""

    process: int
    kind: str
    name: str
    device: str
    cells: int
    busy: float


@dataclass(frozen=True, slots=True)
class Crew:
    """All workers of a kind together."""

    count: int
    busy: float


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of time that do not overlap, in order, in seconds since 1970."""

    starts: Floats
    ends: Floats

    @classmethod
    def union(cls, starts: Floats, ends: Floats, pause: float = 0.0, cuts: Floats | None = None) -> Spans:
        """What the intervals cover; gaps of up to ``pause`` seconds are closed, but for those with one of ``cuts``."""
        if not len(starts):
            return cls(starts, ends)
        order = np.argsort(starts, kind="stable")
        starts, reached = starts[order], np.maximum.accumulate(ends[order])
        gap = starts[1:] - reached[:-1]
        passed = np.searchsorted(np.empty(0) if cuts is None else cuts, starts)
        first = np.r_[True, (gap > pause) | (gap > 0) & (np.diff(passed) > 0)]
        return cls(starts[first], reached[np.r_[first[1:], True]])

    @property
    def seconds(self) -> float:
        return float((self.ends - self.starts).sum())

    def clip(self, starts: Floats, ends: Floats) -> tuple[Floats, Floats]:
        """The intervals' parts inside the stretch in which each of them ends (or the last one before)."""
        if not len(self.starts):
            return starts[:0], ends[:0]
        index = np.maximum(np.searchsorted(self.starts, ends, "right") - 1, 0)
        starts, ends = np.maximum(starts, self.starts[index]), np.minimum(ends, self.ends[index])
        return starts[ends > starts], ends[ends > starts]


def intervals(cells: Cells, kind: str) -> tuple[Floats, Floats]:
    """When each cell was in the hands of a decode worker, of a device worker, of the writer: starts and ends [n]."""
    starts = cells.end if kind == "write" else cells.start
    if kind == "device":
        starts = starts + _sum(cells, (*DECODE_STAGES, "ring_wait"))
    return starts, starts + _sum(cells, STAGES_OF[kind])


def _sum(cells: Cells, stages: tuple[str, ...]) -> Floats:
    """Seconds [n] in these stages together."""
    return np.asarray(np.sum([cells.stage(name) for name in stages], axis=0, dtype=np.float64)) / 1e3


class Work:
    """Who was busy when."""

    def __init__(self, timings: DatasetTimings) -> None:
        self.cells = timings.cells
        self.manifests = timings.manifests
        everyone = sorted(set(self.cells.process.tolist()))
        self.stretches = {process: self._stretches(process) for process in everyone}
        self.windows = {process: self._window(process) for process in everyone}
        self.on_device = _together(self.windows)
        self.at_work = _together(self.stretches)
        self._uses: list[tuple[WorkerUse, float, Floats]] = [self._use(*one) for one in self._everyone()]

    @property
    def seconds(self) -> float:
        """Wall time in which at least one process was at work on a device."""
        return self.on_device.seconds

    def mask(self, use: WorkerUse) -> npt.NDArray[np.bool_]:
        """Which cells [n] a worker had."""
        return next(mine for one, mine in self._everyone() if (one.process, one.name) == (use.process, use.name))

    def uses(self) -> list[WorkerUse]:
        return [use for use, _, _ in self._uses]

    def waits(self, kind: str) -> Spread:
        """How long workers of a kind waited between two cells."""
        gaps = [gaps for use, _, gaps in self._uses if use.kind == kind]
        return Spread.of(np.concatenate(gaps) * 1e3 if gaps else np.empty(0))

    def crew(self, kind: str) -> Crew:
        """Number of workers as the manifests say (else as seen) and the share of their time they were busy."""
        count, possible = 0, 0.0
        for process, window in self.windows.items():
            seen = sum(use.kind == kind and use.process == process for use in self.uses())
            here = self._said(process, kind, seen) if process >= 0 else 0
            count, possible = count + here, possible + here * window.seconds
        busy = sum(seconds for use, seconds, _ in self._uses if use.kind == kind)
        return Crew(count, round(min(1.0, busy / possible), 4) if possible > 0 else 0.0)

    def _said(self, process: int, kind: str, seen: int) -> int:
        """Number of workers of a kind as a manifest says, else as seen."""
        workers = self.manifests[process].workers
        return seen if workers is None else int(getattr(workers, kind))

    def _stretches(self, process: int) -> Spans:
        mine = self.cells.process == process
        begun = self.manifests[process].starts if process >= 0 else ()
        cuts = np.sort([datetime.fromisoformat(moment).timestamp() for moment in begun])
        return Spans.union(self.cells.start[mine], self.cells.end[mine], PAUSE_S, cuts)

    def _window(self, process: int) -> Spans:
        """The stretches of work without their beginnings, when no cell was on a device yet."""
        stretches = self.stretches[process]
        mine = (self.cells.process == process) & (self.cells.device >= 0)
        begins = np.sort(intervals(self.cells, "device")[0][mine])
        starts = stretches.starts.copy()
        at = np.searchsorted(begins, starts)
        known = at < len(begins)
        starts[known] = np.minimum(begins[at[known]], stretches.ends[known])
        return Spans(starts, stretches.ends)

    def _everyone(self) -> list[tuple[WorkerName, npt.NDArray[np.bool_]]]:
        """Every worker and its cells; writers leave no name in the timings, there is one for each process."""
        cells = self.cells
        found = [
            (worker, (cells.decoder if worker.kind == "decode" else cells.device) == i)
            for i, worker in enumerate(cells.workers)
        ]
        found += [(WorkerName(p, "write", "writer"), cells.process == p) for p in self.windows if p >= 0]
        return sorted(found, key=lambda one: (one[0].process, one[0].kind, len(one[0].name), one[0].name))

    def _use(self, worker: WorkerName, mine: npt.NDArray[np.bool_]) -> tuple[WorkerUse, float, Floats]:
        window = self.windows[worker.process]
        starts, ends = (times[mine] for times in intervals(self.cells, worker.kind))
        busy = Spans.union(*window.clip(starts, ends)).seconds
        order = np.argsort(starts, kind="stable")
        starts, reached = starts[order], np.maximum.accumulate(ends[order])
        stretch = np.searchsorted(self.stretches[worker.process].starts, starts, "right")
        gaps = np.maximum(0.0, starts[1:] - reached[:-1])[stretch[1:] == stretch[:-1]]
        share = round(min(1.0, busy / window.seconds), 4) if window.seconds > 0 else 0.0
        use = WorkerUse(worker.process, worker.kind, worker.name, worker.device, int(mine.sum()), share)
        return use, busy, gaps


def _together(spans: Mapping[int, Spans]) -> Spans:
    none = np.empty(0)
    starts = np.concatenate([none, *(one.starts for one in spans.values())])
    return Spans.union(starts, np.concatenate([none, *(one.ends for one in spans.values())]))
