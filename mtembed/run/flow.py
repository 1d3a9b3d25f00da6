"""Where everything is: cells in lanes and workers, parts with their writers; tasks move it on, answers come back.

    shards -> order -> pending -> [decode] -> ready -> [device] -> [write] -> safe     all safe -> [finish] -> part
                         ^          slot taken                      slot freed

Workers hold nothing that cannot be given to another: a cell is in a queue here, or it is a task of exactly one worker,
until the writer says that it is safe on disk.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

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
    ShardOpened,
    Task,
    TaskAnswer,
)
from mtembed.notes import MetadataOdd, Note, PartRemade, ShardLost, Traffic
from mtembed.run.budget import FailureBudget, RestartBudget
from mtembed.run.cells import CellState, Decoding, Filled, Waiting
from mtembed.run.crew import Crew, CrewSpec
from mtembed.run.lanes import Lane, Lanes
from mtembed.run.parts import Part, Parts
from mtembed.run.process import Worker
from mtembed.run.progress import Progress
from mtembed.run.requeue import Suspects
from mtembed.run.shard_order import Opened, ShardOrder
from mtembed.run.taking import Taking
from mtembed.run.work import Callbacks, Work
from mtembed.text import printable
from mtembed.types import CellTiming, PartInfo, ShardListing

State = TypeVar("State", bound=CellState)


class Flow:
    """The state of a run.  ``deal.deal`` gives out what can be given, ``answer`` takes what comes back."""

    def __init__(
        self,
        work: Work,
        crews: Mapping[str, CrewSpec],
        slots: Sequence[int],
        callbacks: Callbacks,
        taking: Taking,
        *,
        check: bool,
        max_failures: float,
    ) -> None:
        self.work = work
        self.taking = taking
        self.theirs: dict[int, Opened | None] = {}  # shards of other processes; what of them is known here
        self.callbacks = callbacks
        self.check = check  # whether the error against fp32 is still to be asked for
        self.checked: Key | None = None  # the cell it was asked for with
        self.lanes = Lanes(slots)
        self.suspects = Suspects()
        self.crews = {kind: Crew(kind, spec, self.suspects) for kind, spec in crews.items()}
        self.restarts = RestartBudget(sum(spec.count for spec in crews.values()))
        self.failures = FailureBudget(max_failures)
        self.order = ShardOrder(len(work.shards), work.mine, work.done, work.limit)
        self.parts = Parts()
        self.cells: dict[Key, CellState] = {}
        self.to_finish: deque[FinishTask] = deque()
        self._told = Traffic()
        self.progress = Progress(
            shards=len(work.mine),
            shards_done=len(work.mine & work.done.keys()),
            slots=sum(slots),
            most=None if work.limit is None else max(0, work.limit - sum(work.done.values())),
        )

    @property
    def finished(self) -> bool:
        """Whether every shard of this run has its part, whoever made it, or is lost."""
        return self.order.finished and not self.parts.open and not self.theirs

    @property
    def workers(self) -> list[Worker]:
        return [worker for crew in self.crews.values() for worker in crew.workers]

    def write(self, part: Part, task: Task) -> None:
        self.crews["write"].give(self.crews["write"].at(part.writer), task)

    # -- answers ------------------------------------------------------------------------------------------------

    def answer(self, worker: Worker, message: TaskAnswer) -> None:
        """A worker answered one of its tasks."""
        task = self.crews[worker.kind].answered(worker, message)
        if not isinstance(message, PartOpened):
            self.restarts.answered(place_of(worker))
        _HANDLERS[type(message)](self, task, message)

    def _shard_opened(self, task: Task, message: ShardOpened) -> None:
        self.progress.traffic += message.traffic
        self.listed(message.listing)

    def listed(self, listing: ShardListing) -> None:
        """A shard is open, or cannot be opened: those whose turn it is get their parts."""
        self.restarts.progressed()
        self.tell(tuple(map(MetadataOdd, listing.notes)))
        self.begin(self.order.opened(listing))

    def begin(self, accepted: Iterable[Opened]) -> None:
        """Shards whose turn it is: parts for those that are this process's."""
        for opened, cells in accepted:
            if opened.shard in self.theirs:
                self.theirs[opened.shard] = (opened, cells)
                continue
            path = self.work.shards[opened.shard]
            info = PartInfo(opened.shard, printable(path.name), printable(path.stem), opened.fingerprint)
            lane = self.lanes.least_loaded()
            lane.promised += len(cells)
            part = self.parts.add(info, cells, opened.error, lane.index, self.crews["write"].count)
            self.write(part, OpenPart(info, self.work.retry))

    def _part_opened(self, task: Task, message: PartOpened) -> None:
        part = self.parts.open.get(message.key[0])
        if part is None or part.opened:
            return  # lost, or opened again by the successor of a dead writer: what is left is known here
        part.opened = True
        self.lanes[part.lane].promised -= len(part.cells)
        part.remade = bool(message.damage)
        if message.damage:
            self.callbacks.note(PartRemade(part.info.name, message.damage))
        wanted = [cell for cell in part.cells if cell.row_group not in message.done]
        self.progress.known += len(part.cells)
        self.progress.resumed += len(part.cells) - len(wanted)
        path, home = self.work.shards[part.info.shard], self.lanes.home(part.lane)
        for cell in wanted:
            waiting = Waiting(cell, path, part.info.fingerprint)
            self.cells[waiting.key] = waiting
            part.left.add(waiting.key)
            home.pending.append(waiting)
        if part.error and None not in message.done:
            timing = CellTiming(part.info.name, None, status="failed", stage="read", error=part.error)
            timing.started = time.monotonic()
            part.left.add(message.key)
            self._append(message.key, timing)
        self._close_if_whole(part)

    def _decoded(self, task: DecodeTask, message: Decoded) -> None:
        self.progress.traffic += message.traffic
        if message.key not in self.cells:  # its part was lost meanwhile
            self.forget(task)
            return
        state = self._state(message.key, Decoding)
        if message.decoded is None:
            self.fail(state, message.timing)
            return
        filled = Filled(state.origin, state.slot, message.decoded, message.timing)
        self.cells[message.key] = filled
        if self.lanes[state.slot.lane].gone:
            self.requeue(filled, other_lane=True)
        else:
            self.lanes[state.slot.lane].ready.append(filled)

    def _embedded(self, task: EmbedTask, message: Embedded) -> None:
        self.tell(message.notes)
        if message.timing.status == "failed":
            self.check |= message.key == self.checked
        if message.key not in self.cells:
            self.forget(task)
            return
        state = self._state(message.key, Filled)
        if message.timing.status == "failed":
            self.fail(state, message.timing)
        else:
            message.timing.attempts = max(1, state.origin.attempts)
            part = self.parts.open[message.key[0]]
            self.write(part, AppendTask(message.key, state.slot, state.decoded.record, message.timing))

    def fail(self, state: Decoding | Filled, timing: CellTiming) -> None:
        """A cell that gets no vectors: its slot is free, its timing says why."""
        self.lanes.release(state.slot)
        self.cells[state.origin.key] = state.origin
        timing.attempts = max(1, state.origin.attempts)
        self._append(state.origin.key, timing)

    def _append(self, key: Key, timing: CellTiming) -> None:
        """Note a cell without vectors, or a shard without cells."""
        self.write(self.parts.open[key[0]], AppendTask(key, None, None, timing))

    def _appended(self, task: AppendTask, message: Appended) -> None:
        self.forget(task)
        part = self.parts.open.get(message.key[0])
        if part is None:
            return
        self.cells.pop(message.key, None)
        part.left.discard(message.key)
        self.restarts.progressed()
        if message.timing.row_group is not None:
            self.progress.count(message.timing)
            self.failures.cell(message.timing)
        self._close_if_whole(part)

    def _close_if_whole(self, part: Part) -> None:
        """All its cells are in the journal: the writer lets go of it, for a finisher."""
        if part.opened and not part.left:
            self.write(part, ClosePart(part.info.shard))

    def _part_closed(self, task: Task, message: PartClosed) -> None:
        part = self.parts.open.get(message.key[0])
        if part is not None:
            part.closed = True
            self.to_finish.append(FinishTask(part.info, self.work.retry, message.write_ms, part.remade))

    def _part_finished(self, task: Task, message: PartFinished) -> None:
        part = self.parts.open.pop(message.key[0], None)
        if part is None:
            return  # another process has taken it over meanwhile, and finds it done
        self.restarts.progressed()
        self.progress.shards_done += 1
        self.progress.failed_shards += bool(part.error)
        self.callbacks.part(message.facts)
        self.tell_traffic()
        self.taking.release(part.info.shard)
        self.failures.shard(part.error)

    def _part_failed(self, task: Task, message: PartFailed) -> None:
        self.forget(task)
        if message.taken:
            self.give_up(message.key[0])
            return
        stage = "write" if isinstance(task, (AppendTask, FinishTask)) else "open"
        self.lose(message.key[0], stage, message.error)

    # -- setbacks -----------------------------------------------------------------------------------------------

    def requeue(self, state: Decoding | Filled, *, other_lane: bool) -> None:
        """A cell goes back to where it waited; to be decoded again where it was not, or goes to another lane."""
        if isinstance(state, Filled) and not other_lane:
            self.cells[state.key] = again = state.tried()
            self.lanes[state.slot.lane].ready.appendleft(again)
            return
        self.lanes.release(state.slot)
        self.cells[state.origin.key] = state.origin
        index = state.slot.lane
        lane = self.lanes.least_loaded(but=index) if other_lane else self.lanes.home(index)
        lane.pending.appendleft(state.origin)

    def drop_lane(self, lane: Lane) -> None:
        """No worker is left there: its cells go to the others."""
        lane.gone = True
        waiting, ready = list(lane.pending), list(lane.ready)
        lane.pending.clear()
        lane.ready.clear()
        for filled in ready:
            self.requeue(filled, other_lane=True)
        for cell in waiting:
            self.lanes.least_loaded(but=lane.index).pending.append(cell)

    def lose(self, shard: int, stage: str, error: str) -> None:
        """No part can be made of a shard: the run goes on without it, its journal stays.

        Its cells that workers hold are forgotten when they answer.
        """
        part = self._drop(shard)
        if part is None:
            return
        self.parts.lost += 1
        self.progress.failed_shards += 1
        self.restarts.progressed()
        self.callbacks.note(ShardLost(part.info.name, stage, error))
        self.taking.release(shard)
        self.failures.shard(error)

    def give_up(self, shard: int) -> None:
        """Another process has taken a shard over: its part is not made here."""
        part = self._drop(shard)
        self.theirs[shard] = None
        if part is not None:
            listing = ShardListing(shard, part.info.fingerprint, part.cells, part.error)
            self.theirs[shard] = (listing, part.cells)

    def _drop(self, shard: int) -> Part | None:
        """Take out a part, with its cells and what is still to be written of it; None when it is gone already."""
        part = self.parts.open.pop(shard, None)
        if part is None:
            return None
        if not part.opened:
            self.lanes[part.lane].promised -= len(part.cells)
        self.lanes.forget(shard)
        self.to_finish = deque(task for task in self.to_finish if task.part.shard != shard)
        self.cells = {key: state for key, state in self.cells.items() if key[0] != shard}
        for task in self.crews["write"].drop(shard):
            self.forget(task)
        self.progress.known -= len(part.left)
        return part

    def forget(self, task: Task) -> None:
        """A task that nobody holds any more and that is not to be done: its slot is free."""
        if isinstance(task, (DecodeTask, EmbedTask, AppendTask)) and task.slot is not None:
            self.lanes.release(task.slot)

    def tell_traffic(self) -> None:
        """What came over the network since the last call is noted."""
        more, self._told = self.progress.traffic - self._told, self.progress.traffic
        if more.requests:
            self.callbacks.note(more)

    def tell(self, notes: Iterable[Note]) -> None:
        for note in notes:
            self.callbacks.note(note)

    def _state(self, key: Key, wanted: type[State]) -> State:
        """The state of a cell.  Raises RuntimeError when it is in another one than it can be in."""
        state = self.cells[key]
        if not isinstance(state, wanted):
            raise RuntimeError(f"cell {key} is {type(state).__name__}, not {wanted.__name__}")
        return state


def place_of(worker: Worker) -> str:
    """Where deaths are counted: per kind, and device workers per lane."""
    return f"device {worker.place}" if worker.kind == "device" else worker.kind


_HANDLERS: dict[type, Callable[[Flow, Any, Any], None]] = {
    ShardOpened: Flow._shard_opened,
    Decoded: Flow._decoded,
    Embedded: Flow._embedded,
    PartOpened: Flow._part_opened,
    Appended: Flow._appended,
    PartClosed: Flow._part_closed,
    PartFinished: Flow._part_finished,
    PartFailed: Flow._part_failed,
}
