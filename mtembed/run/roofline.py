"""``--roofline``: what each stage could do alone on this machine, measured in workers like those of the run.

One decode worker reads and decodes cells of the input while nothing else runs, the next ones asked for ahead as in a
run; all device workers then embed a made-up cell at the same time.  A stage's limit is what its crew would reach if it
did nothing else.  The best possible end to end is the slower of the two crews, and on a CPU, where they share the
cores, no more than all cores can do together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from mtembed import machine
from mtembed.dataset.settings import Settings
from mtembed.messages import DecodeTask, PlanTask, SlotRef
from mtembed.run.plan import Plan
from mtembed.run.process import Worker, receive, start_patience_s
from mtembed.run.sizes import Sizes
from mtembed.run.trial import network_trial
from mtembed.storage.address import Address, Place
from mtembed.types import DECODE_STAGES, DEVICE_STAGES, CellTiming, Roofline, ShardListing

READ_FOR_S = 3.0
FIND_FOR_S = 10.0
MOST_CELLS = 32


def measure(plan: Plan, settings: Settings, sizes: Sizes, decoder: Worker, shards: Sequence[int]) -> Roofline:
    """Of the run that is about to start; ``decoder`` is a decode worker, ``shards`` those still to be done.

    Raises WorkerError when a worker ends before it has answered.
    """
    paths = [plan.shards[i] for i in shards]
    timings = decode_trial(decoder, paths, sizes.decode_credit, plan.config.stall_timeout)
    crews = sizes.crews
    trial = network_trial(plan, settings, sizes, crews.device)
    alone = {name: _mean(timings, name) for name in DECODE_STAGES} | trial.stages
    limits = {name: _rate(crews.decode, alone[name] / 1e3) for name in DECODE_STAGES}
    limits |= {name: _rate(crews.device, alone[name] / 1e3) for name in DEVICE_STAGES}
    seconds = sum(alone[name] for name in DECODE_STAGES) / 1e3
    rates = [_rate(crews.decode, seconds), _rate(crews.device, trial.seconds)]
    if settings.device == "cpu":
        rates.append(_rate(machine.cores(plan.config.share_of_machine), seconds + trial.seconds * settings.threads))
    read = sum(timing.read for timing in timings) / 1e3
    size = sum(timing.bytes_in for timing in timings)
    return Roofline(
        alone,
        limits,
        read_bytes_per_s=size / read if read else 0.0,
        best=min((rate for rate in rates if rate), default=0.0),
        over_network=any(isinstance(path, Address) for path in paths),
    )


def decode_trial(worker: Worker, paths: Sequence[Place], credit: int, patience: float) -> list[CellTiming]:
    """Timings of the first cells that can be decoded; the very first, which loads libraries, is left out.  The worker
    has so many cells at hand as in a run, its ``credit``.

    It ends ``READ_FOR_S`` after the first answer, and at all events when no cell was found for ``FIND_FOR_S``.
    """
    receive(worker, start_patience_s(patience))
    timings: list[CellTiming] = []
    until, answers = time.monotonic() + FIND_FOR_S, 0
    for shard, path in enumerate(paths):
        worker.send(PlanTask(shard, path))
        listing = receive(worker, patience).listing
        for timing in _decoded(worker, path, listing, credit, patience):
            timings += [timing] if timing.status == "ok" else []
            answers += 1
            until = time.monotonic() + READ_FOR_S if answers == 1 else until
            if len(timings) > MOST_CELLS or time.monotonic() > until:
                return timings[1:] or timings
        if time.monotonic() > until:
            break
    return timings[1:] or timings


def _decoded(worker: Worker, path: Place, listing: ShardListing, credit: int, patience: float) -> Iterator[CellTiming]:
    """Timings of a shard's cells, which are given to the worker ahead; one slot does for all, because nobody reads
    it."""
    for at, cell in enumerate((*listing.cells, *[None] * (credit - 1))):
        if cell is not None:
            worker.send(DecodeTask(SlotRef(0, 0), path, cell, listing.fingerprint))
        if at >= credit - 1:
            timing: CellTiming = receive(worker, patience).timing
            yield timing


def _mean(timings: Sequence[CellTiming], name: str) -> float:
    return sum(getattr(timing, name) for timing in timings) / len(timings) if timings else 0.0


def _rate(workers: int, seconds: float) -> float:
    return workers / seconds if seconds else 0.0
