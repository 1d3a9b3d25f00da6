"""Scores of predictions, and their intervals: whole blocks are drawn again and again, as neighbours are alike.

Every metric is a function of weights, one per block, so that one pass gives the value (all weights 1) and its whole
distribution.  Shapes: B draws, g blocks, n rows, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mtembed.evaluation.options import Task

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("balanced_accuracy", "accuracy", "macro_f1"),
    "multilabel": ("macro_map", "micro_map"),
    "regression": ("r2", "rmse", "mae", "spearman"),
}
"""Of each task; the first one is the one that sentences and pictures speak of."""
LOWER_IS_BETTER = frozenset({"rmse", "mae"})
INTERVAL = (2.5, 97.5)  # percentiles of the draws
CHUNK = 50  # draws worked on together


@dataclass(frozen=True, slots=True)
class Blocks:
    """``of_row`` int64 [n], numbers from 0 to g - 1; ``weights`` float64 [1 + B, g], the first row all ones."""

    of_row: Ints
    weights: Floats

    @property
    def count(self) -> int:
        return int(self.weights.shape[1])

    @classmethod
    def drawn(cls, of_row: npt.NDArray[Any], draws: int, seed: int) -> Blocks:
        """As many blocks as there are, with replacement, ``draws`` times."""
        names, numbers = np.unique(of_row, return_inverse=True)
        count = len(names)
        rng = np.random.default_rng([seed, 17])
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=draws) if count else np.ones((draws, 0))
        return cls(numbers.astype(np.int64), np.vstack([np.ones((1, count)), drawn]).astype(np.float64))


def distributions(
    task: Task, truth: npt.NDArray[Any], predicted: npt.NDArray[Any], blocks: Blocks
) -> dict[str, Floats]:
    """Each metric's value [0] and its draws [1:], float64 [1 + B]; NaN where a draw leaves nothing to score.

    ``truth`` int64 [n] and ``predicted`` [n, K] shares for classification; both [n, K] for multilabel; both [n] for
    regression.
    """
    if task == "classification":
        return _classification(truth, predicted, blocks)
    if task == "multilabel":
        return _multilabel(truth, predicted, blocks)
    return _regression(truth, predicted, blocks)


def interval(values: Floats, blocks: int) -> tuple[float | None, float | None]:
    """The middle 95 % of the draws; (None, None) where fewer than two blocks leave nothing to draw."""
    draws = values[1:][np.isfinite(values[1:])]
    if blocks < 2 or not len(draws):
        return None, None
    low, high = np.percentile(draws, INTERVAL)
    return float(low), float(high)


def confusion(truth: Ints, chosen: Ints, classes: int) -> Ints:
    """Counts int64 [K, K]; rows are what is true."""
    return np.bincount(truth * classes + chosen, minlength=classes * classes).reshape(classes, classes)


def _classification(truth: Ints, predicted: npt.NDArray[Any], blocks: Blocks) -> dict[str, Floats]:
    classes, said = predicted.shape[1], predicted.argmax(axis=1)

    def drawn(rows: Ints, kind: Ints) -> Floats:
        """Rows of each class in each draw, float64 [1 + B, K]."""
        counts = np.bincount(blocks.of_row[rows] * classes + kind, minlength=blocks.count * classes)
        return np.asarray(blocks.weights @ counts.reshape(blocks.count, classes).astype(np.float64))

    every, hit = np.arange(len(truth)), np.flatnonzero(said == truth)
    is_true, is_said, right = drawn(every, truth), drawn(every, said), drawn(hit, truth[hit])
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(is_true > 0, right / is_true, np.nan)
        f1 = np.where(is_true + is_said > 0, 2 * right / (is_true + is_said), np.nan)
        accuracy = right.sum(axis=1) / is_true.sum(axis=1)
    return {"balanced_accuracy": _row_means(recall), "accuracy": accuracy, "macro_f1": _row_means(f1)}


def _row_means(values: Floats) -> Floats:
    """Means over what is not NaN; NaN where there is nothing."""
    there = np.isfinite(values)
    count = there.sum(axis=1)
    sums = np.where(there, values, 0.0).sum(axis=1)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)


def _regression(truth: Floats, predicted: Floats, blocks: Blocks) -> dict[str, Floats]:
    centred = truth - truth.mean()
    error = truth - predicted
    moments = np.stack(
        [
            np.bincount(blocks.of_row, values, minlength=blocks.count)
            for values in (np.ones_like(truth), centred, centred**2, error**2, np.abs(error))
        ],
        axis=1,
    )
    n, total, square, error_square, error_size = (blocks.weights @ moments).T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = square - total**2 / n
        r2 = np.where(spread > 1e-12 * np.maximum(square, 1e-300), 1 - error_square / spread, np.nan)
        rmse, mae = np.sqrt(error_square / n), error_size / n
    return {"r2": r2, "rmse": rmse, "mae": mae, "spearman": _spearman(truth, predicted, blocks)}


def _spearman(truth: Floats, predicted: Floats, blocks: Blocks) -> Floats:
    sides = [np.unique(values, return_inverse=True) for values in (truth, predicted)]
    found = np.full(len(blocks.weights), np.nan)
    for draw, weights in enumerate(blocks.weights):
        row = weights[blocks.of_row]
        ranks = [_ranks(inverse, len(values), row) for values, inverse in sides]
        found[draw] = _correlation(ranks[0], ranks[1], row)
    return found


def _ranks(inverse: Ints, values: int, weights: Floats) -> Floats:
    """Middle ranks of rows that count ``weights`` times each."""
    each = np.bincount(inverse, weights, minlength=values)
    return (np.cumsum(each) - each / 2)[inverse]


def _correlation(a: Floats, b: Floats, weights: Floats) -> float:
    total = weights.sum()
    if total <= 0:
        return float("nan")
    a, b = a - weights @ a / total, b - weights @ b / total
    spread = float(np.sqrt((weights @ a**2) * (weights @ b**2)))
    return float(weights @ (a * b)) / spread if spread > 0 else 0.0


def _multilabel(truth: npt.NDArray[Any], predicted: npt.NDArray[Any], blocks: Blocks) -> dict[str, Floats]:
    labels = truth.shape[1]
    each = [_average_precision(truth[:, k], predicted[:, k], blocks.of_row, blocks.weights) for k in range(labels)]
    flat = np.repeat(blocks.of_row, labels)
    micro = _average_precision(truth.ravel(), predicted.ravel(), flat, blocks.weights)
    return {"macro_map": _row_means(np.stack(each, axis=1)), "micro_map": micro}


def _average_precision(truth: npt.NDArray[Any], score: npt.NDArray[Any], of_row: Ints, weights: Floats) -> Floats:
    """Area under precision over recall as steps, equal scores taken together, for each row of ``weights``."""
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    block, right = of_row[order], truth[order].astype(np.float64)
    found = np.full(len(weights), np.nan)
    for first in range(0, len(weights), CHUNK):
        row = weights[first : first + CHUNK][:, block]
        hits, seen = np.cumsum(row * right, axis=1)[:, ends], np.cumsum(row, axis=1)[:, ends]
        steps = np.diff(hits, axis=1, prepend=0.0)
        all_hits = hits[:, -1]
        area = (steps * hits / np.maximum(seen, 1e-300)).sum(axis=1)
        found[first : first + CHUNK] = np.where(all_hits > 0, area / np.maximum(all_hits, 1e-300), np.nan)
    return found
