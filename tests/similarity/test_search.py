"""What a search finds: the same rows as brute force in float64, whatever index there is, and filters before ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtembed import index, search
from mtembed.errors import MtembedError, OutputError, UsageError
from mtembed.geo.grid import grid_centre
from mtembed.similarity import index_file, nearest
from mtembed.similarity.result import SearchResult
from mtembed.similarity.scoring import Best, cosines
from tests.tools import similar
from tests.tools.embeddings import grid_table, random_vectors, write, write_manifest

KINDS = ("none", "exact", "ivf")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same dataset without an index, and with each kind."""
    folder = tmp_path_factory.mktemp("sets")
    made = {kind: similar.make(folder / kind) for kind in KINDS}
    for kind in ("exact", "ivf"):
        index(made[kind], kind=kind)
    return made


def ids(root: Path) -> list[str]:
    return list(similar.column(root, "unique_id"))


def found(result: SearchResult) -> list[str | None]:
    return [hit.unique_id for hit in result.hits]


@pytest.mark.parametrize("kind", ["none", "exact"])
def test_it_equals_brute_force(roots: dict[str, Path], kind: str) -> None:
    root = roots[kind]
    names, units = ids(root), similar.units(root)
    for row in range(0, len(names), 97):
        result = search(root, row=names[row], top=17)
        assert found(result) == [names[i] for i in similar.nearest(units, units[row], 17)]
        assert result.method == "exact" and result.passed == result.rows == len(names)
        assert [hit.rank for hit in result.hits] == list(range(1, 18))
        first = result.hits[0]
        assert first.unique_id == names[row] and abs(first.score - 1) < 1e-6
        assert (first.file, first.row) == (f"part_{row // 360:05d}.parquet", row % 360)


def test_lists_find_nearly_all(roots: dict[str, Path]) -> None:
    root = roots["ivf"]
    names, units = ids(root), similar.units(root)
    hits = 0
    for row in range(0, len(names), 54):
        result = search(root, row=names[row], top=10)
        assert result.method == "ivf" and found(result)[0] == names[row] and abs(result.hits[0].score - 1) < 1e-6
        hits += len(set(found(result)) & {names[i] for i in similar.nearest(units, units[row], 10)})
    assert hits >= 0.95 * 10 * len(range(0, len(names), 54))


