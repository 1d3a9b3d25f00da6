"""``mtembed pca`` from files to maps: one colour for each cell, the same whatever the order, resumed, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from mtembed.dataset.result import ResultFolder
from mtembed.errors import LockedError, MtembedError, OutputError, SettingsError, UsageError
from mtembed.geo.grid import grid_centre
from mtembed.maps.pca import pca
from mtembed.maps.result import PcaResult
from tests.tools.commands import run
from tests.tools.embeddings import grid_table, random_vectors, write, write_manifest

CELLS = [f"{450 + i // 8}U_{120 + i % 8}R" for i in range(48)]
FILES = ("pca.json", "components.parquet", "map.tif", "map.png")
VECTORS = random_vectors(9 * len(CELLS))


def table(vectors: np.ndarray = VECTORS, **changes: Any) -> pa.Table:
    return grid_table(vectors, CELLS, 9, **changes)


def dataset(root: Path, made: pa.Table | None = None, files: int = 3, model: str | None = "rcf") -> Path:
    """A run's folder, its cells over several parts."""
    made = table() if made is None else made
    for i, rows in enumerate(np.array_split(np.arange(made.num_rows), files)):
        write(root / "embeddings" / f"part_{i + 1:05d}.parquet", made.take(rows), row_group_size=50)
    if model:
        write_manifest(root, model)
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PcaResult:
    return pca(dataset(tmp_path_factory.mktemp("made")))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_the_record(made: PcaResult) -> None:
    content = json.loads((made.output / "pca.json").read_text())
    assert made.output.name == "pca" and sorted(path.name for path in made.output.iterdir()) == sorted(FILES)
    assert content["dim"] == 12 and content["n"] == content["rows"] == content["cells"] == 48
    assert np.array(content["components"]).shape == (3, 12) and len(content["mean"]) == 12
    assert len(content["explained_variance_ratio"]) == len(content["gains"]) == len(content["channel_means"]) == 3
    assert content["fragments"] == "central" and content["model"] == "rcf" and content["clipped_fraction"] == 0.0
    assert [source["file"] for source in content["sources"]] == [f"part_0000{i}.parquet" for i in (1, 2, 3)]
    assert all(len(source["footer_sha256"]) == 64 for source in content["sources"])
    assert np.ptp(content["channel_means"]) <= 0.5
    np.testing.assert_array_equal(made.components, content["components"])


def test_the_components_are_those_of_the_central_fragments(made: PcaResult) -> None:
    central = VECTORS.reshape(48, 9, 12)[:, 4].astype(np.float64)
    _, values, axes = np.linalg.svd(central - central.mean(axis=0), full_matrices=False)
    assert np.abs(np.abs((made.components * axes[:3]).sum(axis=1)) - 1).max() < 1e-10
    np.testing.assert_allclose(made.explained_variance_ratio, values[:3] ** 2 / (values**2).sum(), rtol=1e-9)


