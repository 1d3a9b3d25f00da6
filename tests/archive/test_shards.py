"""Finding shards, opening them, and matching metadata lines to rows."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.archive.shards import MetadataIndex, Selection, find_shards, open_shard, plan_shard, read_cell_list
from mtembed.errors import ShardError, UsageError
from mtembed.geo.grid import grid_centre, parse_grid_cell
from mtembed.sources import source_of

BANDS = ("vv", "vh")


def shard(path: Path, cells: list[str], row_group_size: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(cells)
    table = pa.table(
        {"product_id": [f"P{i}" for i in range(count)], "grid_cell": cells, "vv": [b"x"] * count, "vh": [b"x"] * count}
    )
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def metadata(path: Path, lines: list[tuple[str, int, str, str, float, float]]) -> Path:
    names = ("parquet_url", "parquet_row", "product_id", "grid_cell", "centre_lat", "centre_lon")
    columns = dict(zip(names, map(list, zip(*lines, strict=True)), strict=True))
    columns["timestamp"] = ["20200101T000000"] * len(lines)
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_files_folders_and_globs_become_a_sorted_list(tmp_path: Path) -> None:
    for name in ("images/part_2.parquet", "images/part_1.parquet", "metadata.parquet"):
        shard(tmp_path / name, ["1U_1R"])
    wanted = [tmp_path / "images/part_1.parquet", tmp_path / "images/part_2.parquet"]
    assert find_shards([str(tmp_path)]) == wanted
    assert find_shards([str(tmp_path / "images/*.parquet"), str(wanted[0])]) == wanted


def test_a_name_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing-here"):
        find_shards([str(tmp_path / "nothing-here*.parquet")])


def test_two_files_of_one_stem_are_refused_by_name(tmp_path: Path) -> None:
    shard(tmp_path / "a/part_1.parquet", ["1U_1R"])
    shard(tmp_path / "b/part_1.parquet", ["1U_1R"])
    with pytest.raises(UsageError, match=r"a/part_1.*b/part_1"):
        find_shards([str(tmp_path / "a"), str(tmp_path / "b")])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_what_is_not_parquet_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"broken\.parquet") as caught:
        open_shard(path)
    assert "\n" not in str(caught.value)


def test_several_rows_in_a_row_group_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="one row per row group"):
        open_shard(shard(tmp_path / "p.parquet", ["1U_1R"] * 4, row_group_size=2))


def test_missing_bands_are_named(tmp_path: Path) -> None:
    path = shard(tmp_path / "p.parquet", ["1U_1R"])
    plan = plan_shard(0, path, ("vv", "hh"), MetadataIndex(None), Selection())
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
    plan = plan_shard(5, path, BANDS, MetadataIndex(lines), Selection())
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
            return [cell.row_group for cell in plan_shard(0, path, BANDS, index, Selection(**wanted)).cells]  # type: ignore[arg-type]

        assert rows(bbox=(-1.0, -1.0, 1.0, 1.0)) == [0]
        assert rows(bbox=(160.0, -1.0, -160.0, 1.0)) == [2]
        assert rows(cells=frozenset({"100U_0R", "0U_1800R"})) == [1, 2]
        assert rows(cells=frozenset({"100U_0R"}), bbox=(-1.0, -1.0, 1.0, 1.0)) == []


def test_cell_lists_in_text_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "cells.txt").write_text("1U_1R\n\n 2D_3L \n")
    assert read_cell_list(tmp_path / "cells.txt") == {"1U_1R", "2D_3L"}
    assert read_cell_list(shard(tmp_path / "cells.parquet", ["7U_7R"])) == {"7U_7R"}


@pytest.mark.parametrize(
    ("name", "lat", "lon"),
    # centre_lat, centre_lon of published metadata lines (research notes of the format); 5 km margins apart
    [("110D_457L", -9.835420887576138, -41.61526669033936)],
)
def test_grid_centres_agree_with_published_metadata(name: str, lat: float, lon: float) -> None:
    assert grid_centre(name) == pytest.approx((lat, lon), abs=0.01)


def test_grid_cell_names() -> None:
    assert parse_grid_cell("454U_120R") == (454, 120)
    assert parse_grid_cell("7D_3L") == (-7, -3)
    with pytest.raises(ValueError, match="odd"):
        parse_grid_cell("odd")
    assert all(map(math.isnan, grid_centre("odd")))


def test_the_source_follows_from_the_columns() -> None:
    assert source_of(["B02", "B10"]) == "S2L1C"
    assert source_of(["B02", "cloud_mask"]) == "S2L2A"
    assert source_of(["vv", "vh"]) == "S1RTC"
    assert source_of(["DEM"]) is None
