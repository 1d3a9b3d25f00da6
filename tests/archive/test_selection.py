"""Lists of cells: text, CSV and Parquet as people and programs write them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.archive.selection import read_cell_list, unmatched
from mtembed.errors import UsageError
from tests.tools.shards import bare_shard as shard

NAMES = frozenset({"433D_629L", "2D_3L"})


def test_cell_lists_in_text_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "cells.txt").write_text("1U_1R\n\n 2D_3L \n")
    assert read_cell_list(tmp_path / "cells.txt") == {"1U_1R", "2D_3L"}
    assert read_cell_list(shard(tmp_path / "cells.parquet", ["7U_7R"])) == {"7U_7R"}


@pytest.mark.parametrize(
    "content",
    [
        b"433D_629L\n2D_3L\n",
        b"\xef\xbb\xbf433D_629L\r\n2D_3L",
        b"\xef\xbb\xbfgrid_cell\r\n433D_629L\r\n2D_3L\r\n",
        b'"433D_629L"\n"2D_3L"\n',
        b'grid_cell,lat\n"433D_629L",-39\n2D_3L,1.5\n',
        b"lat,grid_cell\n-39,433D_629L\n1.5, 2D_3L\n",
        b"lat;grid_cell\n-39;433D_629L\n1,5;2D_3L\n",
        b"grid_cell\tlat\n433D_629L\t1\n2D_3L\t2\n",
        b"433D_629L\r2D_3L\r",
    ],
)
def test_texts_that_programs_write(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cells.txt"
    path.write_bytes(content)
    assert read_cell_list(path) == NAMES


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_parquet_lists_of_every_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    plain = pa.array([*NAMES, None])
    names = plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind)
    pq.write_table(pa.table({"grid_cell": names}), tmp_path / "cells.parquet")
    assert read_cell_list(tmp_path / "cells.parquet") == NAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"433D_629L\nnonsense\n", "line 2: 'nonsense' is not a grid cell"),
        (b"grid_cell,lat\n433D_629L,1\n\nrow 7,2\n", "line 4: 'row 7'"),
        (b"name,lat\n433D_629L,1\n", "line 1: 'name'"),
        ("433D_629L\n".encode("utf-16"), "UTF-16"),
        ("433D_629L\n".encode("utf-16-le"), "UTF-16"),
        (b"433D_629L\n\xe9\n", "not UTF-8"),
        (b"", "holds no name"),
        (b"\n\n", "holds no name"),
        (b"grid_cell\n", "holds no name"),
        (b"PAR1 and no more", "cannot be read"),
    ],
)
def test_what_is_no_list_of_cells_is_refused_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "cells.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as error:
        read_cell_list(path)
    assert "\n" not in str(error.value) and "--cells" in str(error.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"grid_cell": pa.array([["a"]])}, "column grid_cell is list"),
        ({"grid_cell": pa.array([{"a": 1}])}, "column grid_cell is struct"),
        ({"grid_cell": pa.array([1], pa.duration("s"))}, "column grid_cell is duration"),
        ({"grid_cell": pa.array([7])}, "column grid_cell is int64"),
        ({"cell": pa.array(["1U_1R"])}, "0 columns grid_cell"),
        ({"grid_cell": pa.array(["1U_1R", "odd"])}, "line 2: 'odd'"),
    ],
)
def test_parquet_that_is_no_list_is_refused(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "cells.parquet")
    with pytest.raises(UsageError, match=words):
        read_cell_list(tmp_path / "cells.parquet")


def test_a_folder_or_a_pipe_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(UsageError, match="is not a file"):
            read_cell_list(path)


def test_names_that_no_shard_holds_are_counted() -> None:
    assert unmatched(None, ()) == "" == unmatched(frozenset({"1U_1R"}), ["1U_1R"])
    cells = frozenset({f"{i}U_1R" for i in range(5)})
    assert unmatched(cells, {"0U_1R"}) == "4 of the 5 names of --cells are in no shard: 1U_1R, 2U_1R, 3U_1R ..."
