"""Which row stands for a cell: the fragment whose centre is nearest the centre of the cell's image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.geo.grid import parse_grid_cell
from mtembed.maps.parallel import in_order
from mtembed.maps.raster import COLUMNS, HALF, STEP, Integers

Distances = npt.NDArray[np.float64]
ROW_BASE = 1 << 20  # key of a cell on the grid: row * ROW_BASE + column, both moved to be positive
ROWS = 65_536
PLACES = (("pixel_bbox",), ("centre_lat", "centre_lon"), ("geometry",))  # the first that is there
TIE = 1e-9  # squared degrees: a metre or two where it counts


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """One row for each cell of a file: its key, the time of its image, its distance from the middle, its number.

    ``size`` [n, 2] is the width and height of the cell's image in pixels as far as this file tells.
    """

    key: Integers
    time: Integers
    distance: Distances
    row: Integers
    size: Integers


def central_rows(
    dataset: EmbeddingDataset, files: Sequence[int], tick: Callable[[int], None] = lambda rows: None
) -> list[Integers]:
    """Row numbers, ascending, for each of ``files``: one row for each grid cell of all of them.

    Of several images of a cell the latest counts, of equal ones that of the first file.  With ``pixel_bbox``, whose
    origin is the image's corner, the middle of the image is known; without it the middle of the grid cell counts.
    Raises UsageError where the columns for that are not there.
    """
    dataset.require(["grid_cell", "geometry"], "finding the central fragment of each cell")
    places = next(names for names in PLACES if all(name in dataset.columns for name in names))
    names = ("grid_cell", *places, *(("timestamp",) if "timestamp" in dataset.columns else ()))

    def of_file(number: int, stopped: Event) -> _Candidates:
        return _of_file(dataset, number, names, None, tick, stopped)

    found = list(in_order(of_file, files, together=len(files) > 1))
    sizes = _sizes(found)
    for i, number in enumerate(files):
        if np.isin(found[i].key, sizes[0]).any():  # fragments of a cell in several files: only all tell its size
            found[i] = _of_file(dataset, number, names, sizes, lambda rows: None, Event())
    key, time, row = (np.concatenate([getattr(one, name) for one in found]) for name in ("key", "time", "row"))
    distance = np.concatenate([one.distance for one in found])
    file = np.repeat(np.arange(len(found)), [len(one.key) for one in found])
    chosen = _first_of_each(key, np.lexsort((row, file, distance, -time, key)))
    return [np.sort(row[chosen[file[chosen] == number]]) for number in range(len(found))]


def _sizes(found: Sequence[_Candidates]) -> tuple[Integers, Integers]:
    """Keys of cells that are in several files, ascending, and the sizes of their images [n, 2]."""
    key, size = np.concatenate([one.key for one in found]), np.concatenate([one.size for one in found])
    order, starts, _ = _groups(key)
    if not len(starts):
        return key, size
    several = np.diff(np.append(starts, len(key))) > 1
    return key[order[starts]][several], np.maximum.reduceat(size[order], starts, axis=0)[several]


def _of_file(
    dataset: EmbeddingDataset,
    number: int,
    names: Sequence[str],
    sizes: tuple[Integers, Integers] | None,
    tick: Callable[[int], None],
    stopped: Event,
) -> _Candidates:
    none = np.empty(0, np.int64)
    keys, times, boxes, points = [none], [none], [np.empty((0, 4), np.int64)], [np.empty((0, 2))]
    for batch in dataset.batches(names, ROWS, [number], vectors=False):
        keys.append(cell_keys(batch.table["grid_cell"]))
        times.append(_times(batch.table["timestamp"]) if "timestamp" in names else np.zeros(batch.rows, np.int64))
        if "pixel_bbox" in names:
            boxes.append(_boxes(batch.table, dataset))
        else:
            points.append(_points(batch.table))
        tick(batch.rows)
        if stopped.is_set():
            break
    key, time = np.concatenate(keys), np.concatenate(times)
    if not len(key):
        return _Candidates(none, none, np.empty(0), none, np.empty((0, 2), np.int64))
    if "pixel_bbox" in names:
        distance, size = _in_pixels(key, np.concatenate(boxes), sizes)
    else:
        distance, size = _in_degrees(key, np.concatenate(points)), np.zeros((len(key), 2), np.int64)
    rows = np.arange(len(key))
    chosen = _first_of_each(key, np.lexsort((rows, distance, -time, key)))
    return _Candidates(key[chosen], time[chosen], distance[chosen], chosen, size[chosen])


def _first_of_each(key: Integers, order: Integers) -> Integers:
    """Of rows in ``order``, which has equal keys together, the first of each key."""
    ordered = key[order]
    return order[np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))] if len(order) else order


def _groups(key: Integers) -> tuple[Integers, Integers, Integers]:
    """Rows ordered by key, where each key begins among them, and for each row the number of its key."""
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(key) else order
    number = np.empty(len(key), np.int64)
    number[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(key))))
    return order, starts, number


def _in_pixels(key: Integers, boxes: Integers, sizes: tuple[Integers, Integers] | None) -> tuple[Distances, Integers]:
    """Squared distances in half pixels, exact, and each row's image size; boxes are [left, top, right, bottom]."""
    order, starts, number = _groups(key)
    size = np.maximum.reduceat(boxes[order, 2:], starts, axis=0)[number]
    if sizes is not None and len(sizes[0]):
        place = np.minimum(np.searchsorted(sizes[0], key), len(sizes[0]) - 1)
        size = np.where((sizes[0][place] == key)[:, None], sizes[1][place], size)
    off = (boxes[:, :2] + boxes[:, 2:] - size).astype(np.float64)
    return np.asarray((off**2).sum(axis=1), np.float64), size


