"""The stages connected: decode workers -> ring -> device workers -> writers, dealt from one place.

The parent is the only one that knows who holds what.  Workers hold nothing that cannot be given to another: a cell is
in a queue here, or it is a task of exactly one worker, until the writer says that it is safe on disk.

    shards -> plan -> pending -> [decode] -> ready -> [device] -> [write] -> done
                        ^          slot taken                      slot freed
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from mtembed import errors
from mtembed.errors import TooManyFailures, WorkerError
from mtembed.messages import (
    Appended,
    AppendTask,
    Decoded,
    DecodeTask,
    Embedded,
    EmbedTask,
    Fatal,
    FinishTask,
    Key,
    LaneDropped,
    Note,
    OpenPart,
    PartFinished,
    PartOpened,
    PlanTask,
    Ready,
    SlotRef,
)
from mtembed.run.lanes import CARD_TROUBLE, Lane, Lanes
from mtembed.run.process import Worker
from mtembed.run.progress import Progress
from mtembed.types import Cell, CellTiming, DecodedCell, Fingerprint, PartInfo, ShardFacts, ShardListing

TICK_S = 0.25  # the longest the parent sleeps; a dead worker wakes it at once
DEATHS_ALLOWED = 2  # a cell that kills so many workers while alone in them is a failed cell
STARTS_ALLOWED = 3  # a kind of worker that dies so often before it is ready cannot run here
PARTS_OPEN = 6  # so many parts may be open or waiting for their writer, and two more per lane
STOP_GRACE_S = 8.0  # after a first signal, what is in flight has so long to finish
FAILURE_SAMPLE = 100  # --max-failures is looked at from so many cells on


@dataclass(frozen=True, slots=True)
class Crew:
    """How to start workers of one kind: ``start(name, lane)``, how many there are, how many tasks each may hold."""

    start: Callable[[str, int], Worker]
    count: int
    credit: int


@dataclass(slots=True)
class CellState:
    """A cell on its way."""

    cell: Cell
    path: Path
    lane: int
    slot: SlotRef | None = None
    decoded: DecodedCell | None = None
    timing: CellTiming | None = None
    attempts: int = 0
    deaths: int = 0
    alone: bool = False


@dataclass(slots=True)
class PartState:
    """A part on its way: the cells it still waits for, and the writer it belongs to."""

    info: PartInfo
    writer: int
    cells: tuple[Cell, ...]
    lane: int
    error: str = ""
    opened: bool = False
    left: set[Key] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done: shards by index (only ``mine`` are embedded), those done already, the limit on cells."""

    shards: Sequence[Path]
    mine: frozenset[int]
    done: Mapping[int, int]  # shard -> its number of selected cells
    limit: int | None = None
    retry: bool = False


