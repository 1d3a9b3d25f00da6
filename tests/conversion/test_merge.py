"""Merged datasets: the same rows in another order, files named as published ones, repeats told or left out."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtembed
from mtembed.conversion.runs import SIDE, hilbert
from mtembed.dataset.reader import open_dataset
from mtembed.errors import SettingsError, UsageError
from tests.tools.embeddings import grid_table, random_vectors, write, write_manifest

FRAGMENTS = 4


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Seven files whose cells are in no order."""
    cells = [f"{row}U_{col}R" for row in range(10, 17) for col in range(20, 26)]
    cells = [cells[i] for i in np.random.default_rng(3).permutation(len(cells))]
    table = grid_table(random_vectors(len(cells) * FRAGMENTS), cells, FRAGMENTS)
    for number in range(7):
        part = table.slice(number * 6 * FRAGMENTS, 6 * FRAGMENTS)
        write(tmp_path / f"set/embeddings/part_{number + 1:05}.parquet", part, row_group_size=5)
    write_manifest(tmp_path / "set")
    return tmp_path / "set"


def rows_of(path: Path) -> list[tuple[str, bytes]]:
    found = []
    for batch in open_dataset(path).batches(("unique_id",)):
        assert batch.vectors is not None
        found += list(zip(batch.table["unique_id"].to_pylist(), map(bytes, batch.vectors), strict=True))
    return found


@pytest.mark.parametrize("order", ["grid", "hilbert"])
def test_every_row_is_there_once_under_published_names(dataset: Path, tmp_path: Path, order: str) -> None:
    result = mtembed.merge(dataset, tmp_path / "out", order=order, shards_per_file=3)  # type: ignore[arg-type]
    names = sorted(path.name for path in (tmp_path / "out/embeddings").iterdir())
    assert names == ["part_00001-00003.parquet", "part_00004-00006.parquet", "part_00007.parquet"]
    assert sorted(rows_of(tmp_path / "out")) == sorted(rows_of(dataset))
    assert (result.rows, result.repeated_cells, result.dropped) == (168, 0, 0)
    assert open_dataset(tmp_path / "out").model == "rcf"


def test_grid_order_is_south_to_north_and_fragments_stay_together(dataset: Path, tmp_path: Path) -> None:
    mtembed.merge(dataset, tmp_path / "out")
    (file,) = (tmp_path / "out/embeddings").iterdir()
    names = [name.rpartition("-")[0].rpartition("-")[0] for name in pq.read_table(file)["unique_id"].to_pylist()]
    cells = names[::FRAGMENTS]
    assert names == [cell for cell in cells for _ in range(FRAGMENTS)]
    places = [tuple(int(word[:-1]) for word in cell.split("_")) for cell in cells]
    assert places == sorted(places)


