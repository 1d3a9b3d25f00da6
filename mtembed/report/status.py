"""``mtembed status``: how far a dataset is, over all processes that work on it; only reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtembed.dataset.far import dataset_of
from mtembed.dataset.folder import Dataset
from mtembed.dataset.journal import read_journal
from mtembed.dataset.manifest import Manifest, read
from mtembed.dataset.members import Beat
from mtembed.dataset.timings import read_facts, read_timings
from mtembed.errors import OutputError, UsageError
from mtembed.text import counted, duration, plural
from mtembed.types import CellTiming, ShardFacts


@dataclass(frozen=True, slots=True)
class Status:
    """``cells`` are embedded and safe, in the ``shards`` that have their parts and in journals of open ones.

    ``cells_total`` counts shards that nobody has opened like the others; None while no shard is known.
    ``cells_per_s`` is that of all ``processes`` together, over the last half minute; ``eta_s`` in seconds, None where
    nobody works.  ``members`` are those processes.
    """

    dataset: str
    complete: bool
    cells: int
    cells_total: int | None
    shards: int
    shards_total: int
    failed_cells: int
    failed_shards: int
    done_share: float
    cells_per_s: float
    eta_s: float | None
    processes: int
    members: tuple[Beat, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        members = [
            {"host": one.host, "pid": one.pid, "since": one.since, "cells": one.cells, "cells_per_s": one.cells_per_s}
            for one in self.members
        ]
        return {"event": "result", **dataclasses.asdict(self), "members": members}

    def lines(self) -> Iterable[str]:
        """For people."""
        total = "" if self.cells_total is None else f" of {'' if self.complete else 'about '}{self.cells_total:,}"
        left = "" if self.eta_s is None else f", {duration(self.eta_s)} left"
        rate = f", {self.cells_per_s:.2f} cells/s{left}" if self.processes else ""
        yield (
            f"{self.dataset}: {self.done_share:.0%} done, {self.cells:,}{total} cells, "
            f"{self.shards:,} of {plural(self.shards_total, 'shard')}{rate}"
        )
        if self.failed_cells or self.failed_shards:
            shards = f" and {plural(self.failed_shards, 'shard')}" if self.failed_shards else ""
            yield f"{counted(self.failed_cells)}{shards} failed"
        for one in self.members:
            yield f"{one.name}: {counted(one.cells)} now, {one.cells_per_s:.2f} cells/s"
        if not self.processes:
            yield "complete" if self.complete else "nobody is at work here: run the same command again to go on"


def status(dataset: str | Path) -> Status:
    """How far a dataset is.  Raises UsageError where it is none, OutputError where a file of it is damaged."""
    folder = dataset_of(str(dataset))
    try:
        return status_of(folder)
    finally:
        folder.put_away()


def status_of(folder: Dataset) -> Status:
    """The same, of a dataset that is looked at again and again."""
    folder.look()
    paths = folder.manifests()
    if not paths:
        raise UsageError(f"{folder.place} is not a dataset made by mtembed: name the --output folder of a run")
    try:
        return _of(folder, [read(path) for path in paths])
    except OSError as error:
        raise OutputError(f"{folder.place} cannot be read ({error.strerror}): check its permissions") from error


def _of(folder: Dataset, manifests: list[Manifest]) -> Status:
    members = tuple(folder.at_work().values())
    done = _finished(folder, {stem: facts for one in manifests for stem, facts in one.shards.items()})
    opened = [timing for stem in folder.journals().keys() - done.keys() for timing in _unfinished(folder, stem)]
    ok = sum(facts.cells for facts in done.values()) + sum(timing.status == "ok" for timing in opened)
    failed = sum(facts.failed for facts in done.values()) + sum(timing.status != "ok" for timing in opened)
    unread = sum(facts.unread for facts in done.values())
    lost = {str(event["shard"]) for one in manifests for event in one.notes.lost_shards} if not members else set()
    names = {Path(name).stem for one in manifests for name in one.input or ()} | done.keys()
    complete = all(one.complete for one in manifests) and not members
    total = ok + failed - unread if complete else _total(manifests[0], done, members, len(names))
    rate = sum((one.cells_per_s for one in members), 0.0)
    finished = ok + failed - unread
    return Status(
        dataset=str(folder.place),
        complete=complete,
        cells=ok,
        cells_total=None if total is None else max(total, finished),
        shards=len(done),
        shards_total=len(done) if complete else len(names),
        failed_cells=failed - unread,
        failed_shards=unread + len(lost),
        done_share=1.0 if complete else min(1.0, finished / total) if total else len(done) / max(1, len(names)),
        cells_per_s=round(rate, 4),
        eta_s=max(0.0, (total or 0) - finished) / rate if rate and total is not None else None,
        processes=len(members),
        members=members,
    )


def _finished(folder: Dataset, known: Mapping[str, ShardFacts]) -> dict[str, ShardFacts]:
    """Facts of all finished parts, also of those that no manifest lists yet."""
    done = folder.done_stems()
    folder.bring_timings(done - known.keys())
    return {stem: known.get(stem) or read_facts(folder.timings(stem)) for stem in done}


def _unfinished(folder: Dataset, stem: str) -> list[CellTiming]:
    """The cells of an open part that are safe: in its journal, or in the part that was made earlier."""
    path = folder.timings(stem)
    rows = read_timings(path)[0] if path.exists() and folder.part(stem).exists() else {}
    for journal in folder.journals().get(stem, ()):
        rows |= {timing.row_group: timing for timing in read_journal(journal)}
    return list(rows.values())


def _total(first: Manifest, done: Mapping[str, ShardFacts], members: Iterable[Beat], shards: int) -> int | None:
    """Cells of all shards, those that nobody has opened counted like the average of the others."""
    cells = sum(facts.cells + facts.failed for facts in done.values() if not facts.unread)
    seen = sum(not facts.unread for facts in done.values())
    cells, seen = cells + sum(one.known for one in members), seen + sum(one.opened for one in members)
    if not seen:
        return None
    total = round(cells / seen * shards)
    return total if first.settings.limit is None else min(total, first.settings.limit)
