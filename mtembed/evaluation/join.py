"""Labels joined to rows of a dataset: which row each label speaks of, streamed, and what was left out and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from mtembed.dataset.files import VECTORS
from mtembed.dataset.reader import EmbeddingBatch, EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.evaluation import labels as files
from mtembed.evaluation.labels import LabelTable, Mixture
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.target import is_missing
from mtembed.types import Tick

Shapes = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]

SAME_PLACE_DEGREES = 1e-4  # about 11 m: how far a label may lie from a row that is a point


@dataclass(slots=True, eq=False)
class Joined:
    """Rows that have a label: ``file``, ``row`` (in the file) and ``what`` is said of each, in one order.

    ``split`` and ``group`` hold the columns of these names, where the labels have them.  ``dropped`` counts rows of
    the dataset, ``labels_dropped`` labels, both by reason.
    """

    file: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    what: list[Mixture] = field(default_factory=list)
    split: list[Any] | None = None
    group: list[Any] | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    labels: int = 0
    labels_dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.row)

    def add(self, file: int, row: int, what: Mixture, split: Any = None, group: Any = None) -> None:
        self.file.append(file)
        self.row.append(row)
        self.what.append(what)
        if self.split is not None:
            self.split.append(split)
        if self.group is not None:
            self.group.append(group)

    def drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + int(count)

    def keep(self, positions: Sequence[int]) -> None:
        """Only these, in this order."""
        self.file = [self.file[i] for i in positions]
        self.row = [self.row[i] for i in positions]
        self.what = [self.what[i] for i in positions]
        self.split = None if self.split is None else [self.split[i] for i in positions]
        self.group = None if self.group is None else [self.group[i] for i in positions]


def footprints(table: pa.Table) -> Shapes:
    """Shapes of rows in degrees: their geometry, else their centre.  Raises UsageError where there is neither."""
    if "geometry" in table.column_names:
        try:
            found = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
        except (TypeError, shapely.errors.ShapelyError) as error:
            raise UsageError(
                "the column geometry of the dataset is no WKB: labels cannot be joined by place"
            ) from error
        return np.asarray(found, object)
    lat, lon = (table[name].to_numpy() for name in ("centre_lat", "centre_lon"))
    return np.asarray(shapely.points(lon.astype(np.float64), lat.astype(np.float64)), object)


def place_columns(dataset: EmbeddingDataset) -> tuple[str, ...]:
    """The columns that say where a row is.  Raises UsageError where there are none."""
    if "geometry" in dataset.columns:
        return ("geometry",)
    if {"centre_lat", "centre_lon"} <= set(dataset.columns):
        return "centre_lat", "centre_lon"
    raise UsageError(f"{dataset.name} has neither geometry nor centre_lat and centre_lon: labels need one of them")


def streamed(dataset: EmbeddingDataset, columns: Sequence[str], stage: str, tick: Tick) -> Iterator[EmbeddingBatch]:
    """Batches without vectors, with progress."""
    done = 0
    for batch in dataset.batches(columns, vectors=False):
        yield batch
        done += batch.rows
        tick(stage, done, dataset.rows)


def own_columns(dataset: EmbeddingDataset, options: EvaluateOptions, tick: Tick) -> Joined:
    """Labels that are columns of the dataset itself."""
    names = options.columns
    if VECTORS in names:
        raise UsageError(f"the column {VECTORS} holds the vectors themselves: name a column of labels")
    dataset.require(names, "--column")
    found = Joined(labels=dataset.rows)
    for batch in streamed(dataset, names, "reading labels", tick):
        values = files.values_of([batch.table[name].to_pylist() for name in names], names)
        there = [i for i, value in enumerate(values) if not is_missing(value)]
        for i in there:
            found.add(batch.file, batch.first_row + i, Mixture((values[i],)))
        found.drop("without a label", batch.rows - len(there))
    return found


def by_key(dataset: EmbeddingDataset, table: LabelTable, tick: Tick) -> Joined:
    """Rows whose ``unique_id`` or ``grid_cell`` has a label."""
    found = _begun(table)
    first: dict[Any, int] = {}
    for i, key in enumerate(table.keys or ()):
        first.setdefault(key, i)
    used: set[int] = set()
    for batch in streamed(dataset, (table.key,), "joining labels", tick):
        before = len(found)
        for i, key in enumerate(batch.table[table.key].to_pylist()):
            if (label := first.get(key)) is not None:
                used.add(label)
                _say(found, table, batch, i, [label], (1.0,))
        found.drop("without a label", batch.rows - (len(found) - before))
    _left_over(found, len(table.values) - len(first), "of a row that has one already")
    _left_over(found, len(first) - len(used), "outside the data")
    return found


def by_point(dataset: EmbeddingDataset, table: LabelTable, tick: Tick) -> Joined:
    """Each point belongs to the row whose footprint holds it; where several do, to the one with the nearest centre."""
    points = np.asarray(table.shapes, object)
    best = np.full(len(points), np.inf)
    owner = np.full((len(points), 2), -1, np.int64)
    tree = shapely.STRtree(points)
    for batch in streamed(dataset, place_columns(dataset), "joining labels", tick):
        shapes = footprints(batch.table)
        reach = np.where(shapely.area(shapes) > 0, shapes, shapely.buffer(shapes, SAME_PLACE_DEGREES))
        rows, hit = tree.query(reach, predicate="intersects")
        distance = shapely.distance(shapely.centroid(shapes[rows]), points[hit])
        order = np.lexsort((rows, distance, hit))
        rows, hit, distance = rows[order], hit[order], distance[order]
        first = np.append(True, hit[1:] != hit[:-1])[: len(hit)]
        rows, hit, distance = rows[first], hit[first], distance[first]
        nearer = distance < best[hit]
        best[hit[nearer]] = distance[nearer]
        owner[hit[nearer]] = np.stack([np.full(nearer.sum(), batch.file), batch.first_row + rows[nearer]], axis=1)
    return _owned(dataset, table, owner)


def _owned(dataset: EmbeddingDataset, table: LabelTable, owner: Ints) -> Joined:
    found = _begun(table)
    inside = np.flatnonzero(owner[:, 0] >= 0)
    _left_over(found, len(owner) - len(inside), "outside the data")
    rows: dict[tuple[int, int], list[int]] = {}
    for label in inside.tolist():
        rows.setdefault((int(owner[label, 0]), int(owner[label, 1])), []).append(label)
    for (file, row), several in sorted(rows.items()):
        _say_at(found, table, file, row, several, tuple([1 / len(several)] * len(several)))
    found.drop("without a label", dataset.rows - len(rows))
    return found


def _begun(table: LabelTable) -> Joined:
    found = Joined(labels=len(table.values) + sum(table.dropped.values()), labels_dropped=dict(table.dropped))
    found.split = None if table.split is None else []
    found.group = None if table.group is None else []
    return found


def _left_over(found: Joined, count: int, reason: str) -> None:
    if count:
        found.labels_dropped[reason] = found.labels_dropped.get(reason, 0) + int(count)


def _say(
    found: Joined, table: LabelTable, batch: EmbeddingBatch, i: int, several: list[int], shares: tuple[float, ...]
) -> None:
    _say_at(found, table, batch.file, batch.first_row + i, several, shares)


def _say_at(
    found: Joined, table: LabelTable, file: int, row: int, several: list[int], shares: tuple[float, ...]
) -> None:
    what = Mixture(tuple(table.values[i] for i in several), shares)
    split, group = (None if column is None else column[several[0]] for column in (table.split, table.group))
    found.add(file, row, what, split, group)


# -- polygons -------------------------------------------------------------------------------------------------------


def by_polygon(
    dataset: EmbeddingDataset, table: LabelTable, coverage: float, chosen: Callable[[int, Ints], Ints], tick: Tick
) -> Joined:
    """Rows of which polygons cover at least ``coverage``: the polygons' values by their shares of the covered area.

    ``chosen(file, rows)`` thins rows that are candidates where there are more than can be used.
    """
    shapes = shapely.make_valid(np.asarray(table.shapes, object))
    shapely.prepare(shapes)
    tree, found = shapely.STRtree(shapes), _begun(table)
    used: set[int] = set()
    for batch in streamed(dataset, place_columns(dataset), "joining labels", tick):
        own = footprints(batch.table)
        rows, hit = tree.query(own, predicate="intersects")
        used.update(hit.tolist())
        stays = np.isin(rows, chosen(batch.file, np.unique(rows) + batch.first_row) - batch.first_row)
        found.drop("left out by --max-labels", len(np.unique(rows)) - len(np.unique(rows[stays])))
        found.drop("without a label", batch.rows - len(np.unique(rows)))
        _polygons_of(found, table, batch, own, shapes, rows[stays], hit[stays], coverage)
    _left_over(found, len(shapes) - len(used), "outside the data")
    return found


def _polygons_of(
    found: Joined, table: LabelTable, batch: EmbeddingBatch, own: Shapes, shapes: Shapes, rows: Ints, hit: Ints,
    coverage: float,
) -> None:  # fmt: skip
    area = shapely.area(own)
    share = np.ones(len(rows))
    cut = ~shapely.contains_properly(shapes[hit], own[rows]) & (area[rows] > 0)
    share[cut] = shapely.area(shapely.intersection(own[rows[cut]], shapes[hit[cut]])) / area[rows[cut]]
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1])[: len(rows)])
    for first, end in zip(starts, np.append(starts[1:], len(rows)), strict=True):
        part = share[first:end]
        if part.sum() < coverage:
            found.drop("covered too little", 1)
            continue
        order = np.argsort(-part, kind="stable")
        shares = tuple((part[order] / part.sum()).tolist())
        _say(found, table, batch, int(rows[first]), hit[first:end][order].tolist(), shares)
