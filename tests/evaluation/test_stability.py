"""Places of rows as numbers: equal ones are equal, a bounded table keeps whole places."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.evaluation.stability import Table, boxes, cosines, hashed, mixed, places


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["1U_2R", "1U_3R", None]), st.integers(-9, 9), st.integers(0, 9)), min_size=1)
)
def test_rows_of_one_cell_and_box_have_one_number(rows: list[tuple[str | None, int, int]]) -> None:
    box = [[a, b, a + 224, b + 224] for _, a, b in rows]
    kinds = (pa.list_(pa.int32(), 4), pa.list_(pa.int64()), pa.large_list(pa.int16()))
    cells = pa.array([cell for cell, _, _ in rows], pa.string())
    tables = [pa.table({"grid_cell": cells, "pixel_bbox": pa.array(box, kind)}) for kind in kinds]
    found = places(tables[0])
    assert all((places(table) == found).all() for table in tables[1:])
    assert len(np.unique(found)) == len(set(rows))


def test_boxes_that_are_none_are_zeros() -> None:
    column = pa.array([[1, 2, 3, 4], None, [5, 6], [7, None, 8, 9]], pa.list_(pa.int32()))
    assert boxes(pa.table({"pixel_bbox": column})).tolist() == [[1, 2, 3, 4], [0] * 4, [0] * 4, [7, 0, 8, 9]]
    assert not boxes(pa.table({"pixel_bbox": ["a", "b"]})).any()
    assert len(hashed(pa.chunked_array([pa.array([], pa.string())]))) == 0


def test_a_table_that_grows_keeps_all_rows_of_some_places() -> None:
    table, whole = Table(most=1_000), np.arange(40_000) % 10_000  # four rows of each place
    number = mixed(np.zeros(len(whole), np.uint64), whole[:, None])
    for first in range(0, len(whole), 777):
        table.add(number[first : first + 777], np.arange(len(whole))[first : first + 777])
    place, row = table.columns()
    assert 250 < len(place) <= 1_000 and (number[row.astype(np.int64)] == place).all() and (np.diff(row) > 0).all()
    assert set(np.unique(place, return_counts=True)[1]) == {4}
    assert len(place) / len(whole) == pytest.approx(table.share, rel=0.3)


def test_cosines_of_equal_rows_are_one_and_of_noise_none() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400, 30)).astype(np.float32) + 3
    assert cosines(a, a)[0] == pytest.approx(1) and abs(cosines(a, a)[1]) < 0.01
    assert abs(cosines(a, b)[0]) < 0.05 and cosines(a, 2 * a.mean(axis=0) - a)[0] == pytest.approx(-1)
