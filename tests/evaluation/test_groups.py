"""Blocks and folds: no cell and no group stands on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.evaluation.groups import Places, folds_of, joined, lacking
from mtembed.geo.grid import grid_centre

places = st.tuples(st.integers(-900, 900), st.integers(-1500, 1500))


@settings(max_examples=25, deadline=None)
@given(cell=places)
def test_a_cell_s_middle_names_the_cell(cell: tuple[int, int]) -> None:
    row, col = cell
    name = f"{abs(row)}{'U' if row >= 0 else 'D'}_{abs(col)}{'R' if col >= 0 else 'L'}"
    lat, lon = grid_centre(name)
    by_name = Places.of([name], np.array([0.0]), np.array([0.0]))
    assert (by_name.row[0], by_name.col[0]) == cell
    if abs(by_name.centres()[1][0]) < 180:  # names beyond the last column stand for another cell
        by_place = Places.of(None, np.array([lat]), np.array([lon]))
        assert (by_place.row[0], by_place.col[0]) == cell


@settings(max_examples=25, deadline=None)
@given(cells=st.lists(places, min_size=2, max_size=50), side=st.integers(1, 20))
def test_blocks_never_cut_a_cell_and_hold_no_more_than_their_square(cells: list[tuple[int, int]], side: int) -> None:
    row, col = np.array([*cells, *cells]).T
    found = Places(row, col)
    blocks = found.blocks(side)
    assert (blocks[: len(cells)] == blocks[len(cells) :]).all()
    for block in np.unique(blocks):
        mine = blocks == block
        assert np.ptp(row[mine]) < side
        assert len(np.unique(found.cells()[mine])) <= side * (side + 3)


def test_a_block_of_ten_is_about_a_hundred_cells() -> None:
    row, col = (part.ravel() for part in np.meshgrid(np.arange(400, 460), np.arange(300, 360), indexing="ij"))
    _, counts = np.unique(Places(row, col).blocks(10), return_counts=True)
    assert 90 <= np.median(counts) <= 110 and counts.max() <= 120


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(2, 12), count=st.integers(2, 6), classed=st.booleans())
def test_no_group_stands_on_both_sides(seed: int, groups: int, count: int, classed: bool) -> None:
    rng = np.random.default_rng(seed)
    of_row = np.concatenate([np.arange(groups), rng.integers(0, groups, 40)])
    classes = rng.integers(0, 3, len(of_row)) if classed else None
    folds = folds_of(of_row, classes, count, seed)
    assert 1 <= len(folds) <= min(count, groups)
    for fold in folds:
        assert not set(of_row[fold.train]) & set(of_row[fold.test])
        assert sorted([*fold.train, *fold.test]) == list(range(len(of_row)))
    tested = np.concatenate([fold.test for fold in folds])
    assert len(np.unique(tested)) == len(tested)


def test_folds_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    groups = np.arange(60) // 2
    first, again, other = (folds_of(groups, None, 5, seed) for seed in (1, 1, 2))
    assert all((a.test == b.test).all() for a, b in zip(first, again, strict=True))
    assert any(len(a.test) != len(b.test) or (a.test != b.test).any() for a, b in zip(first, other, strict=True))


def test_one_group_makes_no_folds() -> None:
    assert folds_of(np.zeros(10, int), None, 5, 0) == ()


def test_a_class_of_one_group_is_lacking_and_one_of_two_groups_is_not() -> None:
    groups = np.arange(40) // 4
    classes = np.where(groups < 5, 0, 1)
    classes[groups == 9] = 2
    assert lacking(folds_of(groups, classes, 5, 0), classes) == {2}
    classes[groups == 8] = 2
    assert lacking(folds_of(groups, classes, 5, 0), classes) == set()


def test_rows_that_share_any_label_are_together() -> None:
    found = joined(np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 8]))
    assert found[0] == found[1] == found[2]
    assert len({found[0], found[3], found[4]}) == 3


@pytest.mark.parametrize("name", [None, "odd", "12X_3R"])
def test_a_cell_without_a_name_of_the_grid_is_found_by_its_place(name: str | None) -> None:
    lat, lon = grid_centre("454U_120R")
    found = Places.of([name], np.array([lat]), np.array([lon]))
    assert (found.row[0], found.col[0]) == (454, 120)
