"""One row for each cell: the fragment in the middle, whatever order, grid or columns the rows have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed.dataset.reader import open_dataset
from mtembed.errors import UsageError
from mtembed.geo.fragments import FragmentGrid
from mtembed.maps.central import cell_keys, cell_of_key, central_rows
from tests.tools.embeddings import grid_table, random_vectors, write

CELLS = ["10U_20R", "454U_120R", "3D_7L", "0U_0R"]


def table(cells: list[str] = CELLS, size: int = 224, side: int = 1068, **changes: Any) -> pa.Table:
    """Cells as Algorithm 1 cuts them: 5 x 5 fragments of 224 px, 3 x 3 of 384 px."""
    grid = FragmentGrid.of(side, side, size, 0.1, True)
    offsets = [(row, col) for row in grid.row_offsets for col in grid.col_offsets]
    boxes = [[col, row, col + size, row + size] for row, col in offsets] * len(cells)
    made = grid_table(random_vectors(len(boxes)), cells, len(offsets))
    return made.set_column(
        made.column_names.index("pixel_bbox"), "pixel_bbox", pa.array(boxes, pa.list_(pa.int32(), 4))
    )


def chosen(path: Path, made: pa.Table | list[pa.Table]) -> list[tuple[str, str]]:
    """(cell, unique_id) of the central rows."""
    tables = [made] if isinstance(made, pa.Table) else made
    for number, one in enumerate(tables):
        write(path / f"{number}.parquet", one, row_group_size=7)
    rows = central_rows(open_dataset(path), range(len(tables)))
    return [
        (one["grid_cell"][row].as_py(), one["unique_id"][row].as_py())
        for one, found in zip(tables, rows, strict=True)
        for row in found.tolist()
    ]


@pytest.mark.parametrize(("size", "side", "place"), [(224, 1068, (2, 2)), (384, 1068, (1, 1)), (224, 1056, (2, 2))])
@pytest.mark.parametrize("columns", ["pixel_bbox", "centre", "geometry"])
def test_the_middle_one_of_the_grid(tmp_path: Path, size: int, side: int, place: tuple[int, int], columns: str) -> None:
    made = table(size=size, side=side)
    if columns != "pixel_bbox":
        made = made.drop_columns(["pixel_bbox"])
    if columns == "geometry":
        made = made.drop_columns(["centre_lat", "centre_lon"])
    expected = [(cell, f"{cell}-{224 * place[0]}-{224 * place[1]}") for cell in CELLS]
    assert chosen(tmp_path, made) == expected


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(0, 100))
def test_rows_in_any_order_and_files(tmp_path_factory: pytest.TempPathFactory, seed: int, cut: int) -> None:
    made = table().take(np.random.default_rng(seed).permutation(100))
    found = chosen(tmp_path_factory.mktemp("mixed"), [made.slice(0, cut), made.slice(cut)])
    assert sorted(found) == sorted((cell, f"{cell}-448-448") for cell in CELLS)


def test_a_cell_that_repeats_counts_once_with_its_latest_image(tmp_path: Path) -> None:
    def image(time: str, name: str) -> pa.Table:
        made = table(CELLS[:2])
        ids = [f"{name}{text}" for text in made["unique_id"].to_pylist()]
        made = made.set_column(0, "unique_id", pa.array(ids))
        return made.set_column(2, "timestamp", pa.array([time] * len(ids)))

    tables = [image("20200101T000000", "a"), image("20210101T000000", "b"), image("20210101T000000", "c")]
    assert chosen(tmp_path, tables) == [(cell, f"b{cell}-448-448") for cell in CELLS[:2]]


def test_fragments_of_a_cell_with_left_out_ones(tmp_path: Path) -> None:
    made = table(CELLS[:1]).filter(pa.array([i not in (12, 3, 7) for i in range(25)]))
    (found,) = chosen(tmp_path, made)
    assert found[1] in {f"{CELLS[0]}-{row}-{col}" for row, col in ((448, 224), (224, 448), (448, 672), (672, 448))}


def test_across_the_antimeridian(tmp_path: Path) -> None:
    lon = pa.array([179.97, -179.99, 179.96, -179.96, 179.98], pa.float32())
    lat = pa.array([5.03, 5.07, 5.1, 5.04, 5.11], pa.float32())
    made = pa.table(
        {
            "embedding": [[0.0]] * 5, "grid_cell": ["56U_1996R"] * 5, "unique_id": list("abcde"),
            "centre_lat": lat, "centre_lon": lon, "geometry": pa.array([b""] * 5, pa.binary()),
        }
    )  # fmt: skip
    assert chosen(tmp_path, made) == [("56U_1996R", "b")]


def test_odd_names_are_cells_too(tmp_path: Path) -> None:
    assert [cell for cell, _ in chosen(tmp_path, table(["somewhere", "", "12345U_1R"]))] == [
        "somewhere",
        "",
        "12345U_1R",
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-1002, 1001), st.integers(-2004, 2004)), max_size=20))
def test_keys_hold_rows_and_columns(cells: list[tuple[int, int]]) -> None:
    names = [f"{abs(r)}{'U' if r >= 0 else 'D'}_{abs(c)}{'R' if c >= 0 else 'L'}" for r, c in cells]
    rows, cols = cell_of_key(cell_keys(pa.chunked_array([pa.array(names, pa.string())])))
    assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == cells


def test_a_pixel_bbox_that_is_none_is_named(tmp_path: Path) -> None:
    boxes = pa.array([None] + [[0, 0, 1, 1]] * 24, pa.list_(pa.int32()))
    with pytest.raises(UsageError, match=r"pixel_bbox of .* is not four numbers"):
        chosen(tmp_path, grid_table(random_vectors(25), CELLS[:1], 25, pixel_bbox=boxes))
