"""Workers of a pipeline without processes: they answer over real channels, from this thread, and die when told to.

The disk is a dictionary, so that what a writer had confirmed is there for its successor.  Without processes, thousands
of schedules of deaths are affordable.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mtembed.messages import (
    Appended,
    AppendTask,
    ClosePart,
    Decoded,
    DecodeTask,
    Embedded,
    EmbedTask,
    FinishTask,
    Key,
    OpenPart,
    PartClosed,
    PartFailed,
    PartFinished,
    PartOpened,
    PlanTask,
    Ready,
    ShardOpened,
)
from mtembed.notes import Note, ShardLost
from mtembed.run.channel import Channel, pair
from mtembed.run.crew import CrewSpec
from mtembed.run.pipeline import Pipeline
from mtembed.run.process import Worker
from mtembed.run.requeue import suspect_of
from mtembed.run.work import Callbacks, Work
from mtembed.types import (
    Cell,
    CellRecord,
    CellTiming,
    DecodedCell,
    Fingerprint,
    Georeference,
    ShardFacts,
    ShardListing,
)

MOST_TURNS = 20_000
STAGES: dict[type, str] = {
    PlanTask: "open shard",
    DecodeTask: "decode",
    EmbedTask: "embed",
    OpenPart: "open part",
    AppendTask: "append",
    ClosePart: "close part",
    FinishTask: "finish",
}


@dataclass
class Trouble:
    """What goes wrong: ``deadly`` tasks (stage, shard, row) kill every worker, ``broken`` cells and shards fail with a
    word, ``chance`` is how often another task kills its worker, each task once at most and ``deaths`` in all.
    ``dead_lanes``: device workers there end with an error of their device."""

    deadly: frozenset[tuple[str, int, int | None]] = frozenset()
    broken: frozenset[tuple[str, int, int | None]] = frozenset()
    chance: float = 0.0
    deaths: int = 0
    dead_lanes: frozenset[int] = frozenset()


class Process:
    """What the parent sees of a process."""

    def __init__(self) -> None:
        self.returncode: int | None = None
        self.killed = False

    def kill(self) -> None:
        self.killed = True
        self.returncode = -9 if self.returncode is None else self.returncode

    def wait(self, timeout: float | None = None) -> int:
        return -9

    def poll(self) -> int:
        return -9


@dataclass
class Simulated:
    """A worker's other side."""

    worker: Worker
    channel: Channel
    parts: set[int] = field(default_factory=set)


