"""``mtembed inspect`` says what is in a shard, in embeddings and in an output folder."""

from __future__ import annotations

import json
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
from mtembed.dataset.rows import PartWriter, build_table, schema
from mtembed.errors import UsageError
from mtembed.types import CellRecord, Georeference
from tests.tools.screens import screen
from tests.tools.shards import ShardCell, cut, default_cells, make_shard, write_metadata


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)


# -- shards -----------------------------------------------------------------------------------------------------------


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


# -- embeddings -------------------------------------------------------------------------------------------------------


def write_part(path: Path, vectors: np.ndarray, dtype: Any = "float32", extras: bool = False) -> Path:
    """A part of one cell with as many fragments as there are vectors."""
    place = Georeference(32633, 400_000.0, 5_000_000.0, 10.0, 10.0, 32, 32 * len(vectors))
    offsets = np.array([[0, 32 * i] for i in range(len(vectors))], np.int32)
    record = CellRecord(0, "product", "1U_1R", "20200101T000000", place, 32, offsets)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = PartWriter(path, schema(vectors.shape[1], dtype, extras))
    writer.write(build_table([record], vectors.astype(dtype), dtype, extras))
    writer.close({"mtembed": json.dumps({"cells": [[0, len(vectors)]]})})
    return path


def test_a_part(tmp_path: Path) -> None:
    vectors = np.array([[3, 4], [0, 5], [3, 4], [1, 1]], np.float32)
    path = write_part(tmp_path / "part.parquet", vectors)
    facts = inspect(path)
    expected = {
        "kind": "embeddings", "file": "part.parquet", "bytes": path.stat().st_size, "parts": 1, "rows": 4, "cells": 1,
        "dtype": "float32", "dim": 2, "row_groups": 1, "storage": ["zstd, BYTE_STREAM_SPLIT"], "geoparquet": "1.1.0",
        "schema": "mtembed",
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert facts["health"] == {
        "vectors": 4, "not_finite": 0, "norm_min": pytest.approx(2**0.5), "norm_median": 5.0, "norm_max": 5.0,
        "identical": 0.5, "constant": 0.25,
    }  # fmt: skip
    text = screen(inspection_view.view(facts), 160)
    assert text.startswith("part.parquet: 4 embeddings of 1 cell, float32 x 2")
    assert "no manifest beside it" in text
    assert "50.00% of the vectors have a twin" in text


def test_half_precision_and_extras(tmp_path: Path) -> None:
    facts = inspect(write_part(tmp_path / "part.parquet", np.eye(4, 8), "float16", extras=True))
    assert (facts["dtype"], facts["dim"], facts["schema"]) == ("float16", 8, "mtembed with extras")
    assert facts["health"]["norm_median"] == 1.0


def test_embeddings_of_others(tmp_path: Path) -> None:
    path = tmp_path / "published.parquet"
    vectors = [[1.0, float("nan")], [2.0, 2.0], [0.0, 1.0]]
    pq.write_table(pa.table({"id": [1, 2, 3], "embedding": pa.array(vectors, pa.list_(pa.float32()))}), path)
    facts = inspect(path)
    assert (facts["dtype"], facts["dim"], facts["cells"], facts["schema"]) == ("float32", None, None, "other")
    assert facts["health"]["not_finite"] == 1
    assert facts["health"]["norm_max"] == pytest.approx(8**0.5)
    assert "GeoParquet no" in screen(inspection_view.view(facts), 160)


def test_a_part_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    PartWriter(path, schema(8, "float32", False)).close({"mtembed": json.dumps({"cells": []})})
    facts = inspect(path)
    assert (facts["rows"], facts["cells"], facts["storage"]) == (0, 0, [])
    assert facts["health"]["norm_min"] is None
    assert "0 of 0 vectors" in screen(inspection_view.view(facts), 160)


def test_a_folder_with_its_manifest(tmp_path: Path) -> None:
    out = tmp_path / "out"
    rng = np.random.default_rng(0)
    for i in range(3):
        write_part(out / "embeddings" / f"part_{i}.parquet", rng.normal(size=(5, 16)))
    settings = {"model": "rcf", "weights": "random:1", "source": "S2L1C", "precision": "fp32", "fragment_size": 224}
    manifest = {"mtembed": "0.1.0", "settings": settings, "weights": {"random": True}}
    (out / "manifest.json").write_text(json.dumps(manifest))
    facts = inspect(out)
    assert facts["kind"] == "dataset"
    assert (facts["parts"], facts["rows"], facts["cells"], facts["model"]) == (3, 15, 3, "rcf")
    assert facts["health"]["vectors"] == 15
    text = screen(inspection_view.view(facts), 160)
    assert "15 embeddings of 3 cells in 3 parts, float32 x 16" in text
    assert "rcf, weights random:1 (RANDOM), on S2L1C, fp32, 224 px, mtembed 0.1.0" in text
    part = inspect(out / "embeddings" / "part_1.parquet")
    assert (part["kind"], part["rows"], part["model"]) == ("embeddings", 5, "rcf")


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
