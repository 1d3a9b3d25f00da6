"""What runs inside a worker process: ``python -m mtembed.run.worker KIND NAME FD PARENT``."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from mtembed.errors import CellError, MtembedError, OutputError, PartError, PartTaken
from mtembed.messages import (
    Appended,
    AppendTask,
    ClosePart,
    Decoded,
    DecodeTask,
    Embedded,
    EmbedTask,
    Fatal,
    FinishTask,
    OpenPart,
    PartClosed,
    PartFailed,
    PartFinished,
    PartOpened,
    PlanTask,
    Ready,
    ShardOpened,
    WeightsFound,
)
from mtembed.ring import Ring, Slot
from mtembed.run.channel import Channel, wait
from mtembed.run.process import STOP_SIGNALS, Job, die_with_parent
from mtembed.storage.address import Place
from mtembed.text import printable
from mtembed.types import CellTiming, Fingerprint, ShardListing

if TYPE_CHECKING:  # each kind of worker imports what it needs, and no more
    from mtembed.archive.cell import DecodeJob
    from mtembed.archive.metadata import MetadataIndex
    from mtembed.archive.selection import Selection
    from mtembed.dataset.part import WriteJob

TEXT_BYTES = 1024  # of an error or a warning; names that are longer fail their cell when they are read


@dataclass(frozen=True, slots=True)
class Service:
    """What a worker does: ``answer`` a task with what is ready then, be it nothing, and several answers at once.

    Before it answers one, it may look ``ahead`` at all that are there.  When no task arrives for ``patience_s`` (None:
    for ever), ``idle`` may have answers.
    """

    answer: Callable[[Any], Iterable[Any]]
    ahead: Callable[[Sequence[Any]], None] = lambda tasks: None
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


@dataclass(frozen=True, slots=True)
class DecoderJob:
    """What a decode worker needs to know once: how cells are decoded, which are wanted, where the metadata is named."""

    decode: DecodeJob
    selection: Selection
    metadata: Place | None


def decoder(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Opens shards and decodes cells; whatever goes wrong with one is that shard's or cell's failure."""
    from mtembed.archive.cell import columns, decode_cell
    from mtembed.archive.listing import list_shard
    from mtembed.archive.metadata import MetadataIndex, find_metadata
    from mtembed.archive.reader import ShardReader
    from mtembed.storage.traffic import METER

    rings, reader = Rings(job), ShardReader()
    work: DecoderJob = job.work
    indexes: dict[Any, MetadataIndex] = {}

    def opened(task: PlanTask) -> ShardOpened:
        try:
            path = work.metadata or find_metadata(task.path)
            index = indexes.setdefault(path, MetadataIndex(path))
            found = list_shard(task.shard, task.path, work.decode.bands, index, work.selection)
        except Exception as error:
            found = ShardListing(task.shard, Fingerprint(), (), describe(error))
        return ShardOpened(found, METER.taken())

    def decode(task: DecodeTask) -> Decoded:
        timing = CellTiming(printable(task.path.name), task.cell.row_group, worker=name, started=monotonic())
        try:
            slot = rings.slot(task.slot.lane, task.slot.index)
            decoded = decode_cell(reader, work.decode, task.path, task.cell, slot, timing, task.fingerprint)
        except Exception as error:
            fail(timing, error)
            decoded = None
        shorten(timing)
        return Decoded(task.key, timing, decoded, METER.taken())

    def ahead(tasks: Sequence[PlanTask | DecodeTask]) -> None:
        for task in tasks:
            if isinstance(task, DecodeTask):
                reader.read_ahead(task.path, task.cell.row_group, columns(work.decode))

    send(Ready())
    return Service(lambda task: [opened(task) if isinstance(task, PlanTask) else decode(task)], ahead)


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
    return Service(
        take, idle=lambda: map(embedded, engine.idle()), patience_s=lambda: engine.patience_s, close=engine.close
    )


