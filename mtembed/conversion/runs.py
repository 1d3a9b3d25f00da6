"""Where the rows of a dataset are: runs of consecutive rows of one image, a few bytes each, whatever the vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mtembed.dataset.places import CENTRE, centres, columns_for
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.geo.grid import parse_grid_cell
from mtembed.types import Tick

Integers = npt.NDArray[np.int64]
SIDE = 1 << 16  # of the square that the Hilbert curve fills: 600 m a step at the equator


@dataclass(frozen=True, slots=True)
class Run:
    """Rows ``first`` and after of file number ``file``, ``count`` in all: fragments of one image of one cell."""

    file: int
    first: int
    count: int
    cell: str
    product: str
    time: str
    lat: float
    lon: float


def runs_of(dataset: EmbeddingDataset, tick: Tick) -> list[Run]:
    """All rows of a dataset in their order."""
    wanted = [name for name in ("grid_cell", "product_id", "timestamp") if name in dataset.columns]
    places = columns_for(dataset, CENTRE)
    found: list[Run] = []
    done = 0
    for batch in dataset.batches([*wanted, *places], vectors=False):
        texts = {name: pc.fill_null(batch.table[name], "").to_numpy() for name in wanted}
        nothing = np.full(batch.rows, "", object)
        cell, product, time = (texts.get(name, nothing) for name in ("grid_cell", "product_id", "timestamp"))
        lat, lon = centres(batch.table) if places else (np.zeros(batch.rows),) * 2
        starts = np.flatnonzero(np.concatenate(([True], (cell[1:] != cell[:-1]) | (product[1:] != product[:-1]))))
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), batch.rows], strict=True):
            first = batch.first_row + start
            run = Run(
                file=batch.file, first=first, count=end - start, cell=str(cell[start]), product=str(product[start]),
                time="".join(filter(str.isdigit, str(time[start]))), lat=float(lat[start]), lon=float(lon[start]),
            )  # fmt: skip
            found = _joined(found, run)
        done += batch.rows
        tick("reading rows", done, dataset.rows)
    return found


def _joined(found: list[Run], run: Run) -> list[Run]:
    """A run that goes on where the last one ended, over the end of a batch, is one with it."""
    if found:
        last = found[-1]
        same = (last.file, last.cell, last.product) == (run.file, run.cell, run.product)
        if same and last.first + last.count == run.first and run.first:
            found[-1] = Run(
                last.file, last.first, last.count + run.count, last.cell, last.product, last.time, last.lat, last.lon
            )
            return found
    found.append(run)
    return found


def repeated(runs: list[Run]) -> tuple[int, list[Run]]:
    """How many cells there are more than once, and the runs without repeats: of each cell the newest image, of equally
    new ones the first."""
    newest: dict[str, Run] = {}
    count: dict[str, int] = {}
    for run in runs:
        count[run.cell] = count.get(run.cell, 0) + 1
        if run.cell not in newest or run.time > newest[run.cell].time:
            newest[run.cell] = run
    kept = [run for run in runs if not run.cell or newest[run.cell] is run]
    return sum(number > 1 for cell, number in count.items() if cell), kept


def in_grid_order(runs: list[Run]) -> list[Run]:
    """South to north and west to east, as Core's shards are; cells without a name of the grid last."""
    return sorted(runs, key=lambda run: (*_grid_key(run.cell), run.time, run.file, run.first))


def _grid_key(cell: str) -> tuple[int, int, int]:
    try:
        return (0, *parse_grid_cell(cell))
    except ValueError:
        return (1, 0, 0)


def in_hilbert_order(runs: list[Run]) -> list[Run]:
    """Along a Hilbert curve over latitude and longitude: neighbours on the ground are near in the file."""
    lat, lon = (np.nan_to_num(np.array([getattr(run, name) for run in runs])) for name in ("lat", "lon"))
    x = np.clip((lon + 180) / 360 * SIDE, 0, SIDE - 1).astype(np.int64)
    y = np.clip((lat + 90) / 180 * SIDE, 0, SIDE - 1).astype(np.int64)
    key = hilbert(x, y)
    return [runs[i] for i in np.lexsort((np.arange(len(runs)), key))]


def hilbert(x: Integers, y: Integers) -> Integers:
    """Places along the curve of points with whole coordinates below ``SIDE`` (Warren, Hacker's Delight, 16-3)."""
    x, y, place = x.copy(), y.copy(), np.zeros_like(x)
    side = SIDE // 2
    while side:
        right, up = (x & side) > 0, (y & side) > 0
        place += side * side * ((3 * right) ^ up)
        turned = ~up & right
        x[turned], y[turned] = SIDE - 1 - x[turned], SIDE - 1 - y[turned]
        swapped = ~up
        x[swapped], y[swapped] = y[swapped], x[swapped]
        side //= 2
    return place
