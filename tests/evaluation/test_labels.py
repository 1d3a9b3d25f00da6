"""Labels in every form join the rows they speak of; what cannot be used is said in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine

from mtembed.dataset.reader import open_dataset
from mtembed.errors import UsageError
from mtembed.evaluation.labelled import Labelled, labelled
from mtembed.evaluation.options import EvaluateOptions
from tests.tools.labels import Known, cell_names, known_dataset, with_columns


def join(known: Known, **options: Any) -> Labelled:
    return labelled(open_dataset(known.path), EvaluateOptions(**options), lambda stage, done, total: None)


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return known_dataset(tmp_path / "data", cell_names(3, 3))


def centres(known: Known) -> tuple[Any, Any]:
    return tuple(known.table[name].to_numpy().astype(float) for name in ("centre_lat", "centre_lon"))


def boxes(known: Known) -> Any:
    return shapely.from_wkb(known.table["geometry"].to_pylist())


def save(frame: gpd.GeoDataFrame, path: Path) -> str:
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".gpkg", ".geojson"])
def test_points_belong_to_the_row_that_holds_them_and_is_nearest(known: Known, tmp_path: Path, suffix: str) -> None:
    """Fragments overlap: a point in two of them is the nearer one's."""
    lat, lon = centres(known)
    rows = [0, 5, 9, 20, 35]
    near = lat[rows] + 0.004, lon[rows] - 0.004
    words = ["forest", "water", "water", "forest", "water"]
    path = tmp_path / f"labels{suffix}"
    if suffix == ".csv":
        pd.DataFrame({"Latitude": near[0], "lon": near[1], "class": words}).to_csv(path, index=False)
    else:
        frame = gpd.GeoDataFrame({"class": words}, geometry=gpd.points_from_xy(near[1], near[0]), crs="EPSG:4326")
        save(frame.to_crs("EPSG:3857") if suffix == ".gpkg" else frame, path)
    found = join(known, labels=str(path), column="class", max_labels=20)
    assert found.row.tolist() == rows
    assert [found.target.classes[k] for k in found.target.values] == words
    assert np.array_equal(found.vectors, known.vectors[rows])
    assert found.dropped == {"without a label": 31}


def test_points_of_one_row_vote_or_are_averaged(known: Known, tmp_path: Path) -> None:
    lat, lon = (value[[0, 0, 0, 7]] for value in centres(known))
    frame = pd.DataFrame({"lat": lat, "lon": lon, "class": ["a", "b", "b", "a"], "number": [1.5, 2, 4, 8]})
    path = str(tmp_path / "labels.csv")
    frame.to_csv(path, index=False)
    assert join(known, labels=path, column="class").target.values.tolist() == [1, 0]
    assert join(known, labels=path, column="number").target.values.tolist() == [2.5, 8.0]


def test_points_outside_without_value_and_without_place_are_counted(known: Known, tmp_path: Path) -> None:
    lat, lon = centres(known)
    frame = pd.DataFrame({
        "lat": [lat[0], -60.0, lat[5], np.nan, lat[9]],
        "lon": [lon[0], 10.0, lon[5], 10.0, lon[9]],
        "class": ["a", "a", None, "b", "b"],
    })  # fmt: skip
    frame.to_csv(tmp_path / "labels.csv", index=False)
    found = join(known, labels=str(tmp_path / "labels.csv"), column="class")
    assert found.row.tolist() == [0, 9] and found.labels == 5
    assert found.labels_dropped == {"without a value": 1, "without a place": 1, "outside the data": 1}


