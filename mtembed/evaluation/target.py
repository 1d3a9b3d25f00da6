"""What the labels are: classes, several classes at once, or numbers; decided by their values, and said in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.errors import UsageError
from mtembed.evaluation.options import Task

MOST_CLASSES = 50  # whole numbers with more different values are taken as measurements
Wanted = Literal["auto", "classification", "multilabel", "regression"]


@dataclass(frozen=True, slots=True)
class Target:
    """Labels ready for a probe.

    ``values``: int64 [n] positions in ``classes`` (classification), float64 [n, K] 0 or 1 (multilabel), float64 [n]
    (regression).  ``reason`` says why the task is what it is.
    """

    task: Task
    reason: str
    values: npt.NDArray[Any]
    classes: tuple[str, ...] = ()

    def rows(self, chosen: npt.NDArray[Any]) -> Target:
        return Target(self.task, self.reason, self.values[chosen], self.classes)

    def narrowed(self, chosen: npt.NDArray[Any], column: str) -> Target:
        """Some rows, and of the classes those that they hold.  Raises UsageError where one is left."""
        some = self.rows(chosen)
        if self.task != "classification":
            return some
        there = set(np.unique(some.values).tolist())
        gone = [name for number, name in enumerate(self.classes) if number not in there]
        some, _ = some.without(gone)
        if len(some.classes) < 2:
            raise UsageError(
                f"of the rows that can be scored all labels in {column} are {some.classes[0]}: "
                "a probe needs two classes or more"
            )
        return some

    def without(self, left_out: Sequence[str]) -> tuple[Target, npt.NDArray[np.bool_]]:
        """Classes taken away, and which rows stay."""
        gone = set(left_out)
        kept = tuple(name for name in self.classes if name not in gone)
        place = {name: number for number, name in enumerate(kept)}
        new = np.array([place.get(name, -1) for name in self.classes], np.int64)[self.values]
        stays = new >= 0
        return Target(self.task, self.reason, new[stays].astype(np.int64), kept), stays


def is_missing(value: object) -> bool:
    """None, NaN, an empty text; an empty list says that there is no label, which is one too."""
    return (
        value is None or value == "" if isinstance(value, str | None) else isinstance(value, float) and value != value
    )


def decide(values: Sequence[Any], wanted: Wanted, column: str) -> tuple[Task, str]:
    """The task and the reason.  ``values`` hold nothing missing.  Raises UsageError where ``wanted`` cannot be."""
    several = isinstance(values[0], (list, tuple, np.ndarray))
    if wanted != "auto":
        _check(values, wanted, column, several)
        return wanted, "asked for"
    if several:
        return "multilabel", f"{column} holds several labels for a row"
    word = next((value for value in values if _as_number(value) is None), None)
    if word is None:
        word = next((value for value in values if not _is_number(value)), None)
    if word is not None:
        return "classification", f"{column} holds words, such as {str(word)[:40]!r}"
    numbers = np.array([float(value) for value in values])
    different = len(np.unique(numbers))
    if not (numbers == np.round(numbers)).all():
        return "regression", f"{column} holds numbers with fractions"
    if different > MOST_CLASSES:
        return "regression", f"{column} holds {different} different whole numbers"
    return "classification", f"{column} holds {different} different whole numbers"


def _is_number(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return False
    return isinstance(value, (int, float, np.integer, np.floating))


def _as_number(value: Any) -> float | None:
    """Of a number, or of a text that is one; None for what is none, or not finite."""
    try:
        found = float(value) if _is_number(value) or isinstance(value, str) else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _check(values: Sequence[Any], wanted: Task, column: str, several: bool) -> None:
    if several and wanted != "multilabel":
        raise UsageError(f"the column {column} holds several labels for a row: choose --task multilabel")
    if wanted == "regression":
        for value in values:
            if _as_number(value) is None:
                raise UsageError(
                    f"the column {column} holds {str(value)[:40]!r} where --task regression needs numbers: "
                    "clean the column or choose --task classification"
                )


def encode(values: Sequence[Any], wanted: Wanted, column: str) -> Target:
    """Labels of n rows, nothing missing, as numbers.  Raises UsageError where there is nothing to tell apart."""
    if not len(values):
        raise UsageError(f"no row of the dataset has a label in {column}: check that labels and embeddings overlap")
    task, reason = decide(values, wanted, column)
    if task == "regression":
        numbers = np.array([float(value) for value in values])
        if np.ptp(numbers) == 0:
            raise UsageError(f"all labels in {column} are {numbers[0]:g}: nothing can be learned from one value")
        return Target(task, reason, numbers)
    if task == "multilabel":
        return _several(values, reason, column)
    names = [_name(value) for value in values]
    classes = tuple(sorted(set(names), key=_class_order))
    if len(classes) < 2:
        raise UsageError(f"all labels in {column} are {classes[0]}: a probe needs two classes or more")
    place = {name: number for number, name in enumerate(classes)}
    return Target(task, reason, np.array([place[name] for name in names], np.int64), classes)


def _several(values: Sequence[Any], reason: str, column: str) -> Target:
    sets = [parts(value) for value in values]
    classes = tuple(sorted(set().union(*sets), key=_class_order))
    table = np.array([[name in present for name in classes] for present in sets], np.float64)
    some = table.min(axis=0) != table.max(axis=0) if len(table) else np.zeros(0, bool)
    if not some.any():
        raise UsageError(f"all rows have the same labels in {column}: a probe needs rows with and without a label")
    return Target("multilabel", reason, table[:, some], tuple(np.array(classes, object)[some]))


def parts(value: Any) -> set[str]:
    """Names of classes in a list, or in a text such as 'forest; water'; a number is a class of its own."""
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return set(map(_name, value))
    return {part.strip() for part in _name(value).replace("|", ";").split(";") if part.strip()}


def _name(value: Any) -> str:
    """A class in words; 3.0 and 3 are one class."""
    if _is_number(value) and float(value) == round(float(value)):
        return str(round(float(value)))
    return str(value)


def _class_order(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