def test_the_table(made: PcaResult) -> None:
    frame = geopandas.read_parquet(made.output / "components.parquet")
    assert frame.columns.tolist() == [
        *("unique_id", "grid_cell", "geometry", "pc1", "pc2", "pc3", "red", "green", "blue")
    ]
    assert frame.crs.to_epsg() == 4326 and sorted(frame["grid_cell"]) == sorted(CELLS)
    assert set(frame["unique_id"]) == {f"{cell}-224-224" for cell in CELLS}
    assert frame["pc1"].dtype == np.float32 and frame["red"].dtype == np.uint8
    wide = VECTORS.reshape(48, 9, 12)[:, 4].astype(np.float64)
    by_cell = dict(zip(CELLS, (wide - made.mean) @ made.components.T, strict=True))
    np.testing.assert_allclose(frame[["pc1", "pc2", "pc3"]], [by_cell[cell] for cell in frame["grid_cell"]], atol=1e-5)
    geo = json.loads(pq.read_metadata(made.output / "components.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    west, south, east, north = frame.total_bounds
    inside = geopandas.read_parquet(made.output / "components.parquet", bbox=(west, south, (west + east) / 2, north))
    assert 0 < len(inside) < 48


def test_the_map_has_the_colours_of_the_table(made: PcaResult) -> None:
    frame = pq.read_table(made.output / "components.parquet").to_pylist()
    with rasterio.open(made.output / "map.tif") as file:
        for row in frame:
            lat, lon = grid_centre(row["grid_cell"])
            (value,) = file.sample([(lon, lat)])
            assert value.tolist() == [row["red"], row["green"], row["blue"], 255]
        assert "explained_variance_ratio" in file.tags()


def test_nothing_to_do_the_second_time(made: PcaResult) -> None:
    before = contents(made.output)
    again = pca(made.output.parent)
    assert again.nothing_to_do and not made.nothing_to_do and contents(made.output) == before
    np.testing.assert_array_equal(again.components, made.components)


def test_the_same_from_any_order_of_files_and_cut_into_row_groups(tmp_path: Path, made: PcaResult) -> None:
    root = dataset(tmp_path / "other")
    for path in (root / "embeddings").iterdir():
        write(path, pq.read_table(path), row_group_size=7)
    names = sorted((root / "embeddings").iterdir(), reverse=True)
    result = pca(names, tmp_path / "result")
    one, other = (contents(folder) for folder in (result.output, made.output))
    assert all(one[name] == other[name] for name in ("map.tif", "components.parquet"))
    np.testing.assert_array_equal(result.components, made.components)


def test_a_published_dataset_without_a_manifest(tmp_path: Path, made: PcaResult) -> None:
    """Lists, float16, text as bytes, another order of columns, no pixel_bbox and no bounding box."""
    plain = table(kind=pa.list_(pa.float16())).drop_columns(["pixel_bbox"])
    plain = plain.set_column(4, "grid_cell", plain["grid_cell"].cast(pa.binary()))
    plain = plain.select(sorted(plain.column_names, reverse=True))
    result = pca(dataset(tmp_path / "set", plain, files=2, model=None))
    np.testing.assert_allclose(result.components, made.components, atol=1e-9)
    assert result.cells == 48 and result.model is None


def test_all_fragments(tmp_path: Path) -> None:
    result = pca(dataset(tmp_path / "set"), fragments="all", components=5, scale="gamma")
    wide = VECTORS.astype(np.float64)
    _, _, axes = np.linalg.svd(wide - wide.mean(axis=0), full_matrices=False)
    assert np.abs(np.abs((result.components * axes[:5]).sum(axis=1)) - 1).max() < 1e-10
    rows = pq.read_table(result.output / "components.parquet").to_pylist()
    assert len(rows) == 432 == result.rows and result.cells == 48 and "pc5" in rows[0]
    with rasterio.open(result.output / "map.tif") as file:
        for row in rows[4:40:9]:  # the central ones give the colour
            lat, lon = grid_centre(row["grid_cell"])
            assert next(file.sample([(lon, lat)])).tolist()[:3] == [row["red"], row["green"], row["blue"]]
    assert np.ptp(result.channel_means) <= 0.5


def test_a_basis_gives_other_data_the_same_colours(tmp_path: Path, made: PcaResult) -> None:
    root = dataset(tmp_path / "other", table().slice(0, 90), files=1)
    result = pca(root, basis=made.output / "pca.json")
    wanted = {row["unique_id"]: row for row in pq.read_table(made.output / "components.parquet").to_pylist()}
    found = pq.read_table(result.output / "components.parquet").to_pylist()
    assert len(found) == 10 and all(row == wanted[row["unique_id"]] for row in found)
    np.testing.assert_array_equal(result.components, made.components)
    far = dataset(tmp_path / "far", table(VECTORS * 3 + 1), files=1)
    assert pca(far, basis=made.output / "pca.json").clipped_fraction > 0.1


def test_vectors_that_are_not_finite_leave_their_cells_transparent(tmp_path: Path) -> None:
    vectors = VECTORS.copy()
    vectors[4::45] = np.nan
    result = pca(dataset(tmp_path / "set", table(vectors)))
    assert (result.not_finite, result.rows, result.cells) == (10, 38, 38)
    lat, lon = grid_centre(CELLS[0])
    with rasterio.open(result.output / "map.tif") as file:
        values = list(file.sample([(lon, lat), grid_centre(CELLS[1])[::-1]]))
    assert values[0][3] == 0 and values[1][3] == 255


FAULTS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], type[MtembedError], str]] = {
    "no cells": (lambda f: dataset(f, table(grid_cell=None)), {}, UsageError, "no column grid_cell, which a map"),
    "no geometry": (lambda f: dataset(f, table(geometry=None)), {}, UsageError, "no column geometry, which a map"),
    "names of no grid": (
        lambda f: dataset(f, table(grid_cell=[f"place {i // 9}" for i in range(432)])),
        {},
        UsageError,
        "no cell of .* has a name of the Major TOM grid",
    ),
    "too few": (lambda f: dataset(f, table().slice(0, 9)), {}, UsageError, "1 vectors? .* too few .* --fragments all"),
    "nothing finite": (
        lambda f: dataset(f, table(VECTORS * np.nan)),
        {},
        UsageError,
        "0 vectors are too few",
    ),
    "two models": (
        lambda f: [dataset(f / "a"), dataset(f / "b", model="dinov2")],
        {"dataset": ("a", "b")},
        UsageError,
        "made with model rcf and .* dinov2",
    ),
    "too many components": (dataset, {"components": 13}, UsageError, "--components 13 is more than the 12 values"),
    "no components": (dataset, {"components": 0}, UsageError, "--components 0 is not possible"),
    "clip": (dataset, {"clip": 50.0}, UsageError, "--clip 50.0 is not possible"),
    "basis and scale": (dataset, {"basis": "x", "scale": "gain"}, UsageError, "--scale is fixed by --basis"),
    "no basis": (dataset, {"basis": "x"}, UsageError, "--basis x does not exist"),
    "a cut file": (
        lambda f: [dataset(f), (p := f / "embeddings/part_00002.parquet").write_bytes(p.read_bytes()[:5000])],
        {},
        OutputError,
        "part_00002.parquet cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_done_says_so_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    make, options, error, sentence = FAULTS[fault]
    make(tmp_path)
    options = dict(options)
    names = [tmp_path / name for name in options.pop("dataset", ())]
    with pytest.raises(error, match=sentence) as raised:
        pca(names or tmp_path, tmp_path / "result", **options)
    assert "\n" not in str(raised.value)
    assert not any((tmp_path / "result" / name).exists() for name in FILES)


def test_a_basis_of_another_model_is_refused(tmp_path: Path, made: PcaResult) -> None:
    with pytest.raises(UsageError, match=r"is of the model rcf and .* of dinov2"):
        pca(dataset(tmp_path / "a", model="dinov2"), basis=made.output / "pca.json")
    other = grid_table(random_vectors(432, 5), CELLS, 9)
    with pytest.raises(UsageError, match=r"is of vectors of 12 values and .* of 5"):
        pca(dataset(tmp_path / "b", other), basis=made.output / "pca.json")


def test_the_result_of_a_file_goes_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next((dataset(tmp_path) / "embeddings").iterdir())
    monkeypatch.chdir(tmp_path)
    found = pca(path)
    assert found.cells > 10 and found.output == Path(f"{path.stem}-pca") and found.output.is_dir()


def test_another_question_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set")
    before = contents(pca(root).output)
    with pytest.raises(SettingsError, match=r"was made with --scale gain and not gamma: .* --fresh"):
        pca(root, scale="gamma")
    write(root / "embeddings/part_00003.parquet", table().slice(300))
    with pytest.raises(SettingsError, match=r"was made from part_00003.parquet and 2 more .* --fresh"):
        pca(root)
    assert contents(root / "pca") == before
    fresh = pca(root, scale="gamma", fresh=True)
    assert not fresh.nothing_to_do and contents(root / "pca") != before


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set")
    (tmp_path / "out").mkdir()
    for name in ("map.png", "notes.txt"):
        (tmp_path / "out" / name).write_text("mine")
    for fresh in (False, True):
        with pytest.raises(SettingsError, match=r"holds map.png and no pca.json"):
            pca(root, tmp_path / "out", fresh=fresh)
    assert (tmp_path / "out" / "map.png").read_text() == "mine"
    (tmp_path / "out" / "map.png").unlink()
    pca(root, tmp_path / "out")
    pca(root, tmp_path / "out", fresh=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_two_at_once_are_refused(tmp_path: Path, made: PcaResult) -> None:
    held = ResultFolder(made.output, "pca.json", FILES[1:], {}, [])
    with pytest.raises(SettingsError), held.held():
        pass
    other = ResultFolder(tmp_path / "out", "pca.json", (), {"components": 3}, [])
    with other.held(), pytest.raises(LockedError, match="in use by another process"):
        pca(made.output.parent, tmp_path / "out")


STAGES = {
    "adding up": ("mtembed.maps.moments:Moments.merged", 2),
    "projecting": ("mtembed.maps.table:project", 3),
    "drawing": ("mtembed.maps.map:draw", 1),
    "between files": ("mtembed.dataset.result:ResultFolder.publish", 2),
    "before the record": ("mtembed.dataset.result:ResultFolder.record", 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_killed_anywhere_it_goes_on_to_the_same_bytes(tmp_path: Path, made: PcaResult, stage: str) -> None:
    function, call = STAGES[stage]
    root = dataset(tmp_path / "set")
    fault = {"kind": "parent", "function": function, "call": call, "action": "kill"}
    code, _, _ = run(["pca", str(root), "--quiet"], [fault])
    assert code == -9 and not (root / "pca" / "pca.json").exists()
    seen: list[tuple[str, int, int]] = []
    result = pca(root, tick=lambda *numbers: seen.append(numbers))
    assert result.cells == 48 and not result.nothing_to_do
    found, wanted = contents(root / "pca"), contents(made.output)
    assert all(found[name] == wanted[name] for name in ("components.parquet", "map.tif", "pca.json"))
    assert sorted(path.name for path in (root / "pca").iterdir()) == sorted(FILES)
    added = [done for what, done, _ in seen if what == "adding up"]
    assert added[0] == (144 if stage == "adding up" else 432)  # files that were added up stay so


def test_a_full_disk_is_said_and_overcome(tmp_path: Path) -> None:
    root = dataset(tmp_path / "set")
    fault = {"kind": "parent", "function": "mtembed.maps.raster:write_geotiff", "action": "disk-full"}
    code, _, err = run(["pca", str(root)], [fault])
    assert code == 1 and err.count("\n") == 1 and "make space and run the same command again" in err
    assert run(["pca", str(root), "--quiet"])[0] == 0