def test_keys_join_by_row_or_by_cell(known: Known, tmp_path: Path) -> None:
    ids = known.table["unique_id"].to_pylist()
    pd.DataFrame({"unique_id": [ids[7], ids[2], "gone"], "class": ["a", "b", "b"]}).to_csv(
        tmp_path / "a.csv", index=False
    )
    found = join(known, labels=str(tmp_path / "a.csv"), column="class")
    assert found.row.tolist() == [2, 7] and found.target.values.tolist() == [1, 0]
    assert found.labels_dropped == {"outside the data": 1}
    cells = known.table["grid_cell"].to_pylist()
    pd.DataFrame({"grid_cell": [cells[0], cells[8]], "class": ["a", "b"]}).to_csv(tmp_path / "b.csv", index=False)
    found = join(known, labels=str(tmp_path / "b.csv"), column="class")
    assert found.row.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_polygons_speak_by_area(known: Known, tmp_path: Path) -> None:
    """Row 0: 70 % a, 30 % b.  Row 8: half covered.  Row 16: all b."""
    own = boxes(known)
    west, south, east, north = own[0].bounds
    split = west + 0.7 * (east - west)
    half = own[8].bounds
    frame = gpd.GeoDataFrame(
        {"class": ["a", "b", "a", "b"], "number": [10.0, 20.0, 1.0, 5.0]},
        geometry=[
            shapely.box(west - 1e-3, south - 1e-3, split, north + 1e-3), shapely.box(split, south, east, north),
            shapely.box(half[0], half[1], (half[0] + half[2]) / 2, half[3]), shapely.box(*own[16].bounds).buffer(1e-3),
        ],
        crs="EPSG:4326",
    )  # fmt: skip
    path = save(frame, tmp_path / "labels.gpkg")
    found = join(known, labels=path, column="class")
    assert found.row.tolist() == [0, 16] and found.target.values.tolist() == [0, 1]
    assert found.dropped["covered too little"] >= 1
    numbers = join(known, labels=path, column="number", task="regression")
    assert numbers.target.values == pytest.approx([13.0, 5.0])
    several = join(known, labels=path, column="class", task="multilabel", coverage=0.4)
    row = several.row.tolist().index(0)
    assert several.target.values[row].tolist() == [1, 1]
    assert 8 in several.row.tolist()


def raster(
    path: Path,
    known: Known,
    row: int,
    values: Any,
    crs: str = "EPSG:4326",
    nodata: float | None = None,
    margin: float = 0,
) -> str:
    """A raster over the box of a row."""
    box = boxes(known)[row]
    shape = gpd.GeoSeries([box], crs="EPSG:4326").to_crs(crs or "EPSG:4326")[0]
    west, south, east, north = shape.buffer(margin).bounds
    rows, cols = values.shape
    transform = Affine((east - west) / cols, 0, west, 0, (south - north) / rows, north)
    with rasterio.open(path, "w", driver="GTiff", height=rows, width=cols, count=1, dtype=values.dtype, crs=crs or None,
                       transform=transform, nodata=nodata) as file:  # fmt: skip
        file.write(values, 1)
    return str(path)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3035"])
def test_rasters_speak_by_pixels_in_their_own_crs(known: Known, tmp_path: Path, crs: str) -> None:
    """Two thirds 3, one third 7, over row 0; the rows of other cells have no label."""
    values = np.full((90, 90), 3, np.uint8)
    values[:, 60:] = 7
    raster(tmp_path / "a.tif", known, 0, values, crs, nodata=0)
    raster(tmp_path / "b.tif", known, 20, np.full((90, 90), 7, np.uint8), crs, nodata=0)
    found = join(known, labels=str(tmp_path), task="classification")
    at = dict(zip(found.row.tolist(), found.target.values.tolist(), strict=True))
    assert found.target.classes == ("3", "7") and at[0] == 0 and at[20] == 1
    numbers = join(known, labels=str(tmp_path), task="regression", coverage=0.99 if crs == "EPSG:4326" else 0.8)
    tilt = 0.02 if crs == "EPSG:4326" else 0.4
    assert dict(zip(numbers.row.tolist(), numbers.target.values.tolist(), strict=True))[0] == pytest.approx(
        4.33, abs=tilt
    )


def test_nodata_and_edges_count_against_coverage(known: Known, tmp_path: Path) -> None:
    values = np.full((50, 50), 3, np.uint8)
    values[:15] = 0
    first = raster(tmp_path / "a.tif", known, 0, values, nodata=0)
    raster(tmp_path / "b.tif", known, 20, np.full((50, 50), 4, np.uint8), nodata=0)
    raster(tmp_path / "c.tif", known, 30, np.full((50, 50), 5, np.uint8), nodata=0)
    found = join(known, labels=str(tmp_path))
    assert 0 not in found.row and {20, 30} <= set(found.row.tolist())
    assert found.dropped["covered too little"] >= 1
    assert 0 in join(known, labels=str(tmp_path), coverage=0.65).row
    Path(first).unlink()
    raster(tmp_path / "a.tif", known, 0, values, nodata=None)
    unnamed = join(known, labels=str(tmp_path))
    assert 0 in unnamed.row and "no nodata value is named by a.tif" in unnamed.notes[0]
    named = join(known, labels=str(tmp_path), nodata=0)
    assert 0 not in named.row and named.notes == ()