def _in_degrees(key: Integers, points: Distances) -> Distances:
    """Squared distances of [lat, lon] from the middle of their grid cell, as whole numbers of ``TIE``.

    The first row of a cell counts where its name is none of the grid.
    """
    rows, cols = cell_of_key(np.maximum(key, 0))
    width = 360.0 / COLUMNS[np.clip(rows + HALF, 0, len(COLUMNS) - 1)]
    north = points[:, 0] - (rows + 0.5) * STEP
    east = (points[:, 1] - (cols + 0.5) * width + 180.0) % 360.0 - 180.0  # no jump at the antimeridian
    squared = north**2 + (east * np.cos(np.radians(points[:, 0]))) ** 2
    return np.where(key < 0, 0.0, np.round(squared / TIE))


def cell_keys(names: pa.ChunkedArray) -> Integers:
    """A whole number for each name, int64 [n]: from 0 for cells of the grid (see ``cell_of_key``), else below 0."""
    encoded = pc.dictionary_encode(pc.fill_null(names, "")).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    known = np.array([_key(name) for name in encoded.dictionary.to_pylist()], np.int64)
    return known[encoded.indices.to_numpy(zero_copy_only=False)] if len(known) else np.empty(0, np.int64)


def _key(name: str) -> int:
    try:
        row, col = parse_grid_cell(name)
    except ValueError:
        row, col = ROW_BASE, ROW_BASE
    if abs(row) <= 1002 and abs(col) < ROW_BASE // 2:
        return (row + 1002) * ROW_BASE + col + ROW_BASE // 2
    return -1 - int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "big")


def cell_of_key(keys: Integers) -> tuple[Integers, Integers]:
    """Signed row and column of keys that are not negative."""
    return keys // ROW_BASE - 1002, keys % ROW_BASE - ROW_BASE // 2


def _times(column: pa.ChunkedArray) -> Integers:
    """Time stamps as numbers that order as they do; 0 where there is none."""
    digits = pc.replace_substring_regex(pc.fill_null(column, ""), r"[^0-9]", "")
    plain = pc.if_else(pc.equal(digits, ""), "0", pc.utf8_slice_codeunits(digits, 0, 18))
    return np.asarray(plain.cast(pa.int64()).to_numpy(), np.int64)


def _boxes(table: pa.Table, dataset: EmbeddingDataset) -> Integers:
    column = table["pixel_bbox"].combine_chunks()
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
    if column.null_count or len(values) != 4 * len(column) or not np.isfinite(values.astype(np.float64)).all():
        raise UsageError(
            f"pixel_bbox of {dataset.name} is not four numbers in every row: write it again, or leave the column out"
        )
    return np.asarray(values, np.int64).reshape(-1, 4)


def _points(table: pa.Table) -> Distances:
    """Latitude and longitude [n, 2] of the rows' centres; 0 where there is none."""
    if "geometry" in table.column_names:
        middle = shapely.centroid(shapely.from_wkb(table["geometry"].to_numpy()))
        found = np.stack([shapely.get_y(middle), shapely.get_x(middle)], axis=1)
    else:
        found = np.stack([np.asarray(table[name].to_numpy()) for name in ("centre_lat", "centre_lon")], axis=1)
    return np.asarray(np.nan_to_num(found.astype(np.float64)), np.float64)
