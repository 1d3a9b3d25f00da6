"""What this process has asked of stores: counted where it happens, taken by who reports it."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """``requests``, how many of them were tried ``again``, ``bytes`` that came, seconds ``waited`` between tries."""

    requests: int = 0
    again: int = 0
    bytes: int = 0
    waited: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        sums = (getattr(self, one.name) + getattr(other, one.name) for one in dataclasses.fields(self))
        return Traffic(*sums)


class Meter:
    """Sums up the traffic of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = Traffic()

    def count(self, **more: float) -> None:
        """Add to fields of ``Traffic``."""
        with self._lock:
            self._sum += Traffic(**more)  # type: ignore[arg-type]

    def taken(self) -> Traffic:
        """What came since the last call."""
        with self._lock:
            found, self._sum = self._sum, Traffic()
        return found


METER = Meter()
