"""Predictions of footprints burnt into pixels in degrees.  Only blocks of pixels that hold something are kept.

Places may lie far apart: the grid spans them all, and memory is that of the blocks with footprints in them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

PER_FOOTPRINT = 4  # pixels along a footprint's side, where memory allows
BLOCK = 128  # pixels along a block's side; also the tiles of the GeoTIFF
MOST_VALUES = 24 << 20  # float32 values of all blocks and layers together
MOST_TILES = 500_000  # of the GeoTIFF, empty ones too: each takes 16 bytes of its index
POINT = 0.04  # degrees: the side that rows without an area are drawn with
COARSER = 16  # how often the pixel may be doubled
SPILL = 2  # blocks that footprints at their edges reach into, per block with a centre: at most about so many

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Extent:
    """From a first pass over all footprints: their box in degrees, and the pixel that fits into memory."""

    def __init__(self) -> None:
        self.west = self.south = math.inf
        self.east = self.north = -math.inf
        self._finest = 0.0
        self._blocks: list[set[int] | None] = [set() for _ in range(COARSER)]  # by how often the pixel was doubled

    def add(self, shapes: npt.NDArray[Any]) -> None:
        """A batch's footprints; the first one's typical size sets the finest pixel."""
        _, boxes = boxes_of(shapes)
        if not len(boxes):
            return
        self.west, self.south = min(self.west, float(boxes[:, 0].min())), min(self.south, float(boxes[:, 1].min()))
        self.east, self.north = max(self.east, float(boxes[:, 2].max())), max(self.north, float(boxes[:, 3].max()))
        if not self._finest:
            side = float(np.median(boxes[:, 2:] - boxes[:, :2], axis=0).min())
            self._finest = (max(side, 4e-4) if side > 0 else POINT) / PER_FOOTPRINT
        lon, lat = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        for level, seen in enumerate(self._blocks):
            if seen is not None:
                side = self._finest * 2**level * BLOCK
                numbers = np.floor((lat + 90) / side) * 10_000_000 + np.floor((lon + 180) / side)
                seen.update(np.unique(numbers.astype(np.int64)).tolist())
                if len(seen) * BLOCK * BLOCK * SPILL > MOST_VALUES:
                    self._blocks[level] = None

    def pixel(self, layers: int) -> float:
        """A pixel's side in degrees: the finest one whose blocks and tiles fit."""
        most = MOST_VALUES / (layers * BLOCK * BLOCK * SPILL)
        fitting = [level for level, seen in enumerate(self._blocks) if seen is not None and len(seen) <= most]
        tiles = (self.east - self.west) * (self.north - self.south) / (self._finest * BLOCK) ** 2
        doubled = math.ceil(math.log2(max(1.0, tiles / MOST_TILES)) / 2)
        return self._finest * 2.0 ** max(fitting[0] if fitting else COARSER, doubled)


def boxes_of(shapes: npt.NDArray[Any]) -> tuple[Ints, Floats]:
    """(row, box) of every part of every footprint: one across the antimeridian has two.  Boxes are W, S, E, N."""
    there = np.flatnonzero(~(shapely.is_missing(shapes) | shapely.is_empty(shapes)))
    parts, index = shapely.get_parts(shapes[there], return_index=True)
    return there[index], shapely.bounds(parts)


