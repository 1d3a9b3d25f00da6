"""A ring in memory that a GPU can copy from while it computes."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from typing import Any

import torch

from mtembed.engine.memory import reason
from mtembed.ring import Ring

log = logging.getLogger(__name__)


class PinnedRing:
    """A ring whose pages the driver keeps in place, so that copies from it run beside everything else.

    Slots are pinned one by one, since a copy never leaves its slot.  ``problem`` says why some could not be: copies
    from them are right, but the host waits for each.
    """

    def __init__(self, ring: Ring, device: torch.device) -> None:
        self.problem = ""
        self._pinned: list[int] = []  # addresses
        if device.type == "cuda":
            self._pin(ring)

    def _pin(self, ring: Ring) -> None:
        first, size, count = ring.buffer.ctypes.data, ring.shape.slot_bytes, ring.shape.slots
        for address in range(first, first + count * size, size):
            problem = _registered(address, size)
            if problem:
                self.problem = f"{problem}, {len(self._pinned)} of {count} slots are pinned"
                clear_last_error()
                return
            self._pinned.append(address)

    @property
    def slots(self) -> int:
        """How many slots are pinned."""
        return len(self._pinned)

    def close(self) -> None:
        """Let the pages go; to be called before the ring is unmapped, when no copy is under way."""
        while self._pinned:
            code = int(_runtime().cudaHostUnregister(self._pinned.pop()))
            if code:
                log.warning("a slot could not be unpinned: cudaHostUnregister gave error %d", code)


def _registered(address: int, size: int) -> str:
    """Pin memory; return why that failed, or nothing."""
    try:
        code = int(_runtime().cudaHostRegister(address, size, 0))
    except RuntimeError as error:  # torch raises for some codes and returns others
        return reason(error)
    return f"cudaHostRegister gave error {code}" if code else ""


def clear_last_error() -> None:
    """Forget the CUDA runtime's last error.

    A refused call leaves its error behind in its thread, and torch would raise it at its next launch of a kernel.
    torch has no function for that, so the runtime that it has loaded is asked.
    """
    library = runtime_library()
    if library is not None:
        library.cudaGetLastError()


def runtime_library() -> ctypes.CDLL | None:
    """The CUDA runtime of this process, None where it has loaded none."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    path = next((line[line.index("/") :] for line in lines if "/libcudart" in line), None)
    return ctypes.CDLL(path) if path else None


def _runtime() -> Any:
    """The CUDA runtime as torch shows it."""
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
