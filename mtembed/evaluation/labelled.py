"""From labels to what probes need: joined rows, thinned, with vectors, targets and places, each loss counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.evaluation import join, join_raster, labels
from mtembed.evaluation.groups import Floats, Ints, Places
from mtembed.evaluation.join import Joined
from mtembed.evaluation.labels import PRESENT, Mixture
from mtembed.evaluation.options import EvaluateOptions
from mtembed.evaluation.target import Target, Wanted, decide, encode, parts
from mtembed.types import FloatArray, Tick

OVERSAMPLED = 2.0  # candidates for polygons and rasters per row that may be used: some turn out without a label


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """n rows ready to be scored.

    ``vectors`` float32 [n, D]; ``lat``, ``lon`` float64 [n] degrees; ``file`` and ``row`` int64 [n] name the row in the
    dataset; ``split`` and ``group`` hold the named columns, or are None.  ``dropped`` counts rows by reason.
    ``beside`` are vectors float32 [n, E] of baselines, by the name of their features.
    """

    vectors: FloatArray
    target: Target
    lat: Floats
    lon: Floats
    places: Places
    file: Ints
    row: Ints
    split: list[Any] | None
    group: list[Any] | None
    dropped: dict[str, int]
    labels: int
    labels_dropped: dict[str, int]
    notes: tuple[str, ...] = ()
    beside: Mapping[str, FloatArray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)

    def rows(self, chosen: npt.NDArray[Any], target: Target, reason: str) -> Labelled:
        """Some rows, with their target (of those rows already); the others are counted under ``reason``."""
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        dropped = dict(self.dropped)
        if len(chosen) < len(self):
            dropped[reason] = dropped.get(reason, 0) + len(self) - len(chosen)
        return replace(
            self,
            vectors=self.vectors[chosen],
            target=target,
            lat=self.lat[chosen],
            lon=self.lon[chosen],
            places=Places(self.places.row[chosen], self.places.col[chosen]),
            file=self.file[chosen],
            row=self.row[chosen],
            split=None if self.split is None else [self.split[i] for i in chosen],
            group=None if self.group is None else [self.group[i] for i in chosen],
            dropped=dropped,
            beside={name: vectors[chosen] for name, vectors in self.beside.items()},
        )


def labelled(dataset: EmbeddingDataset, options: EvaluateOptions, tick: Tick) -> Labelled:
    """Join, thin and load.  Raises UsageError where labels cannot be used, one sentence each."""
    column = options.column or "the raster"
    found = _joined(dataset, options, tick)
    if not len(found):
        raise UsageError(_nothing(dataset, found, options))
    _thin(found, dataset, options)
    values = settled(found.what, options.task, column)
    encode(values, options.task, column)  # refuses what cannot be learned, before vectors are read
    vectors, places, lat, lon, extra = _load(dataset, found, options, tick)
    finite = np.asarray(np.isfinite(vectors).all(axis=1))
    if not finite.all():
        found.drop("not finite", int((~finite).sum()))
        values = [value for value, good in zip(values, finite.tolist(), strict=True) if good]
    rows = np.flatnonzero(finite)
    return Labelled(
        vectors=vectors[rows],
        target=encode(values, options.task, column),
        lat=lat[rows],
        lon=lon[rows],
        places=Places(places.row[rows], places.col[rows]),
        file=np.array(found.file, np.int64)[rows],
        row=np.array(found.row, np.int64)[rows],
        split=_either(found.split, extra, options.split_column, rows),
        group=_either(found.group, extra, options.group_column, rows),
        dropped=found.dropped,
        labels=found.labels,
        labels_dropped=found.labels_dropped,
        notes=tuple(found.notes),
    )


def settled(mixtures: Sequence[Mixture], wanted: Wanted, column: str) -> list[Any]:
    """One label a row: the largest value, the mean, or every value with a share of at least ``PRESENT``."""
    largest = [_largest(mixture) for mixture in mixtures]
    task, _ = decide(largest, wanted, column)
    if task == "multilabel":
        return [
            sorted(set().union(*(parts(v) for v, s in zip(one.values, one.shares, strict=True) if s >= PRESENT)))
            for one in mixtures
        ]
    return [_mean(mixture) for mixture in mixtures] if task == "regression" else largest


def _largest(mixture: Mixture) -> Any:
    if len(mixture.values) == 1:
        return mixture.values[0]
    total: dict[Any, float] = {}
    for value, share in zip(mixture.values, mixture.shares, strict=True):
        key = tuple(value) if isinstance(value, (list, np.ndarray)) else value
        total[key] = total.get(key, 0.0) + share
    return max(total, key=lambda key: total[key])


def _mean(mixture: Mixture) -> float:
    if mixture.mean is not None:
        return mixture.mean
    return float(sum(float(value) * share for value, share in zip(mixture.values, mixture.shares, strict=True)))


# -- joining --------------------------------------------------------------------------------------------------------


def _joined(dataset: EmbeddingDataset, options: EvaluateOptions, tick: Tick) -> Joined:
    if options.labels is None:
        return join.own_columns(dataset, options, tick)
    paths = labels.find(options.labels)
    chosen = thinning(dataset, int(OVERSAMPLED * options.max_labels), options.seed)
    if labels.is_raster(paths):
        return join_raster.by_raster(dataset, paths, options, chosen, tick)
    if not options.columns:
        raise UsageError(f"{paths[0].name} is a table: name the column that holds the label with --column")
    table = labels.read_table(paths[0], options, dataset.columns)
    if table.kind == "keys":
        return join.by_key(dataset, table, tick)
    if table.kind == "points":
        return join.by_point(dataset, table, tick)
    return join.by_polygon(dataset, table, options.coverage, chosen, tick)


def priority(file: int, rows: npt.NDArray[Any], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each row that looks random and depends on nothing else (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        x = (
            rows.astype(np.uint64)
            + np.uint64((file + 1) * 0x9E3779B97F4A7C15 % 2**64)
            + np.uint64(seed) * np.uint64(0xD1B54A32D192ED03)
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)), np.uint64)


def thinning(dataset: EmbeddingDataset, most: int, seed: int) -> Callable[[int, Ints], Ints]:
    """A filter of rows that lets about ``most`` of the whole dataset through; all where it is no larger."""
    share = min(1.0, most / max(1, dataset.rows))
    limit = np.uint64(min(int(share * 2.0**64), 2**64 - 1))

    def chosen(file: int, rows: Ints) -> Ints:
        return rows if share >= 1 else rows[priority(file, rows, seed) <= limit]

    return chosen


def _thin(found: Joined, dataset: EmbeddingDataset, options: EvaluateOptions) -> None:
    """At most ``--max-labels`` rows, those of the lowest priority, in the order of the dataset."""
    if len(found) <= options.max_labels:
        return
    rank = np.empty(len(found), np.uint64)
    file, row = np.array(found.file), np.array(found.row)
    for number in np.unique(file):
        mine = file == number
        rank[mine] = priority(int(number), row[mine], options.seed)
    kept = np.sort(np.argsort(rank, kind="stable")[: options.max_labels])
    found.drop("left out by --max-labels", len(found) - len(kept))
    found.keep(kept.tolist())


def _nothing(dataset: EmbeddingDataset, found: Joined, options: EvaluateOptions) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in {**found.labels_dropped, **found.dropped}.items())
    what = options.labels or f"the column {options.column}"
    return f"no row of {dataset.name} gets a label from {what} ({reasons}): check that both are of the same place"


# -- loading --------------------------------------------------------------------------------------------------------


def _load(
    dataset: EmbeddingDataset, found: Joined, options: EvaluateOptions, tick: Tick
) -> tuple[FloatArray, Places, Floats, Floats, dict[str, list[Any]]]:
    """Vectors, places and the named columns of the joined rows, in their order; file by file."""
    extras = [name for name in (options.split_column, options.group_column) if name in dataset.columns]
    columns = [name for name in ("grid_cell", *_centre_columns(dataset)) if name in dataset.columns]
    names = list(dict.fromkeys([*columns, *(name for name in extras if name)]))
    file, row = np.array(found.file), np.array(found.row)
    vectors = np.empty((len(file), dataset.dim), np.float32)
    lat, lon = np.empty(len(file)), np.empty(len(file))
    cells: list[str | None] | None = [None] * len(file) if "grid_cell" in columns else None
    extra: dict[str, list[Any]] = {name: [None] * len(file) for name in names}
    for number in np.unique(file).tolist():
        mine = np.flatnonzero(file == number)
        read, table = dataset.take(number, row[mine], names)
        vectors[mine] = read
        lat[mine], lon[mine] = centres(table)
        for name in names if cells is not None or extras else ():
            if name in extras or name == "grid_cell":
                for at, value in zip(mine, table[name].to_pylist(), strict=True):
                    extra[name][at] = value
        tick("reading vectors", int(mine[-1]) + 1, len(file))
    if cells is not None:
        cells = extra["grid_cell"]
    return vectors, Places.of(cells, lat, lon), lat, lon, extra


def _centre_columns(dataset: EmbeddingDataset) -> tuple[str, ...]:
    if {"centre_lat", "centre_lon"} <= set(dataset.columns):
        return "centre_lat", "centre_lon"
    return join.place_columns(dataset)


def centres(table: Any) -> tuple[Floats, Floats]:
    """Latitude and longitude in degrees of rows, from their columns or their shapes."""
    import shapely

    if "centre_lat" in table.column_names:
        lat, lon = (table[name].to_numpy().astype(np.float64) for name in ("centre_lat", "centre_lon"))
        return lat, lon
    middle = shapely.centroid(join.footprints(table))
    return np.asarray(shapely.get_y(middle), np.float64), np.asarray(shapely.get_x(middle), np.float64)


def _either(joined: list[Any] | None, extra: dict[str, list[Any]], name: str | None, rows: Ints) -> list[Any] | None:
    """The column of the labels, else of the dataset.  Raises UsageError where neither has it."""
    if name is None:
        return None
    values = joined if joined is not None else extra.get(name)
    if values is None:
        raise UsageError(f"neither the labels nor the dataset have a column {name}: name one that is there")
    return [values[i] for i in rows]


def vectors_of(dataset: EmbeddingDataset, file: Ints, row: Ints) -> FloatArray:
    """Vectors float32 [n, D] of rows by file and number, in their order."""
    found = np.empty((len(file), dataset.dim), np.float32)
    for number in np.unique(file).tolist():
        mine = file == number
        found[mine] = dataset.take(number, row[mine])[0]
    return found
