"""How long one cell takes: the network on a made-up cell, in a device worker like those of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Barrier, BrokenBarrierError
from time import perf_counter

import numpy as np

from mtembed.dataset.settings import Settings
from mtembed.errors import MtembedError, WorkerError
from mtembed.geo.fragments import FragmentGrid
from mtembed.messages import DeviceJob, Embedded, EmbedTask, SlotRef
from mtembed.ring import Ring, Slot
from mtembed.run import process
from mtembed.run.plan import Plan
from mtembed.run.process import Job, Worker, receive, start_patience_s
from mtembed.run.sizes import Sizes, device_environment
from mtembed.sources import SOURCES
from mtembed.types import DEVICE_STAGES, CellRecord, CellTiming, DecodedCell, Georeference, Weights

SEED = 0
CPU_CELLS = 2  # timed, after one that warms up; a card gets three times what it may hold


@dataclass(frozen=True, slots=True)
class Trial:
    """Wall-clock seconds of a cell in one worker, and the milliseconds of its stages; means."""

    seconds: float
    stages: dict[str, float]

    @classmethod
    def mean(cls, trials: Sequence[Trial]) -> Trial:
        count = len(trials)
        stages = {name: sum(one.stages[name] for one in trials) / count for name in DEVICE_STAGES}
        return cls(sum(one.seconds for one in trials) / count, stages)


def seconds_per_cell(plan: Plan, settings: Settings, sizes: Sizes) -> float:
    """Wall-clock seconds of a cell in one device worker that is kept busy.  Raises WorkerError."""
    return network_trial(plan, settings, sizes).seconds


def network_trial(plan: Plan, settings: Settings, sizes: Sizes, count: int = 1) -> Trial:
    """The network in so many device workers that are busy at the same time, each with a ring of its own.

    Weights are random ones, because no network is slower for their sake and no file is needed.  Raises WorkerError.
    """
    untrained = Weights(f"random:{SEED}", "", None, SEED)
    jobs = [dataclasses.replace(job, weights=untrained) for job in sizes.device_jobs]
    held = min(sizes.credit, sizes.ring.slots) if sizes.on_gpu else 1
    patience = plan.config.stall_timeout
    together = Barrier(count)
    with ExitStack() as stack, ThreadPoolExecutor(count) as threads:
        crew = []
        for index in range(count):
            ring = Ring.create(dataclasses.replace(sizes.ring, slots=held))
            stack.callback(ring.close)
            cells = [_made_up(plan, settings, ring.slot(slot)) for slot in range(held)]
            crew.append((_start(jobs[index % len(jobs)], index, ring, stack), cells))
        return Trial.mean(list(threads.map(lambda one: _timed(one[0], one[1], patience, together), crew)))


def _start(job: DeviceJob, index: int, ring: Ring, stack: ExitStack) -> Worker:
    """A device worker on a ring of its own; started by the main thread, whose end would end it too."""
    work = Job(((ring.fd, ring.shape),), dataclasses.replace(job, lane=0))
    worker = process.start("device", f"device-{index}", work, [ring.fd], device_environment(job))
    stack.callback(worker.close)
    return worker


def _timed(worker: Worker, cells: list[DecodedCell], patience: float, together: Barrier) -> Trial:
    """Keep these cells, one a slot, with the worker; the first so many answers warm it up, the others count."""
    try:
        receive(worker, start_patience_s(patience))
        held = len(cells)
        timed = CPU_CELLS if held == 1 else 3 * held
        for index, cell in enumerate(cells):
            _give(worker, cell, index)
        timings = []
        started = perf_counter()
        for count in range(1, held + timed + 1):
            answer: Embedded = receive(worker, patience)
            if answer.timing.status == "failed":
                raise WorkerError(answer.timing.error)
            if count == held:
                together.wait(patience)
                started = perf_counter()
            elif count > held:
                timings.append(answer.timing)
            if count <= timed:
                _give(worker, cells[answer.key[0]], answer.key[0])
        seconds = (perf_counter() - started) / timed
    except MtembedError:
        together.abort()
        raise
    except BrokenBarrierError:
        raise WorkerError("another device worker ended") from None
    return Trial(seconds, {name: sum(getattr(one, name) for one in timings) / timed for name in DEVICE_STAGES})


def _give(worker: Worker, cell: DecodedCell, slot: int) -> None:
    worker.send(EmbedTask((slot, 0), SlotRef(0, slot), cell, CellTiming("trial", 0)))


def _made_up(plan: Plan, settings: Settings, slot: Slot) -> DecodedCell:
    """A cell of the input's size and band layout, full of noise."""
    noise, dtype = np.random.default_rng(SEED), SOURCES[plan.source].dtype
    rows, cols = (max(side, settings.fragment_size) for side in (plan.first_cell.rows, plan.first_cell.cols))
    planes = []
    for share in plan.first_cell.band_shares:
        factor = max(1, round(share**-0.5))
        plane, pixels = slot.place(rows // factor, cols // factor, dtype)
        values = noise.random(pixels.shape, np.float32)
        pixels[...] = values if dtype == "float32" else values * 10_000
        planes.append(plane)
    grid = FragmentGrid.of(rows, cols, settings.fragment_size, settings.overlap, settings.border_shift)
    place = Georeference(32631, 500_000.0, 5_000_000.0, 10.0, 10.0, rows, cols)
    record = CellRecord(0, "", "", "", place, settings.fragment_size, grid.offsets())
    return DecodedCell(tuple(planes), dtype, record)
