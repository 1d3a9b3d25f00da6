"""The crews of a run: how workers of each kind are started, how many there are, what they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mtembed.archive.cell import DecodeJob
from mtembed.dataset.part import WriteJob
from mtembed.dataset.settings import Settings
from mtembed.ring import Ring
from mtembed.run import process
from mtembed.run.crew import CrewSpec
from mtembed.run.plan import Plan
from mtembed.run.process import Job, Worker
from mtembed.run.sizes import Sizes, device_environment
from mtembed.run.worker import DecoderJob
from mtembed.storage.address import place_of

# Arrow's own allocator keeps for long what the writer needed for a moment.
WRITER_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}
WRITE_CREDIT = 1


class Start(Protocol):
    """Starts a worker: its kind, its name, its job, the descriptors it inherits, its variables."""

    def __call__(
        self,
        kind: str,
        name: str,
        job: Job,
        inherited: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Worker: ...


@dataclass(frozen=True, slots=True)
class Crews:
    """Those who decode, who compute, who keep journals, who make parts of them."""

    decode: CrewSpec
    device: CrewSpec
    write: CrewSpec
    finish: CrewSpec

    def by_kind(self) -> dict[str, CrewSpec]:
        return {"decode": self.decode, "device": self.device, "write": self.write, "finish": self.finish}


def crews(
    plan: Plan,
    settings: Settings,
    sizes: Sizes,
    rings: Sequence[Ring],
    *,
    on_gpu: frozenset[str] = frozenset(),
    start: Start = process.start,
) -> Crews:
    """The crews of a run that has joined its folder, one ring for each lane.

    ``on_gpu`` are the encodings that decode workers leave to the GPU; ``start`` starts all workers, so that another
    one than the product's may do the work of a kind (benchmarks).
    """
    shared = tuple((ring.fd, ring.shape) for ring in rings)
    descriptors = [ring.fd for ring in rings]
    decoding, writing = Job(shared, _decoding(plan, settings, on_gpu)), Job(shared, _writing(plan, settings))
    held = plan.dataset.members.fd

    def start_decoder(name: str, lane: int) -> Worker:
        return start("decode", name, decoding, descriptors)

    def start_device(name: str, lane: int) -> Worker:
        job = sizes.device_jobs[lane]
        return start("device", name, Job(shared, job), descriptors, device_environment(job))

    def start_writer(name: str, lane: int) -> Worker:
        return start("write", name, writing, [*descriptors, held], WRITER_ENVIRONMENT)

    def start_finisher(name: str, lane: int) -> Worker:
        return start("finish", name, writing, [*descriptors, held], WRITER_ENVIRONMENT)

    return Crews(
        decode=CrewSpec(start_decoder, sizes.crews.decode, sizes.decode_credit),
        device=CrewSpec(start_device, sizes.crews.device, sizes.credit),
        write=CrewSpec(start_writer, sizes.crews.write, WRITE_CREDIT),
        finish=CrewSpec(start_finisher, sizes.crews.write, WRITE_CREDIT),
    )


def _decoding(plan: Plan, settings: Settings, on_gpu: frozenset[str]) -> DecoderJob:
    config = plan.config
    decode = DecodeJob(
        source=plan.source,
        bands=plan.spec.bands_for(plan.source),
        size=settings.fragment_size,
        overlap=settings.overlap,
        border_shift=settings.border_shift,
        remove_offset=settings.offset == "remove",
        max_nodata=settings.max_nodata,
        extras=settings.extras,
        gpu=on_gpu,
        dim=plan.spec.dim,
    )
    return DecoderJob(decode, plan.selection, place_of(config.metadata) if config.metadata else None)


def _writing(plan: Plan, settings: Settings) -> WriteJob:
    return WriteJob(
        place=plan.dataset.place,
        board=plan.dataset.board,
        index=plan.dataset.index,
        count=plan.dataset.count,
        process=plan.dataset.process,
        dim=plan.spec.dim,
        dtype=settings.dtype,
        extras=settings.extras,
        settings_id=settings.id,
        shape=plan.spec.shape,
    )
