"""The grid of fragments: the paper's numbers, full coverage, and the reading of Algorithm 1 with floats."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mtembed.geo.fragments import FragmentGrid, axis_offsets

LENGTHS = st.integers(1, 3000)
SIZES = st.integers(1, 500)
OVERLAPS = st.floats(0, 0.95)


def specified(length: int, size: int, overlap: float) -> tuple[int, ...] | None:
    """Algorithm 1 as it is printed, with n + 1 fragments, evened out where it skips pixels; None where it repeats."""
    steps = max(1, round((length - size) / (size - overlap * size)))
    stride = size - math.ceil(size - (length - size) / steps)
    offsets = (*(step * stride for step in range(steps)), length - size)
    jumps = [after - before for before, after in itertools.pairwise(offsets)]
    if max(jumps) > size:
        steps = max(steps, math.ceil((length - size) / size))
        return tuple(math.floor(Fraction(step * (length - size), steps)) for step in range(steps + 1))
    return offsets if min(jumps) > 0 else None


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (1068, 224, (0, 211, 422, 633, 844)),
        (1068, 384, (0, 342, 684)),
        (348, 100, (0, 82, 165, 248)),
        (224, 224, (0,)),
        (225, 224, (0, 1)),
        (1, 1, (0,)),
    ],
)
def test_known_offsets(length: int, size: int, expected: tuple[int, ...]) -> None:
    assert axis_offsets(length, size, 0.0 if size == 100 else 0.1) == expected


@given(LENGTHS, SIZES, OVERLAPS)
def test_every_pixel_is_covered_once_the_last_fragment_is_shifted(length: int, size: int, overlap: float) -> None:
    assume(size <= length)
    offsets = axis_offsets(length, size, overlap)
    jumps = [after - before for before, after in itertools.pairwise(offsets)]
    assert offsets[0] == 0
    assert offsets[-1] == length - size
    assert all(0 < jump <= size for jump in jumps)


@given(LENGTHS, SIZES, OVERLAPS)
def test_without_shift_one_stride_leaves_only_a_rim(length: int, size: int, overlap: float) -> None:
    assume(size <= length)
    offsets = axis_offsets(length, size, overlap, border_shift=False)
    jumps = {after - before for before, after in itertools.pairwise(offsets)}
    assert offsets[0] == 0
    assert len(jumps) <= 1
    assert all(0 < jump <= size for jump in jumps)
    assert 0 <= length - size - offsets[-1] < max(1, len(offsets) - 1)


@given(LENGTHS, SIZES, OVERLAPS)
@settings(max_examples=300)
def test_equals_the_printed_algorithm(length: int, size: int, overlap: float) -> None:
    assume(size < length <= 20 * size)
    expected = specified(length, size, overlap)
    assume(expected is not None)
    assert axis_offsets(length, size, overlap) == tuple(dict.fromkeys(expected or ()))  # a fragment is not taken twice


def test_a_grid_is_row_major_and_need_not_be_square() -> None:
    grid = FragmentGrid.of(20, 31, 10, 0.0, True)
    assert grid.row_offsets == (0, 10)
    assert grid.col_offsets == (0, 7, 14, 21)
    offsets = grid.offsets()
    assert offsets.dtype == np.int32
    assert offsets.shape == (len(grid), 2)
    assert [tuple(pair) for pair in offsets.tolist()] == sorted(map(tuple, offsets.tolist()))
    assert grid.uncovered == 0


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), OVERLAPS, st.booleans())
def test_uncovered_counts_pixels_outside_all_fragments(
    rows: int, cols: int, size: int, overlap: float, border_shift: bool
) -> None:
    assume(size <= min(rows, cols))
    grid = FragmentGrid.of(rows, cols, size, overlap, border_shift)
    seen = np.zeros((rows, cols), bool)
    for row, col in grid.offsets():
        seen[row : row + size, col : col + size] = True
    assert grid.uncovered == pytest.approx(1 - seen.mean(), abs=1e-12)
    if border_shift:
        assert grid.uncovered == 0


@pytest.mark.parametrize(("length", "size", "overlap"), [(10, 11, 0.1), (10, 0, 0.1), (10, 5, 1.0), (10, 5, -0.1)])
def test_what_does_not_fit_is_refused_in_a_sentence(length: int, size: int, overlap: float) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        axis_offsets(length, size, overlap)


def test_overlap_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        axis_offsets(10, 5, math.nan)
