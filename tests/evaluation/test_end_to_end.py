"""From shards to a land-cover map, as docs/evaluation.md shows it: five real cells, labels of three of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import rasterio

from tests.tools.commands import run

FRAGMENT = 48  # pixels; the labelled chips are 224 pixels wide


def test_shards_vectors_probe_and_map(shared: Path, tmp_path: Path) -> None:
    data, vectors, probe = shared / "data", str(tmp_path / "vectors"), str(tmp_path / "cover.safetensors")
    evaluation, drawn = tmp_path / "evaluation", tmp_path / "map"
    shard = str(data / "Core-S2L2A/images/part_00001.parquet")
    words = ["run", "--model", "rcf", "--fragment-size", str(FRAGMENT), "--output", vectors, shard, "--quiet"]
    code, _, err = run(words)
    assert code == 0, err
    words = ["--labels", str(data / "chips/terramind/LULC"), "--nodata", "0", "--shots", "1,all", "--draws", "2"]
    words += ["--shards", shard, "--resamples", "200", "--save-probe", probe, "--output", str(evaluation), "--json"]
    code, out, err = run(["evaluate", vectors, *words])
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["task"] == "classification" and found["rows_labelled"] >= 30
    assert {line["blocks"] for line in found["scores"]} <= {2, 3}  # three places hold the labels
    assert {line["features"] for line in found["scores"]} == {
        "embedding", "majority", "latlon", "permuted", "bands",
    }  # fmt: skip
    assert any("not better than" in text or "is better than" in text for text in found["sentences"])
    assert found["health"]["not_finite"] == 0 and found["health"]["moran_fragments"] > 0.5
    code, out, err = run(["predict", vectors, "--probe", probe, "--output", str(drawn), "--json"])
    assert code == 0, err
    said = json.loads(out.splitlines()[-1])
    table = pq.read_table(drawn / "predictions.parquet")
    assert (
        said["rows"] == table.num_rows == pq.read_metadata(next((tmp_path / "vectors/embeddings").iterdir())).num_rows
    )
    assert pc.count_distinct(table["grid_cell"]).as_py() == 5 and len(set(table["prediction"].to_pylist())) >= 2
    with rasterio.open(drawn / "predictions.tif") as file:
        assert file.descriptions == ("class", "probability") and file.crs.to_epsg() == 4326
    assert (evaluation / "evaluation.html").stat().st_size > 10_000 and (drawn / "predictions.png").exists()
