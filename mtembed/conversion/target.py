"""What ``--to`` means: the form of the vectors, whether they become a raw array, components that replace them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtembed.dataset.form import STORED, Form
from mtembed.dataset.reader import EmbeddingDataset
from mtembed.errors import UsageError
from mtembed.maps.basis import Basis
from mtembed.maps.moments import EXACT_ROWS, Accumulator
from mtembed.types import FloatArray, Tick

STEPS = np.float32(255)
ARRAY, PCA = "array", "pca"


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed ``--to``: ``form`` is a name of ``dataset.form.STORED``; ``components`` of a ``pca``, else 0."""

    form: str
    array: bool
    components: int

    @classmethod
    def of(cls, text: str) -> Target:
        """Raises UsageError for what is no form."""
        word, _, rest = text.partition(":")
        if word == ARRAY:
            inner = cls.of(rest or "float32")
            if inner.array:
                raise UsageError(f"--to {text} is not possible: an array holds one of {', '.join(STORED)}, {PCA}:K")
            return cls(inner.form, True, inner.components)
        if word == PCA and rest.isascii() and rest.isdecimal() and int(rest) > 0:
            return cls("float32", False, int(rest))
        if text in STORED:
            return cls(text, False, 0)
        raise UsageError(
            f"--to {text} is not possible: give {', '.join(STORED)}, {PCA}:K, {ARRAY} or {ARRAY}:FORM; maps can become "
            "geotiff"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """Vectors of a dataset to stored values and back: first a projection, where there is one, then a form."""

    form: Form
    basis: Basis | None

    def projected(self, vectors: FloatArray) -> FloatArray:
        """What is stored in the form: float32 [n, form.dim]."""
        return vectors if self.basis is None else self.basis.scores(vectors)

    def restored(self, stored: FloatArray) -> FloatArray:
        """Vectors [n, D] of what the form gives back, as near to the first ones as they can be had."""
        if self.basis is None:
            return stored
        return np.asarray(stored @ self.basis.components + self.basis.mean, np.float32)


def fitted(dataset: EmbeddingDataset, target: Target, scratch: Path, tick: Tick) -> Reduction:
    """What a target needs to know of the data, from one pass where it needs any.

    Ranges and components are kept in ``scratch`` for a later start.  Raises UsageError where there are too few vectors.
    """
    basis = _basis(dataset, target.components, scratch, tick) if target.components else None
    dim = target.components or dataset.dim
    if target.form != "uint8":
        return Reduction(Form(target.form, dim), basis)
    low, high = _range(dataset, Reduction(Form("float32", dim), basis), scratch, tick)
    scale = np.where(high > low, (high - low) / STEPS, np.float32(1)).astype(np.float32)
    return Reduction(Form("uint8", dim, scale, low), basis)


def _basis(dataset: EmbeddingDataset, components: int, scratch: Path, tick: Tick) -> Basis:
    path = scratch / "basis.npz"
    if not path.exists():
        sums, done = Accumulator(dataset.dim, dataset.rows <= EXACT_ROWS), 0
        for batch in dataset.batches():
            assert batch.vectors is not None
            sums.add(batch.vectors)
            done += batch.rows
            tick("adding up", done, dataset.rows)
        found = Basis.of(sums.result(), components, dataset.model)
        _save(path, n=np.array(found.n), mean=found.mean, components=found.components, ratio=found.ratio)
    with np.load(path, allow_pickle=False) as kept:
        return Basis(int(kept["n"]), kept["mean"], kept["components"], kept["ratio"], dataset.model)


def _range(dataset: EmbeddingDataset, reduction: Reduction, scratch: Path, tick: Tick) -> tuple[FloatArray, FloatArray]:
    """The least and the largest value of each dimension, float32 [dim]; vectors that are not finite do not count."""
    path = scratch / "range.npz"
    if not path.exists():
        dim, done = reduction.form.dim, 0
        low, high = np.full(dim, np.inf, np.float32), np.full(dim, -np.inf, np.float32)
        for batch in dataset.batches():
            assert batch.vectors is not None
            values = reduction.projected(batch.vectors)
            values = values[np.isfinite(values).all(axis=1)]
            if len(values):
                low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
            done += batch.rows
            tick("finding ranges", done, dataset.rows)
        if not np.isfinite(low).all():
            raise UsageError(f"{dataset.name} has no vector of finite values: there is nothing to convert")
        _save(path, low=low, high=high)
    with np.load(path, allow_pickle=False) as kept:
        return kept["low"], kept["high"]


def _save(path: Path, **arrays: np.ndarray) -> None:
    """Complete or not at all."""
    beside = path.with_suffix(".new.npz")
    np.savez(beside, allow_pickle=False, **arrays)
    beside.replace(path)
