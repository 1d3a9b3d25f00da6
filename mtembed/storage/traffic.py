"""What this process has asked of stores: counted where it happens, taken by who reports it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mtembed.notes import Traffic


class Meter:
    """Sums up the traffic of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = Traffic()

    def count(self, **more: float) -> None:
        """Add to fields of ``Traffic``."""
        with self._lock:
            self._sum += Traffic(**more)  # type: ignore[arg-type]

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """While whoever needs bytes waits for them."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.count(blocked=time.perf_counter() - began)

    def taken(self) -> Traffic:
        """What came since the last call."""
        with self._lock:
            found, self._sum = self._sum, Traffic()
        return found


METER = Meter()
