"""Searches of real embeddings, places at the edge of the map, and memory over sets of any size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from mtembed import index, search
from tests.tools.commands import ROOT
from tests.tools.embeddings import grid_table, random_vectors, write

TILES = ROOT.parent / "shared" / "eval" / "embeddings" / "terramind_tiles32_galileo_nano.parquet"
SAME_SCENE = 0.877  # mean average precision, centred, cosine; measured with numpy


@pytest.mark.skipif(not TILES.exists(), reason="the Galileo tiles are not beside the checkout (../shared/eval)")
def test_same_scene_of_the_galileo_tiles(tmp_path: Path) -> None:
    table = pq.read_table(TILES)
    vectors, chips = np.array(table["embedding"].to_pylist()), table["chip"].to_pylist()
    centred = (vectors - vectors.mean(axis=0)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(centred.reshape(-1)), centred.shape[1])
    ids = [f"{i:04d}" for i in range(len(chips))]
    kept = table.select(["grid_cell", "centre_lat", "centre_lon", "geometry"])
    path = write(tmp_path / "tiles.parquet", kept.append_column("embedding", column).append_column("unique_id", [ids]))
    precisions = []
    for row, name in enumerate(ids):
        hits = search(path, row=name, top=len(ids)).hits
        assert hits[0].unique_id == name and len(hits) == len(ids)
        same = np.array([chips[hit.row] == chips[row] for hit in hits[1:]])
        precisions.append((np.cumsum(same) / np.arange(1, len(ids)))[same].mean())
    assert np.mean(precisions) == pytest.approx(SAME_SCENE, abs=0.005)


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    """Rows at longitudes 179.5, 180 (cut in two) and -179.5, without columns of centres."""
    whole = [shapely.box(179.4, 10, 179.6, 10.2), shapely.box(-179.6, 10, -179.4, 10.2), shapely.box(5, 10, 5.2, 10.2)]
    cut = shapely.MultiPolygon([shapely.box(179.9, 10, 180, 10.2), shapely.box(-180, 10, -179.9, 10.2)])
    shapes = [whole[0], cut, whole[1], whole[2]]
    table = grid_table(
        random_vectors(4, 6), ["1U_1R", "1U_2R", "1U_3R", "1U_4R"], centre_lat=None, centre_lon=None,
        geometry=pa.array(shapely.to_wkb(shapes), pa.binary()),
    )  # fmt: skip
    return write(tmp_path / "edge.parquet", table)


@pytest.mark.parametrize("indexed", [False, True])
def test_boxes_polygons_and_places_across_the_antimeridian(edge: Path, tmp_path: Path, indexed: bool) -> None:
    searched = edge
    if indexed:
        searched = tmp_path / "index"
        index(edge, searched)
    found = {hit.row: hit for hit in search(searched, row="1U_1R").hits}
    assert abs(abs(found[1].centre_lon or 0) - 180) < 1e-6 and found[1].centre_lat == pytest.approx(10.1)
    box = search(searched, row="1U_1R", bbox=(179, 0, -179, 20))
    assert {hit.row for hit in box.hits} == {0, 1, 2}
    ring = [[179, 9], [-179, 9], [-179, 11], [179, 11], [179, 9]]
    beyond = [[179, 9], [181, 9], [181, 11], [179, 11], [179, 9]]
    halves = [[[x, y] for x, y in ((a, 9), (b, 9), (b, 11), (a, 11), (a, 9))] for a, b in ((179, 180), (-180, -179))]
    for number, shape in enumerate(
        (
            {"type": "Polygon", "coordinates": [ring]},
            {"type": "Polygon", "coordinates": [beyond]},
            {"type": "MultiPolygon", "coordinates": [[half] for half in halves]},
        )
    ):
        area = tmp_path / f"{number}.geojson"
        area.write_text(json.dumps(shape))
        assert {hit.row for hit in search(searched, row="1U_1R", polygon=area).hits} == {0, 1, 2}
    assert search(searched, at=(10.1, -179.95)).hits[0].row == 1
    assert search(searched, at=(10.1, 179.95)).hits[0].row == 1


def test_times_are_from_then_on_and_until_then(tmp_path: Path) -> None:
    times = ["20191231T235959", "20200101T000000", "20200630T103000", None, "20210101T000000"]
    table = grid_table(random_vectors(5, 6), [f"1U_{i}R" for i in range(5)], timestamp=pa.array(times, pa.string()))
    path = write(tmp_path / "times.parquet", table)

    def rows(**options: str) -> set[int]:
        return {hit.row for hit in search(path, row="1U_0R", **options).hits}

    assert rows(after="2020") == {1, 2, 4} and rows(before="2020") == {0}
    assert rows(after="2020-01-01", before="2021") == {1, 2} and rows(after="20200630T103000") == {2, 4}
    assert rows(after="2020-06-30 10:30:01") == {4} and rows(before="2020-07") == {0, 1, 2}


SCRIPT = """
import resource, sys
from pathlib import Path
from mtembed import index, search
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kind, root = sys.argv[1], Path(sys.argv[2])
if kind == "scan":
    search(root, row="0" * 64)
else:
    index(root, kind=kind)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 1024**2))
"""


def peak(kind: str, root: Path) -> int:
    """MiB at most of a process that does it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(root)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["exact", "scan"])
def test_memory_does_not_grow_with_the_set(tmp_path: Path, kind: str) -> None:
    """64 MB more of vectors: a few MiB more."""
    from bench.search import write as write_set

    for name, rows in (("small", 150_000), ("large", 400_000)):
        (tmp_path / name).mkdir()
        write_set(tmp_path / name, rows, 64)
    small, large = (peak(kind, tmp_path / name) for name in ("small", "large"))
    assert large - small < 35, (small, large)
