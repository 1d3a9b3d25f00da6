"""What people open the files with: each reader sees the rows that were written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import datasets
import duckdb
import geopandas
import lancedb
import numpy as np
import pandas as pd
import polars
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

import mtembed
from mtembed.dataset.rows import PartWriter, build_table
from mtembed.types import CellRecord, Georeference
from tests.tools.commands import ROOT

DIM, CELLS, FRAGMENTS = 96, 6, 9
ROWS = CELLS * FRAGMENTS
THIRTEEN = [
    *("unique_id", "embedding", "timestamp", "product_id", "grid_cell", "grid_row_u", "grid_col_r", "geometry"),
    *("centre_lat", "centre_lon", "utm_footprint", "utm_crs", "pixel_bbox"),
]
EXTRAS = ["nodata", "saturated", "cloud", "baseline", "offset_removed", "parquet_url", "parquet_row"]


def _record(row_group: int, epsg: int, left: float, top: float) -> CellRecord:
    offsets = np.array([(row, col) for row in (0, 422, 844) for col in (0, 422, 844)], np.int32)
    share = np.linspace(0, 1, FRAGMENTS, dtype=np.float32)
    place = Georeference(epsg, left, top, 10.0, 10.0, 1068, 1068)
    name = f"S2B_{row_group}", f"{row_group}U_7L", "20230824T131249"
    return CellRecord(row_group, *name, place, 224, offsets, nodata=share, saturated=share)


def _part(path: Path, dtype: str, extras: bool) -> tuple[Path, np.ndarray]:
    """Five cells in a row and one across the antimeridian, in two row groups."""
    x, y = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(180.0, 17.0)
    records = [_record(i, 32631, 300000.0 + 10000 * i, 5000000.0) for i in range(CELLS - 1)]
    records.append(_record(CELLS - 1, 32660, x - 5340.0, y))
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(dtype)
    halves = [(records[:3], vectors[: 3 * FRAGMENTS]), (records[3:], vectors[3 * FRAGMENTS :])]
    tables = [build_table(*half, dtype, extras) for half in halves]  # type: ignore[arg-type]
    writer = PartWriter(path, tables[0].schema)
    for table in tables:
        writer.write(table)
    writer.close({"made_by": "test"})
    return path, vectors


@pytest.fixture(
    params=[("float32", False), ("float32", True), ("float16", False)], ids=["float32", "extras", "float16"]
)
def part(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    return _part(tmp_path / "part_00001.parquet", *request.param)


def test_pyarrow_gives_a_matrix_without_a_copy(part: tuple[Path, np.ndarray]) -> None:
    path, vectors = part
    for column in (pq.read_table(path)["embedding"], pads.dataset(path).to_table(["embedding"])["embedding"]):
        flat = column.combine_chunks().flatten()
        matrix = flat.to_numpy(zero_copy_only=True).reshape(-1, DIM)
        assert matrix.ctypes.data == flat.buffers()[1].address
        np.testing.assert_array_equal(matrix, vectors)


def test_geopandas(part: tuple[Path, np.ndarray]) -> None:
    path, vectors = part
    frame = geopandas.read_parquet(path)
    extras = EXTRAS if "nodata" in pq.read_schema(path).names else []
    assert frame.columns.tolist() == THIRTEEN + extras and len(frame) == ROWS
    assert frame.crs == pyproj.CRS.from_epsg(4326)
    np.testing.assert_array_equal(np.stack(frame["embedding"]), vectors)
    assert np.isclose(frame.geometry.iloc[0].centroid.x, frame["centre_lon"].iloc[0], atol=1e-6)


BOXES = [
    (0.45, 44.9, 0.6, 45.2),
    (0.0, 0.0, 10.0, 44.0),
    (-180.0, 16.0, -179.99, 18.0),
    (179.98, 16.0, 180.0, 17.0),
    (-180.0, -90.0, 180.0, 90.0),
]


@pytest.mark.parametrize("box", BOXES)
def test_filters_by_box_lose_nothing(part: tuple[Path, np.ndarray], box: tuple[float, float, float, float]) -> None:
    path, _ = part
    everything = geopandas.read_parquet(path)
    inside = set(everything[everything.intersects(shapely.box(*box))]["unique_id"])
    west, south, east, north = box
    found = geopandas.read_parquet(path, bbox=box)
    condition = f"bbox.xmax >= {west} and bbox.xmin <= {east} and bbox.ymax >= {south} and bbox.ymin <= {north}"
    selected = duckdb.sql(f"select unique_id from '{path}' where {condition}").fetchall()
    assert inside <= set(found["unique_id"]) == {row[0] for row in selected}
    assert set(found[found.intersects(shapely.box(*box))]["unique_id"]) == inside


def test_duckdb(part: tuple[Path, np.ndarray]) -> None:
    path, vectors = part
    rows = duckdb.sql(
        f"select embedding, typeof(geometry), pixel_bbox from '{path}' order by file_row_number"
    ).fetchall()
    np.testing.assert_array_equal(np.array([row[0] for row in rows], vectors.dtype), vectors)
    assert all(row[1].startswith("GEOMETRY") for row in rows)
    assert list(rows[-1][2]) == [844, 844, 1068, 1068]


def test_polars(part: tuple[Path, np.ndarray]) -> None:
    path, vectors = part
    frame = polars.read_parquet(path)
    inner = polars.Float32 if vectors.dtype == np.float32 else polars.Float16
    assert frame.schema["embedding"] == polars.Array(inner, DIM)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), vectors)
    assert frame["bbox"].struct.field("xmin").min() == -180.0


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets(part: tuple[Path, np.ndarray], tmp_path: Path, streaming: bool) -> None:
    path, vectors = part
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"), streaming=streaming
    )
    assert rows.features["embedding"].length == DIM
    read = list(rows)
    np.testing.assert_array_equal(np.array([row["embedding"] for row in read], vectors.dtype), vectors)
    assert shapely.from_wkb(read[0]["geometry"]).geom_type == "Polygon"


def test_lancedb(part: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """The column is a vector column as it is: a nearest neighbour search finds the row itself."""
    path, vectors = part
    table = lancedb.connect(tmp_path / "lance").create_table("rows", pq.read_table(path))
    hits = table.search(vectors[7].astype(np.float32), vector_column_name="embedding").limit(3).to_arrow()
    assert hits["unique_id"][0] == pq.read_table(path)["unique_id"][7] and hits["_distance"][0].as_py() < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_lonboard(part: tuple[Path, np.ndarray]) -> None:
    """A layer of polygons straight from GeoParquet, coloured as ``mtembed pca`` would colour them."""
    import lonboard

    path, _ = part
    frame = geopandas.read_parquet(path).explode(ignore_index=True)  # two halves where the antimeridian cuts
    colours = np.tile(np.array([[200, 30, 60]], np.uint8), (len(frame), 1))
    layer = lonboard.PolygonLayer.from_geopandas(frame[["geometry", "grid_cell"]], get_fill_color=colours)
    assert layer.table.num_rows == len(frame) and "lonboard" in lonboard.Map(layer).to_html()


def test_the_way_torchgeo_reads(part: tuple[Path, np.ndarray]) -> None:
    """Its embedding datasets take a 1-d numeric vector, the centre, and a time that pandas understands."""
    path, vectors = part
    row = geopandas.read_parquet(path).iloc[-1]
    assert isinstance(row["embedding"], np.ndarray) and row["embedding"].shape == (DIM,)
    assert row["embedding"].dtype == vectors.dtype
    assert pd.Timestamp(row["timestamp"]) == pd.Timestamp(2023, 8, 24, 13, 12, 49)
    assert -180 <= float(row["centre_lon"]) <= 180 and 16 < float(row["centre_lat"]) < 18


def test_the_validator_finds_no_fault(part: tuple[Path, np.ndarray]) -> None:
    validator = Path(sys.executable).with_name("geoparquet-validator")
    done = subprocess.run([validator, "check", part[0], "--class", "all"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def page() -> list[str]:
    """The blocks of Python of the page about readers."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/readers.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the page's datasets are."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("S2L2A", "places"):
        (folder / f"mtembed-demo/{name}/embeddings").mkdir(parents=True)
        _part(folder / f"mtembed-demo/{name}/embeddings/part_00001.parquet", "float32", False)
    mtembed.pca(folder / "mtembed-demo/places", fragments="all")
    return folder


