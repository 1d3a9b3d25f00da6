"""The loop: deal, wait, take answers, replace workers that died.  One place knows who holds what: ``flow``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtembed.errors import WorkerError
from mtembed.messages import AppendTask, DecodeTask, EmbedTask, Fatal, FinishTask, OpenPart, PlanTask, Ready
from mtembed.notes import LaneDropped
from mtembed.run.cells import Decoding, Filled
from mtembed.run.channel import wait
from mtembed.run.crew import CrewSpec, Reaped
from mtembed.run.deal import deal
from mtembed.run.flow import Flow, place_of
from mtembed.run.lanes import DEVICE_ERRORS
from mtembed.run.others import look_again
from mtembed.run.process import Worker, close_all, error_of, start_patience_s
from mtembed.run.progress import Progress
from mtembed.run.requeue import DEATHS_ALLOWED, Verdict, verdict
from mtembed.run.taking import Alone, Taking
from mtembed.run.work import Callbacks, Work
from mtembed.text import printable
from mtembed.types import CellTiming, Fingerprint, ShardListing

TICK_S = 0.25  # the longest the parent sleeps; a dead worker wakes it at once
EXIT_S = 0.05  # a process is gone so soon after its stream, if it does not hold a GPU; nobody waits for longer
LOOK_S = 1.0  # between two looks at what other processes have
STOP_GRACE_S = 8.0  # after a first signal, what is in flight has so long to finish


class Pipeline:
    """Runs ``Work`` with its crews: ``decode``, ``device``, ``write`` and ``finish``."""

    def __init__(
        self,
        work: Work,
        crews: Mapping[str, CrewSpec],
        slots: Sequence[int],
        callbacks: Callbacks,
        taking: Taking | None = None,
        *,
        check: bool = False,
        max_failures: float = 1.0,
        stall_timeout: float = 300.0,
        tick_s: float = TICK_S,
    ) -> None:
        """``taking``: where other processes work on the same shards."""
        self.flow = Flow(work, crews, slots, callbacks, taking or Alone(), check=check, max_failures=max_failures)
        self._callbacks = callbacks
        self._stall_timeout = stall_timeout
        self._tick_s = tick_s
        self._stop_at: float | None = None
        self._looked = 0.0

    @property
    def progress(self) -> Progress:
        return self.flow.progress

    @property
    def finished(self) -> bool:
        """Whether every shard of this run has its part, or is lost."""
        return self.flow.finished

    @property
    def lost(self) -> int:
        """Shards of which no part could be made in this start."""
        return self.flow.parts.lost

    def run(self) -> None:
        """Until everything is done, or stopped.  Raises MtembedError; workers are gone when it returns."""
        flow = self.flow
        try:
            for crew in flow.crews.values():
                crew.start_all(len(flow.lanes))
            while not self._complete():
                deal(flow, stopping=self._stop_at is not None)
                channels = {worker.channel: worker for worker in flow.workers if worker.ending_since is None}
                for channel in wait(channels, self._tick_s):
                    self._receive(channels[channel])
                self._end_stalled()
                self._reap_gone()
                self._share()
                self._report()
        finally:
            close_all(flow.workers)
            flow.tell_traffic()

    def _share(self) -> None:
        """Stay one of those who work on these shards, and notice what the others do."""
        flow = self.flow
        for shard in flow.taking.renew(flow.progress):
            flow.give_up(shard)
        if flow.theirs and self._stop_at is None and time.monotonic() - self._looked >= LOOK_S:
            look_again(flow)
            self._looked = time.monotonic()

    def stop(self) -> None:
        """Take no more cells; ``run`` returns when what is in flight is safe, or after a grace."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + STOP_GRACE_S

    def _complete(self) -> bool:
        if self._stop_at is None:
            return self.flow.finished
        at_work = any(worker.tasks or worker.backlog for worker in self.flow.workers if worker.kind != "decode")
        return not (at_work or self.flow.to_finish) or time.monotonic() > self._stop_at

    def _receive(self, worker: Worker) -> None:
        try:
            messages = worker.channel.receive()
        except EOFError:
            worker.ends()
            worker.gone(EXIT_S)
            return
        worker.last_heard = time.monotonic()
        for message in messages:
            self._handle(worker, message)

    def _handle(self, worker: Worker, message: Any) -> None:
        if isinstance(message, Fatal):
            raise error_of(message)
        if isinstance(message, Ready):
            worker.ready = True
            self.flow.tell(message.notes)
        else:
            self.flow.answer(worker, message)

    def _report(self) -> None:
        flow, progress = self.flow, self.flow.progress
        progress.ready = sum(len(lane.ready) for lane in flow.lanes)
        progress.free = sum(len(lane.free) for lane in flow.lanes)
        progress.stopping = self._stop_at is not None
        progress.theirs = len(flow.theirs)
        progress.open_parts = len(flow.parts.open)
        progress.open_cells = sum(len(part.cells) for part in flow.parts.open.values())
        progress.observe(flow.workers, unopened=flow.order.unopened)
        self._callbacks.progress(progress)

    # -- deaths -------------------------------------------------------------------------------------------------

    def _end_stalled(self) -> None:
        """A worker that has held a task for long without a word is as good as dead; one that loads may take longer."""
        now = time.monotonic()
        for worker in self.flow.workers:
            patience = self._stall_timeout if worker.ready else start_patience_s(self._stall_timeout)
            silent = (worker.tasks or not worker.ready) and now - worker.last_heard > patience
            if silent and worker.ending_since is None:
                worker.ends(f"made no progress for {patience:g} s")

    def _reap_gone(self) -> None:
        for worker in self.flow.workers:
            if worker.gone():
                self._reap(worker)

    def _reap(self, worker: Worker) -> None:
        """Give what a dead worker held to others, and start another one in its place."""
        flow = self.flow
        reaped = flow.crews[worker.kind].reap(worker)
        flow.progress.deaths += 1
        if worker.ready:
            flow.suspects.died(reaped.suspects)
        device_error = worker.kind == "device" and any(words in reaped.stderr for words in DEVICE_ERRORS)
        place = place_of(worker)
        flow.restarts.died(place, speaks_against_place=self._speaks_against_place(reaped, device_error))
        if flow.restarts.exhausted:
            raise WorkerError(f"workers end one after the other and nothing is done: {worker.name} {reaped.cause}")
        if flow.restarts.spent(place):
            self._give_up_place(reaped)
        else:
            flow.crews[worker.kind].start(worker.place)
        if worker.kind == "write":
            self._take_back_writing(reaped)
        else:
            for task in reversed(reaped.tasks):
                self._take_back(task, reaped, device_error)

    def _speaks_against_place(self, reaped: Reaped, device_error: bool) -> bool:
        """Whether a worker died of where it worked: while it loaded, without a task, or of its device, unless with a
        cell that another one has died of too."""
        if not reaped.worker.ready or not reaped.tasks:
            return True
        return device_error and not (reaped.alone and self.flow.suspects.failed(reaped.tasks[0]))

    def _give_up_place(self, reaped: Reaped) -> None:
        """A GPU among several is not used any more.  Raises WorkerError where there is no other."""
        worker, flow = reaped.worker, self.flow
        if worker.kind != "device" or len(flow.lanes) == 1:
            raise WorkerError(f"{worker.kind} workers cannot do their work here: the last one {reaped.cause}")
        flow.drop_lane(flow.lanes[worker.place])
        flow.tell([LaneDropped(worker.place, reaped.cause)])

    def _take_back(self, task: Any, reaped: Reaped, device_error: bool) -> None:
        flow, failed = self.flow, self.flow.suspects.failed(task)
        if isinstance(task, PlanTask) and failed:
            problem = f"opening it ended {DEATHS_ALLOWED} workers: {reaped.cause}"
            flow.listed(ShardListing(task.shard, Fingerprint(), (), problem))
        elif isinstance(task, PlanTask):
            flow.order.put_back(task.shard)
        elif isinstance(task, FinishTask) and failed:
            flow.lose(task.part.shard, "write", f"finishing its part ended {DEATHS_ALLOWED} workers: {reaped.cause}")
        elif isinstance(task, FinishTask):
            flow.to_finish.appendleft(task)
        else:
            self._take_back_cell(task, reaped, device_error)

    def _take_back_cell(self, task: DecodeTask | EmbedTask, reaped: Reaped, device_error: bool) -> None:
        flow = self.flow
        flow.check |= isinstance(task, EmbedTask) and task.check
        state = flow.cells.get(task.key)
        if not isinstance(state, (Decoding, Filled)):  # its part was lost meanwhile
            flow.forget(task)
            return
        deaths = flow.suspects.deaths(task)
        found = verdict(
            deaths,
            alone=reaped.alone,
            device_error=device_error,
            lane_gone=flow.lanes[task.slot.lane].gone,
            other_lanes=len(flow.lanes) > 1,
        )
        if found is not Verdict.FAILED:
            flow.requeue(state, other_lane=found is Verdict.OTHER_LANE)
            return
        started = CellTiming(printable(state.origin.path.name), state.origin.cell.row_group, started=time.monotonic())
        timing = state.timing if isinstance(state, Filled) else started
        stage = "decode" if isinstance(task, DecodeTask) else "embed"
        flow.fail(state, ended(timing, stage, f"{deaths} workers ended while they had this cell alone: {reaped.cause}"))

    def _take_back_writing(self, reaped: Reaped) -> None:
        """The successor of a writer opens its parts again, and gets what was not confirmed one task at a time."""
        flow, crew = self.flow, self.flow.crews["write"]
        successor = crew.at(reaped.worker.place)
        successor.serial = True
        problem = f"writing it ended {DEATHS_ALLOWED} workers: {reaped.cause}"
        for task in reaped.tasks:
            noting = not isinstance(task, AppendTask) or task.record is None
            if flow.suspects.failed(task) and noting:
                flow.lose(task.key[0], "write", problem)
        for opened in flow.parts.of_writer(reaped.worker.place):
            crew.give(successor, OpenPart(opened.info, flow.work.retry))
        for task in (*reaped.tasks, *reaped.backlog):
            part = flow.parts.open.get(task.key[0])
            if part is None:
                flow.forget(task)
            elif isinstance(task, AppendTask) and flow.suspects.failed(task):
                flow.forget(task)
                crew.give(successor, AppendTask(task.key, None, None, ended(task.timing, "write", problem)))
            elif not (isinstance(task, OpenPart) and part.opened):
                crew.give(successor, task)


def ended(timing: CellTiming, stage: str, error: str) -> CellTiming:
    """The timing of a cell that ended workers."""
    return replace(timing, status="failed", stage=stage, error=error, fragments=0)
