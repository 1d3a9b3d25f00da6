"""Decoded cells in a ring, without shards and decoders: what a device worker is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mtembed import models
from mtembed.geo.fragments import FragmentGrid
from mtembed.messages import DeviceJob, EmbedTask, SlotRef
from mtembed.ring import Ring, RingShape, Slot
from mtembed.types import CellRecord, CellTiming, DecodedCell, Georeference, Source, Weights

FACTORS = (1, 2, 6)  # resolutions of Sentinel-2's bands


def job(model: str, source: Source, size: int = 32, **changes: object) -> DeviceJob:
    """fp32, four fragments a batch, one thread, weights from a seed."""
    plain = DeviceJob(model, source, Weights("random:0", "", None, 0), size, "fp32", 4, 1, cells=4)
    return replace(plain, **changes)  # type: ignore[arg-type]


def ring_for(job: DeviceJob, slots: int = 8, side: int = 96) -> Ring:
    """A ring whose slots take square cells of up to ``side`` pixels, all bands at full resolution."""
    spec = models.get(job.model)
    bands = len(spec.bands_for(job.source))
    fragments = len(FragmentGrid.of(side, side, job.size))
    return Ring.create(RingShape(slots, fragments * spec.dim * 4, bands * (side * side * 4 + 64)))


def fill(ring: Ring, index: int, job: DeviceJob, rows: int = 96, cols: int = 96, seed: int | None = None) -> EmbedTask:
    """Noise in slot ``index``: a cell of ``rows`` x ``cols`` finest pixels, S2 bands at three resolutions."""
    slot, noise = ring.slot(index), np.random.default_rng(index if seed is None else seed)
    bands = models.get(job.model).bands_for(job.source)
    planes = []
    for number in range(len(bands)):
        factor = 1 if job.source == "S1RTC" else FACTORS[number % 3]
        dtype = "float32" if job.source == "S1RTC" else "uint16"
        plane, pixels = slot.place(rows // factor, cols // factor, dtype)
        values = noise.random(pixels.shape)
        pixels[...] = values * 0.3 + 0.001 if dtype == "float32" else values * 4000 + 100
        planes.append(plane)
    place = Georeference(32631, 0.0, 0.0, 10.0, 10.0, rows, cols)
    record = CellRecord(index, "", "", "", place, job.size, FragmentGrid.of(rows, cols, job.size).offsets())
    decoded = DecodedCell(tuple(planes), "float32" if job.source == "S1RTC" else "uint16", record)
    slot.vectors(len(record.offsets), models.get(job.model).dim)[...] = np.nan
    return EmbedTask((0, index), SlotRef(0, index), decoded, CellTiming("part", index))


def vectors(ring: Ring, task: EmbedTask, job: DeviceJob) -> np.ndarray:
    """What lies in the task's slot, float32 [n, D], copied."""
    return slot_of(ring, task).vectors(len(task.decoded.record.offsets), models.get(job.model).dim).copy()


def slot_of(ring: Ring, task: EmbedTask) -> Slot:
    return ring.slot(task.slot.index)
