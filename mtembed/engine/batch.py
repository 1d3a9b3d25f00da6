"""A batch on its way through a GPU: the room for it on both sides, and whose fragments it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtembed.engine.device import CellView, vectors_in
from mtembed.engine.streams import Event, Streams
from mtembed.messages import EmbedTask
from mtembed.ring import Slot, aligned
from mtembed.types import FloatArray, Plane


@dataclass(slots=True, eq=False)
class CellInFlight:
    """A cell that is not answered yet: ``left`` of its ``total`` fragments have no vector in its slot."""

    task: EmbedTask
    view: CellView
    bands: Tensor  # uint8, from the first byte of its planes to the last
    begins: int  # where in its slot that is, bytes
    vectors: FloatArray
    total: int
    left: int
    problem: str = ""  # why it cannot be answered with vectors

    @classmethod
    def of(cls, task: EmbedTask, slot: Slot, dim: int) -> CellInFlight:
        """Raises CellError where its vectors do not fit into the slot."""
        decoded = task.decoded
        count = len(decoded.record.offsets)
        itemsize = np.dtype(decoded.dtype).itemsize
        begins = min(plane.offset for plane in decoded.planes)
        ends = max(plane.offset + plane.rows * plane.cols * itemsize for plane in decoded.planes)
        return cls(
            task=task,
            view=CellView(slot, decoded),
            bands=torch.from_numpy(slot.view[begins:ends]),
            begins=begins,
            vectors=vectors_in(slot, count, dim),
            total=count,
            left=count,
        )


@dataclass(frozen=True, slots=True)
class EncodedBand:
    """A band, by its number, that goes up as a GeoTIFF from its slot; ``target`` is where its pixels belong."""

    cell: CellInFlight
    band: int
    blob: npt.NDArray[np.uint8]
    plane: Plane
    target: Tensor


@dataclass(frozen=True, slots=True)
class Share:
    """A cell's share of a batch: ``count`` fragments from its ``first`` on; events around the upload of its bands."""

    cell: CellInFlight
    first: int
    count: int
    upload: tuple[Event, Event]


class Table:
    """A small table in pinned memory of the host (``host``, numpy) and on the device (``device``)."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: int = 0) -> None:
        self._pinned = torch.full(shape, fill, dtype=dtype, pin_memory=device.type == "cuda")
        self.host = self._pinned.numpy()
        self.device = torch.full(shape, fill, dtype=dtype, device=device)

    def upload(self) -> None:
        self.device.copy_(self._pinned, non_blocking=True)


@dataclass(frozen=True, slots=True)
class DeviceCells:
    """The cells of a batch on the device, as ``cutter.Cells``."""

    raw: Tensor
    planes: Tensor
    subtract: Tensor
    nodata: Tensor


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a batch has room for: fragments of so many ``bands``, ``bytes`` of decoded cells, vectors of ``dim``."""

    fragments: int
    bands: int
    dim: int
    bytes: int


