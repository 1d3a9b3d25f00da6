"""What came over the network while a dataset was made, and how much of their time decode workers waited for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtembed.dataset.manifest import Manifest
from mtembed.notes import Traffic
from mtembed.text import duration, plural, significant, size


@dataclass(frozen=True, slots=True)
class Network:
    """``Traffic`` summed up over all starts and processes, ``bytes_per_s`` while they were at work.

    ``waiting`` is the share of their time, 0..1, that decode workers waited for bytes, ``of_reading`` how much of the
    time of stage ``read`` that was; None where no cell was embedded.
    """

    requests: int
    again: int
    bytes: int
    waited: float
    blocked: float
    bytes_per_s: float | None
    waiting: float | None
    of_reading: float | None

    @property
    def reading_waits(self) -> bool:
        """Whether most of reading was waiting for bytes, and not a disk's work or unpacking."""
        return self.of_reading is not None and self.of_reading >= 0.5

    def words(self) -> list[tuple[str, str]]:
        """For people: what, and how much."""
        rate = "-" if self.bytes_per_s is None else f"{significant(self.bytes_per_s / 1e9)} GB/s"
        again = f", {self.again:,} of them again after {duration(self.waited)}" if self.again else ""
        waiting = "-" if self.waiting is None else f"{self.waiting:.0%} of their time"
        return [
            ("fetched", size(self.bytes)),
            ("while at work", rate),
            ("asked for", f"{plural(self.requests, 'request')}{again}"),
            ("decode workers waited", waiting),
        ]


def network(
    manifests: Sequence[Manifest], cells: int, mean_ms: Mapping[str, float] | None, busy: float, seconds: float
) -> Network | None:
    """None where nothing came over a network.

    ``cells`` of the dataset, ``mean_ms`` of their stages (None: no cell was embedded), ``busy`` share of the decode
    workers, ``seconds`` in which devices were at work.
    """
    found = [manifest.notes.network for manifest in manifests if manifest.notes.network]
    if not found:
        return None
    total = sum(found, Traffic())
    of_reading = waiting = None
    if mean_ms is not None and cells:
        read, decode = mean_ms["read"], mean_ms["decode"]
        of_reading = min(1.0, total.blocked * 1e3 / (read * cells)) if read else 0.0
        waiting = busy * of_reading * read / (read + decode) if read else 0.0
    return Network(
        requests=total.requests,
        again=total.again,
        bytes=total.bytes,
        waited=round(total.waited, 3),
        blocked=round(total.blocked, 3),
        bytes_per_s=round(total.bytes / seconds) if seconds > 0 and cells else None,
        waiting=None if waiting is None else round(waiting, 4),
        of_reading=None if of_reading is None else round(of_reading, 4),
    )
