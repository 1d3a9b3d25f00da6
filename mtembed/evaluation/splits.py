"""How rows are held out: by the labels' own split, by groups, blocks, cells, or at random with blocks beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.errors import UsageError
from mtembed.evaluation.groups import Fold, Ints, Split, folds_of, joined, lacking
from mtembed.evaluation.labelled import Labelled
from mtembed.evaluation.options import EvaluateOptions

TRAIN = frozenset({"train", "training", "val", "valid", "validation", "dev"})
TEST = frozenset({"test", "testing"})
SHOWN = 10  # classes in a sentence
MOST_CLASSES = 1_000
RARE = "of a class that training rows would lack"


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The rows that are scored, how they are held out (the first split is the main one), and ``blocks`` int64 [n] to
    draw for intervals."""

    rows: Labelled
    splits: tuple[Split, ...]
    blocks: Ints
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


def plan(rows: Labelled, options: EvaluateOptions) -> Plan:
    """Splits of the labelled rows; rows of classes that cannot be both learned and tested are left out, and said.

    Raises UsageError where nothing can be held out.
    """
    if len(rows) < options.fold_count:
        raise UsageError(
            f"there are {len(rows)} labelled rows for {options.fold_count} folds: label more, or lower --fold-count"
        )
    notes, left_out = list(rows.notes), []
    if options.split_column:
        rows = _with_split(rows, options.split_column)
    while True:
        splits, said = _splits(rows, options)
        if rows.target.task != "classification":
            break
        missing = set().union(*(lacking(split.folds, rows.target.values) for split in splits))
        if not missing:
            break
        gone = [
            rows.target.classes[k] for k in sorted(_hopeless(splits, rows.target.values) or {_rarest(rows, missing)})
        ]
        left_out += gone
        target, stays = rows.target.without(gone)
        if len(target.classes) < 2:
            raise UsageError(_one_class(options, left_out))
        rows = rows.rows(stays, target, RARE)
    if len(rows.target.classes) > MOST_CLASSES and rows.target.task == "classification":
        raise UsageError(
            f"{options.column or 'the raster'} has {len(rows.target.classes):,} classes, and {MOST_CLASSES:,} are the "
            "most that are compared: name a column with fewer, or choose --task regression for numbers"
        )
    if left_out:
        notes.append(f"left out, because some training rows would lack it: class {_some(sorted(left_out))}")
    return Plan(rows, tuple(splits), rows.places.blocks(options.block_cells), (*notes, *said), tuple(left_out))


def _hopeless(splits: Sequence[Split], classes: Ints) -> set[int]:
    """Classes that no arrangement of folds can both learn and test: those of one group, or without a training row."""
    found: set[int] = set()
    for split in splits:
        if len(split.folds) == 1:
            found |= lacking(split.folds, classes)
        else:
            pairs = np.unique(np.stack([classes, split.groups]), axis=1)
            numbers, groups = np.unique(pairs[0], return_counts=True)
            found |= set(numbers[groups == 1].tolist())
    return found


def _rarest(rows: Labelled, missing: set[int]) -> int:
    counts = np.bincount(rows.target.values, minlength=len(rows.target.classes))
    return min(missing, key=lambda k: (counts[k], k))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"


def _one_class(options: EvaluateOptions, left_out: Sequence[str]) -> str:
    return (
        f"no two classes of {options.column or 'the raster'} can be both learned and tested "
        f"(some training rows would lack {_some(sorted(left_out))}): "
        "label more places, or choose smaller blocks with --block-cells, or --folds cells"
    )


