"""Bad input never stops a run: each fault is one line of ``failures.jsonl`` that a person understands."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mtembed.run.embed import embed
from tests.tools.commands import run
from tests.tools.shards import ShardCell, default_cells, geotiff, make_shard

OPTIONS: dict[str, Any] = {"model": "rcf", "fragment_size": 32, "max_failures": 1.0, "workers": 1}


def failures(folder: Path) -> dict[int | None, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()]
    return {line["row_group"]: line for line in lines}


def other(cell: ShardCell, **changes: Any) -> bytes:
    """The band vh of a cell that differs in one thing."""
    return geotiff(replace(cell, **changes), "vh", "S1RTC")


def test_every_damaged_cell_is_listed_with_its_reason_and_the_others_are_embedded(tmp_path: Path) -> None:
    cells = default_cells(14)
    cells[8] = replace(cells[8], rows=30, cols=30)
    cells[9] = replace(cells[9], content="zero")
    cells[10] = replace(cells[10], content=lambda band, rows, cols: np.full((rows, cols), np.nan, np.float32))
    cells[12] = cells[11]
    damage = {
        (1, "vv"): None,
        (2, "vh"): lambda good: good[: len(good) // 3],
        (3, "vv"): b"not a TIFF at all",
        (4, "vh"): geotiff(cells[4], "B04", "S2L2A"),
        (5, "vh"): other(cells[5], epsg=32720),
        (6, "vh"): other(cells[6], left=cells[6].left + 0.01),
        (7, "vh"): other(cells[7], rows=90, cols=90),
        (13, "vv"): b"",
    }
    make_shard(tmp_path / "images/part_1.parquet", cells, "S1RTC", damage=damage)
    result = embed(tmp_path, output=str(tmp_path / "out"), **OPTIONS)
    assert (result.exit_code, result.cells, result.failed) == (3, 5, 9)
    reasons = {row: line["error"] for row, line in failures(tmp_path / "out").items()}
    expected = {
        1: "null", 2: "band vh", 3: "band vv", 4: "uint16", 5: "different CRS", 6: "corners", 7: "divide",
        8: "smaller than a fragment", 13: "band vv",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for row, words in expected.items():
        assert words in reasons[row] and "\n" not in reasons[row], reasons[row]
    table = pq.read_table(tmp_path / "out/embeddings/part_1.parquet")
    vectors = np.array(table.column("embedding").to_pylist())
    assert vectors.shape == (5 * 9, 512) and np.isfinite(vectors).all()


def test_the_lines_name_shard_row_stage_and_product(tmp_path: Path) -> None:
    make_shard(tmp_path / "part_7.parquet", 2, "S1RTC", damage={(1, "vv"): None})
    embed(tmp_path, output=str(tmp_path / "out"), **OPTIONS)
    line = failures(tmp_path / "out")[1]
    assert line["shard"] == "part_7.parquet" and line["stage"] == "read"
    assert line["grid_cell"] == default_cells(2)[1].grid_cell and line["product_id"] == default_cells(2)[1].product_id


def test_shards_that_cannot_be_opened_are_one_line_each(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    good = make_shard(folder / "part_0.parquet", 1, "S1RTC").path
    (folder / "part_1.parquet").write_bytes(b"")
    (folder / "part_2.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    (folder / "part_3.parquet").write_bytes(good.read_bytes()[:-100])
    make_shard(folder / "part_4.parquet", 1, "S1RTC", bands=("vv",))
    make_shard(folder / "part_5.parquet", 0, "S1RTC")
    make_shard(folder / "part_6.parquet", 4, "S1RTC", rows_per_group=2)
    (folder / "part_7.parquet").symlink_to(tmp_path / "gone.parquet")
    result = embed(tmp_path, output=str(tmp_path / "out"), **OPTIONS)
    assert (result.exit_code, result.cells, result.failed, result.failed_shards) == (3, 1, 6, 6)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["totals"]["failed_shards"] == 6
    lines = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert {line["shard"] for line in lines} == {f"part_{i}.parquet" for i in (1, 2, 3, 4, 6, 7)}
    assert all(line["row_group"] is None and line["stage"] == "read" and line["error"] for line in lines)
    assert "no column vh" in next(line["error"] for line in lines if line["shard"] == "part_4.parquet")
    rows = {path.stem: pq.read_metadata(path).num_rows for path in (tmp_path / "out/embeddings").iterdir()}
    assert rows == {"part_0": 9, **{f"part_{i}": 0 for i in range(1, 8)}}


def test_a_shard_that_can_be_opened_later_is_retried(tmp_path: Path) -> None:
    make_shard(tmp_path / "images/part_0.parquet", 1, "S1RTC")
    (tmp_path / "images/part_1.parquet").write_bytes(b"still being copied")
    assert embed(tmp_path, output=str(tmp_path / "out"), **OPTIONS).failed == 1
    make_shard(tmp_path / "images/part_1.parquet", 2, "S1RTC")
    result = embed(tmp_path, output=str(tmp_path / "out"), retry_failed=True, **OPTIONS)
    assert (result.exit_code, result.cells, result.failed) == (0, 3, 0)


def test_a_shard_deleted_while_running_fails_its_rows_only(tmp_path: Path) -> None:
    make_shard(tmp_path / "images/part_0.parquet", 2, "S1RTC")
    make_shard(tmp_path / "images/part_1.parquet", 2, "S1RTC")
    gone = tmp_path / "images/part_1.parquet"
    fault = {"kind": "decode", "function": "mtembed.archive.cell:decode_cell", "call": 1, "action": f"delete:{gone}"}
    code, _, err = run(
        [
            "--model",
            "rcf",
            "--fragment-size",
            "32",
            "--output",
            str(tmp_path / "out"),
            "--max-failures",
            "1",
            str(tmp_path),
        ],
        [fault],
    )
    assert code == 3, err
    lines = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    assert {line["shard"] for line in lines} == {"part_1.parquet"}
    assert pq.read_metadata(tmp_path / "out/embeddings/part_0.parquet").num_rows == 18


def test_a_file_without_permission_is_a_failed_shard(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    make_shard(tmp_path / "images/part_0.parquet", 1, "S1RTC")
    shutil.copy(tmp_path / "images/part_0.parquet", tmp_path / "images/part_1.parquet")
    (tmp_path / "images/part_1.parquet").chmod(0)
    assert embed(tmp_path, output=str(tmp_path / "out"), **OPTIONS).failed == 1


def test_a_hopeless_run_is_stopped_with_the_top_reasons(tmp_path: Path) -> None:
    damage = {(row, "vv"): None for row in range(150) if row % 5}
    make_shard(tmp_path / "images/part_0.parquet", default_cells(150, 36), "S1RTC", damage=damage)
    code, _, err = run(["--model", "rcf", "--fragment-size", "32", "--output", str(tmp_path / "out"), str(tmp_path)])
    assert code == 1
    assert "--max-failures" in err and "band vv is null" in err and "Traceback" not in err
