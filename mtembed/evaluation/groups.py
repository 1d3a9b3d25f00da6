"""Where rows lie on the Major TOM grid, and which rows may stand on both sides of a split.

Fragments of one cell overlap and look alike; cells of one scene look alike.  So whole cells, and by default whole
blocks of 10 x 10 cells (about 100 km), are held out together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.geo.grid import EARTH_RADIUS_KM, GRID_KM, parse_grid_cell

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEP = 180.0 / math.ceil(math.pi * EARTH_RADIUS_KM / GRID_KM)  # degrees of latitude between rows of the grid
TRIES = 20  # arrangements of groups looked at so that every training set holds every class


def columns_at(row: npt.NDArray[Any]) -> Floats:
    """Cells around the Earth in rows of the grid, as the reference counts them."""
    around = 2 * math.pi * EARTH_RADIUS_KM * np.cos(np.radians(np.asarray(row, np.float64) * STEP)) / GRID_KM
    return np.maximum(1.0, np.ceil(around))


@dataclass(frozen=True, slots=True)
class Places:
    """Grid numbers of n rows: int64 ``row`` and ``col``, up and right are positive."""

    row: Ints
    col: Ints

    @classmethod
    def of(cls, cells: Sequence[str | None] | None, lat: Floats, lon: Floats) -> Places:
        """From names such as 433D_629L; where there is none, or an odd one, from degrees."""
        row = np.floor(lat / STEP).astype(np.int64)
        col = np.floor(lon / (360.0 / columns_at(row))).astype(np.int64)
        if cells is not None:
            known: dict[str | None, tuple[int, int] | None] = {name: _numbers(name) for name in set(cells)}
            for i, name in enumerate(cells):
                if (numbers := known[name]) is not None:
                    row[i], col[i] = numbers
        return cls(row, col)

    def centres(self) -> tuple[Floats, Floats]:
        """Latitude and longitude of the cells' middles in degrees."""
        lat = np.asarray((self.row + 0.5) * STEP, np.float64)
        return lat, (self.col + 0.5) * 360.0 / columns_at(self.row)

    def cells(self) -> Ints:
        """One number per cell, int64 [n]."""
        return self.row * 100_000 + self.col

    def blocks(self, side: int) -> Ints:
        """One number per block of ``side`` x ``side`` cells; a cell is never cut.

        Columns of neighbouring rows do not line up, so a cell belongs to the block its middle lies in.
        """
        base = np.floor_divide(self.row, side)
        _, lon = self.centres()
        col = np.floor(lon / (360.0 / columns_at(base * side)))
        return base * 100_000 + np.floor_divide(col, side).astype(np.int64)


def _numbers(name: str | None) -> tuple[int, int] | None:
    try:
        return parse_grid_cell(name or "")
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Fold:
    """Positions of rows, int64; no group stands in both."""

    train: Ints
    test: Ints


@dataclass(frozen=True, slots=True)
class Split:
    """One way of holding rows out: ``blocks``, ``cells``, ``random`` or ``column``; ``groups`` int64 [n]."""

    name: str
    folds: tuple[Fold, ...]
    groups: Ints


def joined(*labels: npt.NDArray[Any]) -> Ints:
    """Groups in which rows that share any of the labels are together (their transitive closure)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, start, ends = len(labels[0]), len(labels[0]), []
    for label in labels:
        names, numbers = np.unique(label, return_inverse=True)
        ends.append(numbers + start)
        start += len(names)
    rows, columns = np.tile(np.arange(n), len(labels)), np.concatenate(ends)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(start, start))
    return np.asarray(connected_components(graph, directed=False)[1][:n], np.int64)


def folds_of(groups: Ints, classes: Ints | None, count: int, seed: int) -> tuple[Fold, ...]:
    """Up to ``count`` folds of whole groups, seeded; classes spread evenly where they are given.

    Of several arrangements the first one in which every training set holds every class.  Empty with one group.
    """
    count = min(count, len(np.unique(groups)))
    if count < 2:
        return ()
    made: tuple[Fold, ...] = ()
    for attempt in range(TRIES):
        folds = tuple(_arranged(groups, classes, count, seed + attempt))
        made = made or folds
        if classes is None or not lacking(folds, classes):
            return folds
    return made


def lacking(folds: Sequence[Fold], classes: Ints) -> set[int]:
    """Classes that some training set does not hold."""
    every = set(np.unique(classes).tolist())
    return set().union(*(every - set(np.unique(classes[fold.train]).tolist()) for fold in folds))


def _arranged(groups: Ints, classes: Ints | None, count: int, seed: int) -> Iterator[Fold]:
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    alone = len(np.unique(groups)) == len(groups)  # nothing holds rows together
    splitter: Any
    if classes is not None:
        classes = _common_enough(classes, count)
    if classes is None:
        splitter = (KFold if alone else GroupKFold)(count, shuffle=True, random_state=seed)
    elif alone:
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    for train, test in splitter.split(np.zeros(len(groups)), classes, None if alone else groups):
        if len(test) and len(train):
            yield Fold(np.asarray(train, np.int64), np.asarray(test, np.int64))


def _common_enough(classes: Ints, count: int) -> Ints | None:
    """Classes to spread evenly over ``count`` folds: those with fewer rows go with the largest; None if one is left."""
    each = np.bincount(classes)
    found = np.where(each[classes] < count, int(each.argmax()), classes)
    return found if len(np.unique(found)) > 1 else None


def inner_folds(groups: Ints, classes: Ints | None, seed: int, count: int = 3) -> tuple[Fold, ...]:
    """Folds inside a training set, by the same groups: what penalties are chosen by."""
    return folds_of(groups, classes, count, seed)
