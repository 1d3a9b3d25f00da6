"""The output table and file: columns, types, values, encodings, and the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from mtembed.dataset.rows import PartWriter, build_table, geo_metadata, row_groups, schema
from mtembed.errors import CellError
from mtembed.geo.footprint import footprints
from mtembed.types import CellRecord, Georeference

COLUMNS = {
    "unique_id": pa.string(),
    "embedding": pa.list_(pa.float32(), 8),
    "timestamp": pa.string(),
    "product_id": pa.string(),
    "grid_cell": pa.string(),
    "grid_row_u": pa.int16(),
    "grid_col_r": pa.int16(),
    "geometry": pa.binary(),
    "centre_lat": pa.float32(),
    "centre_lon": pa.float32(),
    "utm_footprint": pa.string(),
    "utm_crs": pa.string(),
    "pixel_bbox": pa.list_(pa.int32(), 4),
    "bbox": pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")]),
}
EXTRAS = {
    "nodata": pa.float32(),
    "saturated": pa.float32(),
    "cloud": pa.float32(),
    "baseline": pa.string(),
    "offset_removed": pa.bool_(),
    "parquet_url": pa.string(),
    "parquet_row": pa.int64(),
}


def _record(row_group: int, fragments: int = 3, epsg: int = 32631, **more: object) -> CellRecord:
    offsets = np.array([(211 * (i // 5), 211 * (i % 5)) for i in range(fragments)], np.int32).reshape(-1, 2)
    place = Georeference(epsg, 300000.25 + 10680 * row_group, 4999998.5, 10.0, 10.0, 1068, 1068)
    name = f"S2B_{row_group}", f"{110 + row_group}D_457L", f"20230824T1312{row_group:02d}"
    return CellRecord(row_group, *name, place, 224, offsets, **more)  # type: ignore[arg-type]


def _vectors(rows: int, dim: int = 8, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, dim)).astype(dtype)


def _across() -> CellRecord:
    x, y = pyproj.Transformer.from_crs(4326, 32601, always_xy=True).transform(-180.0, -17.0)
    record = _record(0, 5)
    record.georeference = Georeference(32701, x - 5000, y + 1e7, 10.0, 10.0, 1068, 1068)
    return record


def _write(path: Path, tables: Sequence[pa.Table], metadata: dict[str, str] | None = None) -> pq.ParquetFile:
    writer = PartWriter(path, tables[0].schema if tables else schema(8, "float32", False))
    for table in tables:
        writer.write(table)
    writer.close(metadata or {})
    return pq.ParquetFile(path)


def test_columns_and_types_in_order() -> None:
    assert list(zip(schema(8, "float32", False).names, schema(8, "float32", False).types, strict=True)) == list(
        COLUMNS.items()
    )
    extended = schema(8, "float32", True)
    assert list(zip(extended.names, extended.types, strict=True)) == list((COLUMNS | EXTRAS).items())
    assert schema(512, "float16", False).field("embedding").type == pa.list_(pa.float16(), 512)


def test_rows_follow_records_and_offsets() -> None:
    records, vectors = [_record(4, 3), _record(1, 0), _record(2, 6, epsg=32733)], _vectors(9)
    table = build_table(records, vectors, "float32", False)
    assert table.schema.equals(schema(8, "float32", False))
    assert table["product_id"].to_pylist() == ["S2B_4"] * 3 + ["S2B_2"] * 6
    assert table["grid_cell"].to_pylist() == ["114D_457L"] * 3 + ["112D_457L"] * 6
    assert table["timestamp"].to_pylist() == ["20230824T131204"] * 3 + ["20230824T131202"] * 6
    assert table["grid_row_u"].to_pylist() == [-114] * 3 + [-112] * 6
    assert table["grid_col_r"].to_pylist() == [-457] * 9
    assert table["utm_crs"].to_pylist() == ["EPSG:32631"] * 3 + ["EPSG:32733"] * 6
    assert table["embedding"].to_pylist() == vectors.tolist()
    assert table["pixel_bbox"].to_pylist()[-1] == [0, 211, 224, 435]


def test_places_are_the_footprints() -> None:
    records = [_record(0), _across()]
    table, places = build_table(records, _vectors(8), "float32", False), footprints(records)
    np.testing.assert_array_equal(shapely.from_wkb(table["geometry"].to_pylist()), places.geometry)
    assert table["utm_footprint"].to_pylist() == [str(box) for box in places.utm]
    assert table["centre_lat"].to_pylist() == places.latitude.tolist()
    assert table["centre_lon"].to_pylist() == places.longitude.tolist()
    bounds = [[row[name] for name in ("xmin", "ymin", "xmax", "ymax")] for row in table["bbox"].to_pylist()]
    assert bounds == shapely.bounds(places.geometry).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_unique_id_hashes_what_is_stored(dtype: str) -> None:
    records = [_record(0), _across()]
    table = build_table(records, _vectors(8, 768), dtype, False)  # type: ignore[arg-type]
    for row in table.to_pylist():
        geometry, embedding = shapely.from_wkb(row["geometry"]), np.array(row["embedding"], np.float32)
        text = f"{geometry}_{row['timestamp']}_{row['product_id']}_{embedding}"
        assert row["unique_id"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_embedding_column_is_the_vectors_own_memory(dtype: str) -> None:
    vectors = _vectors(6, 16, dtype)
    column = build_table([_record(0, 6)], vectors, dtype, False)["embedding"]  # type: ignore[arg-type]
    assert column.chunk(0).flatten().buffers()[1].address == vectors.ctypes.data


def test_float16_rounds_to_nearest() -> None:
    vectors = _vectors(3)
    table = build_table([_record(0)], vectors, "float16", False)
    assert table["embedding"].type == pa.list_(pa.float16(), 8)
    stored = table["embedding"].combine_chunks().flatten().to_numpy().reshape(3, 8)
    np.testing.assert_array_equal(stored, vectors.astype(np.float16))


def test_extras() -> None:
    shares = np.array([0.0, 0.25, 1.0], np.float32)
    full = _record(7, nodata=shares, saturated=shares[::-1].copy(), cloud=shares, baseline="0509")
    full.offset_removed, full.parquet_url = True, "images/part_00001.parquet"
    bare = _record(8, nodata=shares, saturated=shares)
    table = build_table([full, bare], _vectors(6), "float32", True)
    assert table.schema.equals(schema(8, "float32", True))
    assert table["saturated"].to_pylist() == [1.0, 0.25, 0.0, 0.0, 0.25, 1.0]
    assert table["cloud"].to_pylist() == [0.0, 0.25, 1.0, None, None, None]
    assert table["baseline"].to_pylist() == ["0509"] * 3 + [""] * 3
    assert table["offset_removed"].to_pylist() == [True] * 3 + [False] * 3
    assert table["parquet_url"].to_pylist() == ["images/part_00001.parquet"] * 3 + [""] * 3
    assert table["parquet_row"].to_pylist() == [7] * 3 + [8] * 3


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("0U_0R", (0, 0)),
        ("1D_1L", (-1, -1)),
        ("1002U_2004L", (1002, -2004)),
        ("12345U_12R", (12345, 12)),
        ("32768D_32767R", (-32768, 32767)),
        ("32768U_1R", (None, None)),
        ("99999999999999999999U_1R", (None, None)),
        ("a field", (None, None)),
        ("", (None, None)),
    ],
)
def test_grid_numbers_are_signed(name: str, numbers: tuple[int | None, int | None]) -> None:
    record = _record(0, 1)
    record.grid_cell = name
    table = build_table([record], _vectors(1), "float32", False)
    assert (table["grid_row_u"][0].as_py(), table["grid_col_r"][0].as_py()) == numbers


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("float32", -np.inf), ("float16", 70000.0)])
def test_a_value_that_cannot_be_stored_fails_its_cell(dtype: str, value: float) -> None:
    vectors = _vectors(6)
    vectors[4, 2] = value
    with pytest.raises(CellError, match="112D_457L"):
        build_table([_record(0), _record(2)], vectors, dtype, False)  # type: ignore[arg-type]


def test_vectors_must_match_fragments() -> None:
    with pytest.raises(ValueError, match="4 vectors for 3"):
        build_table([_record(0)], _vectors(4), "float32", False)


def test_no_rows() -> None:
    assert build_table([], np.empty((0, 8), np.float32), "float32", True).num_rows == 0
    assert build_table([_record(0, 0)], np.empty((0, 8), np.float32), "float32", False).num_rows == 0


@given(st.lists(st.integers(0, 600), max_size=60), st.sampled_from([512, 768, 2048]), st.sampled_from([2, 4]))
def test_row_groups_hold_whole_cells_and_are_as_full_as_can_be(counts: list[int], dim: int, itemsize: int) -> None:
    groups = row_groups(counts, dim, itemsize)
    limit = min(10_000, 32 * 2**20 // (dim * itemsize))
    assert [cell for first, last in groups for cell in range(first, last)] == list(range(len(counts)))
    for first, last in groups:
        assert sum(counts[first:last]) <= limit
        assert last == len(counts) or sum(counts[first : last + 1]) > limit


def test_row_group_limits() -> None:
    assert row_groups([25] * 500, 2048, 4) == [(0, 163), (163, 326), (326, 489), (489, 500)]  # 4096 rows
    assert row_groups([25] * 500, 512, 2) == [(0, 400), (400, 500)]  # 10,000 rows
    assert row_groups([20_000, 1, 20_000], 512, 4) == [(0, 1), (1, 2), (2, 3)]
    assert row_groups([], 512, 4) == []


def test_each_table_is_one_row_group(tmp_path: Path) -> None:
    tables = [build_table([_record(i, n)], _vectors(n), "float32", False) for i, n in ((0, 5), (1, 25), (2, 0))]
    file = _write(tmp_path / "part.parquet", tables)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [5, 25]
    assert file.read().equals(pa.concat_tables(tables))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_encodings(tmp_path: Path, dtype: str) -> None:
    table = build_table([_record(0, 25)], _vectors(25, 512), dtype, True)  # type: ignore[arg-type]
    group = _write(tmp_path / "part.parquet", [table]).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    vectors = columns["embedding.list.element"]
    assert ("BYTE_STREAM_SPLIT" in vectors.encodings) == (dtype == "float32")
    assert not any("DICTIONARY" in encoding for encoding in vectors.encodings)
    assert not vectors.is_stats_set
    assert columns["bbox.xmin"].is_stats_set and columns["grid_cell"].is_stats_set


def test_geo_metadata_describes_the_file(tmp_path: Path) -> None:
    tables = [build_table([record], _vectors(n), "float32", False) for record, n in ((_record(0), 3), (_record(1), 3))]
    file = _write(tmp_path / "part.parquet", tables, {"mtembed": "1"})
    geo = json.loads(file.metadata.metadata[b"geo"])
    assert file.metadata.metadata[b"mtembed"] == b"1"
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB" and column["geometry_types"] == ["Polygon"]
    assert column["orientation"] == "counterclockwise" and column["edges"] == "planar"
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 4326}
    assert pyproj.CRS.from_json_dict(column["crs"]) == pyproj.CRS.from_epsg(4326)
    assert column["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    geometry = shapely.from_wkb(file.read()["geometry"].to_pylist())
    assert column["bbox"] == shapely.total_bounds(geometry).tolist()


def test_geo_metadata_names_the_shapes_there_are(tmp_path: Path) -> None:
    tables = [build_table([record], _vectors(n), "float32", False) for record, n in ((_record(0), 3), (_across(), 5))]
    column = json.loads(_write(tmp_path / "part.parquet", tables).metadata.metadata[b"geo"])["columns"]["geometry"]
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert (column["bbox"][0], column["bbox"][2]) == (-180.0, 180.0)


def test_an_empty_file_is_complete(tmp_path: Path) -> None:
    file = _write(tmp_path / "part.parquet", [])
    column = json.loads(file.metadata.metadata[b"geo"])["columns"]["geometry"]
    assert file.metadata.num_rows == 0 and file.schema_arrow.equals(schema(8, "float32", False))
    assert column["geometry_types"] == [] and "bbox" not in column
    assert "bbox" not in json.loads(geo_metadata(None))["columns"]["geometry"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, dtype: str) -> None:
    files = []
    for name in ("one", "two"):
        tables = [build_table([_across(), _record(1, 25)], _vectors(30, 64), dtype, True)]  # type: ignore[arg-type]
        _write(tmp_path / name, tables, {"b": "2", "a": "1"})
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_how_cells_are_joined_into_a_table_does_not_change_bytes(tmp_path: Path) -> None:
    records, vectors = [_record(i, 5) for i in range(4)], _vectors(20)
    whole = build_table(records, vectors, "float32", False)
    single = [build_table([r], vectors[5 * i : 5 * i + 5], "float32", False) for i, r in enumerate(records)]
    _write(tmp_path / "whole", [whole])
    _write(tmp_path / "joined", [pa.concat_tables(single).combine_chunks()])
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "joined").read_bytes()