def _splits(rows: Labelled, options: EvaluateOptions) -> tuple[list[Split], list[str]]:
    classes = rows.target.values if rows.target.task == "classification" else None
    cells, blocks = rows.places.cells(), rows.places.blocks(options.block_cells)
    wanted: list[tuple[str, Ints]] = []
    notes: list[str] = []
    if options.group_column and rows.group is not None:
        wanted.append(("groups", joined(_numbered(rows.group), cells)))
    elif options.folds == "random":
        wanted.append(("random", np.arange(len(rows))))
    elif options.folds == "cells":
        wanted.append(("cells", cells))
    side = 10 * options.block_cells
    if len(np.unique(blocks)) > 1:
        wanted.append(("blocks", blocks))
    elif len(np.unique(cells)) > 1:
        if not any(name in ("cells", "groups") for name, _ in wanted):
            wanted.append(("cells", cells))
        notes.append(f"all labels lie in one block of {side} km: cells are held out, which says little of other places")
    else:
        notes.append("all labels lie in one grid cell: nothing can be said of other places")
    official = [_official(rows, options, blocks)] if options.split_column else []
    made = [Split(name, folds_of(groups, classes, options.fold_count, options.seed), groups) for name, groups in wanted]
    splits = [*official, *(split for split in made if split.folds)]
    if not splits:
        raise UsageError(
            "all labels lie in one grid cell, so no place can be held out: label more cells, or choose --folds random"
        )
    return splits, [*notes, *(_shared_cells(rows, split) for split in official if _shared(rows, split))]


def _numbered(values: Sequence[Any]) -> Ints:
    return np.unique(np.array([str(value) for value in values]), return_inverse=True)[1].astype(np.int64)


# -- the labels' own split ------------------------------------------------------------------------------------------


def _side(value: Any, column: str) -> str | None:
    """'train', 'test' or None; validation rows train."""
    word = str(value).strip().lower()
    if word in TRAIN:
        return "train"
    if word in TEST:
        return "test"
    name = column.lower()
    if word in ("0", "1", "true", "false", "0.0", "1.0") and ("test" in name or "train" in name):
        yes = word in ("1", "true", "1.0")
        return "test" if yes == ("test" in name) else "train"
    return None


def _with_split(rows: Labelled, column: str) -> Labelled:
    """Only rows that the column puts on a side.  Raises UsageError where one side is empty."""
    sides = [_side(value, column) for value in rows.split or ()]
    there = {side for side in sides if side}
    if there != {"train", "test"}:
        seen = ", ".join(sorted({str(value) for value in rows.split or ()})[:5])
        raise UsageError(
            f"the column {column} does not split the rows: "
            f"it needs train and test (validation trains), and holds {seen}"
        )
    chosen = np.array([side is not None for side in sides], bool)
    kept = rows.rows(chosen, rows.target.narrowed(chosen, "the split"), f"neither train nor test in {column}")
    kept.split[:] = [side for side in sides if side]  # type: ignore[index]
    return kept


def _official(rows: Labelled, options: EvaluateOptions, blocks: Ints) -> Split:
    test = np.array([side == "test" for side in rows.split or ()], bool)
    groups = joined(_numbered(rows.group), rows.places.cells()) if rows.group is not None else blocks
    if len(np.unique(groups[~test])) < 2:
        groups = rows.places.cells()
    return Split("column", (Fold(np.flatnonzero(~test), np.flatnonzero(test)),), groups)


def _shared(rows: Labelled, split: Split) -> int:
    cells, fold = rows.places.cells(), split.folds[0]
    return int(np.isin(cells[fold.test], cells[fold.train]).sum())


def _shared_cells(rows: Labelled, split: Split) -> str:
    total = len(split.folds[0].test)
    return (
        f"{_shared(rows, split)} of {total} test rows of the split column lie in a grid cell that also has "
        "training rows: the score by blocks tells how much that helps"
    )


def counts(split: Split, rows: Labelled) -> list[dict[str, Any]]:
    """Rows of each fold and of each class in it."""
    return [
        {"train": _count(rows, fold.train), "test": _count(rows, fold.test)}
        for fold in split.folds
    ]  # fmt: skip


def _count(rows: Labelled, chosen: npt.NDArray[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"rows": len(chosen)}
    if rows.target.task == "classification":
        each = np.bincount(rows.target.values[chosen], minlength=len(rows.target.classes))
        found["classes"] = dict(zip(rows.target.classes, each.tolist(), strict=True))
    return found
