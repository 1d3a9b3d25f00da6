"""From shards to a land-cover map: the lines of docs/evaluation.md, for five real cells and labels of three of them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import rasterio

from tests.tools.commands import ROOT, run

DOCS = ROOT / "docs/evaluation.md"


def documented() -> list[list[str]]:
    """The commands of the first block, without the program's name."""
    (block,) = re.findall(r"## From shards to a land-cover map\n+```sh\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines]
    assert [(one[0], one[1]) for one in words] == [("mtembed", name) for name in ("run", "evaluate", "predict")]
    return [one[1:] for one in words]


def test_shards_vectors_probe_and_map(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "Core-S2L2A").symlink_to(shared / "data/Core-S2L2A")
    (tmp_path / "LULC").symlink_to(shared / "data/chips/terramind/LULC")
    for words in documented():
        code, _, err = run([*words, "--quiet"], cwd=tmp_path)
        assert (code, err) == (0, ""), err
    found = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert found["task"] == "classification" and found["rows_labelled"] >= 30
    assert {line["blocks"] for line in found["scores"]} <= {2, 3}  # three places hold the labels
    assert {line["features"] for line in found["scores"]} == {"embedding", "majority", "latlon", "permuted", "bands"}
    assert any("not better than majority class" in text for text in found["sentences"])
    assert found["health"]["not_finite"] == 0 and found["health"]["moran_fragments"] > 0.5
    assert (tmp_path / "evaluation/evaluation.html").stat().st_size > 10_000
    table = pq.read_table(tmp_path / "map/predictions.parquet")
    (part,) = (tmp_path / "vectors/embeddings").iterdir()
    assert table.num_rows == pq.read_metadata(part).num_rows
    assert pc.count_distinct(table["grid_cell"]).as_py() == 5 and len(set(table["prediction"].to_pylist())) >= 2
    with rasterio.open(tmp_path / "map/predictions.tif") as file:
        assert file.descriptions == ("class", "probability") and file.crs.to_epsg() == 4326
    assert (tmp_path / "map/predictions.png").stat().st_size > 10_000
