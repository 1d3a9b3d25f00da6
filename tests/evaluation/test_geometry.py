"""Label-free measures on clouds whose answer is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.evaluation import geometry


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40))
def test_rankme_of_orthonormal_rows_is_their_number(rows: int) -> None:
    vectors = np.linalg.qr(np.random.default_rng(rows).normal(size=(64, rows)))[0].T
    assert geometry.rankme(vectors) == pytest.approx(rows, rel=1e-6)


def test_participation_ratio_counts_equal_axes() -> None:
    vectors = np.concatenate([np.eye(8), -np.eye(8)])
    assert geometry.participation_ratio(vectors) == pytest.approx(8)
    assert geometry.participation_ratio(np.ones((5, 3))) is None


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_two_nn_of_a_uniform_cube_is_its_dimension(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    flat = rng.random((3000, dimension)) @ np.linalg.qr(rng.normal(size=(32, dimension)))[0].T
    found, repeated = geometry.two_nn(flat)
    assert found == pytest.approx(dimension, rel=0.1) and repeated == 0


def test_two_nn_leaves_out_rows_that_are_equal_and_counts_them() -> None:
    cloud = np.random.default_rng(0).random((500, 2))
    alone, _ = geometry.two_nn(cloud)
    assert geometry.two_nn(np.concatenate([cloud, cloud[:100]])) == (pytest.approx(alone), 100)
    assert geometry.two_nn(np.ones((5, 4))) == (None, 4)


def test_two_nn_survives_near_rows_far_from_the_origin() -> None:
    cloud = (np.random.default_rng(0).random((800, 3)) + 1e4).astype(np.float32)
    found, _ = geometry.two_nn(cloud)
    assert found is not None and 2 < found < 4


@settings(max_examples=25, deadline=None)
@given(side=st.integers(2, 12))
def test_moran_of_a_checkerboard_is_minus_one(side: int) -> None:
    row, col = np.divmod(np.arange(side * side), side)
    right, down = np.flatnonzero(col < side - 1), np.flatnonzero(row < side - 1)
    first, second = np.concatenate([right, down]), np.concatenate([right + 1, down + side])
    board = ((row + col) % 2).astype(float)
    expected = -1.0 if side % 2 == 0 else pytest.approx(-1.0, abs=0.15)  # an odd board has a mean off the middle
    assert geometry.moran(board, first, second) == (pytest.approx(expected) if side % 2 == 0 else expected)
    assert geometry.moran(np.ones(side * side), first, second) is None


def test_moran_of_a_gradient_is_near_one() -> None:
    values = np.arange(200.0)
    assert geometry.moran(values, np.arange(199), np.arange(1, 200)) == pytest.approx(1.0, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.sampled_from([5, 40]), dim=st.integers(2, 12))
def test_cka_does_not_see_rotation_and_scale(seed: int, rows: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dim)) + 3
    turned = 2.5 * vectors @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    assert geometry.linear_cka(vectors, turned) == pytest.approx(1.0)
    assert geometry.linear_cka(vectors, vectors[:, :1]) <= 1.0 + 1e-9


def test_cka_is_the_same_from_both_sides_of_the_gram_matrix() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 29)), rng.normal(size=(30, 40))
    wide = np.concatenate([a, np.zeros((30, 20))], axis=1)
    assert geometry.linear_cka(a, b) == pytest.approx(geometry.linear_cka(wide, b))


def test_uniformity_and_cosine_of_one_direction() -> None:
    same = np.tile([1.0, 2.0], (50, 1))
    assert geometry.uniformity(same) == pytest.approx(0.0, abs=1e-9)
    assert geometry.mean_cosine(same) == pytest.approx(1.0)
    spread = np.random.default_rng(0).normal(size=(400, 60))
    assert geometry.uniformity(spread) == pytest.approx(-4.0, abs=0.3)
    assert abs(geometry.mean_cosine(spread) or 1) < 0.01
