"""What a search found, and what an index is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """A row like the query.  ``score`` is the cosine; degrees are of EPSG:4326; what the dataset lacks is None.

    ``pixel_bbox`` is left, top, right, bottom in pixels of the finest band; ``row`` counts in ``file``.
    """

    rank: int
    score: float
    unique_id: str | None
    grid_cell: str | None
    product_id: str | None
    timestamp: str | None
    centre_lat: float | None
    centre_lon: float | None
    pixel_bbox: tuple[int, ...] | None
    file: str
    row: int

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "pixel_bbox": None if self.pixel_bbox is None else list(self.pixel_bbox)}


@dataclass(frozen=True, slots=True)
class SearchResult:
    """``hits``, best first, of ``selected`` rows that the filters left of ``rows``.

    ``exact`` says that every one of them was compared; else the index was asked, whose recall at 10 was measured as
    ``recall_at_10`` when it was made.  ``not_finite`` rows could not be compared; ``notes`` are sentences for the user.
    """

    hits: tuple[Hit, ...]
    rows: int
    selected: int
    exact: bool
    recall_at_10: float | None
    not_finite: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexResult:
    """An index: its folder, ``kind`` (``flat`` or ``IVF...``), rows, their dimension, and the recall at 10 of what it
    finds against exact scans of some of its own rows; ``bytes`` of the folder."""

    output: Path
    kind: str
    metric: str
    dim: int
    rows: int
    recall_at_10: float
    bytes: int
    nothing_to_do: bool
