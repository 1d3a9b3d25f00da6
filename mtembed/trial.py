"""How long one cell takes: the network on a made-up cell, in a device worker like those of a run."""

from __future__ import annotations

import dataclasses
from time import perf_counter
from typing import Any

import numpy as np

from mtembed import layout, workers
from mtembed.errors import WorkerError
from mtembed.fragments import FragmentGrid
from mtembed.messages import Embedded, EmbedTask, SlotRef
from mtembed.ring import Ring, Slot
from mtembed.run import Plan
from mtembed.settings import Settings
from mtembed.types import CellRecord, CellTiming, DecodedCell, Georeference
from mtembed.weights import Weights
from mtembed.worker import Job
from mtembed.workers import Fatal, Worker

SEED = 0
CPU_CELLS = 2  # timed, after one that warms up; a card gets three times what it may hold


def seconds_per_cell(plan: Plan, settings: Settings) -> float:
    """Wall-clock seconds of a cell in one device worker that is kept busy.

    Weights are random ones, because no network is slower for their sake and no file is needed.  Raises WorkerError.
    """
    named = (plan.spec, plan.source, Weights(f"random:{SEED}", "", None, SEED), settings, plan.config, plan.peek, False)
    job = layout.device_jobs(*named)[0]
    held = 1 if job.card is None else layout.credit(job)
    shape = layout.rings(plan.peek, plan.spec, settings, plan.config)[0]
    held = min(held, shape.slots)
    ring = Ring.create(dataclasses.replace(shape, slots=held))
    try:
        cells = [_made_up(plan, settings, ring.slot(index)) for index in range(held)]
        rings = Job(((ring.fd, ring.shape),), dataclasses.replace(job, lane=0))
        worker = workers.start("device", "device-0", rings, [ring.fd], layout.device_environment(job))
        try:
            _receive(worker, plan.config.stall_timeout)
            return _timed(worker, cells, plan.config.stall_timeout)
        finally:
            worker.close()
    finally:
        ring.close()


def _timed(worker: Worker, cells: list[DecodedCell], patience: float) -> float:
    """Keep these cells, one a slot, with the worker; the first so many answers warm it up, the others count."""
    held = len(cells)
    timed = CPU_CELLS if held == 1 else 3 * held
    for index, cell in enumerate(cells):
        _give(worker, cell, index)
    started = perf_counter()
    for count in range(1, held + timed + 1):
        answer: Embedded = _receive(worker, patience)
        if answer.timing.status == "failed":
            raise WorkerError(answer.timing.error)
        if count == held:
            started = perf_counter()
        if count <= timed:
            _give(worker, cells[answer.key[0]], answer.key[0])
    return (perf_counter() - started) / timed


def _give(worker: Worker, cell: DecodedCell, slot: int) -> None:
    worker.send(EmbedTask((slot, 0), SlotRef(0, slot), cell, CellTiming("trial", 0)))


def _receive(worker: Worker, patience: float) -> Any:
    if not worker.connection.poll(patience):
        raise WorkerError(f"the device worker did not answer within {patience:g} s")
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        raise WorkerError(f"the device worker was {worker.cause_of_death()}") from None
    if isinstance(message, Fatal):
        raise WorkerError(message.message)
    return message


def _made_up(plan: Plan, settings: Settings, slot: Slot) -> DecodedCell:
    """A cell of the input's size and band layout, full of noise."""
    noise, dtype = np.random.default_rng(SEED), "float32" if plan.source == "S1RTC" else "uint16"
    rows, cols = plan.peek.side
    planes = []
    for share in plan.peek.band_shares:
        factor = max(1, round(share**-0.5))
        plane, pixels = slot.place(rows // factor, cols // factor, dtype)
        values = noise.random(pixels.shape, np.float32)
        pixels[...] = values if dtype == "float32" else values * 10_000
        planes.append(plane)
    grid = FragmentGrid.of(rows, cols, settings.fragment_size, settings.overlap, settings.border_shift)
    place = Georeference(32631, 500_000.0, 5_000_000.0, 10.0, 10.0, rows, cols)
    record = CellRecord(0, "", "", "", place, settings.fragment_size, grid.offsets())
    return DecodedCell(tuple(planes), "float32" if dtype == "float32" else "uint16", record)
