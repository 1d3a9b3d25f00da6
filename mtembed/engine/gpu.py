"""Slot -> vectors on one GPU: batches of one shape across cells, copies beside the arithmetic.

    take -> | filling: bands go up | cut + normalise, forward | vectors come down | -> outcomes
              upload stream           compute stream             download stream

Three batches are in flight: while one is computed the next goes up and the one before comes down.  A batch starts when
it is full, or, padded, when nothing else is in flight and no cell arrives.  A cell is answered when the last batch with
a fragment of it is down.

The device is torch's: on the CPU (see ``machine.cpu_cards``) the same code runs with streams that do nothing.
"""

from __future__ import annotations

from collections import deque

import torch

from mtembed import machine, models
from mtembed.engine.batch import Batch, Capacity, CellInFlight
from mtembed.engine.cutter import Cutter
from mtembed.engine.device import CellView, Outcome
from mtembed.engine.gpu_decode import DeviceDecoder
from mtembed.engine.gpu_kernel import Trial, working_kernel
from mtembed.engine.gpu_network import GpuNetwork
from mtembed.engine.pinned import PinnedRing
from mtembed.engine.precision import PrecisionCheck, require_finite
from mtembed.engine.streams import Streams
from mtembed.errors import CellError
from mtembed.kernels.fragment_numpy import check_bounds
from mtembed.kernels.select import GPU_BACKENDS, Fragment, kernel_name
from mtembed.messages import DeviceJob, EmbedTask
from mtembed.notes import DecodedBands, DecodedOnCpu, Note, Unpinned, WorkerReady
from mtembed.ring import Ring, Slot
from mtembed.sources import SOURCES

IN_FLIGHT = 3  # batches: one going up, one computed, one coming down
PATIENCE_S = 0.02  # without a cell for so long, what has arrived is started