class Pipeline:
    """Run ``Work`` with three crews; ``on_part`` is told the facts of every finished part."""

    def __init__(
        self,
        work: Work,
        crews: dict[str, Crew],
        slots: Sequence[int],
        *,
        check: bool = False,
        max_failures: float = 1.0,
        stall_timeout: float = 300.0,
        on_part: Callable[[ShardFacts], None] = lambda facts: None,
        on_note: Callable[[Note], None] = lambda note: None,
        on_tick: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.work = work
        self.crews = crews
        self.check = check  # whether the error against fp32 is still to be asked for
        self.checked: Key | None = None  # the cell it was asked for with
        self.max_failures = max_failures
        self.stall_timeout = stall_timeout
        self.on_part, self.on_note, self.on_tick = on_part, on_note, on_tick
        self.lanes = Lanes(slots)
        self.workers: dict[Connection[Any, Any], Worker] = {}
        self.writers: list[Worker] = []
        self.lane_of: dict[str, int] = {}
        self.cells: dict[Key, CellState] = {}
        self.parts: dict[int, PartState] = {}
        self.to_plan = deque(self._shards_to_plan())
        self.plans: dict[int, ShardListing] = {}
        self.plan_deaths: Counter[int] = Counter()
        self.next_plan = deque(self.to_plan)
        self.selected = 0
        self.names: Counter[str] = Counter()
        self.fruitless_deaths: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.progress = Progress(
            shards=len(work.mine),
            shards_done=len(work.mine & work.done.keys()),
            slots=sum(slots),
            most=None if work.limit is None else max(0, work.limit - sum(work.done.values())),
        )
        self.stop_at: float | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until everything is done, or stopped.  Raises MtembedError; workers are gone when it returns."""
        try:
            for kind, crew in self.crews.items():
                for i in range(crew.count):
                    self._start(kind, i % len(self.lanes))
            while not self._complete():
                self._deal()
                for connection in wait(list(self.workers), TICK_S):
                    if connection in self.workers:
                        self._receive(self.workers[connection])
                self._bury_stalled()
                self._report()
        finally:
            for worker in list(self.workers.values()):
                worker.close()
            self.workers.clear()

    def stop(self) -> None:
        """Take no more cells; ``run`` returns when what is in flight is safe, or after a grace."""
        if self.stop_at is None:
            self.stop_at = time.monotonic() + STOP_GRACE_S

    @property
    def finished(self) -> bool:
        """Whether every shard of this run has its part."""
        return not self.to_plan and not self.plans and not self.next_plan and not self.parts

    def _complete(self) -> bool:
        if self.stop_at is None:
            return self.finished
        in_flight = any(w.tasks for w in self.workers.values() if w.kind != "decode")
        return not in_flight or time.monotonic() > self.stop_at

    def _start(self, kind: str, lane: int) -> Worker:
        name = f"{kind}-{self.names[kind]}"
        self.names[kind] += 1
        worker = self.crews[kind].start(name, lane)
        self.workers[worker.connection] = worker
        self.lane_of[name] = lane
        if kind == "write" and len(self.writers) < self.crews[kind].count:
            self.writers.append(worker)
        return worker

    # -- dealing ------------------------------------------------------------------------------------------------

    def _deal(self) -> None:
        if self.stop_at is not None:
            return
        self._deal_plans()
        for lane in self.lanes:
            self._deal_decoding(lane)
            self._deal_embedding(lane)

    def _shards_to_plan(self) -> list[int]:
        """Shards to open in order; with a limit also other processes' shards, since the limit counts over all."""
        if self.work.limit is None:
            return sorted(self.work.mine - self.work.done.keys())
        return list(range(len(self.work.shards)))

    def _deal_plans(self) -> None:
        """Open shards ahead of need: enough cells for every slot, two shards at most beside those in work."""
        waiting = sum(isinstance(t, PlanTask) for w in self._of("decode") for t in w.tasks.values())
        most = PARTS_OPEN + 2 * len(self.lanes)
        while self.to_plan and waiting + len(self.plans) < 2 and self.lanes.hungry() and len(self.parts) < most:
            shard = self.to_plan[0]
            if self.work.limit is not None and self.selected >= self.work.limit:
                self.to_plan.clear()
                self.next_plan.clear()
                return
            if shard in self.work.done:
                self.to_plan.popleft()
                self.plans[shard] = ShardListing(shard, Fingerprint(), ())
                self._accept_plans()
                continue
            worker = self._idle("decode")
            if worker is None:
                return
            self.to_plan.popleft()
            self._give(worker, PlanTask(shard, self.work.shards[shard]))
            waiting += 1

    def _deal_decoding(self, lane: Lane) -> None:
        while lane.free:
            key = self.lanes.next_pending(lane, not self.to_plan)
            if key is None:
                return
            state = self.cells[key]
            worker = self._idle("decode", alone=state.alone)
            if worker is None:
                return
            self.lanes.pending_of(key).remove(key)
            state.lane = lane.index
            state.slot = SlotRef(lane.index, lane.free.popleft())
            state.attempts += 1
            self._give(worker, DecodeTask(state.slot, state.path, state.cell))

    def _deal_embedding(self, lane: Lane) -> None:
        while lane.ready:
            key = lane.ready[0]
            state = self.cells[key]
            worker = self._idle("device", lane.index, state.alone)
            if worker is None or state.slot is None or state.decoded is None or state.timing is None:
                return
            lane.ready.popleft()
            self._give(worker, EmbedTask(key, state.slot, state.decoded, state.timing, self.check))
            self.check, self.checked = False, key if self.check else self.checked

    def _of(self, kind: str) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.kind == kind]

    def _idle(self, kind: str, lane: int | None = None, alone: bool = False) -> Worker | None:
        """The worker with the fewest tasks that may take one more; an ``alone`` cell needs an empty one."""
        credit = 1 if alone else self.crews[kind].credit
        able = [
            w
            for w in self._of(kind)
            if w.ready
            and len(w.tasks) < credit
            and (lane is None or self.lane_of[w.name] == lane)
            and not _exclusive(w, self)
        ]
        return min(able, key=lambda w: len(w.tasks), default=None)

    def _give(self, worker: Worker, task: Any) -> None:
        if not worker.tasks:
            worker.last_heard = worker.busy_since = time.monotonic()
        worker.tasks[task.key, type(task)] = task
        worker.send(task)

    # -- receiving ----------------------------------------------------------------------------------------------

    def _receive(self, worker: Worker) -> None:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        worker.last_heard = time.monotonic()
        if isinstance(message, Fatal):
            raise getattr(errors, message.error, WorkerError)(message.message)
        if isinstance(message, Ready):
            worker.ready = True
            self._tell(message.notes)
            return
        self.fruitless_deaths[self._place(worker)] = 0
        self._answered(worker, message)
        _HANDLERS[type(message)](self, message)

    def _answered(self, worker: Worker, message: Any) -> None:
        key = (message.shard, None) if isinstance(message, ShardListing) else message.key
        worker.tasks.pop((key, _ANSWERS[type(message)]))
        if not worker.tasks:
            worker.busy_s += time.monotonic() - worker.busy_since

    def _planned(self, plan: ShardListing) -> None:
        if plan.shard in self.next_plan:  # else the limit was reached meanwhile
            self.plans[plan.shard] = plan
            self._accept_plans()

    def _accept_plans(self) -> None:
        """Plans in shard order, whatever order they arrived in, so that ``limit`` means the first N."""
        while self.next_plan and self.next_plan[0] in self.plans:
            shard = self.next_plan.popleft()
            plan = self.plans.pop(shard)
            if shard in self.work.done:
                self.selected += self.work.done[shard]
                continue
            cells = plan.cells
            if self.work.limit is not None:
                if self.selected >= self.work.limit:
                    continue
                cells = cells[: self.work.limit - self.selected]
                self.selected += len(cells)
            if shard in self.work.mine:
                self._open_part(plan, cells)

    def _open_part(self, plan: ShardListing, cells: tuple[Cell, ...]) -> None:
        path = self.work.shards[plan.shard]
        info = PartInfo(plan.shard, path.name, path.stem, plan.fingerprint)
        lane = self.lanes.poorest()
        lane.promised += len(cells)
        load = Counter(part.writer for part in self.parts.values())
        writer = min(range(self.crews["write"].count), key=lambda i: load[i])
        self.parts[plan.shard] = PartState(info, writer, cells, lane.index, plan.error)
        self._give(self.writers[writer], OpenPart(info, self.work.retry))

    def _part_opened(self, message: PartOpened) -> None:
        shard = message.key[0]
        part = self.parts[shard]
        if part.opened:
            return  # opened again by the replacement of a dead writer: what is left is known here
        part.opened = True
        self.lanes[part.lane].promised -= len(part.cells)
        lane = self.lanes.home(part.lane)
        self.progress.resumed += len(message.done)
        self.progress.failed_before += message.failed
        wanted = [cell for cell in part.cells if cell.row_group not in message.done]
        self.progress.known += len(part.cells) + bool(part.error)
        part.left = {(shard, cell.row_group) for cell in wanted}
        for cell in wanted:
            key = (shard, cell.row_group)
            self.cells[key] = CellState(cell, self.work.shards[shard], lane.index)
            lane.pending.append(key)
        if part.error and None not in message.done:
            part.left.add(message.key)
            timing = CellTiming(part.info.name, None, status="failed", stage="read", error=part.error)
            timing.started = time.monotonic()
            self._append(message.key, None, timing)
        self._finish_if_complete(shard)

    def _decoded(self, message: Decoded) -> None:
        state = self.cells[message.key]
        state.timing, state.decoded = message.timing, message.decoded
        if message.decoded is None:
            self._free(state)
            self._append(message.key, None, message.timing)
        elif self.lanes[state.lane].gone:
            self._elsewhere(message.key)
        else:
            self.lanes[state.lane].ready.append(message.key)

    def _embedded(self, message: Embedded) -> None:
        state = self.cells[message.key]
        state.timing = message.timing
        self._tell(message.notes)
        if message.timing.status == "failed":
            self.check |= message.key == self.checked
            self._free(state)
        self._append(message.key, state, message.timing)

    def _tell(self, notes: Iterable[Note]) -> None:
        for note in notes:
            self.on_note(note)

    def _append(self, key: Key, state: CellState | None, timing: CellTiming) -> None:
        known = self.cells.get(key)
        timing.attempts = max(1, known.attempts if known else 1)
        slot = state.slot if state else None
        record = state.decoded.record if state and state.decoded and timing.status == "ok" else None
        self._give(self.writers[self.parts[key[0]].writer], AppendTask(key, slot, record, timing))

    def _appended(self, message: Appended) -> None:
        state = self.cells.pop(message.key, None)
        if state is not None:
            self._free(state)
        self.parts[message.key[0]].left.discard(message.key)
        self._count(message.timing)
        self._finish_if_complete(message.key[0])

    def _finish_if_complete(self, shard: int) -> None:
        if not self.parts[shard].left:
            self._give(self.writers[self.parts[shard].writer], FinishTask(shard))

    def _part_finished(self, message: PartFinished) -> None:
        del self.parts[message.key[0]]
        self.progress.shards_done += 1
        self.on_part(message.facts)

    def _free(self, state: CellState) -> None:
        if state.slot is not None:
            self.lanes[state.slot.lane].free.append(state.slot.index)
            state.slot = None

    def _count(self, timing: CellTiming) -> None:
        self.progress.count(timing)
        if timing.status == "ok":
            return
        self.reasons[f"{timing.stage}: {timing.error}"] += 1
        seen, failed = self.progress.done + self.progress.failed, self.progress.failed
        if seen >= FAILURE_SAMPLE and failed > self.max_failures * seen:
            top = "; ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common(3))
            raise TooManyFailures(
                f"{failed} of {seen} cells failed, more than --max-failures {self.max_failures:g} allows ({top}): "
                "mend the cause, or raise --max-failures, and run the same command again"
            )

    # -- death --------------------------------------------------------------------------------------------------

    def _bury_stalled(self) -> None:
        """A worker that has held a task for long without a word is as good as dead."""
        now = time.monotonic()
        for worker in list(self.workers.values()):
            waiting = worker.tasks or not worker.ready
            if waiting and now - worker.last_heard > self.stall_timeout:
                worker.kill()
                self._bury(worker, f"made no progress for {self.stall_timeout:g} s")

    def _bury(self, worker: Worker, cause: str = "") -> None:
        """Reap a worker, give what it held to others, start a replacement in its place."""
        cause = cause or worker.cause_of_death()
        card_trouble = worker.kind == "device" and any(word in worker.last_words() for word in CARD_TROUBLE)
        del self.workers[worker.connection]
        worker.close()
        self.progress.deaths += 1
        tasks, lane = list(worker.tasks.values()), self.lanes[self.lane_of[worker.name]]
        self.fruitless_deaths[self._place(worker)] += self._fruitless(worker, tasks, card_trouble)
        if self.fruitless_deaths[self._place(worker)] >= STARTS_ALLOWED:
            self._give_up(worker, lane, cause)
        else:
            replacement = self._start(worker.kind, lane.index)
        if worker.kind == "write":
            self._reopen(self.writers.index(worker), replacement, tasks)
            return
        for task in reversed(tasks):
            self._take_back(task, len(tasks) == 1, cause, card_trouble)

    def _place(self, worker: Worker) -> str:
        """Where deaths are counted: per kind, and device workers per lane."""
        return f"device {self.lane_of[worker.name]}" if worker.kind == "device" else worker.kind

    def _fruitless(self, worker: Worker, tasks: Sequence[Any], card_trouble: bool) -> bool:
        """Whether a death speaks against the place rather than a cell; a cell that was alone before counts once."""
        if worker.kind == "write" or not worker.ready:
            return True
        suspect = len(tasks) == 1 and self.cells[tasks[0].key].deaths > 0 if card_trouble else True
        return not suspect

    def _give_up(self, worker: Worker, lane: Lane, cause: str) -> None:
        """No more workers in this place: a card among several is dropped.  Raises WorkerError when it is the last."""
        if worker.kind != "device" or len(self.lanes) == 1:
            raise WorkerError(f"{worker.kind} workers cannot do their work here: the last one {cause}")
        lane.gone = True
        self.on_note(LaneDropped(lane.index, cause))
        for key in [*lane.ready, *lane.pending]:
            self._elsewhere(key)
        lane.ready.clear()
        lane.pending.clear()

    def _elsewhere(self, key: Key) -> None:
        """A cell leaves its lane, to be decoded again into another one's ring."""
        state = self.cells[key]
        self._free(state)
        state.decoded, state.lane = None, self.lanes.poorest(but=state.lane).index
        self.lanes[state.lane].pending.append(key)

    def _reopen(self, index: int, writer: Worker, tasks: Iterable[Any]) -> None:
        """A new writer opens the dead one's parts again and is given everything that was not confirmed."""
        self.writers[index] = writer
        for part in self.parts.values():
            if part.writer == index and part.opened:
                self._give(writer, OpenPart(part.info, self.work.retry))
        for task in tasks:
            self._give(writer, task)

    def _take_back(self, task: Any, alone: bool, cause: str, card_trouble: bool = False) -> None:
        if isinstance(task, PlanTask):
            self.plan_deaths[task.shard] += alone
            if self.plan_deaths[task.shard] >= DEATHS_ALLOWED:
                self._planned(ShardListing(task.shard, Fingerprint(), (), f"opening it ended two workers: {cause}"))
            else:
                self.to_plan.appendleft(task.shard)
            return
        state = self.cells[task.key]
        state.deaths += alone
        state.alone = True
        self.check |= isinstance(task, EmbedTask) and task.check
        if isinstance(task, DecodeTask):
            self._free(state)
        if state.deaths >= DEATHS_ALLOWED:
            stage = "decode" if isinstance(task, DecodeTask) else "embed"
            timing = state.timing or CellTiming(state.path.name, state.cell.row_group, started=time.monotonic())
            timing.status, timing.stage, timing.fragments = "failed", stage, 0
            timing.error = f"{state.deaths} workers ended while they had this cell alone: {cause}"
            self._free(state)
            self._append(task.key, None, timing)
        elif isinstance(task, DecodeTask):
            self.lanes.home(state.lane).pending.appendleft(task.key)
        elif self.lanes[state.lane].gone or (card_trouble and alone and len(self.lanes) > 1):
            self._elsewhere(task.key)
        else:
            state.attempts += 1
            self.lanes[state.lane].ready.appendleft(task.key)

    def _report(self) -> None:
        progress = self.progress
        progress.ready = sum(len(lane.ready) for lane in self.lanes)
        progress.free = sum(len(lane.free) for lane in self.lanes)
        progress.stopping = self.stop_at is not None
        progress.observe(self.workers.values(), unopened=len(self.to_plan))
        self.on_tick(progress)


def _exclusive(worker: Worker, pipeline: Pipeline) -> bool:
    """Whether the worker holds a cell that must be alone in it."""
    return any(
        (state := pipeline.cells.get(task.key)) is not None and state.alone
        for task in worker.tasks.values()
        if isinstance(task, (DecodeTask, EmbedTask))
    )


_HANDLERS: dict[type, Callable[[Pipeline, Any], None]] = {
    ShardListing: Pipeline._planned,
    PartOpened: Pipeline._part_opened,
    Decoded: Pipeline._decoded,
    Embedded: Pipeline._embedded,
    Appended: Pipeline._appended,
    PartFinished: Pipeline._part_finished,
}
_ANSWERS: dict[type, type] = {
    ShardListing: PlanTask,
    PartOpened: OpenPart,
    Decoded: DecodeTask,
    Embedded: EmbedTask,
    Appended: AppendTask,
    PartFinished: FinishTask,
}
