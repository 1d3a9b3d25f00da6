"""Streams and events of a GPU, and their stand-ins on a CPU, where every call is over when it returns.

The code above them is the same for both, so that what runs on a GPU is exercised without one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any, Protocol

import torch


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
    """A stream whose work is over when the call that queued it returns."""

    def wait_event(self, event: Event) -> None:
        return


class Streams:
    """Three streams of one device whose work overlaps: bands go up, batches are computed, vectors come down."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.upload, self.compute, self.download = (self._stream(device) for _ in range(3))

    def _stream(self, device: torch.device) -> Any:
        return torch.cuda.Stream(device) if self.cuda else HostStream()  # type: ignore[no-untyped-call]

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """While inside, torch's and the kernels' work goes to ``stream``."""
        return torch.cuda.stream(stream) if self.cuda else nullcontext()

    def timer(self) -> Event:
        """Return a new event that knows its time; who waits for it sleeps (CUDA's default is to spin on a core)."""
        if not self.cuda:
            return HostEvent()
        return torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]

    def synchronize(self) -> None:
        """Wait for everything the device was given."""
        if self.cuda:
            torch.cuda.synchronize()
