"""What came of building an index, and of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["exact", "ivf"]


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What ``index.json`` says, and the folder it lies in.

    ``rows`` are indexed, ``left_out`` have no direction (NaN, infinity, all zeros).  ``recall_at_10`` is the share of
    the ten exact nearest rows that the index finds, over some rows as queries; ``nprobe`` of ``lists`` are looked at
    (None of both for ``exact``).
    """

    output: Path
    kind: Kind
    metric: str
    model: str | None
    dim: int
    rows: int
    left_out: int
    recall_at_10: float
    lists: int | None
    nprobe: int | None
    bytes: int
    nothing_to_do: bool

    @classmethod
    def of(cls, output: Path, content: Mapping[str, Any], nothing_to_do: bool) -> IndexResult:
        return cls(
            output=output,
            kind=content["kind"],
            metric=content["metric"],
            model=content["model"],
            dim=content["dim"],
            rows=content["rows"],
            left_out=content["left_out"],
            recall_at_10=content["recall_at_10"],
            lists=content["lists"],
            nprobe=content["nprobe"],
            bytes=content["bytes"],
            nothing_to_do=nothing_to_do,
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found.  ``score`` is its cosine with the query; what the dataset does not say is None.

    ``file`` is the file's name below the folder that all files of the dataset share, ``row`` counts in it from 0;
    ``pixel_bbox`` is (first column, first row, last column, last row), the last ones exclusive.
    """

    rank: int
    score: float
    unique_id: str | None
    grid_cell: str | None
    product_id: str | None
    timestamp: str | None
    centre_lat: float | None
    centre_lon: float | None
    pixel_bbox: tuple[int, int, int, int] | None
    file: str
    row: int

    def as_json(self) -> dict[str, Any]:
        box = None if self.pixel_bbox is None else list(self.pixel_bbox)
        return {**asdict(self), "pixel_bbox": box}


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and how they were found.

    ``query`` names the examples; ``rows`` are in the dataset, ``passed`` of them pass the filters.  ``method``:
    ``exact`` (every row that passes was compared) or ``ivf`` (the lists of the index nearest to the query were).
    ``notes`` are sentences that users should read.
    """

    hits: tuple[Hit, ...]
    dataset: str
    model: str | None
    query: tuple[str, ...]
    rows: int
    passed: int
    method: Literal["exact", "ivf"]
    notes: tuple[str, ...] = ()
