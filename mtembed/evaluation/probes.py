"""Frozen probes: k nearest neighbours, logistic regression, ridge; all see training rows only.

Vectors are float32 [n, D]; predictions are float64 [m, K] shares of classes (classification, multilabel) or
[m] numbers.
Scalers are fitted on the training rows.  The penalty is chosen by folds inside the training rows, by the same groups.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mtembed.evaluation.groups import Fold, Ints, inner_folds
from mtembed.evaluation.target import Target
from mtembed.types import FloatArray

Floats = npt.NDArray[np.float64]

INVERSE_PENALTIES = tuple(10.0**e for e in range(5))  # C of logistic regression times the number of rows
RIDGE_PENALTIES = tuple(10.0 ** (e / 2) for e in range(-6, 11))
FIXED_C = 1.0  # where too few labels are there to choose
FIXED_RIDGE = 100.0
MOST_STEPS = 300
TOLERANCE = 1e-4
CLEARLY, WORSE = 0.02, 2  # so many penalties in a row, worse by so much balanced accuracy, end the search


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """One thread of arithmetic (more of them only wait for each other where folds already run side by side), and no
    warning that a weak penalty did not converge in ``MOST_STEPS``.  For the whole process: enter it before threads."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@dataclass(frozen=True, slots=True)
