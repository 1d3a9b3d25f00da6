"""What runs inside a worker process: ``python -m mtembed.run.worker KIND NAME FD PARENT``."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any

import numpy as np

from mtembed.errors import CellError, MtembedError
from mtembed.messages import (
    Appended,
    AppendTask,
    Decoded,
    DecodeTask,
    Embedded,
    EmbedTask,
    Fatal,
    FinishTask,
    OpenPart,
    PartFinished,
    PartOpened,
    PlanTask,
    Ready,
    WeightsFound,
)
from mtembed.ring import Ring, RingShape, Slot
from mtembed.run.process import die_with_parent
from mtembed.types import CellTiming


@dataclass(frozen=True, slots=True)
class Job:
    """The first message to a worker: the rings' descriptors and shapes, and the job of its kind."""

    rings: tuple[tuple[int, RingShape], ...]
    work: Any


@dataclass(frozen=True, slots=True)
class Service:
    """What a worker does: ``answer`` a task with what is ready then, be it nothing, and several answers at once.

    When no task arrives for ``patience_s`` (None: for ever), ``idle`` may have answers.
    """

    answer: Callable[[Any], Iterable[Any]]
    idle: Callable[[], Iterable[Any]] = tuple
    patience_s: Callable[[], float | None] = lambda: None
    close: Callable[[], None] = lambda: None


def one_by_one(handle: Callable[[Any], Any]) -> Service:
    """Every task has its answer at once."""
    return Service(lambda task: [handle(task)])


class Rings:
    """The lanes' rings, attached."""

    def __init__(self, job: Job) -> None:
        self.lanes = [Ring.attach(fd, shape) for fd, shape in job.rings]

    def slot(self, lane: int, index: int) -> Slot:
        return self.lanes[lane].slot(index)


def decoder(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Opens shards and decodes cells; the only imports are pyarrow, numpy and the codecs."""
    from mtembed.archive.cell import decode_cell
    from mtembed.archive.listing import list_shard
    from mtembed.archive.metadata import MetadataIndex, find_metadata
    from mtembed.archive.reader import ShardReader
    from mtembed.archive.selection import Selection

    rings, reader = Rings(job), ShardReader()
    decode, metadata, selection = job.work["decode"], job.work["metadata"], job.work["selection"]
    indexes: dict[Any, MetadataIndex] = {}

    def plan(task: PlanTask) -> Any:
        path = metadata or find_metadata(task.path)
        index = indexes.setdefault(path, MetadataIndex(path))
        return list_shard(task.shard, task.path, decode.bands, index, selection or Selection())

    def handle(task: PlanTask | DecodeTask) -> Any:
        if isinstance(task, PlanTask):
            return plan(task)
        timing = CellTiming(task.path.name, task.cell.row_group, worker=name, started=monotonic())
        try:
            slot = rings.slot(task.slot.lane, task.slot.index)
            decoded = decode_cell(reader, decode, task.path, task.cell, slot, timing)
        except (CellError, MemoryError, ValueError) as error:
            fail(timing, error)
            decoded = None
        return Decoded(task.key, timing, decoded)

    send(Ready())
    return one_by_one(handle)


def device(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Computes vectors; imports torch."""
    from mtembed.engine import open_device
    from mtembed.engine.device import Outcome

    rings = Rings(job)
    engine = open_device(job.work, rings.lanes[job.work.lane])

    def embedded(outcome: Outcome) -> Embedded:
        timing = outcome.task.timing
        timing.device = engine.name
        timing.worker = f"{timing.worker} {name}"
        if outcome.error:
            fail(timing, outcome.error)
        return Embedded(outcome.task.key, timing, outcome.notes)

    def take(task: EmbedTask) -> Iterable[Embedded]:
        timing = task.timing  # what has passed since reading began and was neither reading nor decoding was waiting
        timing.ring_wait = (monotonic() - timing.started) * 1e3 - timing.read - timing.decode
        return map(embedded, engine.take(task, rings.slot(task.slot.lane, task.slot.index)))

    send(Ready(engine.ready))
    return Service(take, lambda: map(embedded, engine.idle()), lambda: engine.patience_s, engine.close)


def writer(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Writes journals and parts; the only kind that writes into the output folder."""
    from mtembed.dataset.folder import output_problem
    from mtembed.dataset.part import OpenPart as Part
    from mtembed.dataset.part import WriteJob
    from mtembed.errors import OutputError

    rings, parts = Rings(job), dict[int, Part]()
    work: WriteJob = job.work

    def opened(task: OpenPart) -> PartOpened:
        part = parts[task.part.shard] = Part(work, task.part, task.retry)
        timings = part.all_timings()
        failed = sum(t.status == "failed" for t in timings if not task.retry or t.row_group in part.journal.entries)
        return PartOpened(task.key, frozenset(part.done()), failed)

    def append(task: AppendTask) -> Appended:
        part = parts[task.key[0]]
        vectors = None
        if task.slot is not None and task.record is not None:
            slot = rings.slot(task.slot.lane, task.slot.index)
            vectors = slot.vectors(len(task.record.offsets), work.dim)
        part.append(task.record, task.timing, vectors)
        return Appended(task.key, task.timing)

    def handle(task: OpenPart | AppendTask | FinishTask) -> Any:
        try:
            if isinstance(task, OpenPart):
                return opened(task)
            if isinstance(task, AppendTask):
                return append(task)
            return PartFinished(task.key, parts.pop(task.shard).finish())
        except OSError as error:
            raise OutputError(output_problem(work.root, error)) from error

    send(Ready())
    return one_by_one(handle)


def prober(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Says what of decoding GeoTIFFs this worker's GPU can do."""
    import torch

    from mtembed import machine
    from mtembed.engine.gpu_decode import probe

    send(probe(job.work, torch.device("cpu") if machine.cpu_cards() else torch.device("cuda", 0)))
    return Service(lambda task: ())


def fetcher(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Finds or downloads a model's published weights, with the library that publishes them."""
    from mtembed import models
    from mtembed.models import weights

    send(WeightsFound(weights.resolve(models.get(job.work), None)))
    return Service(lambda task: ())


def fail(timing: CellTiming, error: BaseException) -> None:
    timing.status = "failed"
    timing.stage = error.stage if isinstance(error, CellError) else "decode"
    timing.error = str(error) or type(error).__name__
    timing.fragments = 0


Make = Callable[[str, Job, Callable[[Any], None]], Service]
KINDS: Mapping[str, Make] = {
    "decode": decoder,
    "device": device,
    "write": writer,
    "fetch": fetcher,
    "probe": prober,
}


def run(kind: str, name: str, connection: Connection[Any, Any], kinds: Mapping[str, Make]) -> None:
    """Answer tasks in order until the parent closes the connection."""
    try:
        job = connection.recv()
        service = kinds[kind](name, job, connection.send)
        with contextlib.closing(service):
            while True:
                arrived = connection.poll(service.patience_s())
                for answer in service.answer(connection.recv()) if arrived else service.idle():
                    connection.send(answer)
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return
    except MtembedError as error:
        connection.send(Fatal(type(error).__name__, str(error)))
        connection.close()


def main(kinds: Mapping[str, Make] = KINDS) -> None:
    """Be the worker that the command line names; ``kinds`` says how each kind is made."""
    kind, name, fd, parent = sys.argv[1:]
    faulthandler.enable()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    die_with_parent(int(parent))
    np.seterr(all="ignore")
    run(kind, name, Connection(int(fd)), kinds)


if __name__ == "__main__":
    main()
