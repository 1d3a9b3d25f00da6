"""``mtembed inspect`` says what is in a shard; the command speaks to people and in JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtembed.check import shard as inspection
from mtembed.check.shard import inspect
from mtembed.cli import inspect as inspection_view
from mtembed.cli.app import main
from mtembed.errors import UsageError
from tests.tools.parts import write_part
from tests.tools.screens import screen
from tests.tools.shards import ShardCell, cut, default_cells, make_shard, write_metadata


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


def test_a_plain_shard(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "images" / "part_00001.parquet", 3)
    facts = inspect(shard.path)
    expected = {
        "kind": "shard", "file": "part_00001.parquet", "source": "S2L1C", "rows": 3, "row_groups": 3,
        "bytes": shard.path.stat().st_size, "time_column": "product_datetime", "metadata": None, "sampled_rows": 3,
        "crs": {"EPSG:32719": 3}, "baselines": {"N0400": 2, "N0509": 1}, "damaged": [], "problems": [],
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert list(facts["bands"])[:2] == ["B01", "B02"]
    assert facts["bands"]["B02"] == {
        "dtype": {"uint16": 3}, "size": {"96x96": 3}, "pixel": {"10 m": 3}, "encoding": {"none": 3},
        "layout": {"strips of 42": 3}, "nodata_tag": {"none": 3}, "nodata_share": 0.0,
    }  # fmt: skip
    assert facts["bands"]["B01"]["size"] == {"16x16": 3}
    assert facts["bands"]["B05"]["pixel"] == {"20 m": 3}
    columns = {column["name"]: column for column in facts["columns"]}
    assert columns["B02"]["codec"] == "snappy"
    assert 0 < columns["B02"]["bytes"] <= columns["B02"]["plain_bytes"]
    assert columns["product_id"]["type"] == "string"


def test_the_first_shard_of_a_folder_in_cores_layout(tmp_path: Path) -> None:
    for name in ("part_00002", "part_00001"):
        make_shard(tmp_path / "images" / f"{name}.parquet", 1)
    assert inspect(tmp_path)["file"] == "part_00001.parquet"


@pytest.mark.parametrize(
    "options, encoding, layout",
    [
        ({"compress": "lzw"}, "lzw", "strips of 42"),
        ({"compress": "deflate", "predictor": 2}, "deflate+2", "strips of 42"),
        ({"compress": "zstd", "tiled": True, "blockxsize": 32, "blockysize": 16}, "zstd", "tiles 16x32"),
    ],
)
def test_encodings(tmp_path: Path, options: dict[str, Any], encoding: str, layout: str) -> None:
    shard = make_shard(tmp_path / "x.parquet", 1, "S2L2A", tiff=options, parquet_compression="zstd")
    facts = inspect(shard.path)
    assert facts["bands"]["B04"]["encoding"] == {encoding: 1}
    assert facts["bands"]["B04"]["layout"] == {layout: 1}
    assert {column["codec"] for column in facts["columns"]} == {"zstd"}
    assert facts["damaged"] == []


def test_models_that_fit(tmp_path: Path) -> None:
    l1c = inspect(make_shard(tmp_path / "l1c.parquet", 1).path)["models"]
    assert l1c["ssl4eo-s2"] == l1c["rcf"] == "fits"
    assert l1c["dinov2"] == "fits, made for S2L2A"
    assert l1c["ssl4eo-s1"] == "runs on S1RTC only"
    s1 = inspect(make_shard(tmp_path / "s1.parquet", 1, "S1RTC").path)["models"]
    assert s1["ssl4eo-s1"] == "fits"
    few = inspect(make_shard(tmp_path / "few.parquet", 1, "S2L2A", bands=["B04", "B02"]).path)["models"]
    assert few["siglip"] == "lacks B03"


def test_nodata_of_radar_is_its_tag_nan_or_zero(tmp_path: Path) -> None:
    def content(band: str, rows: int, cols: int) -> np.ndarray:
        pixels = np.ones((rows, cols))
        pixels[0, :4] = (-32768, np.nan, 0, np.inf) if band == "vv" else 1
        return pixels

    shard = make_shard(tmp_path / "s1.parquet", [ShardCell(rows=10, cols=10, content=content)], "S1RTC")
    bands = inspect(shard.path)["bands"]
    assert bands["vv"]["nodata_share"] == pytest.approx(0.04)
    assert bands["vh"]["nodata_share"] == 0
    assert bands["vv"]["nodata_tag"] == {"-32768": 1}
    assert bands["vv"]["dtype"] == {"float32": 1}


def test_mixed_cells_are_counted(tmp_path: Path) -> None:
    cells = [ShardCell(), ShardCell(epsg=32633, rows=48, cols=60, pixel=12.5, content="zero")]
    shard = make_shard(tmp_path / "x.parquet", cells, time_column="timestamp")
    facts = inspect(shard.path)
    assert facts["crs"] == {"EPSG:32719": 1, "EPSG:32633": 1}
    assert facts["bands"]["B08"]["size"] == {"96x96": 1, "48x60": 1}
    assert facts["bands"]["B08"]["nodata_share"] == 0.5
    assert facts["repeated_grid_cells"] == 1
    assert facts["time_column"] == "timestamp"
    text = screen(inspection_view.view(facts), 160)
    assert "EPSG:32719 (1), EPSG:32633 (1)" in text
    assert "50.00%" in text


def test_damaged_blobs_are_listed(tmp_path: Path) -> None:
    damage = {(0, "B03"): cut, (1, "B01"): None, (2, "B12"): b"not a TIFF"}
    shard = make_shard(tmp_path / "x.parquet", 3, damage=damage)
    facts = inspect(shard.path)
    found = {(item["row_group"], item["band"]): item["error"] for item in facts["damaged"]}
    assert set(found) == set(damage)
    assert "outside the blob" in found[0, "B03"]
    assert found[1, "B01"] == "band B01 is null"
    assert found[2, "B12"] == "the blob is not a TIFF"
    assert sum(facts["bands"]["B03"]["dtype"].values()) == 2
    text = screen(inspection_view.view(facts), 160)
    assert "Damaged, 3 in all:" in text
    assert "row group 2, B12: the blob is not a TIFF" in text


def test_long_shards_are_sampled_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SAMPLE", 3)
    shard = make_shard(tmp_path / "x.parquet", default_cells(8, side=12), "S1RTC")
    facts = inspect(shard.path)
    assert (facts["rows"], facts["sampled_rows"]) == (8, 3)
    assert sum(facts["bands"]["vv"]["dtype"].values()) == 3
    assert "GeoTIFFs of a sample of 3 rows" in screen(inspection_view.view(facts), 160)


def test_what_mtembed_cannot_use_is_a_problem(tmp_path: Path) -> None:
    shard = make_shard(tmp_path / "x.parquet", 4, "S1RTC", time_column=None, rows_per_group=2)
    problems = inspect(shard.path)["problems"]
    assert problems[0] == "4 rows in 2 row groups: mtembed needs one row per row group"
    assert problems[1].startswith("there is no time column")


def test_an_empty_shard(tmp_path: Path) -> None:
    facts = inspect(make_shard(tmp_path / "x.parquet", []).path)
    assert (facts["rows"], facts["sampled_rows"], facts["crs"]) == (0, 0, {})
    assert facts["bands"]["B04"]["nodata_share"] is None
    assert facts["problems"] == []
    assert "a shard of Core-S2L1C, 0 rows in" in screen(inspection_view.view(facts), 160)


def test_real_shards(shared: Path) -> None:
    facts = inspect(shared / "data" / "Core-S2L2A" / "images" / "part_00002.parquet")
    assert facts["source"] == "S2L2A"
    assert facts["metadata"] == "metadata.parquet"
    assert facts["bands"]["B02"]["size"] == {"1068x1068": 6}
    assert [(item["row_group"], item["band"]) for item in facts["damaged"]] == [(4, "B03")]
    radar = inspect(shared / "data" / "Core-S1RTC" / "images" / "part_00002.parquet")
    assert set(radar["bands"]["vv"]["size"]) == {"1068x1068", "1068x1069", "854x854", "1424x1424"}


# -- what cannot be inspected -----------------------------------------------------------------------------------------


def test_what_is_no_shard_is_a_usage_error(tmp_path: Path) -> None:
    metadata = write_metadata(tmp_path / "metadata.parquet", [make_shard(tmp_path / "x.parquet", 1)])
    with pytest.raises(UsageError, match="neither Sentinel bands nor embeddings; its columns are grid_cell"):
        inspect(metadata)
    with pytest.raises(UsageError, match="a folder without embeddings"):
        inspect(tmp_path)
    numbers = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"embedding": [1.0]}), numbers)
    with pytest.raises(UsageError, match="no list of numbers"):
        inspect(numbers)


def test_command_needs_a_readable_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("inspect", str(tmp_path / "nothing.parquet")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    torn = make_shard(tmp_path / "torn.parquet", 1).path
    torn.write_bytes(torn.read_bytes()[:-9])
    assert command("inspect", str(torn)) == 2
    error = capsys.readouterr().err
    assert "torn.parquet is not a readable Parquet file" in error
    assert error.count("\n") == 1


def test_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = make_shard(tmp_path / "x.parquet", 2)
    assert command("inspect", str(shard.path)) == 0
    out = capsys.readouterr().out
    assert "x.parquet: a shard of Core-S2L1C, 2 rows in 2 row groups" in out
    assert all(line == line.rstrip() for line in out.splitlines())


def test_command_speaks_json_for_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = make_shard(tmp_path / "x.parquet", 1)
    part = write_part(tmp_path / "part.parquet", np.eye(3))
    assert command("inspect", "--json", str(shard.path), str(part)) == 0
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [fact["kind"] for fact in facts] == ["shard", "embeddings"]


# -- odd files --------------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """The shard with its table changed, still one row a row group."""
    pq.write_table(change(pq.read_table(path)), path, row_group_size=1)
    return path


def appended(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.append_column(name, values)


POINTS = pa.array(
    [{"a.b": 1, "c": [{"d": 2.5}]}, None], pa.struct({"a.b": pa.int8(), "c": pa.list_(pa.struct({"d": pa.float64()}))})
)
ODD_COLUMNS = {
    "a name with a dot": ("eo:cloud.cover", pa.array([1.0, 2.0])),
    "a name that looks like markup": ("[/bold][link=x]y", pa.array([1, 2])),
    "a name of nothing": ("", pa.array([1, 2])),
    "a control character": ("\x1b[31mred", pa.array([1, 2])),
    "structs": ("points", POINTS),
    "decimals": ("price", pa.array([Decimal("1.5"), None], pa.decimal128(9, 2))),
    "a map": ("tags", pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32()))),
    "categories": ("kind", pa.array(["a", "b"]).dictionary_encode()),
    "a column twice": ("thumbnail", pa.array([b"", b""])),
}


@pytest.mark.parametrize("name, values", ODD_COLUMNS.values(), ids=ODD_COLUMNS)
def test_odd_columns_are_listed(
    tmp_path: Path, name: str, values: pa.Array, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewritten(make_shard(tmp_path / "x.parquet", 2, "S1RTC").path, appended(name, values))
    columns = inspect(path)["columns"]
    assert [(column["name"], column["type"]) for column in columns] == [
        (f.name, str(f.type)) for f in pq.read_schema(path)
    ]
    assert columns[-1]["bytes"] > 0
    assert sum(column["bytes"] for column in columns) == sum(chunk_bytes(path))
    assert command("inspect", str(path)) == 0
    assert "\x1b" not in capsys.readouterr().out


def chunk_bytes(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    return [group.column(i).total_compressed_size for group in groups for i in range(group.num_columns)]


def test_a_band_twice_is_a_problem(tmp_path: Path) -> None:
    path = make_shard(tmp_path / "x.parquet", 2, "S1RTC").path
    facts = inspect(rewritten(path, lambda table: table.append_column("vv", table["vv"])))
    assert "there are 2 columns vv" in facts["problems"]
    assert {(item["row_group"], item["band"]) for item in facts["damaged"]} == {(0, "vv"), (1, "vv")}


@pytest.mark.parametrize("kind", [pa.list_(pa.binary()), pa.int64(), pa.struct({"bytes": pa.binary()})], ids=str)
def test_bands_of_another_type_are_damaged(tmp_path: Path, kind: pa.DataType) -> None:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("vv")
        return table.set_column(at, "vv", pa.array([None, None], kind))

    facts = inspect(rewritten(make_shard(tmp_path / "x.parquet", 2, "S1RTC").path, change))
    assert {(item["row_group"], item["band"]) for item in facts["damaged"]} == {(0, "vv"), (1, "vv")}


def test_text_in_bare_bytes_is_read(tmp_path: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(0, "product_id", table["product_id"].cast(pa.binary()))

    facts = inspect(rewritten(make_shard(tmp_path / "x.parquet", 2).path, change))
    assert facts["baselines"] == {"N0400": 1, "N0509": 1}


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.parquet")
    with pytest.raises(UsageError, match="not a regular file"):
        inspect(tmp_path / "pipe.parquet")