TABLE = """<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>
<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>
<FieldDefn index="1"><Name>Count</Name><Type>0</Type><Usage>1</Usage></FieldDefn>
<FieldDefn index="2"><Name>Cover</Name><Type>2</Type><Usage>2</Usage></FieldDefn>
<Row index="0"><F>7</F><F>12</F><F>forest</F></Row><Row index="1"><F>3</F><F>1</F><F>water</F></Row>
<Row index="2"><F>4</F><F>1</F><F>water</F></Row><Row index="3"><F>?</F></Row>
</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"""
CATEGORIES = """<PAMDataset>
<PAMRasterBand band="2"><CategoryNames><Category>no</Category></CategoryNames></PAMRasterBand>
<PAMRasterBand band="1"><CategoryNames><Category/><Category/><Category/><Category>water</Category>
<Category>water</Category><Category/><Category/><Category>forest</Category></CategoryNames></PAMRasterBand></PAMDataset>"""


@pytest.mark.parametrize("names", [TABLE, CATEGORIES])
def test_a_raster_names_its_classes(known: Known, tmp_path: Path, names: str) -> None:
    """Values of one name are one class; a value without a name stays a number."""
    parted = np.repeat(np.array([[3, 4, 7]], np.uint8), 60, axis=0).repeat([12, 18, 30], axis=1)
    raster(tmp_path / "a.tif", known, 0, parted[:, :55], nodata=0)  # 7 has most pixels, water more than half
    raster(tmp_path / "b.tif", known, 20, np.full((50, 50), 9, np.uint8), nodata=0)
    raster(tmp_path / "c.tif", known, 30, np.full((50, 50), 7, np.uint8), nodata=0)
    assert set(join(known, labels=str(tmp_path / "*.tif")).target.classes) == {"7", "9"}
    (tmp_path / "a.tif.aux.xml").write_text(names)
    found = join(known, labels=str(tmp_path / "*.tif"))
    assert found.target.classes == ("9", "forest", "water") and found.target.task == "classification"
    numbers = join(known, labels=str(tmp_path / "*.tif"), task="regression").target
    assert numbers.task == "regression" and numbers.values.max() == 9
    (tmp_path / "b.tif.aux.xml").write_text(names.replace("forest", "trees"))
    with pytest.raises(UsageError, match="names the value 7 'trees' and another raster 'forest'"):
        join(known, labels=str(tmp_path / "*.tif"))
    for broken in ("<PAMDataset>", "", "<a/>"):
        (tmp_path / "b.tif.aux.xml").write_text(broken)
        assert "forest" in join(known, labels=str(tmp_path / "*.tif")).target.classes


def test_a_pixel_larger_than_the_row_is_read_at_its_centre(known: Known, tmp_path: Path) -> None:
    raster(tmp_path / "a.tif", known, 0, np.array([[1, 1], [1, 2]], np.uint8), nodata=0, margin=2.0)
    raster(tmp_path / "b.tif", known, 20, np.array([[2]], np.uint8), nodata=0, margin=0.01)
    found = join(known, labels=str(tmp_path), task="classification")
    assert {0, 20} <= set(found.row.tolist()) and len(found.target.classes) == 2


def test_measurements_in_whole_numbers_are_a_regression(known: Known, tmp_path: Path) -> None:
    heights = np.random.default_rng(0).integers(0, 3000, (60, 60)).astype(np.int16)
    raster(tmp_path / "a.tif", known, 0, heights)
    raster(tmp_path / "b.tif", known, 20, heights + 50)
    assert join(known, labels=str(tmp_path)).target.task == "regression"


def test_own_columns_several_columns_and_lists(known: Known, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shares = rng.random((36, 2))
    lists = [["x"] if share < 0.3 else ["x", "y"] if share < 0.6 else [] for share in shares[:, 0]]
    path = with_columns(known, tmp_path / "more.parquet", a=shares[:, 0].round(), b=shares[:, 1].round(), tags=lists)
    more = Known(path, known.table, known.vectors, known.number, known.word)
    several = join(more, column="a,b")
    assert several.target.task == "multilabel" and several.target.classes == ("a", "b")
    assert (several.target.values == shares.round()).all()
    assert join(more, column="tags").target.values.sum(axis=1).tolist() == [len(tags) for tags in lists]


@pytest.mark.parametrize(
    ("values", "task"),
    [(["a", "b"], "classification"), ([1, 2], "classification"), ([1.0, 2.0], "classification"),
     ([0.5, 2.0], "regression"), (list(range(99)), "regression"), ([True, False], "classification"),
     ([["a"], ["b", "a"]], "multilabel")],
)  # fmt: skip
def test_the_task_is_decided_by_the_values(values: list[Any], task: str) -> None:
    from mtembed.evaluation.target import decide

    assert decide(values, "auto", "y")[0] == task


def test_more_rows_than_wanted_are_sampled_the_same_way_each_time(known: Known) -> None:
    found, again = (join(known, column="word", max_labels=10) for _ in range(2))
    assert len(found) == 10 and found.row.tolist() == again.row.tolist() == sorted(found.row.tolist())
    assert found.dropped == {"left out by --max-labels": 26}
    assert join(known, column="word", max_labels=10, seed=5).row.tolist() != found.row.tolist()


def test_rows_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(36, 16)).astype(np.float32)
    vectors[3, 2], vectors[8, 1] = np.nan, np.inf
    import pyarrow as pa

    from tests.tools.embeddings import vector_column

    broken = known_dataset(tmp_path, cell_names(3, 3), embedding=vector_column(vectors, pa.list_(pa.float32(), 16)))
    found = join(broken, column="word")
    assert found.dropped == {"not finite": 2} and not {3, 8} & set(found.row.tolist())


