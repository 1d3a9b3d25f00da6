"""The run beside what its machine could do, where ``--roofline`` measured that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtembed.dataset.manifest import Manifest
from mtembed.text import significant
from mtembed.types import DECODE_STAGES, DEVICE_STAGES


@dataclass(frozen=True, slots=True)
class StageRoof:
    """A stage's milliseconds for a cell when it had the machine to itself, the cells per second its crew could reach
    with nothing else to do, and the run's rate as a share of that (0..1)."""

    alone_ms: float
    limit_cells_per_s: float
    share: float


@dataclass(frozen=True, slots=True)
class Roof:
    """``best_cells_per_s`` is the most the stages allow together, ``share`` the run's part of it (0..1).
    ``over_network``: what was read came from behind addresses."""

    best_cells_per_s: float
    share: float
    read_bytes_per_s: float
    stages: dict[str, StageRoof]
    over_network: bool = False

    @property
    def sentence(self) -> str:
        """End to end against the best possible."""
        best, read = significant(self.best_cells_per_s), significant(self.read_bytes_per_s / 1e9)
        return (
            f"The run reached {self.share:.0%} of the {best} cells/s that its stages allow together; "
            f"one worker alone read {read} GB/s of images{' over the network' if self.over_network else ''}."
        )


def roof(manifests: Sequence[Manifest], rate: float | None) -> Roof | None:
    """Of a run at ``rate`` cells per second; None unless every process of it was measured."""
    found = [manifest.roofline for manifest in manifests if manifest.roofline]
    if not rate or len(found) < len(manifests):
        return None
    best = sum(one.best for one in found)
    stages = {}
    for name in (*DECODE_STAGES, *DEVICE_STAGES):
        limit = sum(one.limits.get(name, 0.0) for one in found)
        if limit:
            alone = sum(one.alone_ms.get(name, 0.0) for one in found) / len(found)
            stages[name] = StageRoof(round(alone, 3), round(limit, 4), round(rate / limit, 4))
    read = sum(one.read_bytes_per_s for one in found)
    far = any(one.over_network for one in found)
    return Roof(round(best, 4), round(rate / best, 4), round(read), stages, far) if best else None
