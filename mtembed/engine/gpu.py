"""Slot -> vectors on one GPU: batches of one shape across cells, copies beside the arithmetic.

    take -> | filling: bands go up | cut + normalise, forward | vectors come down | -> outcomes
              upload stream           compute stream             download stream

Three lots travel so: while one is computed the next goes up and the one before comes down.  A lot is launched when it
is full, or, padded, when nothing else is under way and no cell arrives; its shape is always the same, so that a cell's
vectors do not depend on the cells beside it.  A cell is answered when the last lot with a fragment of it is down.

The device is torch's: on the CPU (see ``machine.cpu_cards``) the same code runs with streams that do nothing.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import torch
from torch import Tensor

from mtembed import machine, models
from mtembed.engine.batch import Held, Lot
from mtembed.engine.device import (
    TORCH_DTYPE,
    CellView,
    Outcome,
    kernel_name,
    precision_check,
    require_finite,
    set_ring_wait,
)
from mtembed.engine.gpu_decode import DeviceDecoder
from mtembed.engine.streams import PinnedRing, Streams
from mtembed.errors import CellError
from mtembed.kernels.fragment_numpy import check_bounds
from mtembed.kernels.select import backend
from mtembed.messages import BatchHalved, DecodedBands, DeviceJob, EmbedTask, Note, Unpinned, WorkerReady
from mtembed.models.networks import optimise
from mtembed.ring import Ring, Slot
from mtembed.sources import SOURCES

LOTS = 3  # one going up, one computed, one coming down
PATIENCE_S = 0.02  # without a cell for so long, what has arrived is started
CHECKED = 32  # fragments of the first lot that are computed in fp32 too


class Card:
    """One GPU and its lane's ring.  See ``device.Device`` for ``take``, ``idle`` and ``close``."""

    def __init__(self, job: DeviceJob, ring: Ring, device: torch.device, kernel: str = "auto") -> None:
        self.job, self.device = job, device
        self.spec = models.get(job.model)
        self.normalisation = self.spec.normalisation_for(job.source)
        self.bands = len(self.spec.bands_for(job.source))
        self.fragment = backend(kernel, device.type)
        self.streams = Streams(device)
        self.decoder = DeviceDecoder(device)
        self.ring = PinnedRing(ring, device)
        network = self.spec.build(job.weights, job.source, job.size)
        self.network = optimise(network, TORCH_DTYPE[job.precision], True).to(device)
        self.unchecked = False  # whether the next lot's error against fp32 is wanted
        self.lot_bytes = max(1, job.cells) * ring.shape.plane_bytes
        self.notes: list[Note] = []  # for the manifest, on the next answer
        self.free: deque[Lot] = deque()
        self.flying: deque[Lot] = deque()
        self.open: Lot | None = None
        self.batch = self.step = job.batch
        self.input = torch.empty(0)
        self._fit(job.batch)
        self.name = f"{device.type}:{job.card}"
        self.ready = self._ready()

    def _ready(self) -> tuple[Note, ...]:
        title = torch.cuda.get_device_name(self.device) if self.streams.cuda else machine.cpu_name()
        versions = {"torch": str(torch.__version__)}
        ready = WorkerReady(f"{title} (card {self.job.card})", kernel_name(self.fragment), versions)
        problem = (Unpinned(self.job.card, self.ring.problem),) if self.ring.problem else ()
        return (ready, *problem, *self._take_notes())

    @property
    def patience_s(self) -> float | None:
        return PATIENCE_S if self.open or self.flying else None

    # -- cells --------------------------------------------------------------------------------------------------

    def take(self, task: EmbedTask, slot: Slot) -> list[Outcome]:
        """One more cell; returns those that are finished.  A full lot is launched; a cell may need several."""
        set_ring_wait(task.timing)
        self.unchecked |= task.check and self.job.precision != "fp32"
        cell = Held.of(task, slot, self.spec.dim)
        try:
            self._check(cell.view)
        except CellError as error:
            return [Outcome(task, error=error)]
        outcomes: list[Outcome] = []
        first = 0
        while first < cell.total:
            lot = self._lot_for(cell, outcomes)
            first += lot.add(cell, first)
            if lot.full:
                self._launch()
        return outcomes + self._landed()

    def idle(self) -> list[Outcome]:
        """Nothing arrives: with the device idle too, what is there is launched as it is."""
        outcomes = self._landed()
        if self.open and not self.flying:
            self._launch()
            outcomes += self._landed()
        return outcomes

    def close(self) -> None:
        self.streams.synchronize()
        self.ring.close()

    def _check(self, view: CellView) -> None:
        """A kernel on the device cannot look at bounds without stopping its stream, so they are looked at here."""
        try:
            check_bounds(view.raw.size, view.planes, view.fragments, view.subtract, self.job.size)
        except ValueError as error:
            raise CellError(str(error), "embed") from error

    def _lot_for(self, cell: Held, outcomes: list[Outcome]) -> Lot:
        """The lot being filled, where the cell fits into it; otherwise the next, as soon as one is free."""
        if self.open and not self.open.has_room(cell):
            self._launch()
        if self.open is None:
            while not self.free:
                outcomes += self._land(self.flying.popleft())
            self.open = self.free.popleft()
        return self.open

    def _landed(self) -> list[Outcome]:
        """Outcomes of the lots that are down by now, oldest first."""
        outcomes: list[Outcome] = []
        while self.flying and self.flying[0].down.query():
            outcomes += self._land(self.flying.popleft())
        return outcomes

    def _land(self, lot: Lot) -> list[Outcome]:
        """Wait for a lot, copy its vectors into their slots, free it; returns the cells that are complete."""
        lot.down.synchronize()
        outcomes = []
        for cell in lot.deliver():
            try:
                if cell.problem:
                    raise CellError(cell.problem)
                require_finite(cell.vectors)
                outcomes.append(Outcome(cell.task))
            except CellError as error:
                outcomes.append(Outcome(cell.task, error=error))
        self._check_precision(lot)
        if outcomes:
            outcomes[0].notes += self._take_notes()
        lot.clear()
        self.free.append(lot)
        return outcomes

    # -- batches ------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        """Queue the open lot's work on the three streams; nothing is waited for."""
        assert self.open is not None
        lot, streams = self.open, self.streams
        self.open = None
        with streams.on(streams.upload):
            lot.sent.record()
            self._decode(lot)
            lot.upload_tables()
            lot.up.record()
        with streams.on(streams.compute):
            streams.compute.wait_event(lot.up)
            lot.started.record()
            self._cut(lot, self.input, self.batch)
            lot.cut.record()
            lot.vectors = self._forward()
            lot.forwarded.record()
        with streams.on(streams.download):
            streams.download.wait_event(lot.forwarded)
            lot.leaving.record()
            lot.landing.copy_(lot.vectors, non_blocking=True)
            lot.down.record()
        self.flying.append(lot)

    def _decode(self, lot: Lot) -> None:
        """Bands that came as GeoTIFFs become pixels where they belong."""
        if not lot.encoded:
            return
        dtype = SOURCES[self.job.source].dtype
        shapes = [(one.plane.rows, one.plane.cols) for one in lot.encoded]
        images = self.decoder.decode([one.blob for one in lot.encoded], shapes, dtype)
        for one, pixels in zip(lot.encoded, images, strict=True):
            if isinstance(pixels, str):
                one.cell.problem = f"band {self.spec.bands_for(self.job.source)[one.band]}: {pixels}"
            else:
                lot.images.append(pixels)
                one.target.view(pixels.dtype).view(pixels.shape).copy_(pixels, non_blocking=True)

    def _cut(self, lot: Lot, out: Tensor, count: int) -> None:
        """The first ``count`` fragments of a lot as network input: one kernel."""
        raw = lot.raw.view(getattr(torch, SOURCES[self.job.source].dtype))
        self.fragment(
            self._array(raw), self._array(lot.planes.there), self._array(lot.fragments.there[:count]),
            self._array(lot.subtract.there), self._array(lot.nodata.there), self.normalisation, self._array(out),
        )  # fmt: skip

    def _array(self, tensor: Tensor) -> Any:
        """A tensor as the kernels take it; bfloat16 as its bits."""
        tensor = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        return tensor if self.streams.cuda else tensor.numpy()

    def _forward(self) -> Tensor:
        """float32 [batch, D] on the device; where memory does not suffice, in steps of half the size."""
        while True:
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                return self._run()
            self.step = self._halve(self.step)

    def _run(self) -> Tensor:
        """The network on ``input``, ``step`` fragments at a time, always as many: the last step may overlap another."""
        if self.step == self.batch:
            return self._network(self.input)
        vectors = torch.empty((self.batch, self.spec.dim), device=self.device)
        for first in range(0, self.batch, self.step):
            first = min(first, self.batch - self.step)
            vectors[first : first + self.step] = self._network(self.input[first : first + self.step])
        return vectors

    def _network(self, batch: Tensor) -> Tensor:
        vectors: Tensor = self.network(batch)
        return vectors

    # -- memory -------------------------------------------------------------------------------------------------

    def _fit(self, batch: int) -> None:
        """Take all memory that lots need, and run once; halve the batch until that works."""
        while True:
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                self._allocate(batch)
                return
            self.free.clear()
            self.input = torch.empty(0)
            batch = self._halve(batch)

    def _allocate(self, batch: int) -> None:
        shape = (batch, self.bands, self.job.size, self.job.size)
        self.batch = self.step = batch
        dtype = TORCH_DTYPE[self.job.precision]
        self.input = torch.empty(shape, dtype=dtype, device=self.device, memory_format=torch.channels_last).zero_()
        for _ in range(LOTS):
            self.free.append(Lot(batch, self.bands, self.spec.dim, self.lot_bytes, self.device, self.streams))
        self.streams.synchronize()  # what was filled on the default stream is used on others
        with self.streams.on(self.streams.compute):
            self._run()
        self.streams.synchronize()

    def _halve(self, size: int) -> int:
        """Half of ``size``; recorded, because it ends the promise of equal bytes.  Raises where that is nothing."""
        if size == 1:
            raise torch.cuda.OutOfMemoryError(f"card {self.job.card} has no memory for a single fragment")
        if self.streams.cuda:
            torch.cuda.empty_cache()
        self.notes.append(BatchHalved(self.job.card, size, size // 2))
        return size // 2

    def _take_notes(self) -> tuple[Note, ...]:
        notes, self.notes = self.notes, []
        counts = self.decoder.take_counts()
        return (*notes, DecodedBands(**counts)) if any(counts.values()) else tuple(notes)

    # -- precision ----------------------------------------------------------------------------------------------

    def _check_precision(self, lot: Lot) -> None:
        """A lot's first fragments once more in fp32, while its bands still lie on the device."""
        if not self.unchecked:
            return
        self.unchecked = False
        count = min(lot.count, self.batch, CHECKED)
        golden = self.spec.build(self.job.weights, self.job.source, self.job.size).to(self.device)
        out = torch.empty((count, *self.input.shape[1:]), device=self.device)
        with self.streams.on(self.streams.compute):
            self._cut(lot, out, count)
            exact = [golden(out[first : first + 8]).cpu() for first in range(0, count, 8)]
        self.notes.append(precision_check(self.job, lot.landing.numpy()[:count], torch.cat(exact).numpy()))
