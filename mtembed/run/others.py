"""Shards that other processes have: they are set aside, and looked at again when nothing else is left to open."""

from __future__ import annotations

from mtembed.run.flow import Flow
from mtembed.run.taking import Taken


def next_shard(flow: Flow) -> int | None:
    """The shard to be opened next, which is this process's from now on, or is opened to count its cells only."""
    limited = flow.work.limit is not None
    while (shard := flow.order.peek()) is not None:
        if shard not in flow.work.mine or shard in flow.theirs:
            return shard
        found = flow.taking.take(shard)
        if found is Taken.OURS:
            return shard
        if found is Taken.DONE:
            _finished(flow)
            flow.begin(flow.order.done_elsewhere(shard, flow.taking.cells(shard) if limited else 0))
        else:
            flow.theirs[shard] = None
            flow.order.set_aside(shard)
    return None


def look_again(flow: Flow) -> None:
    """When nothing is left to open: whether others have finished, or given up, what they had."""
    if flow.order.peek() is not None:
        return
    for shard, known in list(flow.theirs.items()):
        if flow.order.awaits(shard):
            continue  # it is being opened
        found = flow.taking.take(shard)
        if found is Taken.THEIRS:
            continue
        del flow.theirs[shard]
        if found is Taken.DONE:
            _finished(flow)
        elif known is None:
            flow.order.bring_back(shard)
        else:
            flow.begin([known])


def _finished(flow: Flow) -> None:
    flow.restarts.progressed()
    flow.progress.elsewhere()
