"""Searches give what a plain comparison of all rows in float64 gives, through an index or without one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import mtembed
from mtembed.errors import OutputError, SettingsError, UsageError
from mtembed.similarity import index as indexes
from mtembed.similarity import opened
from mtembed.similarity.best import Best
from tests.tools.embeddings import grid_table, random_vectors, write, write_manifest

CELLS = [f"{row}U_{col}R" for row in range(10, 16) for col in range(20, 30)]
FRAGMENTS = 4
ROWS = len(CELLS) * FRAGMENTS
VECTORS = random_vectors(ROWS)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three files; cells of different years."""
    half, rest = 30 * FRAGMENTS, ROWS - 30 * FRAGMENTS
    table = grid_table(VECTORS, CELLS, FRAGMENTS)
    years = [f"20{18 + i // FRAGMENTS % 4}0615T101500" for i in range(ROWS)]
    table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", pa.array(years))
    write(tmp_path / "set/a.parquet", table.slice(0, half), row_group_size=50)
    write(tmp_path / "set/b.parquet", table.slice(half, rest // 2), row_group_size=7)
    write(tmp_path / "set/c.parquet", table.slice(half + rest // 2), row_group_size=500)
    return tmp_path / "set"


def ids() -> list[str]:
    return list(grid_table(VECTORS, CELLS, FRAGMENTS)["unique_id"].to_pylist())


def plain(query: npt.NDArray[Any], allowed: Sequence[int] | None = None, count: int = 10) -> list[str]:
    """The brute way: cosines in float64, ties by row."""
    whole = VECTORS.astype(np.float64)
    score = whole @ query / np.linalg.norm(whole, axis=1) / np.linalg.norm(query)
    rows = np.arange(ROWS) if allowed is None else np.asarray(allowed)
    order = rows[np.lexsort((rows, -score[rows]))][:count]
    return [ids()[i] for i in order]


def found(dataset: Path, **options: Any) -> list[str]:
    return [str(hit.unique_id) for hit in mtembed.search(dataset, **options).hits]


@pytest.fixture(params=["scan", "flat", "lists"])
def way(request: pytest.FixtureRequest, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The dataset without an index, and with one of either kind."""
    monkeypatch.setattr(opened, "EXACT_SELECTION", 30)
    if request.param == "lists":
        monkeypatch.setattr(indexes, "EXACT_ROWS", 10)
        monkeypatch.setattr(indexes, "BLOCK_ROWS", 60)
    if request.param != "scan":
        mtembed.index(dataset)
    return dataset


@pytest.mark.parametrize("row", [0, 77, 239])
def test_hits_are_those_of_brute_force(way: Path, row: int) -> None:
    result = mtembed.search(way, row=ids()[row])
    assert [hit.unique_id for hit in result.hits] == plain(VECTORS[row].astype(np.float64))
    assert result.hits[0].unique_id == ids()[row]
    assert result.hits[0].score == pytest.approx(1.0, abs=1e-6)
    assert [hit.rank for hit in result.hits] == list(range(1, 11))


def test_everything_that_is_known_of_a_hit(way: Path) -> None:
    hit = mtembed.search(way, row=ids()[130], top=1).hits[0]
    expected = grid_table(VECTORS, CELLS, FRAGMENTS).slice(130, 1).to_pylist()[0]
    assert hit.grid_cell == expected["grid_cell"]
    assert hit.product_id == expected["product_id"]
    assert hit.centre_lat == pytest.approx(expected["centre_lat"], abs=1e-5)
    assert hit.pixel_bbox == tuple(expected["pixel_bbox"])
    assert (hit.file, hit.row) == ("b.parquet", 10)
    assert hit.timestamp == "20180615T101500"


def test_the_query_s_own_cell_can_be_left_out(way: Path) -> None:
    others = [i for i in range(ROWS) if CELLS[i // FRAGMENTS] != CELLS[5]]
    assert found(way, row=ids()[22], exclude_same_cell=True) == plain(VECTORS[22].astype(np.float64), others)


def test_filters_come_before_ranking(way: Path, tmp_path: Path) -> None:
    query = VECTORS[3].astype(np.float64)
    table = grid_table(VECTORS, CELLS, FRAGMENTS)
    lat, lon = (table[name].to_numpy().astype(np.float64) for name in ("centre_lat", "centre_lon"))
    box = (lon[120] - 0.2, lat[120] - 0.2, lon[120] + 0.2, lat[120] + 0.2)
    inside = np.flatnonzero((lon >= box[0]) & (lon <= box[2]) & (lat >= box[1]) & (lat <= box[3]))
    assert 3 < len(inside) <= 60
    assert found(way, row=ids()[3], bbox=box, top=500) == plain(query, inside.tolist(), 500)
    shape = tmp_path / "area.geojson"
    shape.write_text(
        json.dumps({"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(shapely.box(*box)))})
    )
    assert found(way, row=ids()[3], polygon=shape, top=500) == plain(query, inside.tolist(), 500)
    years = [i for i in range(ROWS) if i // FRAGMENTS % 4 in (1, 2)]
    assert found(way, row=ids()[3], after="2019", before="2020-06") == plain(query, years)
    names = tmp_path / "cells.txt"
    names.write_text(f"{CELLS[7]}\n{CELLS[55]}\n")
    chosen = [i for i in range(ROWS) if CELLS[i // FRAGMENTS] in (CELLS[7], CELLS[55])]
    assert found(way, row=ids()[3], cells=names) == plain(query, chosen)


def test_one_hit_for_each_cell(way: Path) -> None:
    hits = mtembed.search(way, row=ids()[100], per_cell=True, top=20).hits
    best: dict[str, str] = {}
    for name in plain(VECTORS[100].astype(np.float64), count=ROWS):
        best.setdefault(name.rpartition("-")[0].rpartition("-")[0], name)
    assert [hit.unique_id for hit in hits] == list(best.values())[:20]


def test_fewer_rows_than_hits_are_all_found(way: Path) -> None:
    assert len(mtembed.search(way, row=ids()[0], top=ROWS + 5).hits) == ROWS


def test_several_examples_and_counter_examples(way: Path) -> None:
    units = VECTORS.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    query = units[[4, 9]].mean(axis=0) - 0.5 * units[50]
    assert found(way, row=[ids()[4], ids()[9]], minus_row=ids()[50]) == plain(query)


def test_a_place_is_the_row_there(way: Path) -> None:
    table = grid_table(VECTORS, CELLS, FRAGMENTS)
    place = (table["centre_lat"][61].as_py() + 1e-4, table["centre_lon"][61].as_py() - 1e-4)
    assert found(way, at=place) == plain(VECTORS[61].astype(np.float64))
    with pytest.raises(UsageError, match=r"no data at 80.0,0.0: the nearest row is [\d,]+ km away"):
        mtembed.search(way, at=(80.0, 0.0))


def test_a_vector_of_a_file(way: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", VECTORS[8])
    assert found(way, vector=tmp_path / "one.npy") == plain(VECTORS[8].astype(np.float64))
    np.save(tmp_path / "other.npy", np.ones(5))
    with pytest.raises(UsageError, match="is 5: set has vectors of 12 values"):
        mtembed.search(way, vector=tmp_path / "other.npy")
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        mtembed.search(way, vector=tmp_path / "object.npy")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "nothing to look for"),
        ({"row": "not there"}, "has no row not there"),
        ({"row": "10U_20R-0"}, "beginning of several rows"),
        ({"at": (91.0, 0.0)}, "is no place"),
        ({"vector": "missing.npy"}, "cannot be read"),
        ({"text": "harbour"}, "needs the manifest"),
        ({"image": "missing.tif"}, "needs the manifest"),
        ({"row": "10U_20R-0-0", "after": "June"}, "is no date"),
        ({"row": "10U_20R-0-0", "polygon": "missing.geojson"}, "cannot be read"),
        ({"row": "10U_20R-0-0", "top": 0}, "choose 1 or more"),
        ({"row": "10U_20R-0-0", "bbox": (0.0, 5.0, 1.0, 4.0)}, "S <= N"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(dataset: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        mtembed.search(dataset, **options)
    assert "\n" not in str(caught.value)


def test_a_dataset_without_places_or_names_says_which_column_is_missing(tmp_path: Path) -> None:
    bare = grid_table(VECTORS[:40], CELLS[:10], FRAGMENTS).select(["embedding", "timestamp"])
    write(tmp_path / "bare.parquet", bare)
    np.save(tmp_path / "one.npy", VECTORS[0])
    result = mtembed.search(tmp_path / "bare.parquet", vector=tmp_path / "one.npy", top=2)
    first = result.hits[0]
    assert (first.file, first.row, first.unique_id, first.centre_lat) == ("bare.parquet", 0, None, None)
    for options, column in (
        ({"row": "x"}, "unique_id"),
        ({"at": (0.0, 0.0)}, "centre_lat"),
        ({"vector": tmp_path / "one.npy", "per_cell": True}, "grid_cell"),
    ):
        with pytest.raises(UsageError, match=f"no column .*{column}"):
            mtembed.search(tmp_path / "bare.parquet", **options)  # type: ignore[arg-type]


def test_vectors_without_direction_are_never_hits_and_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = VECTORS.copy()
    vectors[3], vectors[7] = np.nan, 0.0
    write(tmp_path / "set/a.parquet", grid_table(vectors, CELLS, FRAGMENTS))
    for _ in range(2):
        result = mtembed.search(tmp_path / "set", row=ids()[0], top=ROWS)
        assert len(result.hits) == ROWS - 2
        assert result.notes == ("2 vectors left out (NaN, infinite or zero)",)
        with pytest.raises(UsageError, match="no direction"):
            mtembed.search(tmp_path / "set", row=ids()[7])
        mtembed.index(tmp_path / "set")
    monkeypatch.setattr(indexes, "EXACT_ROWS", 10)
    mtembed.index(tmp_path / "set", fresh=True)
    assert len(mtembed.search(tmp_path / "set", row=ids()[0], top=ROWS).hits) == ROWS - 2


def test_an_index_of_other_files_is_noticed(way: Path) -> None:
    had_index = (way / "index").exists()
    more = grid_table(VECTORS[:4] + 1, ["99U_9R"], FRAGMENTS)
    write(way / "d.parquet", more)
    result = mtembed.search(way, row="99U_9R-0-0", top=1)
    assert result.hits[0].unique_id == "99U_9R-0-0"
    assert bool(result.notes) is had_index
    if had_index:
        assert "mtembed index --fresh renews it" in result.notes[0]
        with pytest.raises(SettingsError, match="--fresh"):
            mtembed.index(way)
        mtembed.index(way, fresh=True)
        assert not mtembed.search(way, row="99U_9R-0-0").notes


def test_an_index_is_searched_by_its_own_name_and_once_made_is_there(dataset: Path, tmp_path: Path) -> None:
    first = mtembed.index(dataset, tmp_path / "elsewhere")
    assert not first.nothing_to_do
    assert mtembed.index(dataset, tmp_path / "elsewhere").nothing_to_do
    assert found(tmp_path / "elsewhere", row=ids()[9]) == plain(VECTORS[9].astype(np.float64))
    dataset.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="not where it was"):
        mtembed.search(tmp_path / "elsewhere", row=ids()[9])


def test_an_index_that_was_interrupted_goes_on(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "EXACT_ROWS", 10)
    monkeypatch.setattr(indexes, "BLOCK_ROWS", 60)
    monkeypatch.setattr(opened, "EXACT_SELECTION", 30)
    ticks: list[str] = []

    def stop(what: str, done: int, total: int) -> None:
        ticks.append(what)
        if what == "adding vectors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mtembed.index(dataset, tick=stop)
    blocks = sorted((dataset / "index/.mtembed").glob("block-*.faiss"))
    assert len(blocks) == 1
    before = blocks[0].stat().st_mtime_ns
    mine: list[int] = []

    def seen(what: str, done: int, total: int) -> None:
        if what == "joining the lists":
            mine.append(blocks[0].stat().st_mtime_ns)

    result = mtembed.index(dataset, tick=seen)
    assert mine == [before]
    assert result.recall_at_10 >= 0.95
    assert found(dataset, row=ids()[60]) == plain(VECTORS[60].astype(np.float64))
    assert sorted(path.name for path in (dataset / "index").iterdir()) == [
        "codes.u8", "index.faiss", "index.json", "lists.ivfdata", "refine.faiss", "rows.parquet",
    ]  # fmt: skip


def test_the_record_of_an_index(dataset: Path) -> None:
    mtembed.index(dataset)
    record = json.loads((dataset / "index/index.json").read_text())
    assert {"kind", "metric", "dim", "rows", "recall_at_10", "sources"} <= record.keys()
    assert (record["kind"], record["metric"], record["dim"], record["rows"]) == ("flat", "cosine", 12, ROWS)
    rows = pq.read_table(dataset / "index/rows.parquet")
    assert rows.column_names == [
        "unique_id", "grid_cell", "product_id", "timestamp", "centre_lat", "centre_lon", "pixel_bbox", "file", "row",
    ]  # fmt: skip
    assert rows["unique_id"].to_pylist() == ids()


def test_a_truncated_file_is_one_sentence(dataset: Path) -> None:
    content = (dataset / "b.parquet").read_bytes()
    (dataset / "b.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(OutputError, match=r"b\.parquet cannot be read"):
        mtembed.search(dataset, row=ids()[0])
    with pytest.raises(OutputError, match=r"b\.parquet cannot be read"):
        mtembed.index(dataset)


def test_two_models_are_two_datasets(tmp_path: Path) -> None:
    for name, model in (("one", "rcf"), ("two", "dinov2")):
        write(tmp_path / name / "embeddings/a.parquet", grid_table(VECTORS[:4], CELLS[:1], FRAGMENTS))
        write_manifest(tmp_path / name, model)
    with pytest.raises(UsageError, match="two datasets"):
        mtembed.search([tmp_path / "one", tmp_path / "two"], row=ids()[0])
    with pytest.raises(UsageError, match="text tower"):
        mtembed.search(tmp_path / "two", text="harbour")


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=40),
    cut=st.integers(1, 40),
    count=st.integers(1, 12),
    per_group=st.booleans(),
)
def test_the_best_do_not_depend_on_how_rows_are_cut(
    rows: list[tuple[int, int]], cut: int, count: int, per_group: bool
) -> None:
    """Many equal cosines: ties go by row, whatever the batches."""
    target = np.array([0.6, 0.8])
    vectors = np.array([(np.cos(turn), np.sin(turn)) if turn else (0, 0) for turn, _ in rows], np.float32)
    groups = np.array([f"cell {group}" for _, group in rows], object)
    best = Best(target, count, per_group)
    for first in range(0, len(rows), cut):
        some = slice(first, first + cut)
        best.offer(vectors[some], 0, np.arange(len(rows))[some], groups[some] if per_group else None)
    usable = [i for i in range(len(rows)) if vectors[i].any()]
    score = {i: float(vectors[i] / np.sqrt((vectors[i].astype(np.float64) ** 2).sum()) @ target) for i in usable}
    expected, seen = [], set()
    for i in sorted(usable, key=lambda i: (-round(score[i], 12), i)):
        if not (per_group and groups[i] in seen):
            expected.append(i)
            seen.add(groups[i])
    assert best.row.tolist() == expected[:count]
