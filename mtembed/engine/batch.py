"""A lot: one batch on its way through a card, the room for it on both sides, and whose fragments it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtembed.engine.device import CellView
from mtembed.engine.streams import Event, Streams
from mtembed.messages import EmbedTask
from mtembed.ring import Slot, aligned
from mtembed.types import FloatArray, Plane


@dataclass(slots=True, eq=False)
class Held:
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
    def of(cls, task: EmbedTask, slot: Slot, dim: int) -> Held:
        decoded = task.decoded
        count = len(decoded.record.offsets)
        itemsize = np.dtype(decoded.dtype).itemsize
        begins = min(plane.offset for plane in decoded.planes)
        ends = max(plane.offset + plane.rows * plane.cols * itemsize for plane in decoded.planes)
        bands = torch.from_numpy(slot.view[begins:ends])
        return cls(task, CellView(slot, decoded), bands, begins, slot.vectors(count, dim), count, count)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A band, by its number, that goes up as a GeoTIFF in the memory of its slot; where its pixels belong."""

    cell: Held
    band: int
    blob: npt.NDArray[np.uint8]
    plane: Plane
    target: Tensor


@dataclass(frozen=True, slots=True)
class Piece:
    """``count`` fragments of a cell from its ``first`` on; events before and after its bands went up."""

    cell: Held
    first: int
    count: int
    sent: tuple[Event, Event]


class Table:
    """A small table, pinned ``here`` (numpy) and ``there`` on the device."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: int = 0) -> None:
        self._host = torch.full(shape, fill, dtype=dtype, pin_memory=device.type == "cuda")
        self.here = self._host.numpy()
        self.there = torch.full(shape, fill, dtype=dtype, device=device)

    def upload(self) -> None:
        self.there.copy_(self._host, non_blocking=True)


class Lot:
    """Room for ``batch`` fragments and ``size`` bytes of bands; filled, launched, landed and cleared for ever."""

    def __init__(self, batch: int, bands: int, dim: int, size: int, device: torch.device, streams: Streams) -> None:
        self.batch, self.size, self.streams = batch, size, streams
        self.raw = torch.empty(aligned(size), dtype=torch.uint8, device=device)
        self.planes = Table((batch, bands, 4), torch.int64, device, fill=1)
        self.fragments = Table((batch, 3), torch.int32, device)
        self.subtract = Table((batch,), torch.int32, device)
        self.nodata = Table((batch,), torch.float64, device)
        self.landing = torch.empty((batch, dim), pin_memory=device.type == "cuda")
        self.vectors: Tensor | None = None
        self.sent, self.up, self.started, self.cut, self.forwarded, self.leaving, self.down = (
            streams.event() for _ in range(7)
        )
        self.clear()

    def clear(self) -> None:
        """Empty again; the vectors on the device may go."""
        self.pieces: list[Piece] = []
        self.encoded: list[Encoded] = []
        self.images: list[Tensor] = []  # that were decoded, for as long as they are copied from
        self.count = self.used = 0
        self.vectors = None

    @property
    def full(self) -> bool:
        return self.count == self.batch

    def has_room(self, cell: Held) -> bool:
        """Whether the cell's bands still fit."""
        return self.used + cell.bands.numel() <= self.size

    def add(self, cell: Held, first: int) -> int:
        """Send a cell's bands up and note its fragments from ``first`` on; returns how many found room."""
        count = min(self.batch - self.count, cell.total - first)
        index, rows = len(self.pieces), slice(self.count, self.count + count)
        before, after = self.streams.event(), self.streams.event()
        with self.streams.on(self.streams.upload):
            before.record()
            self._send(cell)
            after.record()
        itemsize = cell.view.raw.itemsize
        self.planes.here[index] = cell.view.planes[0]
        self.planes.here[index, :, 0] += (self.used - cell.begins) // itemsize
        self.fragments.here[rows] = cell.view.fragments[first : first + count]
        self.fragments.here[rows, 0] = index
        self.subtract.here[index], self.nodata.here[index] = cell.view.subtract[0], cell.view.nodata[0]
        self.pieces.append(Piece(cell, first, count, (before, after)))
        self.count += count
        self.used += aligned(cell.bands.numel())
        return count

    def _send(self, cell: Held) -> None:
        """Pixels go up at once; bands that are still encoded are noted for ``Card`` to decode."""
        decoded = cell.task.decoded
        if not any(plane.encoded for plane in decoded.planes):
            self.raw[self.used : self.used + cell.bands.numel()].copy_(cell.bands, non_blocking=True)
            return
        for band, plane in enumerate(decoded.planes):
            first = plane.offset - cell.begins
            size = plane.rows * plane.cols * cell.view.raw.itemsize
            target = self.raw[self.used + first : self.used + first + size]
            if plane.encoded:
                blob = cell.bands[first : first + plane.encoded].numpy()
                self.encoded.append(Encoded(cell, band, blob, plane, target))
            else:
                target.copy_(cell.bands[first : first + size], non_blocking=True)

    def upload_tables(self) -> None:
        """Send the tables up, padded with the first fragment."""
        self.fragments.here[self.count :] = self.fragments.here[0]
        for table in (self.planes, self.fragments, self.subtract, self.nodata):
            table.upload()

    def deliver(self) -> list[Held]:
        """Copy the vectors that came down into their slots; returns the cells that are complete with that."""
        complete, row = [], 0
        vectors = self.landing.numpy()
        for piece in self.pieces:
            cell = piece.cell
            cell.vectors[piece.first : piece.first + piece.count] = vectors[row : row + piece.count]
            row += piece.count
            cell.left -= piece.count
            self._time(piece)
            if cell.left == 0:
                complete.append(cell)
        return complete

    def _time(self, piece: Piece) -> None:
        """Add the piece's share of this lot's milliseconds to its cell's timing."""
        timing, share = piece.cell.task.timing, piece.count / self.count
        timing.upload += piece.sent[0].elapsed_time(piece.sent[1]) + share * self.sent.elapsed_time(self.up)
        timing.preprocess += share * self.started.elapsed_time(self.cut)
        timing.forward += share * self.cut.elapsed_time(self.forwarded)
        timing.download += share * self.leaving.elapsed_time(self.down)
