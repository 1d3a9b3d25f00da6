"""Finding shards and opening them."""

from __future__ import annotations

import os
import socket
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


def test_only_visible_files_of_a_folder_are_shards(tmp_path: Path) -> None:
    """macOS writes ``._part.parquet`` beside a file; Spark names folders so; a pipe would be waited for for ever."""
    wanted = shard(tmp_path / "images/part_1.parquet", ["1U_1R"])
    (tmp_path / "images/._part_1.parquet").write_bytes(bytes.fromhex("0005160700020000"))
    (tmp_path / "images/part_2.parquet").mkdir()
    os.mkfifo(tmp_path / "images/part_3.parquet")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "images/part_4.parquet"))
        for name in (str(tmp_path), str(tmp_path / "images"), str(tmp_path / "images" / "*.parquet")):
            assert find_shards([name]) == [wanted]


def test_a_link_to_nothing_is_a_shard_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "part_1.parquet").symlink_to(tmp_path / "gone.parquet")
    assert find_shards([str(tmp_path)]) == [tmp_path / "part_1.parquet"]
    with pytest.raises(ShardError, match="does not exist"):
        open_shard(tmp_path / "part_1.parquet")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(ShardError, match=r"pipe\.parquet is not a file"):
        open_shard(tmp_path / "pipe.parquet")


def test_a_name_that_is_not_utf8_is_told_in_escapes(tmp_path: Path) -> None:
    good = shard(tmp_path / "part_1.parquet", ["1U_1R"])
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/part_\xe9.parquet")
    good.rename(odd)
    with pytest.raises(ShardError, match="not UTF-8") as error:
        open_shard(Path(odd))
    str(error.value).encode()


def test_a_name_that_is_too_long_for_the_files_of_a_dataset_is_refused(tmp_path: Path) -> None:
    shard(tmp_path / f"{'x' * 220}.parquet", ["1U_1R"])
    with pytest.raises(UsageError, match="shorter"):
        find_shards([str(tmp_path)])
