"""The three crews of a run: how workers of each kind are started, how many there are, what they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mtembed.archive.cell import DecodeJob
from mtembed.archive.selection import Selection, read_cell_list
from mtembed.dataset.part import WriteJob
from mtembed.dataset.settings import Settings
from mtembed.ring import Ring
from mtembed.run import process
from mtembed.run.pipeline import Crew
from mtembed.run.plan import Plan
from mtembed.run.process import Worker
from mtembed.run.sizes import Sizes, device_environment
from mtembed.run.worker import Job

# Arrow's own allocator keeps for long what the writer needed for a moment.
WRITER_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
DECODE_CREDIT = 2  # tasks: one in work, one that waits for it
WRITE_CREDIT = 1


class Start(Protocol):
    """Starts a worker: its kind, its name, its job, the descriptors it inherits, its variables."""

    def __call__(
        self,
        kind: str,
        name: str,
        job: object,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Worker: ...


@dataclass(frozen=True, slots=True)
class Crews:
    """Those who decode, who compute, who write."""

    decode: Crew
    device: Crew
    write: Crew


def crews(
    plan: Plan,
    settings: Settings,
    sizes: Sizes,
    rings: Sequence[Ring],
    *,
    on_gpu: frozenset[str] = frozenset(),
    start: Start = process.start,
) -> Crews:
    """The crews of a run whose folder is locked, one ring for each lane.

    ``on_gpu`` are the encodings that decode workers leave to the GPU; ``start`` starts all workers, so that another
    one than the product's may do the work of a kind (benchmarks).
    """
    shared = tuple((ring.fd, ring.shape) for ring in rings)
    descriptors = [ring.fd for ring in rings]
    decoding, writing = Job(shared, _decoding(plan, settings, on_gpu)), Job(shared, _writing(plan, settings))
    lock = plan.dataset.lock_fd

    def start_decoder(name: str, lane: int) -> Worker:
        return start("decode", name, decoding, descriptors)

    def start_device(name: str, lane: int) -> Worker:
        job = sizes.device_jobs[lane]
        return start("device", name, Job(shared, job), descriptors, device_environment(job))

    def start_writer(name: str, lane: int) -> Worker:
        return start("write", name, writing, [*descriptors, lock], WRITER_ENVIRONMENT)

    return Crews(
        decode=Crew(start_decoder, sizes.crews.decode, DECODE_CREDIT),
        device=Crew(start_device, sizes.crews.device, sizes.credit),
        write=Crew(start_writer, sizes.crews.write, WRITE_CREDIT),
    )


def _decoding(plan: Plan, settings: Settings, on_gpu: frozenset[str]) -> dict[str, object]:
    config = plan.config
    return {
        "decode": DecodeJob(
            plan.source,
            plan.spec.bands_for(plan.source),
            settings.fragment_size,
            settings.overlap,
            settings.border_shift,
            settings.offset == "remove",
            settings.max_nodata,
            settings.extras,
            on_gpu,
            plan.spec.dim,
        ),
        "metadata": Path(config.metadata) if config.metadata else None,
        "selection": Selection(config.bbox, read_cell_list(Path(config.cells)) if config.cells else None),
    }


def _writing(plan: Plan, settings: Settings) -> WriteJob:
    return WriteJob(
        root=plan.dataset.root,
        index=plan.dataset.index,
        count=plan.dataset.count,
        dim=plan.spec.dim,
        dtype=settings.dtype,
        extras=settings.extras,
        settings_id=settings.id,
    )