class Scaler:
    """Means and spreads of training rows, float64 [D]; a dimension that does not vary stays 0."""

    mean: Floats
    scale: Floats

    @classmethod
    def fitted(cls, vectors: FloatArray) -> Scaler:
        mean = vectors.mean(axis=0, dtype=np.float64)
        scale = np.zeros_like(mean)
        for first in range(0, len(vectors), 4096):
            scale += ((vectors[first : first + 4096] - mean) ** 2).sum(axis=0)
        scale = np.sqrt(scale / len(vectors))
        flat = scale <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
        return cls(mean, np.where(flat, np.inf, scale))

    def __call__(self, vectors: FloatArray) -> FloatArray:
        return np.asarray((vectors - self.mean) / self.scale, np.float32)


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear probe: scores = standardised vectors @ ``weights`` [D, K] + ``bias`` [K]; K = 1 for numbers."""

    task: Literal["classification", "multilabel", "regression"]
    scaler: Scaler
    weights: Floats
    bias: Floats
    penalty: float

    def __call__(self, vectors: FloatArray) -> Floats:
        scores = self.scaler(vectors).astype(np.float64) @ self.weights + self.bias
        if self.task == "regression":
            return np.asarray(scores[:, 0])
        if self.task == "multilabel":
            return _logistic(scores)
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _logistic(scores: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(scores / 2)))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """A kNN probe: standardised training vectors, their targets, k and the distance."""

    target: Target
    scaler: Scaler
    vectors: FloatArray
    k: int
    metric: Literal["euclidean", "cosine"] = "euclidean"

    def __call__(self, vectors: FloatArray) -> Floats:
        return self.each(vectors, (self.k,))[self.k]

    def each(self, vectors: FloatArray, counts: tuple[int, ...]) -> dict[int, Floats]:
        """Predictions for several k from one search."""
        from sklearn.neighbors import NearestNeighbors

        known, asked = self.vectors, self.scaler(vectors)
        if self.metric == "cosine":
            known, asked = _unit(known), _unit(asked)
        most = min(max(counts), len(known))
        found = (
            NearestNeighbors(n_neighbors=most, algorithm="brute").fit(known).kneighbors(asked, return_distance=False)
        )
        return {k: self._vote(found[:, : min(k, most)]) for k in counts}

    def _vote(self, found: Ints) -> Floats:
        if self.target.task != "classification":
            return np.asarray(self.target.values[found].mean(axis=1))
        shares = np.zeros((len(found), len(self.target.classes)))
        for column in self.target.values[found].T:
            shares[np.arange(len(found)), column] += 1 / found.shape[1]
        return shares


def _unit(vectors: FloatArray) -> FloatArray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)


def neighbours(
    vectors: FloatArray, target: Target, k: int, metric: Literal["euclidean", "cosine"] = "euclidean"
) -> Neighbours:
    scaler = Scaler.fitted(vectors)
    return Neighbours(target, scaler, scaler(vectors), k, metric)


def linear(vectors: FloatArray, target: Target, groups: Ints, seed: int, penalty: float | None = None) -> Linear:
    """Logistic regression (C) or ridge (alpha); without ``penalty`` it is chosen by folds of ``groups``."""
    scaler = Scaler.fitted(vectors)
    scaled = scaler(vectors)
    if target.task == "regression":
        alpha = _chosen_ridge(scaled, target.values, groups, seed) if penalty is None else penalty
        weights, bias = _ridge(scaled, target.values, alpha)
        return Linear(target.task, scaler, weights, bias, alpha)
    c = _chosen_c(scaled, target, groups, seed) if penalty is None else penalty
    weights, bias = _logistic_fit(scaled, target, c)
    return Linear(target.task, scaler, weights, bias, c)


def few(vectors: FloatArray, target: Target) -> Linear:
    """A linear probe on a handful of rows: C = 1, or the ridge of least leave-one-out error."""
    if target.task != "regression":
        return linear(vectors, target, np.arange(len(vectors)), 0, FIXED_C)
    alpha = FIXED_RIDGE
    if len(vectors) >= 3 and np.ptp(target.values) > 0:
        from sklearn.linear_model import RidgeCV

        scaled = Scaler.fitted(vectors)(vectors).astype(np.float64)
        alpha = float(RidgeCV(RIDGE_PENALTIES).fit(scaled, target.values).alpha_)
    return linear(vectors, target, np.arange(len(vectors)), 0, alpha)


# -- ridge ----------------------------------------------------------------------------------------------------------


def _ridge(vectors: FloatArray, values: Floats, alpha: float) -> tuple[Floats, Floats]:
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=alpha, solver="auto").fit(vectors.astype(np.float64), values)
    return np.asarray(model.coef_, np.float64).reshape(-1, 1), np.atleast_1d(np.asarray(model.intercept_, np.float64))


def _chosen_ridge(vectors: FloatArray, values: Floats, groups: Ints, seed: int) -> float:
    folds = inner_folds(groups, None, seed)
    if not folds:
        return FIXED_RIDGE
    losses = np.sum([_ridge_losses(vectors, values, fold) for fold in folds], axis=0)
    return float(RIDGE_PENALTIES[int(losses.argmin())])


def _ridge_losses(vectors: FloatArray, values: Floats, fold: Fold) -> Floats:
    """Squared errors of the held-out rows for every penalty, from one decomposition."""
    train, test = (vectors[rows].astype(np.float64) for rows in (fold.train, fold.test))
    centre, mean = train.mean(axis=0), values[fold.train].mean()
    train, test, wanted = train - centre, test - centre, values[fold.train] - mean
    if len(train) >= train.shape[1]:
        size, axes = np.linalg.eigh(train.T @ train)
        seen, known = test @ axes, axes.T @ (train.T @ wanted)
    else:
        size, axes = np.linalg.eigh(train @ train.T)
        seen, known = (test @ train.T) @ axes, axes.T @ wanted
    size = np.maximum(size, 0)
    errors = [values[fold.test] - mean - seen @ (known / (size + alpha)) for alpha in RIDGE_PENALTIES]
    return np.array([error @ error for error in errors])


# -- logistic regression ----------------------------------------------------------------------------------------------


def _model(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=MOST_STEPS, tol=TOLERANCE, warm_start=True)


def _logistic_fit(vectors: FloatArray, target: Target, c: float) -> tuple[Floats, Floats]:
    """Weights [D, K] and bias [K]; a class that the rows do not hold is never chosen."""
    if target.task == "multilabel":
        each = [_two_sided(vectors, column, c) for column in target.values.T]
        return np.stack([weights for weights, _ in each], axis=1), np.array([bias for _, bias in each])
    present = np.unique(target.values)
    weights, bias = np.zeros((vectors.shape[1], len(target.classes))), np.full(len(target.classes), -1e3)
    if len(present) < 2:
        bias[present] = 0.0
        return weights, bias
    model = _model(c)
    model.fit(vectors, target.values)
    if len(present) == 2:  # one column of weights, for the second class
        weights[:, present[1]] = model.coef_[0]
        bias[present] = 0.0, float(model.intercept_[0])
    else:
        weights[:, present] = model.coef_.T
        bias[present] = model.intercept_
    return weights, bias


def _two_sided(vectors: FloatArray, column: Floats, c: float) -> tuple[Floats, float]:
    share = float(column.mean())
    if share in (0.0, 1.0):
        return np.zeros(vectors.shape[1]), 20.0 * (2 * share - 1)
    model = _model(c)
    model.fit(vectors, column.astype(np.int64))
    return np.asarray(model.coef_[0], np.float64), float(model.intercept_[0])


def _chosen_c(vectors: FloatArray, target: Target, groups: Ints, seed: int) -> float:
    """The C of best inner folds, from strong penalties to weak ones, until it clearly gets worse.

    Best: balanced accuracy, and among equals log loss; for several labels log loss alone.  Log loss would take the
    strongest penalty, which says nothing, where few places are there and each is a little different.
    """
    classes = target.values if target.task == "classification" else None
    folds = inner_folds(groups, classes, seed)
    if not folds:
        return FIXED_C
    columns = [target.values] if classes is not None else list(target.values.T)
    searches = [
        _Search(vectors, column.astype(np.int64), fold)
        for fold in folds
        for column in columns
        if len(np.unique(column[fold.train])) > 1
    ]
    best, least, worse = FIXED_C, (np.inf, np.inf), 0
    for c in [size / len(vectors) for size in INVERSE_PENALTIES] if searches else ():
        missed, loss = _quality([search.held_out(c) for search in searches], balanced=classes is not None)
        worse = worse + 1 if missed > least[0] + CLEARLY or (classes is None and loss > least[1]) else 0
        if (missed, loss) < least:
            best, least = c, (missed, loss)
        if worse == WORSE:
            break
    return best


def _quality(found: Sequence[tuple[Ints, npt.NDArray[np.bool_], Floats]], balanced: bool) -> tuple[float, float]:
    """1 - balanced accuracy (0 if not ``balanced``) and the mean log loss of all held-out rows together."""
    wanted, hit, shares = (np.concatenate(side) for side in zip(*found, strict=True))
    loss = float(-np.log(np.maximum(shares, 1e-6)).mean())
    if not balanced:
        return 0.0, loss
    each = np.bincount(wanted)
    recall = np.bincount(wanted, hit.astype(np.float64))[each > 0] / each[each > 0]
    return 1 - float(recall.mean()), loss


class _Search:
    """One inner fold, its model warm from the penalty before."""

    def __init__(self, vectors: FloatArray, values: Ints, fold: Fold) -> None:
        self._train, self._test = vectors[fold.train], vectors[fold.test]
        self._values, self._wanted = values[fold.train], values[fold.test]
        self._model = _model(1.0)

    def held_out(self, c: float) -> tuple[Ints, npt.NDArray[np.bool_], Floats]:
        """True classes of the held-out rows, whether they were said, and the shares they were given."""
        self._model.set_params(C=c)
        self._model.fit(self._train, self._values)
        shares, known = self._model.predict_proba(self._test), self._model.classes_
        place = np.minimum(np.searchsorted(known, self._wanted), len(known) - 1)
        there = known[place] == self._wanted
        given = np.where(there, shares[np.arange(len(place)), place], 0.0)
        return self._wanted, there & (shares.argmax(axis=1) == place), given
