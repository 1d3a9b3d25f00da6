"""Streams, events and pinned memory of a GPU, and their stand-ins on a CPU, where every call is over when it returns.

The code above them is the same for both, so that what runs on a GPU is exercised without one.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any, Protocol

import torch

from mtembed.ring import Ring

log = logging.getLogger(__name__)


class Event(Protocol):
    """A point in the order of a stream's work."""

    def record(self) -> None:
        """Put it behind everything that the current stream was given so far."""

    def query(self) -> bool:
        """Whether it has been reached."""

    def synchronize(self) -> None:
        """Wait until it is reached."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to a later one."""


class HostEvent:
    """The moment at which it was recorded: work on a CPU is over by then."""

    def __init__(self) -> None:
        self.at = perf_counter()

    def record(self) -> None:
        self.at = perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return

    def elapsed_time(self, end_event: HostEvent) -> float:
        return (end_event.at - self.at) * 1e3


class HostStream:
    """The order of a program."""

    def wait_event(self, event: Event) -> None:
        return


class Streams:
    """Three orders of work on one device that overlap: bands go up, batches are computed, vectors come down."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.upload, self.compute, self.download = (self._stream(device) for _ in range(3))

    def _stream(self, device: torch.device) -> Any:
        return torch.cuda.Stream(device) if self.cuda else HostStream()  # type: ignore[no-untyped-call]

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """While inside, torch's and the kernels' work goes to ``stream``."""
        return torch.cuda.stream(stream) if self.cuda else nullcontext()

    def event(self) -> Event:
        """A new event that can tell the time."""
        return torch.cuda.Event(enable_timing=True) if self.cuda else HostEvent()  # type: ignore[no-untyped-call]

    def synchronize(self) -> None:
        """Wait for everything the device was given."""
        if self.cuda:
            torch.cuda.synchronize()


class PinnedRing:
    """A ring whose pages the driver keeps in place, so that copies from it run beside everything else."""

    def __init__(self, ring: Ring, device: torch.device) -> None:
        self._address = ring.buffer.ctypes.data
        self.problem = ""
        self.pinned = device.type == "cuda" and self._register(ring.shape.total_bytes)

    def _register(self, size: int) -> bool:
        try:
            code = int(_runtime().cudaHostRegister(self._address, size, 0))
        except RuntimeError as error:  # torch raises for some codes and returns others
            code, self.problem = -1, str(error).partition("\n")[0]
        if code:
            self.problem = self.problem or f"cudaHostRegister gave error {code}"
            log.warning("%d bytes of the ring could not be pinned, copies are slower: %s", size, self.problem)
        return code == 0

    def close(self) -> None:
        """Let the pages go; to be called before the ring is unmapped, when no copy is under way."""
        if self.pinned:
            self.pinned = False
            code = int(_runtime().cudaHostUnregister(self._address))
            if code:
                log.warning("the ring could not be unpinned: cudaHostUnregister gave error %d", code)


def _runtime() -> Any:
    """The CUDA runtime that torch has loaded."""
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
