"""The fast text of a vector is numpy's own, and the identifier is the reference's recipe to the letter."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mtembed.dataset.printing import print_vectors
from mtembed.dataset.unique_id import unique_ids

DIMENSIONS = [1, 2, 5, 512, 768, 1000, 1001, 1152, 2048]


def _kinds(rng: np.random.Generator, dim: int) -> dict[str, np.ndarray]:
    normal = rng.standard_normal(dim)
    sign = rng.choice([-1, 1], dim)
    return {
        "normal": normal,
        "close together": rng.uniform(0.5, 1, dim),
        "negative": -rng.uniform(0.5, 40, dim),
        "rectified": np.maximum(normal, 0),
        "zeros": np.zeros(dim),
        "negative zero": np.full(dim, -0.0),
        "small": normal * 1e-6,
        "tiny": normal * 1e-20,
        "subnormal": sign * 1e-41,
        "big": normal * 3e4,
        "just below a million": sign * rng.uniform(9.99e5, 999999.9, dim),
        "a million": sign * rng.uniform(1e6, 9e7, dim),
        "huge": normal * 1e30,
        "whole": rng.integers(-999, 1000, dim),
        "powers of two": sign * 2.0 ** rng.integers(-26, 20, dim),
        "powers of ten": sign * 10.0 ** rng.integers(-7, 6, dim),
        "float16": normal.astype(np.float16),
        "not finite": np.where(rng.random(dim) < 0.3, rng.choice([np.nan, np.inf, -np.inf], dim), normal),
    }


@pytest.mark.parametrize("dim", DIMENSIONS)
def test_text_is_numpys(dim: int) -> None:
    kinds = _kinds(np.random.default_rng(dim), dim)
    vectors = np.array(list(kinds.values()), np.float32)
    for kind, vector, text in zip(kinds, vectors, print_vectors(vectors), strict=True):
        assert text.decode() == str(vector), kind


@pytest.mark.parametrize(("least", "most"), [(2.0**-26, 1e6), (1e-4, 1e-1), (0.5, 300.0), (1e3, 1e6), (1e-30, 1e30)])
def test_text_of_random_bit_patterns_is_numpys(least: float, most: float) -> None:
    rng = np.random.default_rng(7)
    low, high = np.array([least, most], np.float32).view(np.int32).tolist()
    values = rng.integers(low, high, 30_000).astype(np.int32).view(np.float32) * rng.choice([-1, 1], 30_000)
    vectors = values.astype(np.float32).reshape(-1, 6)
    assert [text.decode() for text in print_vectors(vectors)] == [str(vector) for vector in vectors]


def test_text_of_neighbours_of_powers_is_numpys() -> None:
    powers = np.concatenate([2.0 ** np.arange(-27, 25), 10.0 ** np.arange(-9, 9)]).astype(np.float32)
    below, above = np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(np.inf))
    vectors = np.concatenate([powers, below, above]).reshape(-1, 1)
    assert [text.decode() for text in print_vectors(vectors)] == [str(vector) for vector in vectors]


@pytest.mark.parametrize("dim", [60, 1001])
@pytest.mark.parametrize("spread", [1.0, 50.0, 5e4])
def test_lines_break_where_numpy_breaks_them(dim: int, spread: float) -> None:
    """Words of every width, with and without signs and exponents."""
    rng = np.random.default_rng(3)
    values = np.exp(rng.uniform(0, np.log(spread), dim))
    vectors = [np.vectorize(float)([f"{x:.{digits}e}" for x in values]) for digits in range(9)]
    both = np.array([v * sign * scale for v in vectors for sign in (1, -1) for scale in (0.01, 1, 9)], np.float32)
    assert [text.decode() for text in print_vectors(both)] == [str(vector) for vector in both]


_FLOATS = st.floats(width=32)
_ORDINARY = st.floats(-1000, 1000, width=32)


@settings(max_examples=300, deadline=None)
@given(arrays(np.float32, st.integers(1, 40), elements=st.one_of(_FLOATS, _ORDINARY)))
def test_text_of_any_vector_is_numpys(vector: np.ndarray) -> None:
    assert print_vectors(vector[None])[0].decode() == str(vector)


@settings(max_examples=300, deadline=None)
@given(arrays(np.float32, st.integers(1, 40), elements=_ORDINARY), st.sampled_from([1e-6, 1e-3, 1.0, 500.0]))
def test_text_of_ordinary_vectors_is_numpys(vector: np.ndarray, scale: float) -> None:
    vector = (vector * scale).astype(np.float32)
    assert print_vectors(vector[None])[0].decode() == str(vector)


def test_callers_print_options_do_not_matter() -> None:
    vectors = np.array([[1 / 3, np.nan, 0], [1e20, 1, 2], [0.1, 0.2, 0.3]], np.float32)
    plain = print_vectors(vectors)
    options = {"precision": 2, "threshold": 2, "edgeitems": 1, "linewidth": 20, "suppress": True, "nanstr": "?"}
    with np.printoptions(**options, sign="+", floatmode="fixed", formatter={"float": str}):  # type: ignore[arg-type]
        assert print_vectors(vectors) == plain
    assert [text.decode() for text in plain] == [str(vector) for vector in vectors]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("dim", [768, 2048])
def test_identifier_is_the_recipe(dim: int, dtype: str) -> None:
    vectors = np.random.default_rng(1).standard_normal((4, dim)).astype(dtype)
    shapes = shapely.box(np.arange(4) / 7, 0, 1, 1 / np.arange(3, 7))
    times = [f"2023082{i}T131249" for i in range(4)]
    products = [f"S2B_MSIL2A_{i}" for i in range(4)]
    expected = []
    for geometry, timestamp, product_id, vector in zip(shapes, times, products, vectors, strict=True):
        embedding = vector.astype(np.float32)
        expected.append(hashlib.sha256(f"{geometry}_{timestamp}_{product_id}_{embedding}".encode()).hexdigest())
    assert unique_ids(shapely.to_wkt(shapes, rounding_precision=-1), times, products, vectors) == expected
    assert len(set(expected)) == 4


def test_strided_vectors_are_read_right() -> None:
    vectors = np.random.default_rng(2).standard_normal((6, 40)).astype(np.float32)[::2, ::-2]
    assert [text.decode() for text in print_vectors(vectors)] == [str(vector) for vector in vectors]


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError):
        unique_ids(["POINT (0 0)"], ["t"], ["p"], np.zeros((2, 3), np.float32))


def test_no_rows() -> None:
    assert unique_ids([], [], [], np.empty((0, 768), np.float32)) == []