@pytest.mark.parametrize("kind", KINDS)
def test_filters_come_before_ranking(roots: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """A small box holds rows that are nowhere near the query: they are found nevertheless, and in their order."""
    root = roots[kind]
    names, units = ids(root), similar.units(root)
    lat, lon = (np.array(similar.column(root, name)) for name in ("centre_lat", "centre_lon"))
    box = (14.0, 40.4, 14.3, 40.7)
    inside = np.flatnonzero((lon >= box[0]) & (lon <= box[2]) & (lat >= box[1]) & (lat <= box[3]))
    assert 10 < len(inside) < 100
    expected = [names[inside[i]] for i in similar.nearest(units[inside], units[0], 10)]
    result = search(root, row=names[0], bbox=box)
    assert found(result) == expected and result.passed == len(inside) and result.method == "exact"
    area = tmp_path / "area.geojson"
    corners = [[14.0, 40.4], [14.3, 40.4], [14.3, 40.7], [14.0, 40.7], [14.0, 40.4]]
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    assert found(search(root, row=names[0], polygon=area)) == expected
    some = similar.column(root, "grid_cell")[500]
    listed = tmp_path / "cells.txt"
    listed.write_text(f"{some}\n")
    result = search(root, row=names[0], cells=listed, top=100)
    assert len(result.hits) == 9 and {hit.grid_cell for hit in result.hits} == {some}


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_s_own_ground_is_left_out(roots: dict[str, Path], kind: str) -> None:
    root = roots[kind]
    names, cells = ids(root), similar.column(root, "grid_cell")
    row = 400
    result = search(root, row=names[row], exclude_same_cell=True, top=20)
    assert len(result.hits) == 20 and cells[row] not in {hit.grid_cell for hit in result.hits}
    result = search(root, row=names[row], per_cell=True, top=30)
    assert len({hit.grid_cell for hit in result.hits}) == 30 and result.hits[0].unique_id == names[row]
    units = similar.units(root)
    best: dict[str, str] = {}
    for i in similar.nearest(units, units[row], len(names)):
        best.setdefault(cells[i], names[i])
    wanted = list(best.values())[:30]
    if kind == "ivf":  # its lists may miss one
        assert len(set(found(result)) & set(wanted)) >= 28
    else:
        assert found(result) == wanted


def test_neighbours_of_other_cells_that_share_ground_are_left_out(tmp_path: Path) -> None:
    """Two cells of the same place, and one beside it that overlaps."""
    import shapely

    vectors = random_vectors(3, 8)
    boxes = pa.array(shapely.to_wkb(shapely.box([7.0, 7.01, 7.5], 45.0, [7.02, 7.03, 7.52], 45.02)), pa.binary())
    centres = {
        "centre_lat": pa.array([45.01] * 3, pa.float32()),
        "centre_lon": pa.array([7.01, 7.02, 7.51], pa.float32()),
    }
    table = grid_table(vectors, ["500U_1R", "500U_2R", "500U_3R"], geometry=boxes, **centres)
    path = write(tmp_path / "three.parquet", table)
    result = search(path, row="500U_1R-0-0", exclude_same_cell=True)
    assert [hit.grid_cell for hit in result.hits] == ["500U_3R"]


@pytest.mark.parametrize("kind", KINDS)
def test_places_and_vectors_are_examples_too(roots: dict[str, Path], kind: str, tmp_path: Path) -> None:
    root = roots[kind]
    names, units = ids(root), similar.units(root)
    lat, lon = similar.column(root, "centre_lat")[777], similar.column(root, "centre_lon")[777]
    assert search(root, at=(lat + 0.001, lon - 0.001)).hits[0].unique_id == names[777]
    file = tmp_path / "query.npy"
    np.save(file, units[777] * 5)
    assert search(root, vector=file).hits[0].unique_id == names[777]
    result = search(root, vector=units[[3, 3, 777]], top=5)
    if kind != "ivf":
        assert found(result) == [names[i] for i in similar.nearest(units, 2 * units[3] + units[777], 5)]
    assert len(result.query) == 3


def test_counter_examples_turn_away(roots: dict[str, Path]) -> None:
    root = roots["none"]
    names, units = ids(root), similar.units(root)
    result = search(root, row=[names[3], names[50]], minus_row=names[600], top=8)
    query = (units[3] + units[50]) - units[600]
    assert found(result) == [names[i] for i in similar.nearest(units, query, 8)]
    plain = search(root, row=[names[3], names[50]], top=8)
    away = {name: units[names.index(name)] @ units[600] for name in (*found(plain), *found(result)) if name}
    assert np.mean([away[name] for name in found(result)]) < np.mean([away[name] for name in found(plain)])


def test_the_first_characters_of_a_row_are_enough(tmp_path: Path) -> None:
    table = grid_table(random_vectors(4), ["1U_1R", "1U_12R", "2U_1R", "3U_1R"])
    path = write(tmp_path / "a.parquet", table)
    assert search(path, row="2U").hits[0].grid_cell == "2U_1R"
    with pytest.raises(UsageError, match="beginning of several rows"):
        search(path, row="1U_1")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.sampled_from("abc")), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(1, 7),
    st.booleans(),
)
def test_the_best_are_the_same_in_pieces_of_any_size(
    rows: list[tuple[float, str]], count: int, step: int, per_cell: bool
) -> None:
    best = Best(count)
    scores, cells = np.array([score for score, _ in rows]), np.array([cell for _, cell in rows], np.object_)
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        best.add(scores[part], np.arange(len(rows))[part], cells[part] if per_cell else None)
    expected, seen = [], set()
    for i in sorted(range(len(rows)), key=lambda i: (-rows[i][0], i)):
        if not per_cell or rows[i][1] not in seen:
            seen.add(rows[i][1])
            expected.append(i)
    assert best.ids.tolist() == expected[:count]


