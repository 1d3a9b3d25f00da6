"""Which cells of the archive are wanted: a box, and a list of names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from mtembed.errors import UsageError
from mtembed.parquet import UNREADABLE


@dataclass(frozen=True, slots=True)
class Selection:
    """Which cells of the archive are wanted: a box (W, S, E, N in degrees) their centre lies in, and cell names."""

    bbox: tuple[float, float, float, float] | None = None
    cells: frozenset[str] | None = None

    def wants(self, grid_cell: str, lat: float, lon: float) -> bool:
        if self.cells is not None and grid_cell not in self.cells:
            return False
        if self.bbox is None:
            return True
        west, south, east, north = self.bbox
        inside = west <= lon <= east if west <= east else lon >= west or lon <= east
        return inside and south <= lat <= north

    @property
    def everything(self) -> bool:
        return self.bbox is None and self.cells is None


def read_cell_list(path: Path) -> frozenset[str]:
    """Cell names from a text file (one a line) or a Parquet file with a ``grid_cell`` column.  Raises UsageError."""
    try:
        if path.read_bytes()[:4] == b"PAR1":
            return frozenset(pq.read_table(path, columns=["grid_cell"]).column(0).to_pylist())
        return frozenset(filter(None, (line.strip() for line in path.read_text().splitlines())))
    except (*UNREADABLE, IndexError) as error:
        raise UsageError(f"--cells {path} cannot be read ({error}): give a text or Parquet file of cells") from error
