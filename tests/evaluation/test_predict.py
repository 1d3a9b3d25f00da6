"""A probe saved by ``evaluate`` over another dataset: table, raster, picture; files that are no probes are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from PIL import Image
from safetensors.numpy import load_file, save_file

import mtembed
from mtembed.errors import MtembedError, UsageError
from mtembed.evaluation import probe_file
from mtembed.evaluation.burn import Canvas, Extent
from tests.tools.commands import run
from tests.tools.embeddings import vector_column
from tests.tools.labels import Known, cell_names, known_dataset, with_columns

QUICK: dict[str, Any] = {"shots": "all", "resamples": 20}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_dataset(tmp_path_factory.mktemp("known"))


@pytest.fixture(scope="module")
def saved(known: Known, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Probes of every task, linear and kNN."""
    folder = tmp_path_factory.mktemp("probes")
    tags = [[name for name, value in zip("ab", row[:2], strict=True) if value > 0] or ["c"] for row in known.vectors]
    path = with_columns(known, folder / "data.parquet", tags=tags)
    found = {}
    for name, column, probe in (("number", "number", "linear"), ("word", "word", "linear"), ("tags", "tags", "linear"),
                                ("near", "word", "knn")):  # fmt: skip
        found[name] = folder / f"{name}.safetensors"
        mtembed.evaluate(path, column=column, probes=probe, neighbours="5", save_probe=found[name], **QUICK)
    return found