def test_equal_rows_are_in_the_order_of_files_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty copies of a row beside others: with and without an index, however few are read at once."""
    vectors = random_vectors(90, 12)
    vectors[5:85:2] = vectors[5] * np.float32(1.0)
    for number in range(2):
        table = grid_table(vectors[number * 45 : number * 45 + 45], similar.cell_names(90)[number * 45 :][:45])
        write(tmp_path / "set" / "embeddings" / f"p{number}.parquet", table, row_group_size=10)
    write_manifest(tmp_path / "set")
    expected = [f"{name}-0-0" for name in similar.cell_names(90)[5:85:2]][:25]
    assert found(search(tmp_path / "set", row=expected[7], top=25)) == expected
    monkeypatch.setattr(nearest, "READ_AT_ONCE", 4)
    monkeypatch.setattr(index_file, "BLOCK_BYTES", 200)
    for kind in ("exact", "ivf"):
        index(tmp_path / "set", kind=kind, fresh=True)
        assert found(search(tmp_path / "set", row=expected[7], top=25, bbox=(-180, -90, 180, 90))) == expected


def test_a_row_s_cosine_does_not_depend_on_those_beside_it() -> None:
    vectors, query = random_vectors(200, 257), random_vectors(1, 257)[0].astype(np.float64)
    query /= np.linalg.norm(query)
    whole = cosines(vectors, query)
    assert all(cosines(vectors[i : i + 1].copy(), query)[0] == whole[i] for i in range(200))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_direction_are_nobody_s_neighbours(tmp_path: Path, kind: str) -> None:
    vectors = random_vectors(60, 8)
    vectors[3], vectors[10, 2], vectors[20, 0] = 0.0, np.nan, np.inf
    vectors[30] *= np.float32(1e30)
    path = write(tmp_path / "s" / "a.parquet", grid_table(vectors, similar.cell_names(60)))
    if kind != "none":
        made = index(tmp_path / "s", kind=kind)
        assert (made.rows, made.left_out) == (57, 3)
    result = search(tmp_path / "s", row="450U_120R-0-0", top=60)
    assert len(result.hits) == 57 and {hit.row for hit in result.hits} == set(range(60)) - {3, 10, 20}
    assert result.hits[0].unique_id == "450U_120R-0-0"
    if kind == "none":
        with pytest.raises(UsageError, match="without a direction"):
            search(path, row="450U_123R-0-0")
    else:
        with pytest.raises(UsageError, match="is not in"):
            search(tmp_path / "s", row="450U_123R-0-0")


def test_published_sets_need_no_columns_of_ours(tmp_path: Path) -> None:
    """Lists of float64, no ids, no times: places and vectors still work, and the rest says what is missing."""
    table = grid_table(
        random_vectors(20), similar.cell_names(20), kind=pa.list_(pa.float64()), unique_id=None, timestamp=None,
        product_id=None, centre_lat=None, centre_lon=None, pixel_bbox=None,
    )  # fmt: skip
    path = write(tmp_path / "set.parquet", table)
    with_index = tmp_path / "index"
    index(path, with_index)
    for place in (path, with_index):
        lat, lon = grid_centre("450U_120R")
        result = search(place, at=(lat, lon), bbox=(0, 0, 90, 90))
        first = result.hits[0]
        assert (first.unique_id, first.pixel_bbox, first.grid_cell) == (None, None, "450U_120R") and first.row == 0
        with pytest.raises(UsageError, match="no column unique_id, which --row needs: use --at"):
            search(place, row="x")
        with pytest.raises(UsageError, match="no column timestamp"):
            search(place, at=(lat, lon), after="2020")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "there is no example to search for"),
        ({"row": "nowhere"}, "--row nowhere is not in none"),
        ({"at": (12.5, 41.0)}, "has no data at 12.5,41 .* km away"),
        ({"at": (14.311, 40.463)}, "latitude comes first"),
        ({"at": (99, 0)}, "is no place"),
        ({"vector": np.ones(7)}, "vectors of 7 values and none of 24"),
        ({"vector": np.full(24, np.nan)}, "without a direction"),
        ({"vector": np.ones((2, 2, 24))}, "give one vector, or rows of vectors"),
        ({"vector": "missing.npy"}, "cannot be read"),
        ({"vector": np.ones(24), "exclude_same_cell": True}, "needs an example with a cell"),
        ({"vector": np.ones(24), "bbox": (0, 0, 1, 1)}, "no row of none passes the filters"),
        ({"vector": np.ones(24), "bbox": (0, 1, 1, 0)}, "is no box"),
        ({"vector": np.ones(24), "after": "yesterday"}, "is no date"),
        ({"vector": np.ones(24), "after": "2021", "before": "2020"}, "no time lies between"),
        ({"vector": np.ones(24), "polygon": "missing.geojson"}, "--polygon missing.geojson cannot be read"),
        ({"vector": np.ones(24), "top": 0}, "--top 0 is not possible"),
        ({"vector": np.ones(24), "output": "hits.txt"}, "should end in .parquet"),
    ],
)
def test_what_cannot_be_is_one_sentence(roots: dict[str, Path], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MtembedError, match=sentence) as raised:
        search(roots["none"], **options)
    assert "\n" not in str(raised.value)


def test_mixed_datasets_and_truncated_files_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", grid_table(random_vectors(5, 8), similar.cell_names(5)))
    write(tmp_path / "b.parquet", grid_table(random_vectors(5, 9), similar.cell_names(5)))
    with pytest.raises(UsageError, match=r"8 values and .* of 9"):
        search(tmp_path, vector=np.ones(8))
    with pytest.raises(UsageError, match=r"8 values and .* of 9"):
        index(tmp_path)
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(OutputError, match="cannot be read"):
        search(first, vector=np.ones(8))
    write_manifest(similar.make(tmp_path / "x", 12))
    write_manifest(similar.make(tmp_path / "y", 12), "dinov2")
    with pytest.raises(UsageError, match="these are two datasets"):
        search([tmp_path / "x", tmp_path / "y"], vector=np.ones(24))


def test_hits_in_files(roots: dict[str, Path], tmp_path: Path) -> None:
    import geopandas as gpd

    root = roots["ivf"]
    row = ids(root)[12]
    for suffix in ("parquet", "geojson", "csv"):
        path = tmp_path / "deep" / f"hits.{suffix}"
        result = search(root, row=row, top=6, output=path)
        with pytest.raises(OutputError, match="exists: choose another name"):
            search(root, row=row, output=path)
        search(root, row=row, top=6, output=path, fresh=True)
        if suffix == "csv":
            import pandas as pd

            table = pd.read_csv(path)
        else:
            table = gpd.read_parquet(path) if suffix == "parquet" else gpd.read_file(path)
            assert table.crs == "EPSG:4326" and set(table.geom_type) == {"Polygon"}
            middle = gpd.GeoSeries.from_xy(table.centre_lon, table.centre_lat, crs="EPSG:4326")
            assert table.geometry.contains(middle).all()
        assert list(table["unique_id"]) == found(result) and list(table["rank"]) == [1, 2, 3, 4, 5, 6]
        assert np.allclose(table["score"], [hit.score for hit in result.hits])
    assert "covering" in pq.read_schema(tmp_path / "deep" / "hits.parquet").metadata[b"geo"].decode()
    assert [path.suffix for path in sorted((tmp_path / "deep").iterdir())] == [".csv", ".geojson", ".parquet"]
