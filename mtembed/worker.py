"""What runs inside a worker process: ``python -m mtembed.worker KIND NAME FD PARENT``."""

from __future__ import annotations

import faulthandler
import signal
import sys
import traceback
from collections.abc import Callable
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
    FinishTask,
    OpenPart,
    PartFinished,
    PartOpened,
    PlanTask,
)
from mtembed.ring import Ring, RingShape, Slot
from mtembed.types import CellTiming
from mtembed.workers import Fatal, Ready, die_with_parent


@dataclass(frozen=True, slots=True)
class Job:
    """The first message to a worker: the rings' descriptors and shapes, and the job of its kind."""

    rings: tuple[tuple[int, RingShape], ...]
    work: Any


Handler = Callable[[Any], Any]


class Rings:
    """The lanes' rings, attached."""

    def __init__(self, job: Job) -> None:
        self._rings = [Ring.attach(fd, shape) for fd, shape in job.rings]

    def slot(self, lane: int, index: int) -> Slot:
        return self._rings[lane].slot(index)


def decoder(name: str, job: Job, send: Callable[[Any], None]) -> Handler:
    """Opens shards and decodes cells; the only imports are pyarrow, numpy and the codecs."""
    from mtembed.decode import ShardReader, decode_cell
    from mtembed.source import MetadataIndex, Selection, find_metadata, plan_shard

    rings, reader = Rings(job), ShardReader()
    decode, metadata, selection = job.work["decode"], job.work["metadata"], job.work["selection"]
    indexes: dict[Any, MetadataIndex] = {}

    def plan(task: PlanTask) -> Any:
        path = metadata or find_metadata(task.path)
        index = indexes.setdefault(path, MetadataIndex(path))
        return plan_shard(task.shard, task.path, decode.bands, index, selection or Selection())

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

    send(Ready({}))
    return handle


def device(name: str, job: Job, send: Callable[[Any], None]) -> Handler:
    """Computes vectors; the only kind that imports torch."""
    from mtembed.device import make_device

    rings = Rings(job)
    engine = make_device(job.work)

    def handle(task: EmbedTask) -> Embedded:
        timing = task.timing
        timing.device = engine.name
        timing.worker = f"{timing.worker} {name}"
        slot = rings.slot(task.slot.lane, task.slot.index)
        notes: dict[str, Any] = {}
        try:
            notes = engine.embed(slot, task.decoded, timing)
        except CellError as error:
            fail(timing, error)
        return Embedded(task.key, timing, notes)

    send(Ready(engine.details))
    return handle


def writer(name: str, job: Job, send: Callable[[Any], None]) -> Handler:
    """Writes journals and parts; the only kind that writes into the output folder."""
    from mtembed.dataset import output_problem
    from mtembed.errors import OutputError
    from mtembed.writer import OpenPart as Part
    from mtembed.writer import WriteJob

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

    send(Ready({}))
    return handle


def fetcher(name: str, job: Job, send: Callable[[Any], None]) -> Handler:
    """Finds or downloads a model's published weights, with the library that publishes them."""
    from mtembed import models, weights

    send(Ready({"weights": weights.resolve(models.get(job.work), None)}))
    return lambda task: None


def fail(timing: CellTiming, error: BaseException) -> None:
    timing.status = "failed"
    timing.stage = error.stage if isinstance(error, CellError) else "decode"
    timing.error = str(error) or type(error).__name__
    timing.fragments = 0


KINDS: dict[str, Callable[[str, Job, Callable[[Any], None]], Handler]] = {
    "decode": decoder,
    "device": device,
    "write": writer,
    "fetch": fetcher,
}


def run(kind: str, name: str, connection: Connection[Any, Any]) -> None:
    """Answer tasks in order until the parent closes the connection."""
    try:
        job = connection.recv()
        handle = KINDS[kind](name, job, connection.send)
        while True:
            connection.send(handle(connection.recv()))
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return
    except MtembedError as error:
        connection.send(Fatal(type(error).__name__, str(error), traceback.format_exc()))
        connection.close()


def main() -> None:
    kind, name, fd, parent = sys.argv[1:]
    faulthandler.enable()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    die_with_parent(int(parent))
    np.seterr(all="ignore")
    run(kind, name, Connection(int(fd)))


if __name__ == "__main__":
    main()
