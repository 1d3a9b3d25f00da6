"""How a run is laid out on this machine: sizes of the rings, numbers of workers, what the device workers are told.

``sizes`` works it out once, from fixed properties of the machine; who needs a part of it is handed the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtembed import machine
from mtembed.dataset.settings import Settings, cpu_layout
from mtembed.geo.fragments import FragmentGrid
from mtembed.messages import DeviceJob
from mtembed.ring import ALIGNMENT, RingShape, aligned
from mtembed.run.first_cell import FirstCell
from mtembed.run.gpus import asked
from mtembed.run.plan import Plan
from mtembed.sources import SOURCES
from mtembed.storage.address import Address
from mtembed.types import CrewSizes, Weights

LARGEST_SIDE = 1440  # a slot takes at least this: Core's S1RTC also has 1424 px cells
HEADROOM = 1.35  # or the first cell's side times this
DECODE_CREDIT = 2
REMOTE_CREDIT = 6  # rows that come over a network take as long as several are decoded
RING_SHARE = 0.25  # of the machine's memory
BATCHES_IN_FLIGHT = 3  # on a GPU: one going up, one computed, one coming down


@dataclass(frozen=True, slots=True)
class Sizes:
    """One run on this machine.

    ``ring`` is the shape of each lane's ring, ``lanes`` their number (one per GPU, one for all CPU workers),
    ``device_jobs`` what the workers of each lane are told, ``credit`` how many cells a device worker may hold,
    ``decode_credit`` a decode worker: one in work, others whose bytes are on their way.
    """

    ring: RingShape
    lanes: int
    crews: CrewSizes
    device_jobs: tuple[DeviceJob, ...]
    credit: int
    decode_credit: int = DECODE_CREDIT

    @property
    def on_gpu(self) -> bool:
        return self.device_jobs[0].card is not None


def sizes(plan: Plan, settings: Settings, weights: Weights) -> Sizes:
    """The layout of a run with these settings and weights.  Raises ValueError where a fragment is larger than a slot's
    cell."""
    gpus = _gpus(plan, settings)
    crews = _crews(plan, settings, gpus)
    jobs = _device_jobs(plan, settings, weights, gpus)
    in_flight = BATCHES_IN_FLIGHT * jobs[0].cells
    ahead = REMOTE_CREDIT if any(isinstance(shard, Address) for shard in plan.shards) else DECODE_CREDIT
    slots = plan.config.slots or ahead * crews.decode + (in_flight if gpus else 3 * crews.device) + 2
    return Sizes(
        ring=_ring(plan, settings, slots, len(jobs)),
        lanes=len(jobs),
        crews=crews,
        device_jobs=jobs,
        credit=in_flight if gpus else 2,
        decode_credit=ahead,
    )


def device_environment(job: DeviceJob) -> dict[str, str]:
    """Variables of a device worker: its threads, and the one GPU it shall see."""
    threads = {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
    if job.card is None:
        return threads
    workspace = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # the same for every start (cuBLAS, results reproducibility)
    return {**threads, **workspace, **machine.gpu_environment(job.card)}


def _gpus(plan: Plan, settings: Settings) -> tuple[int, ...]:
    """The GPU of each lane, some perhaps twice; none on the CPU."""
    return (plan.config.gpus or asked().numbers) if settings.device == "cuda" else ()


def _crews(plan: Plan, settings: Settings, gpus: tuple[int, ...]) -> CrewSizes:
    """CPU: as many device workers as ``cpu_layout`` says, one decode worker for four of them.  Else one per GPU."""
    if gpus:
        # Device workers sleep while their GPU computes, so decoding may have all cores but one for each of them.
        decode = max(2 * len(gpus), machine.cores(plan.config.share_of_machine) - len(gpus))
        return CrewSizes(plan.config.workers or decode, len(gpus), len(gpus))
    device = cpu_layout(plan.spec, plan.config.share_of_machine)[0]
    return CrewSizes(plan.config.workers or -(-device // 4), device, 1)


def _device_jobs(plan: Plan, settings: Settings, weights: Weights, gpus: tuple[int, ...]) -> tuple[DeviceJob, ...]:
    cells = _cells_in_batch(plan.first_cell, settings) if gpus else 1
    return tuple(
        DeviceJob(
            model=plan.spec.name,
            source=plan.source,
            weights=weights,
            size=settings.fragment_size,
            precision=settings.precision,
            batch=settings.batch,
            threads=settings.threads,
            engine=settings.engine,
            lane=lane,
            card=gpu,
            cells=cells,
            model_card=settings.model_card,
            dense=settings.dense,
        )
        for lane, gpu in enumerate(gpus or (None,))
    )


def _cells_in_batch(first: FirstCell, settings: Settings) -> int:
    """How many cells like the first make a batch on a GPU, the one that may lie across its end counted too."""
    rows, cols = (max(side, settings.fragment_size) for side in (first.rows, first.cols))
    grid = FragmentGrid.of(rows, cols, settings.fragment_size, settings.overlap, settings.border_shift)
    return -(-settings.batch // len(grid)) + 1


def _ring(plan: Plan, settings: Settings, slots: int, lanes: int) -> RingShape:
    """Slots take the largest cell to be expected; all rings together take a share of the memory at most."""
    first = plan.first_cell
    side = max(LARGEST_SIDE, round(HEADROOM * max(first.rows, first.cols)))
    itemsize = SOURCES[first.source].itemsize
    planes = sum(aligned(round(side * side * share) * itemsize + ALIGNMENT) for share in first.band_shares)
    grid = FragmentGrid.of(side, side, settings.fragment_size, settings.overlap, settings.border_shift)
    vectors = len(grid) * plan.spec.dim * np.dtype(np.float32).itemsize
    affordable = (
        int(machine.memory_bytes(plan.config.share_of_machine) * RING_SHARE // RingShape(1, vectors, planes).slot_bytes)
        // lanes
    )
    return RingShape(max(2, min(slots, affordable)), vectors, planes)
