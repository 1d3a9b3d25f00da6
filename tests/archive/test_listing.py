"""Opening a shard and listing the cells that are wanted of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex
from mtembed.archive.selection import Selection
from mtembed.geo.grid import grid_centre
from mtembed.types import ShardListing
from tests.tools.shards import bare_metadata as metadata
from tests.tools.shards import bare_shard as shard
from tests.tools.shards import retyped, row_groups, with_column_twice

BANDS = ("vv", "vh")


def test_missing_bands_are_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "p.parquet", ["1U_1R"])
    plan = list_shard(0, path, ("vv", "hh"), MetadataIndex(None), Selection())
    assert plan.error == "p.parquet has no column hh" and not plan.cells


def test_metadata_lines_are_matched_by_file_name_and_row(tmp_path: Path) -> None:
    path = shard(tmp_path / "p.parquet", ["1U_1R", "2U_2R", "3U_3R"])
    lines = metadata(
        tmp_path / "m.parquet",
        [
            ("https://x/images/p.parquet", 0, "P0", "1U_1R", 1.0, 1.0),
            ("https://x/images/p.parquet", 2, "other", "3U_3R", 3.0, 3.0),
            ("https://x/images/p.parquet", 2, "P2", "3U_3R", 3.0, 3.0),
            ("https://x/images/not-p.parquet", 1, "P1", "2U_2R", 2.0, 2.0),
        ],
    )
    plan = list_shard(5, path, BANDS, MetadataIndex(lines), Selection())
    assert [[line.product_id for line in cell.metadata] for cell in plan.cells] == [["P0"], [], ["other", "P2"]]
    assert {cell.shard for cell in plan.cells} == {5}
    assert plan.fingerprint.rows == 3 and plan.fingerprint.size == path.stat().st_size


def test_a_box_and_a_list_select_cells_with_and_without_metadata(tmp_path: Path) -> None:
    names = ["0U_0R", "100U_0R", "0U_1800R"]
    path = shard(tmp_path / "p.parquet", names)
    for lines in (
        None,
        metadata(tmp_path / "m.parquet", [("p.parquet", i, "", n, *grid_centre(n)) for i, n in enumerate(names)]),
    ):
        index = MetadataIndex(lines)

        def rows(index: MetadataIndex = index, **wanted: object) -> list[int]:
            return [cell.row_group for cell in list_shard(0, path, BANDS, index, Selection(**wanted)).cells]  # type: ignore[arg-type]

        assert rows(bbox=(-1.0, -1.0, 1.0, 1.0)) == [0]
        assert rows(bbox=(160.0, -1.0, -160.0, 1.0)) == [2]
        assert rows(cells=frozenset({"100U_0R", "0U_1800R"})) == [1, 2]
        assert rows(cells=frozenset({"100U_0R"}), bbox=(-1.0, -1.0, 1.0, 1.0)) == []


def listing(path: Path) -> ShardListing:
    return list_shard(0, path, BANDS, MetadataIndex(None), Selection())


@pytest.mark.parametrize(
    ("counts", "rows"), [((1, 1, 1, 0), [0, 1, 2]), ((0, 1, 1, 1), [1, 2, 3]), ((1, 0, 0, 1, 1), [0, 3, 4])]
)
def test_empty_row_groups_are_passed_over(tmp_path: Path, counts: tuple[int, ...], rows: list[int]) -> None:
    path = row_groups(shard(tmp_path / "p.parquet", ["1U_1R", "2U_2R", "3U_3R"]), counts)
    assert [cell.row_group for cell in listing(path).cells] == rows
    only = list_shard(0, path, BANDS, MetadataIndex(None), Selection(cells=frozenset({"3U_3R"})))
    assert [cell.row_group for cell in only.cells] == rows[-1:]


@pytest.mark.parametrize("counts", [(2, 0, 1), (0, 0, 3), (1, 2)])
def test_several_rows_in_any_row_group_refuse_the_shard(tmp_path: Path, counts: tuple[int, ...]) -> None:
    path = row_groups(shard(tmp_path / "p.parquet", ["1U_1R", "2U_2R", "3U_3R"]), counts)
    assert "one row per row group" in listing(path).error and not listing(path).cells


@pytest.mark.parametrize("name", ["vv", "product_id", "grid_cell"])
def test_a_column_that_is_there_twice_refuses_the_shard(tmp_path: Path, name: str) -> None:
    path = with_column_twice(shard(tmp_path / "p.parquet", ["1U_1R"]), name)
    assert listing(path).error == f"p.parquet has two columns {name}: leave one of them out"


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("vv", lambda values: pa.array([{"bytes": b"", "path": ""}] * len(values), STRUCT), "band vv is struct<bytes"),
        ("vh", lambda values: pa.array([[1]] * len(values), pa.list_(pa.uint8())), "band vh is list<"),
        ("vv", lambda values: pa.array([1] * len(values), pa.int64()), "band vv is int64: write its bytes as binary"),
        ("product_id", lambda values: pa.array([1] * len(values)), "column product_id is int64: write it as text"),
        (
            "grid_cell",
            lambda values: pa.array([{"bytes": b"", "path": ""}] * len(values), STRUCT),
            "grid_cell is struct",
        ),
    ],
)
def test_a_column_of_another_kind_is_named_with_its_type(tmp_path: Path, name: str, make: Any, words: str) -> None:
    found = listing(retyped(shard(tmp_path / "p.parquet", ["1U_1R", "2U_2R"]), {name: make}))
    assert words in found.error and not found.cells


def test_names_that_a_list_asks_for_are_told_where_they_are_found(tmp_path: Path) -> None:
    path = shard(tmp_path / "p.parquet", ["1U_1R", "2U_2R"])
    wanted = frozenset({"2U_2R", "3U_3R"})
    assert list_shard(0, path, BANDS, MetadataIndex(None), Selection(cells=wanted)).named == {"2U_2R"}


def test_the_image_rows_name_decides_and_not_the_metadatas(tmp_path: Path) -> None:
    path = shard(tmp_path / "p.parquet", ["1U_1R"])
    lines = metadata(tmp_path / "m.parquet", [("p.parquet", 0, "P0", "9U_9R", 9.0, 9.0)])
    for name, count in (("1U_1R", 1), ("9U_9R", 0)):
        assert len(list_shard(0, path, BANDS, MetadataIndex(lines), Selection(cells=frozenset({name}))).cells) == count


@pytest.mark.parametrize("name", ["9" * 400 + "U_1R", "99999999999999999999U_1R", "odd"])
def test_a_box_leaves_out_cells_whose_place_is_not_known(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / "p.parquet", [name])
    found = list_shard(0, path, BANDS, MetadataIndex(None), Selection(bbox=(-180.0, -90.0, 180.0, 90.0)))
    assert not found.error and not found.cells