class GpuDevice:
    """One GPU and its lane's ring.  See ``device.Device`` for ``take``, ``idle`` and ``close``."""

    def __init__(self, job: DeviceJob, ring: Ring, device: torch.device, kernel: str | None = None) -> None:
        self.job, self.device = job, device
        spec = models.get(job.model, job.model_card)
        self.spec = models.mapped(spec, job.size) if job.dense else spec
        self.streams = Streams(device)
        self.decoder = DeviceDecoder(device)
        self.ring = PinnedRing(ring, device)
        fragment = self._kernel(kernel)
        cutter = Cutter(fragment, self.spec.normalisation_for(job.source))
        self.check = PrecisionCheck(job, self.spec, cutter, device)
        self.network = GpuNetwork(job, self.spec, device, self.streams, cutter, keep_golden=self.check.needed)
        self.check.golden = self.network.golden
        self.check_wanted = False  # whether the next batch is to be compared with fp32
        self.cell_bytes = max(1, job.cells) * ring.shape.plane_bytes
        self.notes: list[Note] = []  # for the manifest, with the next answer
        self.filling: Batch | None = None
        self.in_flight: deque[Batch] = deque()
        self.free = deque(self.network.fit(self._batches))
        self.name = f"{device.type}:{job.card}"
        self.ready = self._ready(kernel_name(fragment))

    def _kernel(self, name: str | None) -> Fragment:
        """The named backend or, without a name, the first that works on the device; tried before any cell comes."""
        names = (name,) if name else GPU_BACKENDS if self.streams.cuda else ("numba",)
        source, spec = self.job.source, self.spec
        rule, bands, dtype = spec.normalisation_for(source), len(spec.bands_for(source)), SOURCES[source].dtype
        return working_kernel(Trial.of(rule, bands, dtype, self.job.precision, self.device), names)

    def _batches(self, fragments: int) -> list[Batch]:
        bands, dtype = len(self.spec.bands_for(self.job.source)), SOURCES[self.job.source].dtype
        capacity = Capacity(fragments, bands, self.spec.dim, self.cell_bytes)
        return [Batch(capacity, dtype, self.device, self.streams) for _ in range(IN_FLIGHT)]

    def _ready(self, kernel: str) -> tuple[Note, ...]:
        title = torch.cuda.get_device_name(self.device) if self.streams.cuda else machine.cpu_name()
        versions = {"torch": str(torch.__version__)}
        independent = self.network.position_independent
        ready = WorkerReady(f"{title} (card {self.job.card})", kernel, versions, independent)
        problem = (Unpinned(self.job.card, self.ring.problem),) if self.ring.problem else ()
        return (ready, *problem, *self._take_notes())

    @property
    def patience_s(self) -> float | None:
        return PATIENCE_S if self.filling or self.in_flight else None

    # -- cells --------------------------------------------------------------------------------------------------

    def take(self, task: EmbedTask, slot: Slot) -> list[Outcome]:
        """Accept one more cell; return those that are finished.  A full batch starts; a cell may need several."""
        self.check_wanted |= task.check and self.check.needed
        try:
            cell = CellInFlight.of(task, slot, self.spec.dim)
            self._require_bounds(cell.view)
        except CellError as error:
            return [Outcome(task, error=error)]
        outcomes: list[Outcome] = []
        first = 0
        while first < cell.total:
            batch = self._batch_for(cell, outcomes)
            first += batch.add(cell, first)
            if batch.full:
                self._start()
        return outcomes + self._finished()

    def idle(self) -> list[Outcome]:
        """Nothing arrives: with the device idle too, what is there starts as it is."""
        outcomes = self._finished()
        if self.filling and not self.in_flight:
            self._start()
            outcomes += self._finished()
        return outcomes

    def close(self) -> None:
        self.streams.synchronize()
        self.ring.close()

    def _require_bounds(self, view: CellView) -> None:
        """A kernel on the device cannot look at bounds without stopping its stream, so they are looked at here."""
        try:
            check_bounds(view.raw.size, view.planes, view.fragments, view.subtract, self.job.size)
        except ValueError as error:
            raise CellError(str(error), "embed") from error

    def _batch_for(self, cell: CellInFlight, outcomes: list[Outcome]) -> Batch:
        """The batch being filled, where the cell fits into it; otherwise the next, as soon as one is free."""
        if self.filling and not self.filling.has_room(cell):
            self._start()
        if self.filling is None:
            while not self.free:
                outcomes += self._finish(self.in_flight.popleft())
            self.filling = self.free.popleft()
        return self.filling

    # -- batches ------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Queue the work of the batch being filled on the three streams; nothing is waited for."""
        assert self.filling is not None
        batch, streams = self.filling, self.streams
        self.filling = None
        with streams.on(streams.upload):
            batch.upload[0].record()
            self._decode(batch)
            batch.send_tables()
            batch.upload[1].record()
        with streams.on(streams.compute):
            streams.compute.wait_event(batch.upload[1])
            vectors = self.network.forward(batch)
        with streams.on(streams.download):
            streams.download.wait_event(batch.forward[1])
            batch.download[0].record()
            batch.fetch(vectors)
            batch.download[1].record()
        self.in_flight.append(batch)

    def _decode(self, batch: Batch) -> None:
        """Bands that came as GeoTIFFs become pixels where they belong."""
        if not batch.encoded:
            return
        bands, dtype = self.spec.bands_for(self.job.source), SOURCES[self.job.source].dtype
        shapes = [(one.plane.rows, one.plane.cols) for one in batch.encoded]
        decoded = self.decoder.decode([one.blob for one in batch.encoded], shapes, dtype, batch.buffers)
        for one, band in zip(batch.encoded, decoded, strict=True):
            if band.pixels is None:
                one.cell.problem = f"band {bands[one.band]}: {band.problem}"
            else:
                batch.images.append(band.pixels)
                one.target.view(band.pixels.dtype).view(band.pixels.shape).copy_(band.pixels, non_blocking=True)

    def _finished(self) -> list[Outcome]:
        """Outcomes of the batches that are down by now, oldest first."""
        outcomes: list[Outcome] = []
        while self.in_flight and self.in_flight[0].done:
            outcomes += self._finish(self.in_flight.popleft())
        return outcomes

    def _finish(self, batch: Batch) -> list[Outcome]:
        """Wait for a batch, copy its vectors into their slots, free it; return the cells that are complete."""
        batch.wait()
        complete = batch.deliver()
        if self.check_wanted:
            self.check_wanted = False
            self._compare(batch)
        self.check.golden = None  # the check is asked for with a run's first cell
        notes = self._take_notes() if complete else ()
        outcomes = [self._outcome(cell, notes if cell is complete[0] else ()) for cell in complete]
        batch.clear()
        self.free.append(batch)
        return outcomes

    def _outcome(self, cell: CellInFlight, notes: tuple[Note, ...]) -> Outcome:
        try:
            if cell.problem:
                raise CellError(cell.problem)
            require_finite(cell.vectors)
        except CellError as error:
            return Outcome(cell.task, notes, error)
        return Outcome(cell.task, notes)

    def _compare(self, batch: Batch) -> None:
        """A batch's first fragments once more in fp32, while its bands still lie on the device."""
        with self.streams.on(self.streams.compute):
            self.notes.append(self.check(batch.cells, batch.fragments, batch.host_vectors[: batch.count]))

    def _take_notes(self) -> tuple[Note, ...]:
        notes = [*self.notes, *self.network.notes]
        self.notes, self.network.notes = [], []
        if problem := self.decoder.take_problem():
            notes.append(DecodedOnCpu(self.job.card, problem))
        counts = self.decoder.take_counts()
        return (*notes, DecodedBands(**counts)) if any(counts.values()) else tuple(notes)
