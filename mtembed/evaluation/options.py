"""Everything that can be chosen about an evaluation, with the rules that a choice must keep."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated, Any, Literal, Self

from cyclopts import Parameter

from mtembed.errors import UsageError

Task = Literal["classification", "multilabel", "regression"]
EMBEDDING = "embedding"  # the features of the dataset itself
CONSTANT = "constant"  # the probe that sees nothing


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """The options of ``mtembed evaluate``.

    Parameters
    ----------
    labels
        File, folder or glob of labels: GeoParquet, GeoPackage, GeoJSON, CSV, Parquet or GeoTIFF.
    column
        The column that holds the label; several names, separated by commas, are one label each (multilabel).
    task
        What the labels are; auto decides by their values and says so.
    split_column
        Column with train and test (of the labels, or of the dataset).
    group_column
        Column whose values must not be on both sides of a split, besides grid cells.
    folds
        How rows are held out; blocks are scored in any case.
    fold_count
        Number of folds.
    block_cells
        Side of a block, in grid cells of 10 km.
    probes
        Which probes: knn, linear.
    neighbours
        Numbers of neighbours for kNN.
    shots
        Numbers of training labels (per class; in all for regression), or all.
    draws
        How often labels are drawn for each number of shots.
    resamples
        How often blocks are drawn for the 95 % intervals.
    coverage
        Least share of a fragment that polygons or valid raster pixels must cover.
    nodata
        Value of a label raster that is no label, where its file does not say.
    max_labels
        Labelled rows to use at most; more are sampled.
    shards
        Shards that the dataset was made from: band statistics, rcf and random weights become baselines.
    save_probe
        Write the probe, trained on all labelled rows, to this file.
    seed
        Start of all random numbers.
    output
        Folder of evaluation.json and evaluation.html.
    fresh
        Replace an earlier evaluation.
    """

    _: KW_ONLY
    labels: str | None = None
    column: str | None = None
    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    split_column: str | None = None
    group_column: str | None = None
    folds: Literal["blocks", "cells", "random"] = "blocks"
    fold_count: int = 5
    block_cells: int = 10
    probes: str = "knn,linear"
    neighbours: str = "1,3,5,20"
    shots: str = "1,10,100,all"
    draws: int = 10
    resamples: int = 1000
    coverage: float = 0.8
    nodata: float | None = None
    max_labels: int = 20_000
    shards: Annotated[tuple[str, ...], Parameter(consume_multiple=True, metavar="PATH...")] = ()
    save_probe: str | None = None
    seed: int = 0
    output: str | None = None
    fresh: bool = False

    @classmethod
    def of(cls, **options: Any) -> Self:
        """From what a Python caller gives: paths and lists are taken too.  Raises UsageError for everything wrong."""
        names = [field.name for field in fields(cls) if field.name != "_"]
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                meant = f"did you mean {near[0]}?" if near else f"the options are {', '.join(names)}"
                raise UsageError(f"there is no option {name}: {meant}")
        plain = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
        shards = plain.get("shards", ())
        plain["shards"] = (shards,) if isinstance(shards, str) else tuple(map(os.fspath, shards))
        return cls(**plain)

    def __post_init__(self) -> None:
        for name, ok, rule in self._rules():
            if not ok:
                raise UsageError(f"--{name} {getattr(self, name.replace('-', '_'))} is not possible: {rule}")
        for name in ("split_column", "group_column", "shards", "save_probe"):
            if getattr(self, name) and not self.labels and not self.column:
                raise UsageError(f"--{name.replace('_', '-')} needs labels: name them with --labels or --column")

    def _rules(self) -> list[tuple[str, bool, str]]:
        probes = self.probe_names
        return [
            ("fold-count", self.fold_count >= 2, "choose 2 or more folds"),
            ("block-cells", self.block_cells >= 1, "choose 1 or more grid cells"),
            ("probes", bool(probes) and set(probes) <= {"knn", "linear"}, "choose from knn, linear"),
            ("neighbours", _numbers(self.neighbours) is not None, "give whole numbers from 1, such as 1,5,20"),
            ("shots", _numbers(self.shots, "all") is not None, "give whole numbers from 1, or all, such as 1,10,all"),
            ("draws", self.draws >= 1, "choose 1 or more"),
            ("resamples", self.resamples >= 20, "choose 20 or more"),
            ("coverage", 0 < self.coverage <= 1, "choose a share above 0 and up to 1"),
            ("max-labels", self.max_labels >= 10, "choose 10 or more rows"),
            ("seed", 0 <= self.seed < 2**31, "choose a whole number from 0 below 2147483648"),
        ]

    @property
    def probe_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.probes.split(",") if name.strip())

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in (self.column or "").split(",") if name.strip())

    @property
    def neighbour_counts(self) -> tuple[int, ...]:
        return _numbers(self.neighbours) or ()

    @property
    def shot_counts(self) -> tuple[int, ...]:
        """Numbers of shots without ``all``, which the scores themselves hold."""
        return _numbers(self.shots, "all") or ()

    def as_json(self, leave_out: Sequence[str] = ("output", "fresh", "save_probe")) -> Mapping[str, Any]:
        """What an evaluation depends on; paths by their last part."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in leave_out}
        found["labels"] = None if self.labels is None else _last(self.labels)
        found["shards"] = [_last(name) for name in self.shards]
        return found


def _last(path: str) -> str:
    return str(path).rstrip("/").rsplit("/", 1)[-1]


def _numbers(text: str, word: str | None = None) -> tuple[int, ...] | None:
    """'1,5,20' -> (1, 5, 20), sorted; None where it is something else; ``word`` is left out."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not all(name.isdecimal() and int(name) > 0 for name in names if name != word):
        return None
    return tuple(sorted({int(name) for name in names if name != word}))
