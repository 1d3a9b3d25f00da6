"""``mtembed index`` and ``mtembed search`` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tools import similar
from tests.tools.commands import run
from tests.tools.embeddings import grid_table, write

HIT = {
    "rank", "score", "unique_id", "grid_cell", "product_id", "timestamp", "centre_lat", "centre_lon", "pixel_bbox",
    "file", "row",
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return similar.make(tmp_path_factory.mktemp("search") / "set")


def test_an_index_and_a_search(root: Path, tmp_path: Path) -> None:
    code, out, err = run(["index", str(root)])
    assert (code, err) == (0, "") and "1,080 rows of 24 values: exact, every vector as it is" in out
    code, out, err = run(["index", str(root), "--json"])
    assert code == 0 and json.loads(out.splitlines()[-1])["nothing_to_do"] is True
    row = "451U_125R-224-0"
    code, out, err = run(["search", str(root), "--row", row, "--top", "3", "--output", str(tmp_path / "hits.geojson")])
    assert (code, err) == (0, "") and "1.0000" in out and row[:12] in out and "1,080 rows of set" in out
    assert len(json.loads((tmp_path / "hits.geojson").read_text())["features"]) == 3
    code, out, err = run(
        ["search", str(root / "index"), "--row", row, "--minus-row", "450U_120R-0-0", "--json", "--after", "2019",
         "--bbox", "-180,-90,180,90", "--per-cell"]
    )  # fmt: skip
    events = [json.loads(line) for line in out.splitlines()]
    hits = [event for event in events if event["event"] == "hit"]
    assert code == 0 and err == "" and len(hits) == 10 and {*HIT, "event"} == set(hits[0])
    last = events[-1]
    assert last["event"] == "result" and [hit["rank"] for hit in last["hits"]] == list(range(1, 11))
    assert (last["rows"], last["passed"], last["method"], last["notes"]) == (1080, 1080, "exact", [])
    assert run(["search", str(root), "--row", row, "--quiet"]) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search", "nowhere", "--row", "x"], "no file of embeddings matches nowhere"),
        (["search", "ROOT"], "there is no example"),
        (["search", "ROOT", "--at", "-45"], "--at -45 is no place: give LAT,LON"),
        (["search", "ROOT", "--at", "-45,7"], "has no data at -45,7"),
        (["search", "ROOT", "--row", "x", "--bbox", "1,2,3"], "W,S,E,N"),
        (["index", "ROOT", "--kind", "magic"], "kind"),
        (["search"], "DATASET"),
    ],
)
def test_what_is_wrong_is_one_sentence(root: Path, words: list[str], sentence: str) -> None:
    ended, out, err = run([str(root) if word == "ROOT" else word for word in words])
    assert (ended, out) == (2, "") and err.count("\n") == 1 and sentence in err


def test_a_poor_recall_is_said(root: Path, tmp_path: Path) -> None:
    """A few rows along the axes stretch the range of each dimension: all others have nearly the same codes."""
    noise = np.random.default_rng(0).standard_normal((600, 32)) * 0.02
    vectors = np.vstack([1 + noise, np.eye(32), -np.eye(32)]).astype(np.float32)
    path = write(tmp_path / "flat.parquet", grid_table(vectors, similar.cell_names(len(vectors))))
    code, out, err = run(["index", str(path), "--output", str(tmp_path / "index"), "--kind", "ivf"])
    assert code == 0 and "less than 95%: search with --exact" in err and "recall@10 0." in out


def test_a_picture_of_the_hits(tmp_path: Path) -> None:
    """A dataset embedded from a shard, and the pixels of what is found in it."""
    from PIL import Image

    from mtembed import embed
    from tests.tools.shards import default_cells, make_shard

    shard = make_shard(tmp_path / "images" / "part_00001.parquet", default_cells(2, 64), "S1RTC", side=64)
    embed(shard.path, "rcf", output=str(tmp_path / "out"), fragment_size=32, overlap=0.0, device="cpu")
    name = similar.column(tmp_path / "out", "unique_id")[0]
    picture = tmp_path / "hits.png"
    words = ["search", str(tmp_path / "out"), "--row", name[:16], "--top", "5", "--picture", str(picture)]
    code, out, err = run([*words, "--shards", str(shard.path)])
    assert (code, err) == (0, "") and str(picture) in out
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 300
    code, _, err = run([*words, "--shards", str(shard.path)])
    assert code == 1 and "exists: choose another name, or write over it with --fresh" in err
    assert run([*words, "--fresh", "--quiet", "--shards", str(shard.path)]) == (0, "", "")
    code, _, err = run([*words, "--fresh"])
    assert code == 2 and "--picture and --shards belong together" in err
