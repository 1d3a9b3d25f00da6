"""Finding shards and opening them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtembed.archive.shards import find_shards, open_shard
from mtembed.errors import ShardError, UsageError
from tests.tools.shards import bare_shard as shard


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