def test_numbers_come_with_an_interval_and_lie_where_their_rows_are(known: Known, saved: Any, tmp_path: Path) -> None:
    found = mtembed.predict(known.path, saved["number"], tmp_path / "out")
    assert (found.task, found.rows, found.skipped, found.column) == ("regression", 144, 0, "number")
    frame = gpd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert frame["prediction"].to_numpy() == pytest.approx(known.number, abs=0.2)
    assert (frame["low"] <= frame["prediction"]).all() and (frame["prediction"] <= frame["high"]).all()
    assert frame["unique_id"].tolist() == known.table["unique_id"].to_pylist() and frame.crs == "EPSG:4326"
    assert (frame.geometry.to_wkb() == np.array(known.table["geometry"].to_pylist(), object)).all()
    with rasterio.open(tmp_path / "out" / "predictions.tif") as file:
        assert file.descriptions == ("prediction", "low", "high") and file.crs.to_epsg() == 4326
        for i in (0, 77, 143):
            box = shapely.from_wkb(known.table["geometry"][i].as_py()).bounds
            inside = file.read(1, window=rasterio.windows.from_bounds(*box, file.transform))
            near = [known.number[j] for j in range(i // 4 * 4, i // 4 * 4 + 4)]  # fragments of a cell overlap
            assert np.nanmin(near) - 0.3 <= np.nanmean(inside) <= np.nanmax(near) + 0.3
        assert np.isnan(file.read(1)).mean() > 0.5
    with Image.open(tmp_path / "out" / "predictions.png") as image:
        assert min(image.size) > 300


@pytest.mark.parametrize("name", ["word", "near"])
def test_classes_come_with_a_probability(known: Known, saved: Any, tmp_path: Path, name: str) -> None:
    found = mtembed.predict(known.path, saved[name], tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    right = np.mean([a == b for a, b in zip(table["prediction"].to_pylist(), known.word, strict=True)])
    assert right > (0.97 if name == "word" else 0.8)
    assert min(table["probability"].to_pylist()) >= 0.5 and sum(found.counts.values()) == 144
    with rasterio.open(tmp_path / "out" / "predictions.tif") as file:
        assert file.tags(1)["class_0"] == "forest" and set(np.unique(file.read(1)[np.isfinite(file.read(1))])) == {0, 1}


def test_several_labels_each_have_a_probability(known: Known, saved: Any, tmp_path: Path) -> None:
    mtembed.predict(known.path, saved["tags"], tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    share = np.array(table["probability_a"].to_pylist())
    assert ((share > 0.5) == (known.vectors[:, 0] > 0)).mean() > 0.9


def test_the_command_says_the_same_twice_and_refuses_another_result(known: Known, saved: Any, tmp_path: Path) -> None:
    words = ["predict", str(known.path), "--probe", str(saved["word"]), "--output"]
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        code, out, err = run([*words, str(output), "--json"])
        assert code == 0, err
        assert json.loads(out.splitlines()[-1])["event"] == "result"
    for name in ("json", "parquet", "tif", "png"):
        assert (outputs[0] / f"predictions.{name}").read_bytes() == (outputs[1] / f"predictions.{name}").read_bytes()
    before = (outputs[0] / "predictions.tif").stat().st_mtime_ns
    code, again, _ = run([*words, str(outputs[0]), "--json"])
    assert code == 0 and (outputs[0] / "predictions.tif").stat().st_mtime_ns == before
    assert json.loads(again.splitlines()[-1])["counts"] == json.loads(out.splitlines()[-1])["counts"]
    words[3] = str(saved["number"])
    code, _, err = run([*words, str(outputs[0])])
    assert code != 0 and "word.safetensors" in err and "--fresh" in err and err.count("\n") == 1
    assert run([*words, str(outputs[0]), "--fresh", "--quiet"])[:2] == (0, "")


def test_rows_that_are_not_finite_have_no_prediction(saved: Any, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(36, 16)).astype(np.float32)
    vectors[3, 2] = np.nan
    column = vector_column(vectors, pa.list_(pa.float16()))
    broken = known_dataset(tmp_path / "data", cell_names(3, 3), embedding=column)
    found = mtembed.predict(broken.path, saved["word"], tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    assert found.skipped == 1 and table["prediction"][3].as_py() is None and table["probability"][3].as_py() is None
    assert table["prediction"].null_count == 1


def test_a_probe_is_the_same_bytes_and_what_was_saved_is_loaded(known: Known, saved: Any, tmp_path: Path) -> None:
    mtembed.evaluate(known.path, column="number", probes="linear", save_probe=tmp_path / "again", **QUICK)
    loaded, again = probe_file.load(saved["number"]), probe_file.load(tmp_path / "again")
    assert (loaded.model(known.vectors) == again.model(known.vectors)).all()
    assert loaded.rows == 144 and loaded.split == "blocks" and loaded.value > 0.99


def test_files_that_are_no_probes_are_refused(known: Known, saved: Any, tmp_path: Path) -> None:
    good = load_file(saved["word"])
    raw = saved["word"].read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"]["mtembed.probe"]
    facts = json.loads(header)
    cases: dict[str, tuple[str, Any]] = {
        "missing": ("there is no file", None),
        "noise": ("cannot be read", b"\x80\x04 pickle, not data"),
        "cut": ("cannot be read", raw[: len(raw) // 2]),
        "plain": ("holds no probe", (good, None)),
        "version": ("another version", (good, facts | {"version": 2})),
        "shape": ("shape", (good | {"weights": good["weights"][:5]}, facts)),
        "array": ("no probe that can be used", ({k: v for k, v in good.items() if k != "bias"}, facts)),
        "kind": ("unknown kind", (good | {"vectors": good["weights"], "values": good["bias"]}, facts | {"kind": "x"})),
        "facts": ("no probe that can be used", (good, {"task": "classification"})),
    }
    for name, (words, content) in cases.items():
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            arrays, said = content
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path,
                      None if said is None else {"mtembed.probe": json.dumps(said)})  # fmt: skip
        with pytest.raises(UsageError) as raised:
            mtembed.predict(known.path, path, tmp_path / "out")
        assert words in str(raised.value) and "\n" not in str(raised.value), name
    other = known_dataset(tmp_path / "other", cell_names(2, 2), dim=8)
    with pytest.raises(MtembedError, match="vectors of 16 values"):
        mtembed.predict(other.path, saved["word"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def canvas(shapes: list[Any], values: list[list[float]], surest: int | None = None) -> Canvas:
    array = np.array(shapes, object)
    extent = Extent()
    extent.add(array)
    made = Canvas(extent, len(values[0]), surest)
    made.add(array, np.array(values))
    return made


def test_overlaps_are_averaged_or_won_by_the_surest() -> None:
    boxes = [shapely.box(0, 0, 1, 1), shapely.box(0.5, 0, 1.5, 1)]
    mean = canvas(boxes, [[2.0], [4.0]])
    assert mean.window((0, 0, mean.rows, mean.cols), 999)[0, 0].tolist() == [2, 2, 3, 3, 4, 4]
    surest = canvas(boxes, [[0, 0.6], [1, 0.9]], 1)
    assert surest.window((0, 0, surest.rows, surest.cols), 999)[0, 0].tolist() == [0, 0, 1, 1, 1, 1]


def test_a_footprint_across_the_antimeridian_is_on_both_sides() -> None:
    shape = shapely.MultiPolygon([shapely.box(179.9, 0, 180, 0.2), shapely.box(-180, 0, -179.9, 0.2)])
    made = canvas([shape], [[7.0]])
    first, last = made.places()
    assert {first[1] == 0, last[1] == 0} == {True, False}
    lon, _, values = made.filled(1000)
    assert (values == 7).all() and (np.abs(lon) > 179.8).all() and len(made._blocks) <= 4


def test_places_far_apart_keep_their_pixels_and_take_little_room(tmp_path: Path) -> None:
    shapes = [shapely.box(x, y, x + 0.02, y + 0.02) for x, y in ((-120, 40), (150, -35), (10, 50))]
    made = canvas(shapes, [[1.0], [2.0], [3.0]])
    assert made.pixel < 0.01 and len(made.places()) == 3 and len(made._blocks) <= 12
    for box in made.places():
        assert np.isfinite(made.window(box, 100)).all()


def test_a_file_in_the_way_of_the_folder_is_left_alone(known: Known, saved: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(MtembedError):
        mtembed.predict(known.path, saved["word"], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
