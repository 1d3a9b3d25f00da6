"""The shared-memory ring: fixed slots that hold one cell each, from its decoded bands to its vectors.

A slot is ``[vectors | planes]``: first room for the vectors the device worker will write (float32 [n, D]), then the
decoded bands, each 64-byte aligned.  The memory is an anonymous file that is inherited by the workers: it has no name,
so nothing can leak, and it does not count against the size of ``/dev/shm`` (64 MB in many containers).  Which slot
belongs to whom is known by the parent process alone, so the ring itself needs no lock.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtembed.errors import CellError
from mtembed.types import FloatArray, Plane

ALIGNMENT = 64
PAGE = mmap.PAGESIZE


def aligned(size: int, to: int = ALIGNMENT) -> int:
    """``size`` rounded up to a multiple of ``to`` bytes."""
    return -(-size // to) * to


@dataclass(frozen=True, slots=True)
class RingShape:
    """Sizes in bytes and counts; what a worker needs beside the file descriptor to attach to a ring."""

    slots: int
    vector_bytes: int
    plane_bytes: int

    @property
    def slot_bytes(self) -> int:
        return aligned(aligned(self.vector_bytes) + self.plane_bytes, PAGE)

    @property
    def total_bytes(self) -> int:
        return self.slots * self.slot_bytes


class Ring:
    """A mapping of all slots.  ``create`` in the parent, ``attach`` in a worker."""

    def __init__(self, fd: int, shape: RingShape) -> None:
        self.fd = fd
        self.shape = shape
        self._map = mmap.mmap(fd, shape.total_bytes)
        self.buffer: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    @classmethod
    def create(cls, shape: RingShape) -> Ring:
        """A new zero-filled ring.  Raises OSError when the system cannot hold ``shape.total_bytes``."""
        fd = _anonymous_file()
        os.ftruncate(fd, shape.total_bytes)
        if not hasattr(os, "memfd_create"):
            os.posix_fallocate(fd, 0, shape.total_bytes)  # a full disk is an error now, never a SIGBUS later
        return cls(fd, shape)

    @classmethod
    def attach(cls, fd: int, shape: RingShape) -> Ring:
        return cls(fd, shape)

    def slot(self, index: int) -> Slot:
        start = index * self.shape.slot_bytes
        return Slot(self.buffer[start : start + self.shape.slot_bytes], self.shape.vector_bytes)

    def close(self) -> None:
        """Unmap where no view is left, and close the descriptor; the memory goes with the last process."""
        del self.buffer
        with suppress(BufferError):  # a view that still lives in this process: the mapping goes when it goes
            self._map.close()
        os.close(self.fd)


class Slot:
    """One cell's memory.  ``place`` hands out planes in order; ``vectors`` is where the embedding goes."""

    def __init__(self, view: npt.NDArray[np.uint8], vector_bytes: int) -> None:
        self.view = view
        self.vector_bytes = vector_bytes
        self.next_plane = aligned(vector_bytes)

    def place(self, rows: int, cols: int, dtype: str) -> tuple[Plane, npt.NDArray[np.generic]]:
        """Room for a band: its plane and the array [rows, cols] to decode into.  Raises CellError if it cannot fit."""
        size = rows * cols * np.dtype(dtype).itemsize
        start = self.next_plane
        if start + size > self.view.size:
            raise CellError(
                f"a band of {rows} x {cols} px does not fit into the slot ({self.view.size - start} bytes left): "
                "run shards of larger cells on their own"
            )
        self.next_plane = start + aligned(size)
        return Plane(start, rows, cols), self.view[start : start + size].view(dtype).reshape(rows, cols)

    def plane(self, plane: Plane, dtype: str) -> npt.NDArray[np.generic]:
        size = plane.rows * plane.cols * np.dtype(dtype).itemsize
        return self.view[plane.offset : plane.offset + size].view(dtype).reshape(plane.rows, plane.cols)

    def has_room_for(self, count: int, dim: int) -> bool:
        """Whether ``count`` vectors of ``dim`` float32 values fit before the planes."""
        return count * dim * np.dtype(np.float32).itemsize <= self.vector_bytes

    def vectors(self, count: int, dim: int) -> FloatArray:
        """float32 [count, dim] at the head of the slot.  ValueError where they would reach into the planes.

        Whoever fills a slot asks ``has_room_for`` first.
        """
        if not self.has_room_for(count, dim):
            raise ValueError(
                f"{count} vectors of {dim} values do not fit into the {self.vector_bytes} bytes of the slot"
            )
        return self.view[: count * dim * 4].view(np.float32).reshape(count, dim)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mtembed-ring")
    with tempfile.TemporaryFile(prefix="mtembed-ring-") as file:
        return os.dup(file.fileno())