class Canvas:
    """``layers`` values a pixel, NaN where there is nothing, row 0 in the north.

    Where footprints overlap, values are averaged (``surest`` None), or the row whose value ``surest`` is largest wins.
    """

    def __init__(self, extent: Extent, layers: int, surest: int | None) -> None:
        self.layers, self.pixel = layers, extent.pixel(layers)
        self.west, self.north = extent.west, extent.north
        self.rows = max(1, math.ceil((extent.north - extent.south) / self.pixel - 1e-9))
        self.cols = max(1, math.ceil((extent.east - extent.west) / self.pixel - 1e-9))
        self._surest = surest
        self._blocks: dict[tuple[int, int], npt.NDArray[np.float32]] = {}  # [layers + count, BLOCK, BLOCK]

    def add(self, shapes: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        """``values`` [n, L] of n footprints; those that are not finite are left out."""
        rows, boxes = boxes_of(shapes)
        good = np.isfinite(values[rows]).all(axis=1)
        for row, (west, south, east, north) in zip(rows[good].tolist(), boxes[good].tolist(), strict=True):
            down = _span((self.north - north) / self.pixel, (self.north - south) / self.pixel, self.rows)
            across = _span((west - self.west) / self.pixel, (east - self.west) / self.pixel, self.cols)
            for i, top, bottom in _cut(*down):
                for j, left, right in _cut(*across):
                    self._burn(self._block(i, j)[:, top:bottom, left:right], values[row])

    def _block(self, i: int, j: int) -> npt.NDArray[np.float32]:
        if (i, j) not in self._blocks:
            self._blocks[i, j] = np.zeros((self.layers + 1, BLOCK, BLOCK), np.float32)
        return self._blocks[i, j]

    def _burn(self, window: npt.NDArray[np.float32], values: npt.NDArray[Any]) -> None:
        count = window[-1]
        if self._surest is None:
            window[:-1] += values[:, None, None].astype(np.float32)
            count += 1
        else:
            wins = (count == 0) | (window[self._surest] < values[self._surest])
            window[:-1, wins] = values[:, None]
            count[wins] = 1

    def blocks(self) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
        """(first row, first column, values [L, <= BLOCK, <= BLOCK]) of all blocks with something in them, in order."""
        for i, j in sorted(self._blocks):
            held = self._blocks[i, j][:, : self.rows - i * BLOCK, : self.cols - j * BLOCK]
            count = held[-1]
            mean = held[:-1] / np.maximum(count, 1) if self._surest is None else held[:-1]
            yield i * BLOCK, j * BLOCK, np.where(count > 0, mean, np.float32(np.nan)).astype(np.float32)

    def window(self, box: tuple[int, int, int, int], most: int) -> npt.NDArray[np.float32]:
        """Pixels of rows and columns (top, left, bottom, right), [L, rows, cols], thinned so that no side has more than
        ``most``."""
        top, left, bottom, right = box
        step = max(1, -(-max(bottom - top, right - left) // most))
        found = np.full((self.layers, -(-(bottom - top) // step), -(-(right - left) // step)), np.nan, np.float32)
        for row, col, values in self.blocks():
            rows = np.arange(row + (top - row) % step, row + values.shape[1], step)
            cols = np.arange(col + (left - col) % step, col + values.shape[2], step)
            rows, cols = rows[(rows >= top) & (rows < bottom)], cols[(cols >= left) & (cols < right)]
            if len(rows) and len(cols):
                place = np.ix_((rows - top) // step, (cols - left) // step)
                found[:, place[0], place[1]] = values[:, rows[:, None] - row, cols[None, :] - col]
        return found

    def filled(self, most: int) -> tuple[Floats, Floats, npt.NDArray[np.float32]]:
        """Longitude and latitude in degrees, and values [L, n], of at most ``most`` filled pixels, evenly chosen."""
        found = []
        for row, col, values in self.blocks():
            rows, cols = np.nonzero(np.isfinite(values[0]))
            found.append(np.vstack([rows + row, cols + col, values[:, rows, cols]]))
        every = np.concatenate(found, axis=1) if found else np.zeros((2 + self.layers, 0))
        chosen = np.unique(np.linspace(0, every.shape[1] - 1, min(every.shape[1], most)).astype(np.int64))
        row, col, *layers = every[:, chosen]
        lon, lat = self.west + (col + 0.5) * self.pixel, self.north - (row + 0.5) * self.pixel
        return lon, lat, np.array(layers, np.float32).reshape(self.layers, -1)

    def places(self) -> list[tuple[int, int, int, int]]:
        """Boxes (top, left, bottom, right) of what lies apart, in pixels, those with most blocks first."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components
        from scipy.spatial import KDTree

        keys = np.array(sorted(self._blocks), np.int64).reshape(-1, 2)
        if not len(keys):
            return []
        pairs = KDTree(keys).query_pairs(2.5, output_type="ndarray")
        graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(keys), len(keys)))
        group = connected_components(graph, directed=False)[1]
        order = np.argsort(-np.bincount(group), kind="stable")
        return [self._bounds(keys[group == number]) for number in order.tolist()]

    def _bounds(self, keys: Ints) -> tuple[int, int, int, int]:
        """Of the filled pixels of some blocks."""
        filled = []
        for i, j in keys.tolist():
            row, col = np.nonzero(self._blocks[i, j][-1])
            filled.append((row.min() + i * BLOCK, col.min() + j * BLOCK, row.max() + i * BLOCK, col.max() + j * BLOCK))
        top, left, bottom, right = np.array(filled).T
        return int(top.min()), int(left.min()), int(bottom.max()) + 1, int(right.max()) + 1


def _span(begin: float, end: float, most: int) -> tuple[int, int]:
    """Pixels whose middle lies between, at least the one that holds the middle."""
    first, last = math.ceil(begin - 0.5), math.ceil(end - 0.5)
    if last <= first:
        first = math.floor((begin + end) / 2)
        last = first + 1
    first = min(max(first, 0), most - 1)
    return first, min(max(last, first + 1), most)


def _cut(first: int, last: int) -> Sequence[tuple[int, int, int]]:
    """(block, first, last within it) of a run of pixels."""
    return [
        (block, max(first - block * BLOCK, 0), min(last - block * BLOCK, BLOCK))
        for block in range(first // BLOCK, (last - 1) // BLOCK + 1)
    ]