class Batch:
    """Room for fragments of several cells; it is filled, computed, delivered and cleared, again and again."""

    def __init__(
        self, capacity: Capacity, dtype: Literal["uint16", "float32"], device: torch.device, streams: Streams
    ) -> None:
        self.capacity, self.streams = capacity, streams
        self._raw = torch.empty(aligned(capacity.bytes), dtype=torch.uint8, device=device)
        self._planes = Table((capacity.fragments, capacity.bands, 4), torch.int64, device, fill=1)
        self._fragments = Table((capacity.fragments, 3), torch.int32, device)
        self._subtract = Table((capacity.fragments,), torch.int32, device)
        self._nodata = Table((capacity.fragments,), torch.float64, device)
        raw = self._raw.view(getattr(torch, dtype))
        self.cells = DeviceCells(raw, self._planes.device, self._subtract.device, self._nodata.device)
        self.fragments = self._fragments.device
        self._arrived = torch.empty((capacity.fragments, capacity.dim), pin_memory=device.type == "cuda")
        self.host_vectors: FloatArray = self._arrived.numpy()
        self.cut = streams.timer()  # before the fragments are cut, which ends where the forward begins
        self.upload, self.forward, self.download = ((streams.timer(), streams.timer()) for _ in range(3))
        self.buffers: list[Any] = []  # the decoder's, for as long as the batch lives
        self.clear()

    def clear(self) -> None:
        """Make the batch empty; the vectors on the device may go."""
        self.shares: list[Share] = []
        self.encoded: list[EncodedBand] = []
        self.images: list[Tensor] = []  # decoded bands, for as long as they are copied from
        self.count = self._used = 0
        self._vectors: Tensor | None = None

    @property
    def full(self) -> bool:
        return self.count == self.capacity.fragments

    def has_room(self, cell: CellInFlight) -> bool:
        """Whether the cell's bands still fit."""
        return self._used + cell.bands.numel() <= self.capacity.bytes

    def add(self, cell: CellInFlight, first: int) -> int:
        """Send a cell's bands up and note its fragments from ``first`` on; return how many found room."""
        count = min(self.capacity.fragments - self.count, cell.total - first)
        index, rows = len(self.shares), slice(self.count, self.count + count)
        before, after = self.streams.timer(), self.streams.timer()
        with self.streams.on(self.streams.upload):
            before.record()
            self._send(cell)
            after.record()
        itemsize = cell.view.raw.itemsize
        self._planes.host[index] = cell.view.planes[0]
        self._planes.host[index, :, 0] += (self._used - cell.begins) // itemsize
        self._fragments.host[rows] = cell.view.fragments[first : first + count]
        self._fragments.host[rows, 0] = index
        self._subtract.host[index], self._nodata.host[index] = cell.view.subtract[0], cell.view.nodata[0]
        self.shares.append(Share(cell, first, count, (before, after)))
        self.count += count
        self._used += aligned(cell.bands.numel())
        return count

    def _send(self, cell: CellInFlight) -> None:
        """Pixels go up at once; bands that are still encoded are noted, to be decoded when the batch starts."""
        decoded = cell.task.decoded
        if not any(plane.encoded for plane in decoded.planes):
            self._raw[self._used : self._used + cell.bands.numel()].copy_(cell.bands, non_blocking=True)
            return
        for band, plane in enumerate(decoded.planes):
            first = plane.offset - cell.begins
            size = plane.rows * plane.cols * cell.view.raw.itemsize
            target = self._raw[self._used + first : self._used + first + size]
            if plane.encoded:
                blob = cell.bands[first : first + plane.encoded].numpy()
                self.encoded.append(EncodedBand(cell, band, blob, plane, target))
            else:
                target.copy_(cell.bands[first : first + size], non_blocking=True)

    def send_tables(self) -> None:
        """Send the tables up, padded with the first fragment."""
        self._fragments.host[self.count :] = self._fragments.host[0]
        for table in (self._planes, self._fragments, self._subtract, self._nodata):
            table.upload()

    def fetch(self, vectors: Tensor) -> None:
        """Queue the copy of ``vectors`` (float32 [batch, D], on the device) to the host; it holds them until then."""
        self._vectors = vectors
        self._arrived.copy_(vectors, non_blocking=True)

    @property
    def done(self) -> bool:
        """Whether its vectors have arrived."""
        return self.download[1].query()

    def wait(self) -> None:
        """Sleep until its vectors have arrived."""
        self.download[1].synchronize()

    def deliver(self) -> list[CellInFlight]:
        """Copy the vectors that arrived into their slots; return the cells that are complete with that."""
        complete, row = [], 0
        for share in self.shares:
            cell = share.cell
            cell.vectors[share.first : share.first + share.count] = self.host_vectors[row : row + share.count]
            row += share.count
            cell.left -= share.count
            self._time(share)
            if cell.left == 0:
                complete.append(cell)
        return complete

    def _time(self, share: Share) -> None:
        """Add the share's part of this batch's milliseconds to its cell's timing."""
        timing, part = share.cell.task.timing, share.count / self.count
        timing.upload += _milliseconds(share.upload) + part * _milliseconds(self.upload)
        timing.preprocess += part * self.cut.elapsed_time(self.forward[0])
        timing.forward += part * _milliseconds(self.forward)
        timing.download += part * _milliseconds(self.download)


def _milliseconds(events: tuple[Event, Event]) -> float:
    return events[0].elapsed_time(events[1])
