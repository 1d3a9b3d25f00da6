"""What a dataset's manifest says about every row of it."""

from __future__ import annotations

from dataclasses import dataclass

from mtembed.types import MapShape


@dataclass(frozen=True, slots=True)
class Expected:
    """What the manifest says about every row."""

    dim: int
    dtype: str
    extras: bool
    fragment_size: int
    overlap: float
    border_shift: bool
    max_nodata: float
    shape: MapShape | None = None

    @property
    def covered(self) -> int:
        """Pixels of a row's square along an axis: those of a fragment, or those that its map covers."""
        return self.shape.layout.covered(self.fragment_size) if self.shape else self.fragment_size

    @property
    def origin(self) -> int:
        """Where the square begins in the fragment."""
        return self.shape.layout.origin if self.shape else 0
