"""Lists of cells."""

from __future__ import annotations

from pathlib import Path

from mtembed.archive.selection import read_cell_list
from tests.tools.shards import bare_shard as shard


def test_cell_lists_in_text_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "cells.txt").write_text("1U_1R\n\n 2D_3L \n")
    assert read_cell_list(tmp_path / "cells.txt") == {"1U_1R", "2D_3L"}
    assert read_cell_list(shard(tmp_path / "cells.parquet", ["7U_7R"])) == {"7U_7R"}