class Simulation:
    """A run of shards with so many cells each.  After ``run``: ``finished`` (shard -> rows with vectors, failed rows),
    ``lost`` shards, and how many workers died."""

    def __init__(
        self,
        cells: list[int],
        trouble: Trouble,
        seed: int,
        *,
        slots: tuple[int, ...] = (6,),
        crew: tuple[int, int, int, int] = (2, 2, 1, 1),
        credit: int = 2,
        limit: int | None = None,
    ) -> None:
        self.cells, self.trouble, self.chance = cells, trouble, random.Random(seed)
        self.disk: dict[int, dict[int | None, bool]] = {}
        self.finished: dict[int, tuple[frozenset[int | None], frozenset[int | None]]] = {}
        self.lost: set[str] = set()
        self.died_once: set[Any] = set()
        self.deaths = self.turns = 0
        self.embedded: Counter[Key] = Counter()
        self.alive: list[Simulated] = []
        kinds = ("decode", "device", "write", "finish")
        credits = (2, credit, 1, 1)
        crews = {
            kind: CrewSpec(lambda name, place, kind=kind: self._start(kind, name), count, most)  # type: ignore[misc]
            for kind, count, most in zip(kinds, crew, credits, strict=True)
        }
        work = Work([Path(f"part_{i}.parquet") for i in range(len(cells))], frozenset(range(len(cells))), {}, limit)
        self.pipeline = Pipeline(work, crews, slots, Callbacks(self._part, self._note, self._turn), tick_s=0.0)

    def run(self) -> None:
        try:
            self.pipeline.run()
        finally:
            for simulated in self.alive:
                simulated.channel.close()

    # -- what the parent calls --------------------------------------------------------------------------------------

    def _start(self, kind: str, name: str) -> Worker:
        ours, theirs = pair()
        worker = Worker(kind, name, Process(), ours, io.BytesIO(b""))  # type: ignore[arg-type]
        simulated = Simulated(worker, Channel(theirs))
        simulated.channel.send(Ready())
        self.alive.append(simulated)
        return worker

    def _part(self, facts: ShardFacts) -> None:
        shard = int(facts.shard.removeprefix("part_").removesuffix(".parquet"))
        assert shard not in self.finished, "a part is finished once"
        rows = self.disk[shard]
        ok = frozenset(row for row, good in rows.items() if good)
        self.finished[shard] = (ok, frozenset(rows) - ok)

    def _note(self, note: Note) -> None:
        if isinstance(note, ShardLost):
            assert note.shard not in self.lost, "a shard is lost once"
            self.lost.add(note.shard)

    def _turn(self, progress: object) -> None:
        """Every worker works on what it has, one after the other, some of them before others in each turn."""
        self.turns += 1
        assert self.turns < MOST_TURNS, "it does not end"
        for simulated in self.chance.sample(self.alive, len(self.alive)):
            process: Any = simulated.worker.process
            if process.killed:
                self._end(simulated)
                continue
            try:
                tasks = simulated.channel.receive()
            except EOFError:
                self._end(simulated)
                continue
            for task in tasks:
                if self._kills(simulated.worker, task):
                    self.deaths += 1
                    self._end(simulated)
                    break
                simulated.channel.send(self._answer(simulated, task))

    def _end(self, simulated: Simulated) -> None:
        simulated.channel.close()
        self.alive.remove(simulated)

    # -- what the workers do ----------------------------------------------------------------------------------------

    def _kills(self, worker: Worker, task: Any) -> bool:
        stage, (shard, row) = STAGES[type(task)], task.key
        if isinstance(task, AppendTask) and task.record is None:
            stage = "note failure"
        if isinstance(task, EmbedTask) and task.slot.lane in self.trouble.dead_lanes:
            worker.stderr.write(b"CUDA error: made for a test")
            return True
        if (stage, shard, row) in self.trouble.deadly:
            return True
        suspect = suspect_of(task)
        if suspect in self.died_once or self.deaths >= self.trouble.deaths:
            return False
        if self.chance.random() < self.trouble.chance:
            self.died_once.add(suspect)
            return True
        return False

    def _answer(self, simulated: Simulated, task: Any) -> Any:
        stage, (shard, row) = STAGES[type(task)], task.key
        broken = (stage, shard, row) in self.trouble.broken
        if isinstance(task, PlanTask):
            cells = () if broken else tuple(Cell(shard, i) for i in range(self.cells[shard]))
            return ShardOpened(ShardListing(shard, Fingerprint(), cells, "broken" if broken else ""))
        if isinstance(task, DecodeTask):
            timing = CellTiming(task.path.name, row, status="failed" if broken else "ok")
            return Decoded(task.key, timing, None if broken else decoded(row))
        if isinstance(task, EmbedTask):
            self.embedded[task.key] += 1
            if broken:
                task.timing.status, task.timing.error = "failed", "broken"
            return Embedded(task.key, task.timing)
        if broken:
            return PartFailed(task, "broken")
        return self._write(simulated, task)

    def _write(self, simulated: Simulated, task: OpenPart | AppendTask | ClosePart | FinishTask) -> Any:
        shard, row = task.key
        if isinstance(task, OpenPart):
            simulated.parts.add(shard)
            return PartOpened(task.key, frozenset(self.disk.setdefault(shard, {})))
        if isinstance(task, FinishTask):
            rows = self.disk[shard].values()
            return PartFinished(task.key, facts(task.part.name, sum(rows), len(rows) - sum(rows)))
        assert shard in simulated.parts, "a part is opened before it is written"
        if isinstance(task, ClosePart):
            simulated.parts.remove(shard)
            return PartClosed(task.key, {})
        self.disk[shard].setdefault(row, task.record is not None)
        return Appended(task.key, task.timing)


def decoded(row: int | None) -> DecodedCell:
    place = Georeference(32631, 0, 0, 10, 10, 1, 1)
    return DecodedCell((), "uint16", CellRecord(row or 0, "", "", "", place, 1, np.zeros((1, 2), np.int32)))


def facts(name: str, cells: int, failed: int) -> ShardFacts:
    """Of a part that was made of nothing."""
    return ShardFacts(
        shard=name, size=0, mtime_ns=0, rows=0, footer_sha256="", cells=cells, failed=failed, embeddings=cells,
        warnings={}, encodings={}, baselines={}, offset_removed=0, part_bytes=0,
    )  # fmt: skip
