"""Moments in one pass: exact, in any portions, added up from parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.maps.basis import Basis
from mtembed.maps.moments import BLOCK_ROWS, Accumulator, Moments, finite
from tests.tools.embeddings import random_vectors


def moments(vectors: np.ndarray, portions: tuple[int, ...] = (), exact: bool = True) -> Moments:
    found = Accumulator(vectors.shape[1], exact)
    for portion in np.split(vectors, sorted(portions)):
        found.add(portion)
    return found.result()


def same(one: Moments, other: Moments) -> bool:
    arrays = np.array_equal(one.mean, other.mean) and np.array_equal(one.scatter, other.scatter)
    return arrays and (one.n, one.not_finite) == (other.n, other.not_finite)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2 * BLOCK_ROWS + 100), max_size=5))
def test_no_bit_depends_on_the_portions(portions: list[int]) -> None:
    vectors = random_vectors(2 * BLOCK_ROWS + 100)
    assert same(moments(vectors, tuple(portions)), moments(vectors))


@pytest.mark.parametrize("exact", [True, False])
def test_they_are_those_of_numpy(exact: bool) -> None:
    vectors = random_vectors(3 * BLOCK_ROWS + 7) + 100.0  # far from zero: values squared would cancel
    found = moments(vectors, exact=exact)
    wide = vectors.astype(np.float64)
    tolerance = 1e-12 if exact else 1e-6
    np.testing.assert_allclose(found.mean, wide.mean(axis=0), rtol=tolerance)
    scale = np.sqrt(np.outer(*(2 * [wide.var(axis=0)]))) * len(wide)
    assert (np.abs(found.scatter - np.cov(wide.T, bias=True) * len(wide)) <= tolerance * scale).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=4))
def test_parts_add_up(cuts: list[int]) -> None:
    vectors = random_vectors(500)
    whole, summed = moments(vectors), Moments.empty(12)
    for part in np.split(vectors, sorted(cuts)):
        summed = summed.merged(moments(part))
    assert summed.n == whole.n
    np.testing.assert_allclose(summed.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(summed.scatter, whole.scatter, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_left_out_and_counted(bad: float) -> None:
    vectors = random_vectors(300)
    spoilt = np.insert(vectors, [0, 100, 300], vectors[:3], axis=0)
    spoilt[[0, 101, 302], [3, 0, 11]] = bad
    found = moments(spoilt)
    assert found.not_finite == 3 and found.n == 300
    np.testing.assert_allclose(found.scatter, moments(vectors).scatter, rtol=1e-10, atol=1e-9)


def test_huge_values_are_finite() -> None:
    assert finite(np.full((2, 100), 3e38, np.float32)).all()
    assert not finite(np.array([[3e38, 3e38, np.inf]], np.float32)).any()


def test_of_nothing() -> None:
    nothing = moments(np.empty((0, 12), np.float32))
    assert nothing.n == 0 and same(nothing.merged(moments(random_vectors(9))), moments(random_vectors(9)))


def test_kept_in_a_file(tmp_path: Path) -> None:
    found = moments(random_vectors(50))
    with (tmp_path / "a.npz").open("wb") as file:
        found.save(file, done=3)
    again, more = Moments.load(tmp_path / "a.npz")
    assert same(found, again) and int(more["done"]) == 3


def angle(one: np.ndarray, other: np.ndarray) -> float:
    """The largest principal angle between the spans of rows, in radians."""
    sines = np.linalg.svd(one - one @ other.T @ other, compute_uv=False)
    return float(np.arcsin(min(1.0, sines.max())))


@pytest.mark.parametrize("exact", [True, False])
def test_components_span_what_a_singular_value_decomposition_finds(exact: bool) -> None:
    vectors = random_vectors(20_000, 64) + 5.0
    basis = Basis.of(moments(vectors, exact=exact), 3)
    wide = vectors.astype(np.float64)
    _, values, axes = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    assert angle(basis.components, axes[:3]) < (1e-6 if exact else 1e-4)
    np.testing.assert_allclose(basis.ratio, values[:3] ** 2 / (values**2).sum(), rtol=1e-6)
    largest = np.abs(basis.components).argmax(axis=1)
    assert (basis.components[range(3), largest] > 0).all()


def test_real_embeddings_to_a_millionth(shared: Path) -> None:
    import pyarrow.parquet as pq

    column = pq.read_table(shared / "eval/embeddings/lfmc_presto.parquet", columns=["embedding"])["embedding"]
    vectors = np.stack(column.to_numpy()).astype(np.float32)
    basis = Basis.of(moments(vectors), 10)
    wide = vectors.astype(np.float64)
    _, values, axes = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    turned = axes[:10] * np.sign((axes[:10] * basis.components).sum(axis=1))[:, None]
    np.testing.assert_allclose(basis.components, turned, atol=1e-6)
    np.testing.assert_allclose(basis.ratio, values[:10] ** 2 / (values**2).sum(), rtol=1e-6)
    np.testing.assert_allclose(basis.scores(vectors), (wide - wide.mean(axis=0)) @ turned.T, atol=1e-5)
