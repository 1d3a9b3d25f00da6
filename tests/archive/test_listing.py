"""Opening a shard and listing the cells that are wanted of it."""

from __future__ import annotations

from pathlib import Path

from mtembed.archive.listing import list_shard
from mtembed.archive.metadata import MetadataIndex
from mtembed.archive.selection import Selection
from mtembed.geo.grid import grid_centre
from tests.tools.shards import bare_metadata as metadata
from tests.tools.shards import bare_shard as shard

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