@pytest.mark.parametrize("block", page(), ids=lambda block: re.findall(r"(?:import|from) (\w+)", block)[-1])
def test_the_lines_of_the_page_run(demo: Path, block: str) -> None:
    if "MajorTOMEmbeddings" in block and sys.version_info < (3, 12):
        pytest.skip("torchgeo has its class for embeddings on Python 3.12 and later")
    done = subprocess.run([sys.executable, "-c", block], cwd=demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (done.stdout or (demo / "map.html").is_file()), done.stderr


def test_geopandas_reads_a_folder_of_parts(tmp_path: Path) -> None:
    """It looks for the ``geo`` key in the schema then, not in a footer."""
    for number in (1, 2):
        _part(tmp_path / f"part_{number:05d}.parquet", "float32", False)
    frame = geopandas.read_parquet(tmp_path, bbox=(0.0, 0.0, 1.0, 89.0))
    assert frame.crs == pyproj.CRS.from_epsg(4326) and 0 < len(frame) < 2 * ROWS


def test_a_part_without_rows_opens(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    PartWriter(path, build_table([], np.empty((0, DIM), np.float32), "float32", False).schema).close({})
    assert geopandas.read_parquet(path).columns.tolist() == THIRTEEN
    assert polars.read_parquet(path).height == 0
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(0,)]