def test_geoparquet_says_where_a_file_is(dataset: Path, tmp_path: Path) -> None:
    mtembed.merge(dataset, tmp_path / "out", order="hilbert")
    (file,) = (tmp_path / "out/embeddings").iterdir()
    frame = geopandas.read_parquet(file)
    geo = json.loads(pq.read_metadata(file).metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert column["bbox"] == pytest.approx(frame.total_bounds.tolist())
    assert column["geometry_types"] == ["Polygon"]
    assert "covering" not in column  # these files have no column bbox
    assert frame.crs == geopandas.read_parquet(file.parent).crs == "EPSG:4326"


def test_the_covering_of_our_own_parts_is_kept(tmp_path: Path) -> None:
    from tests.tools.shards import default_cells, make_shard

    for number in (1, 2):
        cells = default_cells(4, 48)[2 * number - 2 : 2 * number]
        make_shard(tmp_path / f"images/part_{number:05}.parquet", cells, "S1RTC", side=48)
    mtembed.embed(tmp_path / "images", "rcf", output=tmp_path / "set", fragment_size=24, device="cpu")
    mtembed.merge(tmp_path / "set", tmp_path / "out", order="hilbert")
    (file,) = (tmp_path / "out/embeddings").iterdir()
    assert file.name == "part_00001-00002.parquet"
    schema = pq.read_schema(file)
    assert schema.names == pq.read_schema(tmp_path / "set/embeddings/part_00001.parquet").names
    column = json.loads(pq.read_metadata(file).metadata[b"geo"])["columns"]["geometry"]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    west = column["bbox"][0]
    inside = geopandas.read_parquet(file, bbox=(west, -90, west + 0.05, 90))
    assert 0 < len(inside) < pq.read_metadata(file).num_rows


def test_repeated_cells_are_told_and_can_be_dropped(dataset: Path, tmp_path: Path) -> None:
    newer = grid_table(random_vectors(8, seed=9), ["10U_20R", "11U_21R"], FRAGMENTS)
    times = ["20210101T000000"] * 4 + ["20190101T000000"] * 4
    newer = newer.set_column(newer.schema.get_field_index("timestamp"), "timestamp", [times])
    write(dataset / "embeddings/part_00008.parquet", newer)
    kept = mtembed.merge(dataset, tmp_path / "all")
    assert (kept.repeated_cells, kept.dropped, kept.rows) == (2, 0, 176)
    fewer = mtembed.merge(dataset, tmp_path / "newest", drop_duplicates=True)
    assert (fewer.repeated_cells, fewer.dropped, fewer.rows) == (2, 8, 168)
    left = dict(rows_of(tmp_path / "newest"))
    expected = dict(rows_of(dataset / "embeddings/part_00008.parquet"))
    older = dict(rows_of(dataset / "embeddings/part_0000[1-7].parquet"))
    assert left["10U_20R-0-0"] == expected["10U_20R-0-0"]
    assert left["11U_21R-0-0"] == older["11U_21R-0-0"]


def test_a_merge_goes_on_where_it_was_stopped(dataset: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what == "merging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mtembed.merge(dataset, tmp_path / "out", shards_per_file=3, tick=stop)
    first = tmp_path / "out/embeddings/part_00001-00003.parquet"
    before = first.stat().st_mtime_ns
    mtembed.merge(dataset, tmp_path / "out", shards_per_file=3)
    assert first.stat().st_mtime_ns == before
    assert sorted(rows_of(tmp_path / "out")) == sorted(rows_of(dataset))
    assert mtembed.merge(dataset, tmp_path / "out", shards_per_file=3).nothing_to_do
    with pytest.raises(SettingsError, match="--order"):
        mtembed.merge(dataset, tmp_path / "out", shards_per_file=3, order="hilbert")


def test_what_cannot_be_merged_is_one_sentence(dataset: Path, tmp_path: Path) -> None:
    mtembed.convert(dataset, tmp_path / "array", to="array")
    mtembed.convert(dataset, tmp_path / "uint8", to="uint8")
    bare = pq.read_table(dataset / "embeddings/part_00001.parquet", columns=["embedding"])
    write(tmp_path / "bare.parquet", bare)
    for path, sentence in (
        ("array", "raw array"),
        ("uint8", "convert after merging"),
        ("bare.parquet", "no column grid_cell"),
    ):
        with pytest.raises(UsageError, match=sentence):
            mtembed.merge(tmp_path / path, tmp_path / "out")
    with pytest.raises(UsageError, match="choose 1 or more"):
        mtembed.merge(dataset, tmp_path / "out", shards_per_file=0)


@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 63)), min_size=1, max_size=50, unique=True))
def test_a_step_along_the_curve_is_a_step_on_the_ground(points: list[tuple[int, int]]) -> None:
    """In a corner of the square every place is met once, and neighbours on the curve touch."""
    side = 64
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(side)))
    place = hilbert(x, y)
    order = np.argsort(place)
    assert len(np.unique(place)) == side * side and place.max() < SIDE * SIDE
    assert (np.abs(np.diff(x[order])) + np.abs(np.diff(y[order])) == 1).all()
    some = np.array(points)
    assert (hilbert(some[:, 0], some[:, 1]) == place[some[:, 1] * side + some[:, 0]]).all()
