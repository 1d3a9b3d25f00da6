"""Who gets what next: shards to decode workers, cells to decode and device workers, whole parts to finishers."""

from __future__ import annotations

from mtembed.messages import DecodeTask, EmbedTask, PlanTask
from mtembed.run import requeue
from mtembed.run.cells import Decoding
from mtembed.run.flow import Flow
from mtembed.run.lanes import Lane
from mtembed.run.others import next_shard
from mtembed.run.shard_order import OPENED_AHEAD, parts_open


def deal(flow: Flow, *, stopping: bool) -> None:
    """Give out what workers can take; while ``stopping`` only parts that are whole, to be finished."""
    _deal_finishing(flow)
    if stopping:
        return
    _deal_shards(flow)
    for lane in flow.lanes:
        _deal_decoding(flow, lane)
        _deal_embedding(flow, lane)


def _deal_shards(flow: Flow) -> None:
    """Open shards ahead of need, as long as lanes lack cells and not too many parts are open."""
    crew = flow.crews["decode"]
    opening = sum(isinstance(task, PlanTask) for worker in crew.workers for task in worker.tasks.values())
    while flow.order.peek() is not None:
        enough = opening + flow.order.ahead >= OPENED_AHEAD or not flow.lanes.need_cells()
        if enough or len(flow.parts.open) >= parts_open(len(flow.lanes)):
            return
        shard = next_shard(flow)
        if shard is None:
            return
        task = PlanTask(shard, flow.work.shards[shard])
        worker = crew.least_loaded(alone=flow.suspects.must_be_alone(requeue.suspect_of(task)))
        if worker is None:
            return
        crew.give(worker, PlanTask(flow.order.take(), task.path))
        opening += 1


def _deal_decoding(flow: Flow, lane: Lane) -> None:
    crew = flow.crews["decode"]
    while lane.free:
        last = flow.order.unopened == 0
        waiting = flow.lanes.peek(lane, last)
        if waiting is None:
            return
        worker = crew.least_loaded(near=lane.index, alone=flow.suspects.must_be_alone(requeue.cell(waiting.key)))
        if worker is None:
            return
        waiting = flow.lanes.take(lane, last).tried()
        state = flow.cells[waiting.key] = Decoding(waiting, lane.take_slot())
        crew.give(worker, DecodeTask(state.slot, waiting.path, waiting.cell, waiting.fingerprint))


def _deal_embedding(flow: Flow, lane: Lane) -> None:
    crew = flow.crews["device"]
    while lane.ready:
        filled = lane.ready[0]
        worker = crew.least_loaded(lane.index, alone=flow.suspects.must_be_alone(requeue.cell(filled.key)))
        if worker is None:
            return
        lane.ready.popleft()
        crew.give(worker, EmbedTask(filled.key, filled.slot, filled.decoded, filled.timing, flow.check))
        flow.check, flow.checked = False, filled.key if flow.check else flow.checked


def _deal_finishing(flow: Flow) -> None:
    crew = flow.crews["finish"]
    while flow.to_finish and (worker := crew.least_loaded()) is not None:
        crew.give(worker, flow.to_finish.popleft())