# -- what cannot be used --------------------------------------------------------------------------------------------


def csv(path: Path, **columns: Any) -> str:
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def test_one_sentence_for_each_thing_that_is_wrong(known: Known, tmp_path: Path) -> None:
    lat, lon = (value[:3] for value in centres(known))
    far = {"lat": [0.0, 1], "lon": [0.0, 1], "y": ["a", "b"]}
    good = {"lat": lat, "lon": lon}
    nothing = tmp_path / "broken.gpkg"
    nothing.write_bytes(b"no such thing")
    text = tmp_path / "labels.txt"
    text.write_text("a b c")
    line = gpd.GeoDataFrame({"y": [1]}, geometry=[shapely.LineString([(0, 0), (1, 1)])], crs="EPSG:4326")
    for words, options in (
        ("outside the data", {"labels": csv(tmp_path / "1.csv", **far), "column": "y"}),
        ("no column z", {"labels": csv(tmp_path / "2.csv", **good, y=["a", "b", "b"]), "column": "z"}),
        ("a probe needs two classes", {"labels": csv(tmp_path / "3.csv", **good, y=["a"] * 3), "column": "y"}),
        ("'two' where --task regression needs numbers",
         {"labels": csv(tmp_path / "4.csv", **good, y=["1", "two", "3"]), "column": "y", "task": "regression"}),
        ("nothing can be learned from one value",
         {"labels": csv(tmp_path / "5.csv", **good, y=[1.5] * 3), "column": "y"}),
        ("does not say where", {"labels": csv(tmp_path / "6.csv", y=["a", "b"]), "column": "y"}),
        ("has text where lat and lon need degrees",
         {"labels": csv(tmp_path / "7.csv", lat=["north", "1", "2"], lon=[1, 2, 3], y=["a", "b", "c"]), "column": "y"}),
        ("give WGS84 degrees",
         {"labels": csv(tmp_path / "8.csv", lat=[5e6, 5e6], lon=[4e5, 4e5], y=["a", "b"]), "column": "y"}),
        ("no label file matches", {"labels": str(tmp_path / "gone.csv"), "column": "y"}),
        ("cannot be read as labels", {"labels": str(nothing), "column": "y"}),
        ("no kind of label file", {"labels": str(text), "column": "y"}),
        ("lines", {"labels": save(line, tmp_path / "line.gpkg"), "column": "y"}),
        ("no column nowhere", {"column": "nowhere"}),
        ("neither the labels nor the dataset", {"column": "word", "group_column": "nowhere"}),
    ):  # fmt: skip
        with pytest.raises(UsageError) as raised:
            join(known, **options)
        message = str(raised.value)
        assert words in message and "\n" not in message, message


def test_a_raster_without_crs_or_content_is_refused(known: Known, tmp_path: Path) -> None:
    path = raster(tmp_path / "a.tif", known, 0, np.ones((5, 5), np.uint8), crs="")
    with pytest.raises(UsageError, match="has no CRS"):
        join(known, labels=path)
    broken = tmp_path / "b.tif"
    broken.write_bytes(b"II*\0nothing")
    with pytest.raises(UsageError, match="not a raster that can be read"):
        join(known, labels=str(broken))


def test_labels_need_a_column_and_options_keep_their_rules(known: Known, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"1.csv is a table: name the column"):
        join(known, labels=csv(tmp_path / "1.csv", lat=[1.0], lon=[1.0]))
    with pytest.raises(UsageError, match="--group-column needs labels"):
        EvaluateOptions(group_column="site")
    for wrong in ({"fold_count": 1}, {"probes": "forest"}, {"shots": "few"}, {"neighbours": "0"}, {"coverage": 0.0}):
        with pytest.raises(UsageError, match="is not possible"):
            EvaluateOptions(**wrong)  # type: ignore[arg-type]