def writer(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Keeps the journals of open parts: cells are safe when it has answered."""
    from mtembed.dataset.part import UnfinishedPart

    rings, parts = Rings(job), dict[int, UnfinishedPart]()
    work: WriteJob = job.work

    def opened(task: OpenPart) -> PartOpened:
        work.dataset().bring(task.part.stem)
        part = parts[task.part.shard] = UnfinishedPart(work, task.part, task.retry)
        return PartOpened(task.key, frozenset(part.done()), part.damage)

    def append(task: AppendTask) -> Appended:
        part, vectors = parts[task.key[0]], None
        if task.slot is not None and task.record is not None:
            slot = rings.slot(task.slot.lane, task.slot.index)
            vectors = slot.vectors(len(task.record.offsets), work.dim)
        part.append(task.record, task.timing, vectors)
        return Appended(task.key, task.timing)

    def handle(task: OpenPart | AppendTask | ClosePart) -> Any:
        if isinstance(task, OpenPart):
            return opened(task)
        if isinstance(task, AppendTask):
            return append(task)
        return PartClosed(task.key, parts.pop(task.shard).close())

    send(Ready())
    return one_by_one(lambda task: of_part(work, task, handle))


def finisher(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Makes parts from whole journals."""
    from mtembed.dataset.part import UnfinishedPart

    work: WriteJob = job.work

    def finish(task: FinishTask) -> PartFinished:
        dataset, stem = work.dataset(), task.part.stem
        if not dataset.part(stem).exists():  # another finisher may have died after it was put
            dataset.bring(stem)
        part = UnfinishedPart(work, task.part, task.retry)
        return PartFinished(task.key, part.finish(task.write_ms, remade=task.remade))

    send(Ready())
    return one_by_one(lambda task: of_part(work, task, finish))


def of_part(work: WriteJob, task: Any, handle: Callable[[Any], Any]) -> Any:
    """The answer, or why no part can be made.  Raises OutputError where the folder cannot be written: that ends the
    run, and so do other settings."""
    try:
        return handle(task)
    except OSError as error:
        raise OutputError(work.dataset().problem(error)) from error
    except Exception as error:
        if isinstance(error, MtembedError) and not isinstance(error, PartError):
            raise
        return PartFailed(task, describe(error), taken=isinstance(error, PartTaken))


def prober(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Says what of decoding GeoTIFFs this worker's GPU can do."""
    from mtembed.engine.gpu_decode import probe

    send(probe(job.work))
    return Service(lambda task: ())


def fetcher(name: str, job: Job, send: Callable[[Any], None]) -> Service:
    """Finds or downloads a model's published weights, with the library that publishes them."""
    from mtembed import models
    from mtembed.models import weights

    send(WeightsFound(weights.resolve(models.get(job.work), None, accepted=True)))  # the parent has asked
    return Service(lambda task: ())


def fail(timing: CellTiming, error: BaseException) -> None:
    timing.status = "failed"
    timing.stage = error.stage if isinstance(error, CellError) else "decode"
    timing.error = short(describe(error))
    timing.fragments = 0


def describe(error: BaseException) -> str:
    """Our own sentences as they are; of other errors, which nobody foresaw, the kind too."""
    if isinstance(error, MtembedError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def shorten(timing: CellTiming) -> None:
    """Cut what a timing says to ``TEXT_BYTES`` a text: only small records travel."""
    for name in ("product_id", "grid_cell", "error", "encoding"):
        setattr(timing, name, short(getattr(timing, name)))
    timing.warnings = tuple(short(warning) for warning in timing.warnings)


def short(text: str) -> str:
    """At most ``TEXT_BYTES`` of UTF-8."""
    whole = text.encode("utf-8", "replace")
    return whole.decode() if len(whole) <= TEXT_BYTES else whole[: TEXT_BYTES - 4].decode("utf-8", "ignore") + " ..."


Make = Callable[[str, Job, Callable[[Any], None]], Service]
KINDS: Mapping[str, Make] = {
    "decode": decoder,
    "device": device,
    "write": writer,
    "finish": finisher,
    "fetch": fetcher,
    "probe": prober,
}


def run(kind: str, name: str, channel: Channel, kinds: Mapping[str, Make]) -> None:
    """Answer tasks in order until the parent closes the channel."""
    try:
        tasks = deque(receive(channel, None))
        service = kinds[kind](name, tasks.popleft(), channel.send)
        with contextlib.closing(service):
            while True:
                tasks.extend(receive(channel, 0.0 if tasks else service.patience_s()))
                service.ahead(tasks)
                for answer in service.answer(tasks.popleft()) if tasks else service.idle():
                    channel.send(answer)
    except EOFError:
        return
    except MtembedError as error:
        channel.send(Fatal(type(error).__name__, str(error)))
        drain(channel)


def receive(channel: Channel, patience_s: float | None) -> list[Any]:
    """What the parent has sent by now, or in the next ``patience_s``; what it has not taken yet is sent meanwhile.

    Raises EOFError when the parent is gone.
    """
    while True:
        readable = wait([channel], patience_s)
        messages = channel.receive() if readable else []
        if messages or (patience_s is not None and not readable):
            return messages


def drain(channel: Channel) -> None:
    """Return when the parent has taken everything, or is gone."""
    with contextlib.suppress(EOFError):
        while channel.unsent:
            if wait([channel], None):
                channel.receive()


def main(kinds: Mapping[str, Make] = KINDS) -> None:
    """Be the worker that the command line names; ``kinds`` says how each kind is made."""
    kind, name, fd, parent = sys.argv[1:]
    faulthandler.enable()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    die_with_parent(int(parent))
    np.seterr(all="ignore")
    run(kind, name, Channel.of(int(fd)), kinds)


if __name__ == "__main__":
    main()
